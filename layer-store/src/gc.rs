//! What nothing needs any more goes.
//!
//! Roots are image records (a dangling image is an image until it is pruned), containers, cache records and held
//! leases. What they name stays. Everything is first moved to `trash/` under the exclusive `gc.lock`, which is quick;
//! it is removed after that, while others work.

use std::collections::BTreeSet;

use image_core::Digest;
use rustix::fs::FlockOperation;

use crate::blob::file_name;
use crate::disk::unique;
use crate::error::Result;
use crate::index::Index;
use crate::layer::INDEX;
use crate::lease::{guard, survey};
use crate::store::Store;

/// What a collection removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Layers, by key.
    pub layers: Vec<String>,
    /// Blobs, by digest.
    pub blobs: Vec<Digest>,
    /// Staging directories of processes that are gone.
    pub abandoned: usize,
    /// Bytes freed, by the blocks of what went.
    pub bytes: u64,
}

/// The digest in a blob's file name.
pub(crate) fn digest_of(name: &str) -> Option<Digest> {
    name.replacen('-', ":", 1).parse().ok()
}

impl Store {
    /// Removes what no image, container, cache record or running work needs.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::Damaged`]; a damaged record stops it before anything is removed.
    pub fn gc(&self) -> Result<Collected> {
        let mut collected = Collected::default();
        let places = &self.places;
        let lock = guard(&places.root, FlockOperation::LockExclusive)?;
        let (mut layers, mut blobs) = (BTreeSet::new(), BTreeSet::new());
        let (lines, dead) = survey(&places.leases)?;
        for line in &lines {
            match line.split_once(' ') {
                Some(("layer", key)) => _ = layers.insert(key.to_owned()),
                Some(("blob", digest)) => blobs.extend(digest.parse::<Digest>().ok()),
                _ => {}
            }
        }
        let mut diff_ids = BTreeSet::new();
        for image in self.images()? {
            layers.extend(image.layers.iter().map(|layer| layer.key.to_string()));
            diff_ids.extend(image.layers.iter().map(|layer| *layer.diff_id.digest()));
            blobs.insert(image.config.digest);
            blobs.extend(image.manifest.iter().chain(image.kept_blobs()).map(|blob| blob.digest));
        }
        for container in self.containers()? {
            layers.extend(container.layers.iter().map(|layer| layer.key.to_string()));
        }
        for (_, record) in self.cache_records()? {
            layers.insert(record.layer.to_string());
        }
        let held: BTreeSet<String> =
            places.leases.names()?.into_iter().filter(|name| !dead.contains(name)).collect();
        for name in &dead {
            places.leases.unlink(name)?;
        }
        for name in places.ingest.names()? {
            if !held.contains(&name) {
                places.ingest.rename(&name, &places.trash, &format!("{name}-{}", unique()))?;
                collected.abandoned += 1;
            }
        }
        for name in places.layers.names()? {
            if layers.contains(&name) {
                continue;
            }
            let index = places.layers.dir(&name)?.read(INDEX)?;
            let allocated =
                index.and_then(|bytes| Index::decode(&bytes).ok()).map_or(0, |index| index.allocated);
            places.layers.rename(&name, &places.trash, &format!("{name}-{}", unique()))?;
            collected.bytes += allocated;
            collected.layers.push(name);
        }
        // A blob of a layer stays only with an image that names it; a layer in the cache can be encoded again.
        for name in places.blobs.names()? {
            let digest = digest_of(&name);
            if digest.is_some_and(|digest| blobs.contains(&digest)) {
                continue;
            }
            let size = places.blobs.allocated(&name);
            places.blobs.unlink(&name)?;
            collected.bytes += size;
            collected.blobs.extend(digest);
        }
        let mut kept: BTreeSet<String> = diff_ids.iter().map(file_name).collect();
        // Layers of the cache keep their hints too: they cost a few bytes and are checked when read.
        kept.extend(layers.iter().filter_map(|key| key.split('+').next()).map(str::to_owned));
        for place in [&places.encodings, &places.borrows] {
            for name in place.names()? {
                if !kept.contains(&name) {
                    place.unlink(&name)?;
                }
            }
        }
        for place in [&places.containers, &places.volumes] {
            for name in place.all_names()?.into_iter().filter(|name| name.starts_with('.')) {
                // They are made under the shared lock, so a temporary here belongs to nobody.
                let doomed = format!("{}-{}", name.trim_start_matches('.'), unique());
                place.rename(&name, &places.trash, &doomed)?;
            }
        }
        for place in [
            &places.images,
            &places.refs,
            &places.history,
            &places.cache,
            &places.slots,
            &places.encodings,
            &places.borrows,
        ] {
            for name in place.all_names()?.into_iter().filter(|name| name.starts_with('.')) {
                place.unlink(&name)?;
            }
        }
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
}
