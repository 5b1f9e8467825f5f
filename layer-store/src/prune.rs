//! What of the build cache goes, by age and by size, as BuildKit's policies say it.
//!
//! Records go oldest use first. Nothing goes below `reserved`; above it, records go while the cache is larger than
//! `max_used` or the file system has less free than `min_free`; with neither of these, everything that is old enough
//! goes. Source: BuildKit's `PruneInfo`.

use std::time::Duration;

use image_core::Timestamp;

use crate::cache::{CacheRecord, Preimage};
use crate::error::{Error, Result};
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

/// Why a record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It was not used for so long.
    Unused,
    /// The cache is larger than it may be.
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
        let free = rustix::fs::fstatvfs(self.places.root.as_fd())
            .map_err(Error::io("measure", self.path()))
            .map(|stat| stat.f_bavail * stat.f_frsize)?;
        let mut records = self.cache_records()?;
        records.sort_by_key(|(id, record)| (record.last_use(), id.clone()));
        let mut used_by = std::collections::BTreeMap::<String, usize>::new();
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
