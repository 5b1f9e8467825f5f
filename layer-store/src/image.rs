//! Images and their names.
//!
//! ```text
//!  images/<config digest>      what the image is: config, layers, manifest if one is fixed
//!  refs/<sha256 of the name>   a name and the image that it points to, or the index
//!  history/<the same>          what the name has pointed to, oldest first
//! ```
//!
//! A name is looked up by its hash, so that finding one costs the same whatever the number of images.

use std::collections::BTreeSet;

use image_core::{Descriptor, DiffId, Digest, Document, ImageConfig, ImageId, Reference, Timestamp};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::blob::file_name;
use crate::error::{Error, Result};
use crate::image_index::IndexRecord;
use crate::layer::{Layer, LayerKey};
use crate::parallel;
use crate::store::Store;

/// The fewest characters of an image ID that are looked for.
const SHORTEST_ID: usize = 2;

/// A layer of an image: its identity and under what it is unpacked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageLayer {
    /// The digest of its tar stream.
    pub diff_id: DiffId,
    /// Its unpacked form.
    pub key: LayerKey,
}

/// What is kept of the compressed layers of an image beside their trees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Keep {
    /// The blobs: pushed as they came, and the store can repair itself.
    #[default]
    Blob,
    /// Nothing: it costs half the disk; pulling again is needed before it can be pushed, unless it was built here.
    Discard,
}

impl Keep {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    const fn is_blob(&self) -> bool {
        matches!(self, Self::Blob)
    }
}

/// What the store knows of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageRecord {
    /// The config document; its digest is the image ID.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// The manifest, once an encoding is fixed: as pulled, or as pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Descriptor>,
    /// The blobs of the layers in that manifest, lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Descriptor>,
    /// What is kept of the blobs, so that it can be pushed again.
    #[serde(default, skip_serializing_if = "Keep::is_blob")]
    pub keep: Keep,
    /// When it was built or loaded on this host. Not part of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub built: Option<Timestamp>,
    /// How many of the newest history entries were made here.
    #[serde(default)]
    pub steps: usize,
}

impl ImageRecord {
    /// A record of an image made here, without a manifest yet.
    #[must_use]
    pub fn new(config: Descriptor, layers: &[Layer]) -> Self {
        let layers =
            layers.iter().map(|layer| ImageLayer { diff_id: layer.diff_id(), key: layer.key().clone() });
        Self {
            config,
            layers: layers.collect(),
            manifest: None,
            blobs: Vec::new(),
            keep: Keep::Blob,
            built: None,
            steps: 0,
        }
    }

    /// The blobs of layers that this image keeps.
    pub(crate) fn kept_blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.blobs.iter().filter(|_| self.keep == Keep::Blob)
    }

    /// The image ID.
    #[must_use]
    pub const fn id(&self) -> ImageId {
        ImageId::new(self.config.digest)
    }
}

/// What a name has pointed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Past {
    /// The image.
    pub image: ImageId,
    /// Since when, on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tagged: Option<Timestamp>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TagHistory {
    pub(crate) name: Reference,
    pub(crate) past: Vec<Past>,
}

/// How many images a name's history goes back.
const HISTORY: usize = 100;

/// A name in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tag {
    /// The whole name, with a tag or a digest.
    pub name: Reference,
    /// What it points to.
    pub image: ImageId,
    /// When it was given, on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tagged: Option<Timestamp>,
    /// What the registry of the name said that it means, of the index where there is one; none when the name was given
    /// here. See [`Store::tag_as`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The index, when it means several images; `image` is then one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexRecord>,
}

impl Tag {
    /// Whether the name would mean less without `image`.
    #[must_use]
    pub fn has(&self, image: &ImageId) -> bool {
        self.image == *image || self.index.as_ref().is_some_and(|index| index.has(image))
    }
}

/// The name of the file of a name.
pub(crate) fn ref_file(name: &Reference) -> String {
    Digest::sha256(name.canonical().as_bytes()).hex()
}

impl Store {
    /// Keeps `record`; its config and layers must be in the store already.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put_image(&self, record: &ImageRecord) -> Result<()> {
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockShared)?;
        self.places.images.replace_json(&file_name(&record.config.digest), record)
    }

    /// The record of the image `id`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn image(&self, id: &ImageId) -> Result<ImageRecord> {
        let name = file_name(id.digest());
        let record =
            self.search(&self.places.images, |shelf| &shelf.images, |images| images.read_json(&name))?;
        record.ok_or_else(|| Error::NotFound { kind: "image", name: id.to_string() })
    }

    pub(crate) fn has_image(&self, id: &ImageId) -> bool {
        let file = file_name(id.digest());
        let mut shelves = self.shelves(&self.places.images, |shelf| &shelf.images);
        shelves.any(|images| images.exists(&file))
    }

    /// All images, by ID.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        let mut records = self.own_images()?;
        if self.additional.is_empty() {
            return Ok(records);
        }
        let mut known: BTreeSet<Digest> = records.iter().map(|record| record.config.digest).collect();
        for shelf in self.additional.iter() {
            for name in shelf.images.names()? {
                let record = shelf.images.read_json::<ImageRecord>(&name)?;
                records.extend(record.filter(|record| known.insert(record.config.digest)));
            }
        }
        records.sort_by_key(ImageRecord::id);
        Ok(records)
    }

    /// The images of this store, without those of additional ones.
    pub(crate) fn own_images(&self) -> Result<Vec<ImageRecord>> {
        let read = |name: &String| self.places.images.read_json::<ImageRecord>(name);
        // Removed meanwhile is fine.
        Ok(parallel::each(&self.places.images.names()?, read)?.into_iter().flatten().collect())
    }

    /// The config document of `record`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Document`].
    pub fn config(&self, record: &ImageRecord) -> Result<Document<ImageConfig>> {
        let bytes = self.read_blob(&record.config.digest)?;
        let what = format!("the config {}", record.config.digest);
        Document::config(bytes).map_err(|source| Error::Document { what, source })
    }

    /// The layers of `record`, lowest first.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`].
    pub fn image_layers(&self, record: &ImageRecord) -> Result<Vec<Layer>> {
        record.layers.iter().map(|layer| self.layer(&layer.key)).collect()
    }

    /// Points `name` to `image`. Gives what it pointed to before.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the image is not there.
    pub fn tag(&self, name: &Reference, image: &ImageId, now: Option<Timestamp>) -> Result<Option<ImageId>> {
        self.tag_as(name, image, None, now)
    }

    /// As [`Self::tag`], of a name that means `digest` in its registry.
    ///
    /// # Errors
    /// As [`Self::tag`].
    pub fn tag_as(
        &self,
        name: &Reference,
        image: &ImageId,
        digest: Option<Digest>,
        now: Option<Timestamp>,
    ) -> Result<Option<ImageId>> {
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockShared)?;
        self.image(image)?;
        self.point(name, image, None, digest, now)
    }

    /// Points `name` to `image`, which is there. Whoever calls it holds the lock.
    pub(crate) fn point(
        &self,
        name: &Reference,
        image: &ImageId,
        index: Option<&IndexRecord>,
        digest: Option<Digest>,
        now: Option<Timestamp>,
    ) -> Result<Option<ImageId>> {
        let name = name.with_default_tag();
        let before = self.find_tag(&name)?.map(|tag| tag.image);
        if before != Some(*image) {
            let mut past = self.tag_history(&name)?;
            past.push(Past { image: *image, tagged: now });
            past.drain(..past.len().saturating_sub(HISTORY));
            let record = TagHistory { name: name.clone(), past };
            self.places.history.replace_json(&ref_file(&name), &record)?;
        }
        let tag = Tag { name, image: *image, tagged: now, digest, index: index.cloned() };
        self.places.refs.replace_json(&ref_file(&tag.name), &tag)?;
        Ok(before)
    }

    /// What `name` points to.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn find_tag(&self, name: &Reference) -> Result<Option<Tag>> {
        let file = ref_file(&name.with_default_tag());
        self.search(&self.places.refs, |shelf| &shelf.refs, |refs| refs.read_json(&file))
    }

    /// What `name` has pointed to, oldest first, also before it was removed. Images in it may be gone.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn tag_history(&self, name: &Reference) -> Result<Vec<Past>> {
        let record = self.places.history.read_json::<TagHistory>(&ref_file(&name.with_default_tag()))?;
        Ok(record.map_or_else(Vec::new, |record| record.past))
    }

    /// Points the name in the file `file` to what its history says last; `false` when there is none.
    pub(crate) fn mend_tag(&self, file: &str) -> Result<bool> {
        let history = self.places.history.read_json::<TagHistory>(file).ok().flatten();
        let Some((name, last)) = history.and_then(|mut history| Some((history.name, history.past.pop()?)))
        else {
            return Ok(false);
        };
        if ref_file(&name) != file || self.image(&last.image).is_err() {
            return Ok(false);
        }
        let tag = Tag { name, image: last.image, tagged: last.tagged, digest: None, index: None };
        self.places.refs.replace_json(file, &tag)?;
        Ok(true)
    }

    /// Removes `name`; `false` when it was not there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn untag(&self, name: &Reference) -> Result<bool> {
        let removed = self.places.refs.unlink(&ref_file(name))?;
        if removed {
            self.places.refs.sync()?;
        }
        Ok(removed)
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn tags(&self) -> Result<Vec<Tag>> {
        let mut tags: Vec<Tag> = Vec::new();
        let mut known = BTreeSet::new();
        for refs in self.shelves(&self.places.refs, |shelf| &shelf.refs) {
            for file in refs.names()? {
                // The store's own come first, and hide those of additional ones.
                if known.insert(file.clone()) {
                    tags.extend(refs.read_json::<Tag>(&file)?);
                }
            }
        }
        tags.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tags)
    }

    /// The image that `name` means: a name, an ID, or the beginning of one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn resolve_image(&self, name: &str) -> Result<ImageRecord> {
        let missing = || Error::NotFound { kind: "image", name: name.to_owned() };
        if let Ok(id) = name.parse::<ImageId>() {
            return self.image(&id);
        }
        if let Ok(reference) = Reference::parse(name)
            && let Some(tag) = self.find_tag(&reference)?
        {
            return self.image(&tag.image);
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_hex =
            hex.len() >= SHORTEST_ID && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex {
            return Err(missing());
        }
        let prefix = format!("sha256-{hex}");
        let mut names = BTreeSet::new();
        for images in self.shelves(&self.places.images, |shelf| &shelf.images) {
            names.extend(images.names()?);
        }
        let mut found = names.iter().filter(|file| file.starts_with(&prefix));
        match (found.next(), found.next()) {
            (Some(file), None) => match crate::gc::digest_of(file) {
                Some(digest) => self.image(&ImageId::new(digest)),
                None => Err(missing()),
            },
            (Some(_), Some(_)) => Err(Error::Ambiguous { kind: "image", name: name.to_owned() }),
            _ => Err(missing()),
        }
    }

    /// Removes the record of the image `id` and every name of it, also of an index that has it. Layers and blobs go with
    /// the next gc.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InUse`] for an image of an additional store.
    pub fn remove_image(&self, id: &ImageId) -> Result<()> {
        let file = file_name(id.digest());
        if self.additional.iter().any(|shelf| shelf.images.exists(&file)) && !self.places.images.exists(&file)
        {
            let by = "an additional store".to_owned();
            return Err(Error::InUse { kind: "image", name: id.to_string(), by });
        }
        // Alone: a name that is given meanwhile would point to nothing.
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockExclusive)?;
        for tag in self.tags()?.into_iter().filter(|tag| tag.has(id)) {
            self.untag(&tag.name)?;
        }
        self.places.images.unlink(&file)?;
        self.places.images.sync()
    }
}
