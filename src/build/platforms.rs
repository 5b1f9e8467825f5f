//! One build for several platforms: an image for each, and the index that names them.

use bytes::Bytes;
use image_core::{Descriptor, Document, Index, MediaType, Platform, Reference};
use tokio::task::JoinSet;

use super::{Build, Built};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::event::EventSink;

/// What a build for several platforms made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BuiltIndex {
    /// What was made for each platform, in the order in which they were asked for.
    pub images: Vec<(Platform, Built)>,
    /// The index of their manifests.
    pub index: Document<Index>,
}

impl BuiltIndex {
    /// The descriptor of the index.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(MediaType::OciIndex, self.index.bytes())
    }
}

impl Build {
    /// Builds for each of `platforms`, at the same time; what they have in common is done once. Stages of
    /// `--platform=$BUILDPLATFORM` run here; a RUN for another processor needs an emulator, see
    /// [`Error::ForeignPlatform`].
    ///
    /// The store's names are given to the image for the engine's own platform, else to the first. The others keep no
    /// name here: they stay until the next prune, and wherever the index is pushed.
    ///
    /// # Errors
    /// As [`Self::run`], for the first platform that fails; the others are ended.
    ///
    /// # Cancel safety
    /// As [`Self::run`].
    pub async fn run_all(self, platforms: &[Platform]) -> Result<BuiltIndex> {
        if platforms.is_empty() {
            return Err(Error::unsupported("a build for no platform"));
        }
        let own = self.engine.platform().clone();
        let named = platforms.iter().position(|platform| *platform == own).unwrap_or(0);
        let mut running = JoinSet::new();
        for (place, platform) in platforms.iter().enumerate() {
            let mut build = self.clone().platform(platform.clone());
            if place != named {
                build.tags.clear();
            }
            running.spawn(async move { build.run().await.map(|built| (place, built)) });
        }
        let mut all = Vec::new();
        while let Some(done) = running.join_next().await {
            all.push(done.map_err(|_| Error::Worker)??);
        }
        all.sort_by_key(|(place, _)| *place);
        let mut entries = Vec::new();
        for (_, built) in &all {
            let (mut entry, ..) = self.engine.fix_manifest(&built.image).await?;
            // What the config says, so that the index and the image agree.
            entry.platform = Some(built.image.config().platform());
            entries.push(entry);
        }
        let index = Document::from_value(Index::oci(entries))
            .map_err(|source| Error::Document { what: "the new index".to_owned(), source })?;
        let images = platforms.iter().cloned().zip(all.into_iter().map(|(_, built)| built)).collect();
        Ok(BuiltIndex { images, index })
    }
}

impl Engine {
    /// Pushes the images of `built` and then their index as `name`. Gives the descriptor of the index.
    ///
    /// # Errors
    /// As [`Self::push`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves at most images without the index in the registry.
    pub async fn push_index(
        &self,
        built: &BuiltIndex,
        name: &Reference,
        events: &EventSink,
    ) -> Result<Descriptor> {
        let name = name.with_default_tag();
        for ((_, image), entry) in built.images.iter().zip(&built.index.value().manifests) {
            self.push(&image.image, &name.at_digest(entry.digest), events).await?;
        }
        let bytes = Bytes::copy_from_slice(built.index.bytes());
        self.client().push_manifest(&name, &MediaType::OciIndex, bytes).await?;
        Ok(built.descriptor())
    }
}
