//! From the store to a registry: layers, config, then the manifest, then what refers to it.

use bytes::Bytes;
use image_core::{Descriptor, Digest, Document, Manifest, Reference};
use registry_client::{BlobPush, PushOptions};

use crate::engine::{Engine, Image};
use crate::error::{Error, Result};
use crate::event::{Event, EventSink};
use crate::task::blocking;

/// How many blobs are uploaded at the same time, as in dockerd.
const UPLOADS: usize = 5;
/// Repositories that are tried for the mount of one blob.
const GUESSES: usize = 2;

impl Engine {
    /// Pushes `image` as `name`. Gives the descriptor of its manifest.
    ///
    /// The first push fixes the encoding: from then on the image has one manifest digest, wherever it goes. What refers to
    /// the manifest, such as what [`Build::attest`](crate::Build::attest) made, goes with it.
    ///
    /// # Errors
    /// [`Error::Registry`], [`Error::Store`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves at most blobs without a manifest in the registry.
    pub async fn push(&self, image: &Image, name: &Reference, events: &EventSink) -> Result<Descriptor> {
        let name = name.with_default_tag();
        let layers = &image.record().layers;
        for layer in layers.iter().rev() {
            events(&Event::Push { digest: *layer.diff_id.digest(), status: "Preparing".into() });
        }
        let (manifest, bytes, blobs) = self.fix_manifest(image).await?;
        // The manifest says whether all is there already: one request for a push that changes nothing.
        let known = self.client().head_manifest_at_origin(&name).await?;
        let same = known.is_some_and(|known| known.digest == manifest.digest);
        let mut tasks = tokio::task::JoinSet::new();
        let shown = layers.iter().map(|layer| Some(*layer.diff_id.digest()));
        let mut waiting = blobs.into_iter().zip(shown.chain([None])).collect::<Vec<_>>().into_iter();
        if same {
            for layer in layers {
                events(&Event::Push {
                    digest: *layer.diff_id.digest(),
                    status: "Layer already exists".into(),
                });
            }
            waiting = Vec::new().into_iter();
        }
        let options = if same { PushOptions::new() } else { self.mounts(&name).await? };
        loop {
            while tasks.len() < UPLOADS
                && let Some((blob, shown)) = waiting.next()
            {
                let source = Box::new(self.store().blob(&blob)?);
                let (client, name, sink) = (self.client().clone(), name.clone(), events.clone());
                let options = options.clone();
                tasks.spawn(async move {
                    let pushed = client.push_blob(&name, source, options).await?;
                    let status = match pushed {
                        BlobPush::Exists => "Layer already exists".into(),
                        BlobPush::Mounted { from } => format!("Mounted from {from}").into(),
                        _ => "Pushed".into(),
                    };
                    if let Some(digest) = shown {
                        sink(&Event::Push { digest, status });
                    }
                    Ok::<_, Error>(())
                });
            }
            match tasks.join_next().await {
                Some(done) => done.map_err(|_| Error::Worker)??,
                None => break,
            }
        }
        if !same {
            self.client().push_manifest(&name, &manifest.media_type, Bytes::from(bytes)).await?;
        }
        self.push_referrers(&manifest.digest, &name).await?;
        let (now, digest) = (Some(self.now()), manifest.digest);
        self.store().tag(&name.at_digest(digest), &image.id(), now)?;
        if let Some(tag) = self.store().find_tag(&name)?
            && tag.image == image.id()
            && tag.index.is_none()
            && name.digest().is_none()
        {
            self.store().tag_as(&name, &image.id(), Some(digest), tag.tagged)?;
        }
        Ok(manifest)
    }

    /// Pushes what the store has that refers to the manifest `subject`, which is there already.
    pub(crate) async fn push_referrers(&self, subject: &Digest, name: &Reference) -> Result<()> {
        for referrer in self.store().referrers(subject)? {
            let name = name.at_digest(referrer.manifest.digest);
            if self.client().head_manifest_at_origin(&name).await?.is_some() {
                continue;
            }
            for blob in &referrer.blobs {
                let source = Box::new(self.store().blob(blob)?);
                self.client().push_blob(&name, source, PushOptions::new()).await?;
            }
            let bytes = Bytes::from(self.store().read_blob(&referrer.manifest.digest)?);
            self.client().push_manifest(&name, &referrer.manifest.media_type, bytes).await?;
        }
        Ok(())
    }

    /// Where the registry of `name` has which blobs, as far as the store remembers: what was pulled from it or pushed to
    /// it has a name with a digest. A guess that is wrong costs nothing, the upload begins with the same request.
    async fn mounts(&self, name: &Reference) -> Result<PushOptions> {
        let (store, name) = (self.store().clone(), name.clone());
        blocking(move || {
            let mut options = PushOptions::new();
            for tag in store.tags()? {
                let elsewhere = tag.name.domain() == name.domain() && tag.name.path() != name.path();
                if tag.name.digest().is_none() || !elsewhere {
                    continue;
                }
                let Ok(record) = store.image(&tag.image) else { continue };
                for blob in record.blobs.iter().chain([&record.config]) {
                    if options.mount_blobs.get(&blob.digest).is_none_or(|known| known.len() < GUESSES) {
                        options = options.mount_blob_from(blob.digest, tag.name.clone());
                    }
                }
            }
            Ok(options)
        })
        .await
    }

    /// The image's manifest and its blobs, layers first, config last. Encodes what is not encoded yet.
    pub(crate) async fn fix_manifest(&self, image: &Image) -> Result<(Descriptor, Vec<u8>, Vec<Descriptor>)> {
        let (store, id) = (self.store().clone(), image.id());
        blocking(move || {
            let mut record = store.image(&id)?;
            if let Some(manifest) = &record.manifest
                && store.has_blob(&manifest.digest)
                && record.blobs.iter().all(|blob| store.has_blob(&blob.digest))
            {
                let bytes = store.read_blob(&manifest.digest)?;
                let blobs = record.blobs.iter().chain([&record.config]).cloned().collect();
                return Ok((manifest.clone(), bytes, blobs));
            }
            let work = store.begin()?;
            let layers = store.image_layers(&record)?;
            let mut blobs = layers.iter().map(|layer| work.encoded(layer)).collect::<Result<Vec<_>, _>>()?;
            // Layers of a docker base keep their bytes, not their label: an OCI manifest with docker's types is refused.
            for blob in &mut blobs {
                blob.media_type = blob.media_type.to_oci();
            }
            let manifest = Document::from_value(Manifest::oci(record.config.clone(), blobs.clone()));
            let manifest =
                manifest.map_err(|source| Error::Document { what: "the new manifest".to_owned(), source })?;
            let descriptor = work.put_blob(image_core::MediaType::OciManifest, manifest.bytes())?;
            work.commit()?;
            record.manifest = Some(descriptor.clone());
            record.blobs.clone_from(&blobs);
            store.put_image(&record)?;
            let all = blobs.into_iter().chain([record.config]).collect();
            Ok((descriptor, manifest.bytes().to_vec(), all))
        })
        .await
    }
}
