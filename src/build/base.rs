//! The images that a build stands on: in the store, pulled, or read from an OCI layout; each for its platform, at the
//! digest that a lock says, if the policy lets it be used.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use dockerfile::ImageRequest;
use image_core::{Digest, ImageId, Platform, Reference};
use layer_store::Tag;

use super::policy::{self, Source};
use super::{Build, layout};
use crate::engine::Image;
use crate::error::{Error, Result};

/// An image that a build stood on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BaseImage {
    /// The name in the Dockerfile, whole.
    pub reference: Reference,
    /// For which platform.
    pub platform: Platform,
    /// What the store has.
    pub id: ImageId,
    /// The digest that the name meant, of the index where there is one; none for an image that was made here.
    pub digest: Option<Digest>,
}

/// What the names of one build's images meant.
#[derive(Debug, Default)]
pub(super) struct Bases(Mutex<BTreeMap<(String, String), BaseImage>>);

fn key(reference: &Reference, platform: &Platform) -> (String, String) {
    (reference.canonical(), platform.to_string())
}

impl Bases {
    fn keep(&self, base: BaseImage) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(key(&base.reference, &base.platform), base);
    }

    pub(super) fn find(&self, reference: &Reference, platform: &Platform) -> Option<BaseImage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key(reference, platform)).cloned()
    }

    pub(super) fn all(&self) -> Vec<BaseImage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The image that a FROM means.
pub(super) async fn image(build: &Build, request: &ImageRequest) -> Result<Image> {
    if let Some(name) = &request.layout {
        let image = layout::image(build, name, request).await?;
        keep(build, request, &image, request.reference.digest().copied());
        return Ok(image);
    }
    let source = Source::Image { reference: &request.reference, platform: &request.platform };
    let reference =
        policy::image(build.policy.as_deref(), &source)?.unwrap_or_else(|| request.reference.clone());
    let locked = match &build.lock {
        None => None,
        Some(lock) => {
            let found = lock.digest(&request.reference).or_else(|| reference.digest().copied());
            Some(found.ok_or_else(|| Error::NotLocked { reference: request.reference.familiar() })?)
        }
    };
    let exact = locked.map_or_else(|| reference.clone(), |digest| reference.at_digest(digest));
    if !build.pull || exact.digest().is_some() {
        let store = build.engine.store();
        if let Some(tag) = store.find_tag(&exact)? {
            let chosen = tag.index.as_ref().and_then(|index| index.select(&request.platform));
            let id = chosen.map_or(tag.image, |entry| entry.image);
            let image = build.engine.load(store.image(&id)?)?;
            // A name of one image here may be one for every platform elsewhere.
            if request.platform.rank(&image.config().platform()).is_some() {
                let digest = match exact.digest() {
                    Some(digest) => Some(*digest),
                    None => known_digest(build, &tag, &image)?,
                };
                keep(build, request, &image, digest);
                return Ok(image);
            }
        }
    }
    let what = format!("FROM {}", exact.familiar());
    let _room = build.engine.governor().room(&what, build.engine.store().path(), 0).await?;
    let pulled = build.engine.pull_for(&exact, &request.platform, &build.events).await?;
    keep(build, request, &pulled.image, Some(pulled.digest));
    Ok(pulled.image)
}

fn keep(build: &Build, request: &ImageRequest, image: &Image, digest: Option<Digest>) {
    let (reference, platform) = (request.reference.clone(), request.platform.clone());
    build.bases.keep(BaseImage { reference, platform, id: image.id(), digest });
}

/// The digest that the name had when it was pulled or pushed. What other names there are is not looked at: a build must
/// not cost more the more images there are.
fn known_digest(build: &Build, tag: &Tag, image: &Image) -> Result<Option<Digest>> {
    if tag.digest.is_some() {
        return Ok(tag.digest);
    }
    // A new name, in the same repository, for what was pulled or pushed.
    let Some(manifest) = &image.record().manifest else { return Ok(None) };
    let found = build.engine.store().find_tag(&tag.name.at_digest(manifest.digest))?;
    Ok(found.filter(|found| found.image == image.id()).map(|_| manifest.digest))
}
