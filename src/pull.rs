//! From a registry into the store.

mod download;
mod verify;

use image_core::{
    AnyManifest, Descriptor, Digest, Document, ImageConfig, Manifest, MediaType, Platform, Reference,
};
use layer_store::{ImageRecord, View};

use crate::engine::{Engine, Image};
use crate::error::{Error, Result};
use crate::event::{Event, EventSink};
use crate::task::blocking;

pub use verify::{Candidate, ImageVerifier, VerifierCause, VerifyError};

/// What a pull did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pull {
    /// The image.
    pub image: Image,
    /// The digest of what the name means: of the index where there is one.
    pub digest: Digest,
    /// Nothing had to be done.
    pub up_to_date: bool,
}

impl Engine {
    /// Pulls the image `name`, for the engine's platform.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::Document`], [`Error::NoPlatform`], [`Error::Store`], [`Error::NotVerified`] when
    /// the engine's verifier does not let it in; nothing is kept then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the store as it was.
    pub async fn pull(&self, name: &Reference, events: &EventSink) -> Result<Pull> {
        self.pull_for(name, self.platform(), events).await
    }

    /// As [`Self::pull`], for `platform`. A name of the store means one image, that for the engine's platform: one for
    /// another is named by its digest alone.
    pub(crate) async fn pull_for(
        &self,
        name: &Reference,
        platform: &Platform,
        events: &EventSink,
    ) -> Result<Pull> {
        let name = name.with_default_tag();
        let fetched = self.client().manifest(&name).await?;
        events(&Event::PullStarted { name: name.familiar() });
        let digest = fetched.descriptor.digest;
        let read = |source| Error::Document { what: format!("the manifest of {name}"), source };
        let (manifest, bytes) = match fetched.parse().map_err(read)? {
            AnyManifest::Manifest(document) => document.into_parts(),
            AnyManifest::Index(index) => {
                let chosen = index.value().select(platform).ok_or_else(|| Error::NoPlatform {
                    reference: name.familiar(),
                    platform: platform.to_string(),
                })?;
                match self.client().manifest(&name.at_digest(chosen.digest)).await?.parse().map_err(read)? {
                    AnyManifest::Manifest(document) => document.into_parts(),
                    _ => return Err(Error::unsupported("an index inside an index")),
                }
            }
            _ => return Err(Error::unsupported("this kind of manifest")),
        };
        let media_type = manifest.media_type.clone().unwrap_or(MediaType::OciManifest);
        let manifest_blob = Descriptor::of(media_type, &bytes);
        let own = platform == self.platform();
        let kept = if own { name.clone() } else { name.at_digest(manifest_blob.digest) };
        let up_to_date = self.have(&kept, &manifest, &manifest_blob)?;
        let record = if up_to_date {
            let record = self.store().resolve_image(&manifest.config.digest.to_string())?;
            let config = self.store().config(&record)?;
            self.admit(&name, digest, &manifest_blob, &bytes, &config).await?;
            record
        } else {
            let config = self.config(&name, &manifest.config).await?;
            self.admit(&name, digest, &manifest_blob, &bytes, &config).await?;
            self.fetch(&name, (manifest, manifest_blob, bytes), &config, events).await?
        };
        let now = Some(self.now());
        let id = record.id();
        if own {
            if name.tag().is_some() {
                self.store().tag_as(&name, &id, Some(digest), now)?;
            }
            self.store().tag(&name.at_digest(digest), &id, now)?;
        } else {
            self.store().tag(&kept, &id, now)?;
        }
        Ok(Pull { image: self.load(record)?, digest, up_to_date })
    }

    fn have(&self, name: &Reference, manifest: &Manifest, blob: &Descriptor) -> Result<bool> {
        let Some(tag) = self.store().find_tag(name)? else { return Ok(false) };
        let Ok(record) = self.store().image(&tag.image) else { return Ok(false) };
        let same = record.config.digest == manifest.config.digest && record.manifest.as_ref() == Some(blob);
        Ok(same && self.store().image_layers(&record).is_ok())
    }

    async fn fetch(
        &self,
        name: &Reference,
        (manifest, blob, bytes): (Manifest, Descriptor, Vec<u8>),
        config: &Document<ImageConfig>,
        events: &EventSink,
    ) -> Result<ImageRecord> {
        let work = self.store().begin()?;
        work.put_blob(manifest.config.media_type.clone(), config.bytes())?;
        let diff_ids = config.value().rootfs.diff_ids.clone();
        if diff_ids.len() != manifest.layers.len() {
            return Err(Error::unsupported(
                "an image whose manifest and config have a different number of layers",
            ));
        }
        let mut missing = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
            // Unpacked and either kept as a blob or made here: nothing to ask for.
            let known = work.find(diff_id, &View::default())?.is_some_and(|known| known.index().packed);
            if work.has_blob(layer)? || known {
                events(&Event::Pull { digest: layer.digest, status: "Already exists" });
            } else if !missing.contains(layer) {
                events(&Event::Pull { digest: layer.digest, status: "Pulling fs layer" });
                missing.push(layer.clone());
            }
        }
        let pairs = manifest.layers.iter().cloned().zip(diff_ids).collect();
        let stack = self.download_and_unpack(name, missing, pairs, &work, events).await?;
        let store = self.store().clone();
        blocking(move || {
            work.put_blob(blob.media_type.clone(), &bytes)?;
            work.commit()?;
            let mut record = ImageRecord::new(manifest.config, &stack);
            record.manifest = Some(blob);
            record.blobs = manifest.layers;
            record.built = store.image(&record.id()).ok().and_then(|known| known.built);
            store.put_image(&record)?;
            Ok(record)
        })
        .await
    }

    async fn config(&self, name: &Reference, descriptor: &Descriptor) -> Result<Document<ImageConfig>> {
        let read = |source| Error::Document { what: format!("the config of {name}"), source };
        if descriptor.size > image_core::CONFIG_LIMIT {
            let (kind, size, limit) = ("image config", descriptor.size, image_core::CONFIG_LIMIT);
            return Err(read(image_core::DocumentError::TooLarge { kind, size, limit }));
        }
        let bytes = self.client().blob_into(name, descriptor, Vec::new()).await?;
        Document::config(bytes).map_err(read)
    }
}
