//! What nothing needs any more goes.
//!
//! Roots are image records (a dangling image is an image until it is pruned), containers, cache records and held
//! leases. What they name stays. Everything is first moved to `trash/` under the exclusive `gc.lock`, which is quick;
//! it is removed after that, while others work.

use std::collections::BTreeSet;
use std::time::Duration;

use image_core::{Digest, Timestamp};
use rustix::fs::FlockOperation;

use crate::blob::file_name;
use crate::check::Object;
use crate::disk::{Dir, unique};
use crate::error::Result;
use crate::index::Index;
use crate::layer::{INDEX, LayerKey};
use crate::lease::{guard, survey};
use crate::store::{Places, Store};

/// How a collection goes about it. The default removes everything that nothing needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GcPolicy {
    /// Only say what would go.
    pub dry_run: bool,
    /// Now, and how long a partial blob that nobody is at stays, to be resumed.
    pub partials: Option<(Timestamp, Duration)>,
}

impl GcPolicy {
    /// Says what would go, and removes nothing.
    #[must_use]
    pub const fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Partial blobs that were written to in the last `keep` stay.
    #[must_use]
    pub const fn keep_partials(mut self, now: Timestamp, keep: Duration) -> Self {
        self.partials = Some((now, keep));
        self
    }
}

/// Why something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unneeded {
    /// No image, container, cache record or running work names it.
    Unreferenced,
    /// Staging of a process that is gone.
    Abandoned,
    /// A partial blob that nobody went on with in time.
    Expired,
}

/// One thing that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectedObject {
    /// Which: a layer, a blob (whole or partial), or a staging directory as [`Object::Hint`].
    pub object: Object,
    /// Why.
    pub reason: Unneeded,
    /// Bytes that it takes, by blocks; 0 for staging, which is not measured.
    pub bytes: u64,
}

/// What a collection removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Everything, with the reason.
    pub objects: Vec<CollectedObject>,
    /// Layers, by key.
    pub layers: Vec<String>,
    /// Blobs, by digest.
    pub blobs: Vec<Digest>,
    /// Staging directories of processes that are gone.
    pub abandoned: usize,
    /// Bytes freed, by the blocks of what went.
    pub bytes: u64,
}

impl Collected {
    fn add(&mut self, object: Object, reason: Unneeded, bytes: u64) {
        self.bytes += bytes;
        match &object {
            Object::Layer(key) => self.layers.push(key.to_string()),
            Object::Blob(digest) if reason == Unneeded::Unreferenced => self.blobs.push(*digest),
            _ if reason == Unneeded::Abandoned => self.abandoned += 1,
            _ => {}
        }
        self.objects.push(CollectedObject { object, reason, bytes });
    }
}

/// The digest in a blob's file name.
pub(crate) fn digest_of(name: &str) -> Option<Digest> {
    name.replacen('-', ":", 1).parse().ok()
}

/// What is needed.
#[derive(Default)]
struct Needed {
    layers: BTreeSet<String>,
    blobs: BTreeSet<Digest>,
    diff_ids: BTreeSet<Digest>,
}

impl Store {
    /// Removes what no image, container, cache record or running work needs.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::Damaged`]; a damaged record stops it before anything is removed.
    pub fn gc(&self) -> Result<Collected> {
        self.gc_with(&GcPolicy::default())
    }

    /// As [`Self::gc`], by `policy`.
    ///
    /// # Errors
    /// As [`Self::gc`].
    pub fn gc_with(&self, policy: &GcPolicy) -> Result<Collected> {
        let mut collected = Collected::default();
        let places = &self.places;
        let lock = guard(&places.root, FlockOperation::LockExclusive)?;
        let (lines, dead) = survey(&places.leases)?;
        let needed = self.needed(&lines)?;
        let sweep = Sweep { places, dry_run: policy.dry_run };
        sweep.staging(&dead, &mut collected)?;
        sweep.layers(&needed.layers, &mut collected)?;
        sweep.blobs(&needed.blobs, &mut collected)?;
        sweep.referrers(&needed.blobs)?;
        sweep.partials(policy, &mut collected)?;
        if policy.dry_run {
            return Ok(collected);
        }
        sweep.hints(&needed)?;
        sweep.temporaries()?;
        places.layers.sync()?;
        drop(lock);
        for name in places.trash.names()? {
            // Another gc may be at the same thing.
            if let Err(error) = places.trash.remove_tree(&name) {
                tracing::debug!(%error, "left in the trash for the next gc");
            }
        }
        Ok(collected)
    }

    /// `lines` of held leases.
    fn needed(&self, lines: &[String]) -> Result<Needed> {
        let mut needed = Needed::default();
        for line in lines {
            match line.split_once(' ') {
                Some(("layer", key)) => _ = needed.layers.insert(key.to_owned()),
                Some(("blob", digest)) => needed.blobs.extend(digest.parse::<Digest>().ok()),
                _ => {}
            }
        }
        for image in self.own_images()? {
            needed.layers.extend(image.layers.iter().map(|layer| layer.key.to_string()));
            needed.diff_ids.extend(image.layers.iter().map(|layer| *layer.diff_id.digest()));
            needed.blobs.insert(image.config.digest);
            needed.blobs.extend(image.manifest.iter().chain(image.kept_blobs()).map(|blob| blob.digest));
        }
        let named = self.tags()?.into_iter().filter_map(|tag| tag.index);
        needed.blobs.extend(named.map(|record| record.index.digest));
        for container in self.containers()? {
            needed.layers.extend(container.layers.iter().map(|layer| layer.key.to_string()));
        }
        for (_, record) in self.cache_hits()? {
            needed.layers.insert(record.layer.to_string());
        }
        needed.blobs.extend(self.referring(&needed.blobs)?);
        Ok(needed)
    }
}

struct Sweep<'a> {
    places: &'a Places,
    dry_run: bool,
}

impl Sweep<'_> {
    fn trash(&self, place: &Dir, name: &str) -> Result<()> {
        if self.dry_run {
            return Ok(());
        }
        place.rename(name, &self.places.trash, &format!("{}-{}", name.trim_start_matches('.'), unique()))
    }

    fn unlink(&self, place: &Dir, name: &str) -> Result<()> {
        if self.dry_run { Ok(()) } else { place.unlink(name).map(drop) }
    }

    fn staging(&self, dead: &[String], collected: &mut Collected) -> Result<()> {
        let places = self.places;
        let held: BTreeSet<String> =
            places.leases.names()?.into_iter().filter(|name| !dead.contains(name)).collect();
        for name in dead {
            self.unlink(&places.leases, name)?;
        }
        for name in places.ingest.names()? {
            if !held.contains(&name) {
                self.trash(&places.ingest, &name)?;
                collected.add(Object::Hint(name), Unneeded::Abandoned, 0);
            }
        }
        Ok(())
    }

    fn layers(&self, needed: &BTreeSet<String>, collected: &mut Collected) -> Result<()> {
        let place = &self.places.layers;
        for name in place.names()? {
            if needed.contains(&name) {
                continue;
            }
            let index = place.dir(&name)?.read(INDEX)?;
            let index = index.and_then(|bytes| Index::decode(&bytes).ok());
            let allocated = index.map_or(0, |index| index.allocated);
            self.trash(place, &name)?;
            collected.add(Object::Layer(LayerKey::from_name(&name)), Unneeded::Unreferenced, allocated);
        }
        Ok(())
    }

    /// A blob of a layer stays only with an image that names it; a layer in the cache can be encoded again.
    fn blobs(&self, needed: &BTreeSet<Digest>, collected: &mut Collected) -> Result<()> {
        let place = &self.places.blobs;
        for name in place.names()? {
            let digest = digest_of(&name);
            if digest.is_some_and(|digest| needed.contains(&digest)) {
                continue;
            }
            let size = place.allocated(&name);
            self.unlink(place, &name)?;
            let object = digest.map_or(Object::Hint(name), Object::Blob);
            collected.add(object, Unneeded::Unreferenced, size);
        }
        Ok(())
    }

    fn referrers(&self, needed: &BTreeSet<Digest>) -> Result<()> {
        let place = &self.places.referrers;
        for name in place.names()? {
            if digest_of(&name).is_none_or(|subject| !needed.contains(&subject)) {
                self.unlink(place, &name)?;
            }
        }
        Ok(())
    }

    fn partials(&self, policy: &GcPolicy, collected: &mut Collected) -> Result<()> {
        let place = &self.places.partial;
        for name in place.names()? {
            let is_young = policy.partials.is_some_and(|(now, keep)| {
                place.modified(&name).is_some_and(|written| now.since(written) < keep)
            });
            // Nobody takes one without the shared lock, so who does not hold it now does not before it is gone.
            if is_young || place.lock_existing(&name, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let size = place.allocated(&name);
            self.unlink(place, &name)?;
            let object = digest_of(&name).map_or(Object::Hint(name), Object::Blob);
            collected.add(object, Unneeded::Expired, size);
        }
        Ok(())
    }

    fn hints(&self, needed: &Needed) -> Result<()> {
        let places = self.places;
        let mut kept: BTreeSet<String> = needed.diff_ids.iter().map(file_name).collect();
        // Layers of the cache keep their hints too: they cost a few bytes and are checked when read.
        kept.extend(needed.layers.iter().filter_map(|key| key.split('+').next()).map(str::to_owned));
        for place in [&places.encodings, &places.borrows] {
            for name in place.names()? {
                if !kept.contains(&name) {
                    place.unlink(&name)?;
                }
            }
        }
        Ok(())
    }

    /// Temporaries of records and of containers: they are made under the shared lock, so here they belong to nobody.
    fn temporaries(&self) -> Result<()> {
        let places = self.places;
        let left = |place: &Dir| -> Result<Vec<String>> {
            Ok(place.all_names()?.into_iter().filter(|name| name.starts_with('.')).collect())
        };
        for place in [&places.containers, &places.volumes] {
            for name in left(place)? {
                self.trash(place, &name)?;
            }
        }
        for place in [
            &places.images,
            &places.refs,
            &places.history,
            &places.referrers,
            &places.cache,
            &places.slots,
            &places.encodings,
            &places.borrows,
        ] {
            for name in left(place)? {
                place.unlink(&name)?;
            }
        }
        Ok(())
    }
}
