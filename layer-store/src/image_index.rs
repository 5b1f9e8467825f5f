//! Names that mean several images: an index, each image for its platform.
//!
//! What the name is kept in (`refs/`) says which images the index has; the bytes of the index are a blob. While the name
//! is there, so is all of it: a collection keeps the blob, a prune the images. Whoever knows nothing of indexes finds the
//! image that was chosen when the name was given.
//!
//! Specification: image-spec, image-index.md.

use image_core::{Descriptor, Digest, ImageId, Platform, Reference, Timestamp};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::{INDEXES, Store};

/// An image of an index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IndexedImage {
    /// Its entry in the index: its manifest, and for which platform it is.
    pub manifest: Descriptor,
    /// The image.
    pub image: ImageId,
}

impl IndexedImage {
    /// The image `image` whose manifest the index names as `manifest`.
    #[must_use]
    pub const fn new(manifest: Descriptor, image: ImageId) -> Self {
        Self { manifest, image }
    }
}

/// What a name of several images points to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IndexRecord {
    /// The index, whose bytes are a blob of the store.
    pub index: Descriptor,
    /// Its images, in its order.
    pub images: Vec<IndexedImage>,
}

impl IndexRecord {
    /// The index `index` of `images`.
    #[must_use]
    pub const fn new(index: Descriptor, images: Vec<IndexedImage>) -> Self {
        Self { index, images }
    }

    /// The image that suits `wanted` best; the first of equals.
    #[must_use]
    pub fn select(&self, wanted: &Platform) -> Option<&IndexedImage> {
        let rank = |entry: &IndexedImage| wanted.rank(entry.manifest.platform.as_ref()?);
        let ranked = self.images.iter().filter_map(|entry| Some((rank(entry)?, entry)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry)
    }

    /// Whether `image` is one of its images.
    #[must_use]
    pub fn has(&self, image: &ImageId) -> bool {
        self.images.iter().any(|entry| entry.image == *image)
    }

    /// What it names that is not in `store`.
    pub(crate) fn missing(&self, store: &Store) -> Option<String> {
        if !store.has_blob(&self.index.digest) {
            return Some(self.index.digest.to_string());
        }
        let gone = self.images.iter().find(|entry| !store.has_image(&entry.image));
        gone.map(|entry| entry.image.to_string())
    }
}

impl Store {
    /// Points `name` to an index, which is `digest` in the name's registry where that is known. Who asks for an image of
    /// that name gets the one for `own`, else the first. Gives the image that the name pointed to before.
    ///
    /// # Errors
    /// [`Error::NotFound`] when an image or the bytes of the index are not there, or it has no images.
    pub fn tag_index(
        &self,
        name: &Reference,
        record: &IndexRecord,
        own: &Platform,
        digest: Option<Digest>,
        now: Option<Timestamp>,
    ) -> Result<Option<ImageId>> {
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockShared)?;
        let missing = |name: String| Error::NotFound { kind: "image", name };
        let chosen = record.select(own).or_else(|| record.images.first());
        let chosen = chosen.ok_or_else(|| missing(format!("of the index {}", record.index.digest)))?.image;
        if let Some(name) = record.missing(self) {
            return Err(missing(name));
        }
        // Before the first of them: a version that knows none would remove what it names.
        self.add_feature(INDEXES)?;
        self.point(name, &chosen, Some(record), digest, now)
    }

    /// The index that `name` points to; none when it is a single image's name, or nobody's.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn find_index(&self, name: &Reference) -> Result<Option<IndexRecord>> {
        Ok(self.find_tag(name)?.and_then(|tag| tag.index))
    }

    /// The index with the digest `digest` that a name of this store points to.
    pub(crate) fn named_index(&self, digest: &Digest) -> Result<Option<IndexRecord>> {
        let named = self.tags()?.into_iter().filter_map(|tag| tag.index);
        Ok(named.into_iter().find(|record| record.index.digest == *digest))
    }
}
