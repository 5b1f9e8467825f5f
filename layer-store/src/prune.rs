//! What of the build cache and of the images goes, by age and by size, as BuildKit's policies say it.
//!
//! The oldest use goes first. Nothing goes below `reserved`; above it, things go while all of them together are larger
//! than `max_used` or the file system has less free than `min_free`; with neither of these, everything that is old enough
//! goes. Source: BuildKit's `PruneInfo`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use image_core::{Digest, ImageId, Reference, Timestamp};

use crate::blob::file_name;
use crate::cache::{CacheRecord, Preimage};
use crate::container::ContainerRecord;
use crate::error::{Error, Result};
use crate::image::{ImageRecord, Tag};
use crate::layer::LayerKey;
use crate::store::Store;

/// How much of the build cache stays. The default removes everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachePolicy {
    /// What was used in this time stays.
    pub keep_duration: Option<Duration>,
    /// So many bytes stay in any case.
    pub reserved: u64,
    /// More bytes than these do not stay.
    pub max_used: Option<u64>,
    /// So many bytes are to be free on the file system.
    pub min_free: Option<u64>,
}

/// Why a record or an image goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It was not used for so long.
    Unused,
    /// All of them together are larger than they may be.
    MaxUsed,
    /// The file system has too little free.
    MinFree,
}

/// A record that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunedRecord {
    /// Its key.
    pub id: String,
    /// The step as it is shown.
    pub step: String,
    /// Bytes that are freed with it: 0 when an image has its layer too.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
}

impl Store {
    /// Removes cache records by `policy`, of those that `filter` says yes to; gives them in their order. With
    /// `dry_run` nothing is removed. Layers go with the next gc.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Damaged`].
    pub fn prune_cache(
        &self,
        policy: &CachePolicy,
        now: Timestamp,
        filter: &dyn Fn(&CacheRecord) -> bool,
        dry_run: bool,
    ) -> Result<Vec<PrunedRecord>> {
        let usage = self.usage()?;
        let free = self.free()?;
        let mut records = self.cache_records()?;
        records.sort_by_key(|(id, record)| (record.last_use(), id.clone()));
        let mut used_by = BTreeMap::<String, usize>::new();
        for (_, record) in &records {
            *used_by.entry(record.layer.to_string()).or_default() += 1;
        }
        let (mut size, mut freed, mut pruned) = (usage.cache_size, 0, Vec::new());
        for (id, record) in records {
            let age = record.last_use().map_or(Duration::MAX, |used| now.since(used));
            if policy.keep_duration.is_some_and(|keep| age < keep) || !filter(&record) {
                continue;
            }
            if size <= policy.reserved && policy.reserved > 0 {
                break;
            }
            let too_large = policy.max_used.is_some_and(|most| size > most);
            let too_full = policy.min_free.is_some_and(|least| free + freed < least);
            let reason = match (policy.max_used.is_none() && policy.min_free.is_none(), too_large, too_full) {
                (true, ..) => Reason::Unused,
                (_, true, _) => Reason::MaxUsed,
                (_, _, true) => Reason::MinFree,
                _ => break,
            };
            let users = used_by.entry(record.layer.to_string()).or_default();
            *users = users.saturating_sub(1);
            let shared = usage.cache.iter().any(|known| known.id == id && known.shared);
            let bytes = if shared || *users > 0 { 0 } else { self.layer_usage(&record.layer)?.1 };
            size = size.saturating_sub(bytes);
            freed += bytes;
            if !dry_run {
                self.places.cache.unlink(&id)?;
            }
            pruned.push(PrunedRecord { id, step: record.step, bytes, reason });
        }
        if !dry_run && !pruned.is_empty() {
            self.places.cache.sync()?;
        }
        Ok(pruned)
    }

    /// Notes that the step with this preimage was used again. Not durable at once: losing it costs nothing.
    ///
    /// # Errors
    /// [`Error::Io`]; a record that is gone is fine.
    pub fn note_cache_hit(&self, preimage: &Preimage, now: Timestamp) -> Result<()> {
        let _guard = crate::lease::guard(&self.places.root, rustix::fs::FlockOperation::LockShared)?;
        let name = preimage.key().hex();
        let Some(mut record) = self.places.cache.read_json::<CacheRecord>(&name)? else { return Ok(()) };
        record.hits += 1;
        record.used = Some(now);
        self.places.cache.replace_json(&name, &record)
    }
}

/// Which images stay. The default removes every image without a name and without a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImagePolicy {
    /// Images with a tag may go as well.
    pub all: bool,
    /// So many of the newest stay.
    pub keep_newest: usize,
    /// What was tagged or built in this time stays. What says neither is as old as can be.
    pub keep_duration: Option<Duration>,
    /// So many bytes stay in any case.
    pub reserved: u64,
    /// More bytes than these do not stay.
    pub max_used: Option<u64>,
    /// So many bytes are to be free on the file system.
    pub min_free: Option<u64>,
}

/// An image that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrunedImage {
    /// Which.
    pub id: ImageId,
    /// The names that it had, tags first.
    pub names: Vec<Reference>,
    /// Bytes on disk that nothing else needs once it and those before it are gone.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
}

impl Store {
    /// Removes images by `policy`, of those that no container is made from and that `filter` says yes to, oldest first;
    /// gives them in their order. The images of an index that has a name have that name; a container of one of them
    /// keeps them all. With `dry_run` nothing is removed. Layers and blobs go with the next gc.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Damaged`].
    pub fn prune_images(
        &self,
        policy: &ImagePolicy,
        now: Timestamp,
        filter: &dyn Fn(&ImageRecord) -> bool,
        dry_run: bool,
    ) -> Result<Vec<PrunedImage>> {
        let containers = self.containers()?;
        let mut used: BTreeSet<ImageId> = containers.iter().map(|container| container.image).collect();
        let mut tags: BTreeMap<ImageId, Vec<Tag>> = BTreeMap::new();
        for tag in self.tags()? {
            let indexed = tag.index.iter().flat_map(|record| &record.images).map(|entry| entry.image);
            let images: BTreeSet<ImageId> = indexed.chain([tag.image]).collect();
            if images.iter().any(|image| used.contains(image)) {
                used.extend(&images);
            }
            for image in images {
                tags.entry(image).or_default().push(tag.clone());
            }
        }
        let newest = |record: &ImageRecord| {
            let named = tags.get(&record.id()).into_iter().flatten().filter_map(|tag| tag.tagged);
            named.chain(record.built).max()
        };
        let mut images = self.own_images()?;
        images.sort_by_key(|record| (newest(record), record.id()));
        let mut bytes = Shares::of(self, &images, &containers)?;
        let free = self.free()?;
        let (mut freed, mut pruned) = (0, Vec::new());
        // An index loses its name with its first image.
        let mut gone: BTreeSet<Reference> = BTreeSet::new();
        let oldest = images.len().saturating_sub(policy.keep_newest);
        for record in images.iter().take(oldest) {
            let id = record.id();
            let age = newest(record).map_or(Duration::MAX, |time| now.since(time));
            let mut names: Vec<Reference> =
                tags.get(&id).into_iter().flatten().map(|tag| tag.name.clone()).collect();
            names.sort_by_key(|name| (name.tag().is_none(), name.canonical()));
            let dangling = !names.iter().any(|name| name.tag().is_some());
            let is_young = policy.keep_duration.is_some_and(|keep| age < keep);
            if used.contains(&id) || !(policy.all || dangling) || is_young || !filter(record) {
                continue;
            }
            let size = bytes.total - freed;
            if size <= policy.reserved && policy.reserved > 0 {
                break;
            }
            let too_large = policy.max_used.is_some_and(|most| size > most);
            let too_full = policy.min_free.is_some_and(|least| free + freed < least);
            let reason = match (policy.max_used.is_none() && policy.min_free.is_none(), too_large, too_full) {
                (true, ..) => Reason::Unused,
                (_, true, _) => Reason::MaxUsed,
                (_, _, true) => Reason::MinFree,
                _ => break,
            };
            let bytes = bytes.without(record);
            freed += bytes;
            if !dry_run {
                self.remove_image(&id)?;
            }
            names.retain(|name| gone.insert(name.clone()));
            pruned.push(PrunedImage { id, names, bytes, reason });
        }
        Ok(pruned)
    }

    /// Bytes that are free on the store's file system for whoever is not root.
    fn free(&self) -> Result<u64> {
        let stat =
            rustix::fs::fstatvfs(self.places.root.as_fd()).map_err(Error::io("measure", self.path()))?;
        Ok(stat.f_bavail * stat.f_frsize)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Layer(LayerKey),
    Blob(Digest),
}

/// Who needs which bytes.
#[derive(Default)]
struct Shares {
    /// How many need it, and its bytes on disk. A layer kept as plain tar has the same name as its blob.
    users: BTreeMap<Need, (usize, u64)>,
    total: u64,
}

impl Shares {
    fn of(store: &Store, images: &[ImageRecord], containers: &[ContainerRecord]) -> Result<Self> {
        let mut shares = Self::default();
        for record in images {
            for name in needs(record) {
                shares.users.entry(name).or_default().0 += 1;
            }
        }
        let layers = containers.iter().flat_map(|container| &container.layers).map(|layer| layer.key.clone());
        let cached = store.cache_hits()?.into_iter().map(|(_, hit)| hit.layer);
        for key in layers.chain(cached) {
            shares.users.entry(Need::Layer(key)).or_default().0 += 1;
        }
        for (need, (_, bytes)) in &mut shares.users {
            *bytes = match need {
                Need::Layer(key) => store.layer_usage(key)?.1,
                Need::Blob(digest) => store.places.blobs.allocated(&file_name(digest)),
            };
        }
        shares.total = shares.users.values().map(|(_, bytes)| bytes).sum();
        Ok(shares)
    }

    /// The bytes that nobody needs once `record` is gone, too.
    fn without(&mut self, record: &ImageRecord) -> u64 {
        let mut bytes = 0;
        for name in needs(record) {
            if let Some((users, size)) = self.users.get_mut(&name) {
                *users = users.saturating_sub(1);
                bytes += if *users == 0 { *size } else { 0 };
            }
        }
        bytes
    }
}

/// The layers and blobs of an image, each once.
fn needs(record: &ImageRecord) -> BTreeSet<Need> {
    let blobs = std::iter::once(&record.config).chain(&record.manifest).chain(record.kept_blobs());
    let blobs = blobs.map(|blob| Need::Blob(blob.digest));
    record.layers.iter().map(|layer| Need::Layer(layer.key.clone())).chain(blobs).collect()
}
