//! Whole images: blobs side by side, then the manifest; nothing at all when the registry has it.

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use image_core::{BlobSource, Descriptor, Digest, MediaType, Reference};

use crate::blob::{BlobPush, PushOptions};
use crate::client::Client;
use crate::error::Result;
use crate::event::Event;

/// What a push of an image did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PushReport {
    /// The manifest as it is in the registry.
    pub descriptor: Descriptor,
    /// The blobs in the order in which they were given; empty when the registry had the manifest, and with it them.
    pub blobs: Vec<(Digest, BlobPush)>,
}

impl Client {
    /// Pushes blobs, some at a time, and then the manifest that refers to them. A registry that has the manifest has
    /// its blobs: then only the tag is set. Two requests for an image that is there, three and two per blob at most
    /// for one that is not.
    ///
    /// # Errors
    /// As [`Client::push_blob`] and [`Client::push_manifest`]; the first failure ends the rest.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the uploads; blobs that are through stay in the registry.
    pub async fn push_image(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        manifest: Bytes,
        blobs: Vec<Box<dyn BlobSource>>,
        options: PushOptions,
    ) -> Result<PushReport> {
        let digest = Digest::of(
            reference.digest().map_or(image_core::Algorithm::Sha256, Digest::algorithm),
            &manifest,
        );
        if self.head_manifest_at_origin(&reference.at_digest(digest)).await?.is_some() {
            for blob in &blobs {
                self.engine().tell(&Event::Exists { digest: blob.descriptor().digest });
            }
            let descriptor = self.push_manifest(reference, media_type, manifest).await?;
            return Ok(PushReport { descriptor, blobs: Vec::new() });
        }
        for blob in &blobs {
            let descriptor = blob.descriptor();
            self.engine().tell(&Event::Queued { digest: descriptor.digest, size: descriptor.size });
        }
        let pushes = blobs.into_iter().map(|blob| {
            let options = options.clone();
            async move {
                let digest = blob.descriptor().digest;
                self.push_blob(reference, blob, options).await.map(|outcome| (digest, outcome))
            }
        });
        let parallel = self.upload().parallel;
        let blobs = futures_util::stream::iter(pushes).buffered(parallel).try_collect().await?;
        let descriptor = self.push_manifest(reference, media_type, manifest).await?;
        Ok(PushReport { descriptor, blobs })
    }
}
