//! One build for several platforms: an image for each, and the index that names them.

use bytes::Bytes;
use image_core::{Descriptor, Document, ImageId, Index, MediaType, Platform, Reference};
use layer_store::{IndexRecord, IndexedImage};
use tokio::task::JoinSet;

use super::{Build, Built};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::event::EventSink;
use crate::task::blocking;

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

    fn record(&self) -> IndexRecord {
        let entries = self.images.iter().zip(&self.index.value().manifests);
        let images = entries.map(|((_, built), entry)| IndexedImage::new(entry.clone(), built.image.id()));
        IndexRecord::new(self.descriptor(), images.collect())
    }
}

impl Build {
    /// Builds for each of `platforms`, at the same time; what they have in common is done once. Stages of
    /// `--platform=$BUILDPLATFORM` run here; a RUN for another processor needs an emulator, see
    /// [`Error::ForeignPlatform`].
    ///
    /// The names are given to the index in the store: a container or FROM of such a name takes the image for its platform,
    /// and [`Engine::push_name`] pushes all of it. Without a name, the images stay until the next prune.
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
        let mut running = JoinSet::new();
        for (place, platform) in platforms.iter().enumerate() {
            let mut build = self.clone().platform(platform.clone());
            build.part = true;
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
        let built = BuiltIndex { images, index };
        for name in &self.tags {
            self.engine.tag_index(&built, name).await?;
        }
        Ok(built)
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
        self.push_record(&built.record(), built.index.bytes(), &name.with_default_tag(), events).await?;
        Ok(built.descriptor())
    }

    /// Pushes what `name` means in the store as `name`: an image, or all images of an index and the index. Gives the
    /// descriptor of what the name means in the registry then.
    ///
    /// # Errors
    /// As [`Self::push`]; [`Error::Store`] when there is no such name.
    ///
    /// # Cancel safety
    /// As [`Self::push_index`].
    pub async fn push_name(&self, name: &Reference, events: &EventSink) -> Result<Descriptor> {
        let name = name.with_default_tag();
        let missing = || layer_store::Error::NotFound { kind: "tag", name: name.familiar() };
        let tag = self.store().find_tag(&name)?.ok_or_else(missing)?;
        let Some(record) = tag.index else {
            return self.push(&self.load(self.store().image(&tag.image)?)?, &name, events).await;
        };
        let bytes = self.store().read_blob(&record.index.digest)?;
        self.push_record(&record, &bytes, &name, events).await?;
        let (store, own, now) = (self.store().clone(), self.platform().clone(), self.now());
        let digest = record.index.digest;
        blocking(move || {
            // What the name means there is known now.
            store.tag_index(&name.at_digest(digest), &record, &own, None, Some(now))?;
            if name.digest().is_none() && store.find_index(&name)?.as_ref() == Some(&record) {
                store.tag_index(&name, &record, &own, Some(digest), tag.tagged)?;
            }
            Ok(record.index)
        })
        .await
    }

    async fn push_record(
        &self,
        record: &IndexRecord,
        bytes: &[u8],
        name: &Reference,
        events: &EventSink,
    ) -> Result<()> {
        for entry in &record.images {
            let image = self.load(self.store().image(&entry.image)?)?;
            self.push(&image, &name.at_digest(entry.manifest.digest), events).await?;
        }
        let (media_type, bytes) = (&record.index.media_type, Bytes::copy_from_slice(bytes));
        self.client().push_manifest(name, media_type, bytes).await?;
        Ok(())
    }

    /// Gives the index of `built` a name in the store, which keeps all its images. Gives the image that the name meant
    /// before.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn tag_index(&self, built: &BuiltIndex, name: &Reference) -> Result<Option<ImageId>> {
        let (store, own, now) = (self.store().clone(), self.platform().clone(), self.now());
        let (record, index, name) = (built.record(), built.index.clone(), name.with_default_tag());
        blocking(move || {
            let known = store.find_tag(&name)?;
            if let Some(known) = known.filter(|known| known.index.as_ref() == Some(&record)) {
                return Ok(Some(known.image));
            }
            // Until it has a name, the transaction keeps it.
            let work = store.begin()?;
            work.put_blob(MediaType::OciIndex, index.bytes())?;
            work.commit()?;
            Ok(store.tag_index(&name, &record, &own, None, Some(now))?)
        })
        .await
    }

    /// Gives what `name` means in the store, an image or an index, another name, too. Gives the image that this one
    /// meant before.
    ///
    /// # Errors
    /// [`Error::Store`] when there is nothing of that name.
    pub fn tag_name(&self, name: &str, other: &Reference) -> Result<Option<ImageId>> {
        let index = match Reference::parse(name) {
            Ok(reference) => self.store().find_index(&reference)?,
            Err(_) => None,
        };
        match index {
            Some(index) => {
                Ok(self.store().tag_index(other, &index, self.platform(), None, Some(self.now()))?)
            }
            None => self.tag(&self.image(name)?, other),
        }
    }
}
