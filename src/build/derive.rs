//! Images derived from images: the layers as one, annotations on the manifest.

use std::collections::BTreeMap;

use image_core::Timestamp;

use super::{Build, Built};
use crate::engine::{Engine, Image};
use crate::error::Result;
use crate::task::blocking;

impl Engine {
    /// `image` with these annotations on its manifest, which goes wherever the image is pushed or exported. Its ID stays;
    /// other annotations too.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store).
    pub async fn annotate(&self, image: &Image, annotations: &BTreeMap<String, String>) -> Result<Image> {
        // A manifest of OCI's types, whatever those of the base are.
        self.fix_manifest(image).await?;
        let (store, id, annotations) = (self.store().clone(), image.id(), annotations.clone());
        let record = blocking(move || {
            let work = store.begin()?;
            let record = work.annotate(&store.image(&id)?, &annotations)?;
            work.commit()?;
            store.put_image(&record)?;
            Ok(record)
        })
        .await?;
        self.load(record)
    }

    /// `image` with all layers above the lowest `keep` made one. Gives the image itself when there are not two.
    ///
    /// # Errors
    /// [`Error::Store`](crate::Error::Store).
    pub async fn squash(&self, image: &Image, keep: usize) -> Result<Image> {
        let (store, id, now) = (self.store().clone(), image.id(), self.now());
        let latest: Option<Timestamp> = image.config().created;
        let record = blocking(move || {
            let work = store.begin()?;
            let mut record = work.squash(&store.image(&id)?, keep, latest)?;
            work.commit()?;
            record.built = record.built.or(Some(now));
            store.put_image(&record)?;
            Ok(record)
        })
        .await?;
        self.load(record)
    }
}

/// Squashes and annotates as the build was told.
pub(super) async fn as_asked(build: &Build, mut built: Built) -> Result<Built> {
    let engine = &build.engine;
    if build.squash {
        let own = built.bases.iter().map(|base| engine.store().image(&base.id));
        // The layers of the base, which are those that it has in common with one of the images below.
        let mut keep = 0;
        for base in own {
            let layers = base?.layers;
            let ours = &built.image.record().layers;
            if layers.len() <= ours.len()
                && layers.iter().zip(ours).all(|(one, other)| one.diff_id == other.diff_id)
            {
                keep = keep.max(layers.len());
            }
        }
        built.image = engine.squash(&built.image, keep).await?;
        for tag in build.tags.iter().filter(|_| !build.part) {
            engine.tag(&built.image, tag)?;
        }
    }
    if !build.annotations.is_empty() {
        built.image = engine.annotate(&built.image, &build.annotations).await?;
    }
    Ok(built)
}
