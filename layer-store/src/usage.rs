//! What the store costs, and what would be freed.

use std::collections::{BTreeMap, BTreeSet};

use image_core::{Digest, ImageId};

use crate::blob::file_name;
use crate::cache::CacheHit;
use crate::container::{ContainerRecord, ContainerStatus};
use crate::error::Result;
use crate::image::ImageRecord;
use crate::layer::LayerKey;
use crate::parallel;
use crate::store::Store;

/// What one image costs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageUsage {
    /// The image.
    pub id: ImageId,
    /// Bytes of all its layers: what docker shows as SIZE.
    pub size: u64,
    /// Of those, bytes in layers that other images have too.
    pub shared: u64,
    /// Containers made from it.
    pub containers: usize,
}

/// What one cache record costs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheUsage {
    /// Its key.
    pub id: String,
    /// The step as it is shown.
    pub step: String,
    /// Bytes of its layer.
    pub size: u64,
    /// An image has the layer too.
    pub shared: bool,
    /// When it was made.
    pub made: Option<image_core::Timestamp>,
}

/// What one container costs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ContainerUsage {
    /// The container.
    pub record: ContainerRecord,
    /// Bytes of the files that it wrote.
    pub size: u64,
    /// Bytes on disk of all that it has: what it wrote, its record and its log.
    pub disk: u64,
}

/// What the store costs. Sizes are in bytes on disk, by blocks, unless said otherwise; [`Self::total`] is what `du`
/// says of the store.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// Image by image, sizes as the sums of file sizes.
    pub images: Vec<ImageUsage>,
    /// All layers and blobs that images (and containers) need, each once.
    pub images_size: u64,
    /// Of those, what goes when every image without a container goes.
    pub images_reclaimable: u64,
    /// Container by container.
    pub containers: Vec<ContainerUsage>,
    /// Record by record.
    pub cache: Vec<CacheUsage>,
    /// Layers that only the cache needs, each once.
    pub cache_size: u64,
    /// Volumes.
    pub volumes_size: u64,
    /// Cache mounts of builds.
    pub mounts_size: u64,
    /// Layers and blobs that nothing needs: what the next gc frees.
    pub unreferenced: u64,
    /// Records, hints and the store's own directories.
    pub records: u64,
    /// Work in flight, and what is on its way out.
    pub staging: u64,
}

impl Usage {
    /// Everything together.
    #[must_use]
    pub fn total(&self) -> u64 {
        let containers: u64 = self.containers.iter().map(|container| container.disk).sum();
        let kept = self.images_size + self.cache_size + containers + self.volumes_size + self.mounts_size;
        kept + self.unreferenced + self.records + self.staging
    }

    /// Images with at least one container.
    #[must_use]
    pub fn active_images(&self) -> usize {
        self.images.iter().filter(|image| image.containers > 0).count()
    }

    /// Containers that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.containers.iter().filter(|container| container.record.status == ContainerStatus::Running).count()
    }
}

impl Store {
    /// What the store costs now.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`].
    pub fn usage(&self) -> Result<Usage> {
        let (records, containers, cache) = (self.images()?, self.containers()?, self.cache_hits()?);
        let sizes = self.layer_sizes(&records, &containers, &cache)?;
        let sizes_of = |key: &LayerKey| sizes.get(key.as_str()).copied().unwrap_or_default();
        let mut users: BTreeMap<String, usize> = BTreeMap::new();
        for record in &records {
            let keys: BTreeSet<_> = record.layers.iter().map(|layer| layer.key.as_str()).collect();
            for key in keys {
                *users.entry(key.to_owned()).or_default() += 1;
            }
        }
        let mut usage = Usage::default();
        let (mut needed, mut pinned) = (Needed::default(), Needed::default());
        for record in &records {
            let count = containers.iter().filter(|container| container.image == record.id()).count();
            let (mut size, mut shared) = (0, 0);
            for layer in &record.layers {
                let (bytes, allocated) = sizes_of(&layer.key);
                size += bytes;
                if users.get(layer.key.as_str()).is_some_and(|users| *users > 1) {
                    shared += bytes;
                }
                needed.layers.insert(layer.key.as_str().to_owned(), allocated);
                if count > 0 {
                    pinned.layers.insert(layer.key.as_str().to_owned(), allocated);
                }
            }
            let blobs = std::iter::once(&record.config).chain(&record.manifest).chain(record.kept_blobs());
            for blob in blobs {
                let size = self.blob_size(&blob.digest);
                needed.blobs.insert(blob.digest, size);
                if count > 0 {
                    pinned.blobs.insert(blob.digest, size);
                }
            }
            usage.images.push(ImageUsage { id: record.id(), size, shared, containers: count });
        }
        for record in self.tags()?.into_iter().filter_map(|tag| tag.index) {
            let size = self.blob_size(&record.index.digest);
            needed.blobs.insert(record.index.digest, size);
            if containers.iter().any(|container| record.has(&container.image)) {
                pinned.blobs.insert(record.index.digest, size);
            }
        }
        for blobs in [&mut needed.blobs, &mut pinned.blobs] {
            for digest in self.referring(&blobs.keys().copied().collect())? {
                blobs.insert(digest, self.blob_size(&digest));
            }
        }
        for layer in containers.iter().flat_map(|container| &container.layers) {
            let (_, allocated) = sizes_of(&layer.key);
            needed.layers.insert(layer.key.as_str().to_owned(), allocated);
            pinned.layers.insert(layer.key.as_str().to_owned(), allocated);
        }
        let mut only_cache = BTreeMap::new();
        for (id, record) in cache {
            let (size, allocated) = sizes_of(&record.layer);
            let shared = needed.layers.contains_key(record.layer.as_str());
            if !shared {
                only_cache.insert(record.layer.to_string(), allocated);
            }
            // A layer that the cache has too stays when its images go.
            pinned.layers.insert(record.layer.to_string(), if shared { allocated } else { 0 });
            usage.cache.push(CacheUsage { id, step: record.step, size, shared, made: record.made });
        }
        usage.images_size = needed.total();
        let kept: u64 = needed
            .layers
            .iter()
            .filter(|(key, _)| pinned.layers.contains_key(*key))
            .map(|(_, size)| size)
            .sum::<u64>()
            + needed
                .blobs
                .iter()
                .filter(|(key, _)| pinned.blobs.contains_key(*key))
                .map(|(_, size)| size)
                .sum::<u64>();
        usage.images_reclaimable = usage.images_size.saturating_sub(kept);
        usage.cache_size = only_cache.values().sum();
        for record in containers {
            let (size, disk) = self.container_usage(&record.id)?;
            usage.containers.push(ContainerUsage { record, size, disk });
        }
        for name in self.places.layers.names()? {
            if !needed.layers.contains_key(&name) && !only_cache.contains_key(&name) {
                usage.unreferenced +=
                    self.layer_usage(&LayerKey::from_name(&name)).map_or(0, |known| known.1);
            }
        }
        for name in self.places.blobs.names()? {
            if crate::gc::digest_of(&name).is_none_or(|digest| !needed.blobs.contains_key(&digest)) {
                usage.unreferenced += self.places.blobs.allocated(&name);
            }
        }
        let places = &self.places;
        for place in [
            &places.borrows,
            &places.encodings,
            &places.images,
            &places.refs,
            &places.history,
            &places.referrers,
            &places.cache,
            &places.slots,
            &places.leases,
        ] {
            usage.records += place.allocated(".");
            usage.records += place.all_names()?.iter().map(|name| place.allocated(name)).sum::<u64>();
        }
        for place in [&places.root, &places.blobs, &places.layers, &places.containers] {
            usage.records += place.allocated(".");
        }
        usage.records += places.root.allocated("cache") + places.root.allocated(crate::store::VERSION);
        usage.volumes_size = places.volumes.disk_usage()?;
        usage.mounts_size = places.mounts.disk_usage()?;
        for place in [&places.ingest, &places.partial, &places.trash] {
            usage.staging += place.disk_usage()?;
        }
        Ok(usage)
    }

    /// What every layer costs that an image, a container or the cache has, each read once.
    fn layer_sizes(
        &self,
        images: &[ImageRecord],
        containers: &[ContainerRecord],
        cache: &[(String, CacheHit)],
    ) -> Result<BTreeMap<String, (u64, u64)>> {
        let keys = images.iter().flat_map(|image| image.layers.iter().map(|layer| &layer.key));
        let keys = keys.chain(containers.iter().flat_map(|one| one.layers.iter().map(|layer| &layer.key)));
        let keys: BTreeMap<&str, &LayerKey> =
            keys.chain(cache.iter().map(|(_, hit)| &hit.layer)).map(|key| (key.as_str(), key)).collect();
        let keys: Vec<&LayerKey> = keys.into_values().collect();
        let read = |key: &&LayerKey| Ok((key.as_str().to_owned(), self.layer_usage(key)?));
        Ok(parallel::each(&keys, read)?.into_iter().collect())
    }

    /// What a layer is said to be large, and what its files take on disk: from the head of its index.
    pub(crate) fn layer_usage(&self, key: &LayerKey) -> Result<(u64, u64)> {
        let Some(summary) = self.layer_summary(key)? else { return Ok((0, 0)) };
        // What an additional store has costs this one nothing.
        let is_own = self.additional.is_empty() || self.places.layers.exists(key.as_str());
        Ok((summary.size, if is_own { summary.allocated } else { 0 }))
    }

    fn blob_size(&self, digest: &Digest) -> u64 {
        self.places.blobs.allocated(&file_name(digest))
    }
}

#[derive(Default)]
struct Needed {
    layers: BTreeMap<String, u64>,
    blobs: BTreeMap<Digest, u64>,
}

impl Needed {
    fn total(&self) -> u64 {
        self.layers.values().sum::<u64>() + self.blobs.values().sum::<u64>()
    }
}
