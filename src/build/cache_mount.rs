//! Directories that outlive builds: `RUN --mount=type=cache`. The store keeps them, see `layer_store::CacheMount`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use dockerfile::plan::{CacheOwner, Exec, MountKind, Sharing};
use layer_store::{CacheMount, Layer, Store};

use super::owner::{Looks, give, now, opened};
use super::solve::Solver;
use crate::error::{Error, Result};
use crate::task::blocking;

/// How often a cache that somebody holds is asked for.
const AGAIN: Duration = Duration::from_millis(20);

/// The caches of one RUN, by id, and what new ones begin with where a shared cache has it. Dropped, others may use them.
#[derive(Clone, Debug, Default)]
pub(super) struct Caches(BTreeMap<String, Arc<CacheMount>>, BTreeMap<String, Layer>);

impl Caches {
    /// Takes all caches that `exec` mounts, in the order of their ids, so that two builds never wait for one another.
    ///
    /// # Cancel safety
    /// Dropping the future gives back what was taken.
    pub(super) async fn take(solver: &Solver, exec: &Exec) -> Result<Self> {
        let mut wanted: BTreeMap<&str, Sharing> = BTreeMap::new();
        for mount in &exec.mounts {
            if let MountKind::Cache { id, sharing, .. } = &mount.kind {
                let known = wanted.entry(id).or_insert(*sharing);
                // One RUN that wants a cache twice is one user; the stricter word holds.
                if *sharing != Sharing::Shared {
                    *known = *sharing;
                }
            }
        }
        let (mut caches, mut seeds) = (BTreeMap::new(), BTreeMap::new());
        for (id, sharing) in wanted {
            let sharing = match sharing {
                Sharing::Shared => layer_store::Sharing::Shared,
                Sharing::Private => layer_store::Sharing::Private,
                Sharing::Locked => layer_store::Sharing::Locked,
            };
            let cache = loop {
                let (store, now, id) =
                    (solver.build.engine.store().clone(), solver.build.engine.now(), id.to_owned());
                if let Some(cache) = blocking(move || Ok(store.try_cache_mount(&id, sharing, now)?)).await? {
                    break cache;
                }
                tokio::time::sleep(AGAIN).await;
            };
            if cache.is_new()
                && let Some(layer) = solver.imported.mount(solver, id).await
            {
                seeds.insert(id.to_owned(), layer);
            }
            caches.insert(id.to_owned(), Arc::new(cache));
        }
        Ok(Self(caches, seeds))
    }

    /// What the cache `id` begins with, if a shared cache has it.
    pub(super) fn seed(&self, id: &str) -> Option<&Layer> {
        self.1.get(id)
    }

    /// The cache `id`, which is one of them.
    pub(super) fn get(&self, id: &str) -> Result<&Arc<CacheMount>> {
        self.0.get(id).ok_or_else(|| Error::unsupported("a cache that was not taken"))
    }
}

/// The cache `id` as earlier RUNs left it, when nobody has it alone.
pub(super) async fn existing(solver: &Solver, id: &str) -> Result<CacheMount> {
    loop {
        let (store, id) = (solver.build.engine.store().clone(), id.to_owned());
        if let Some(cache) = blocking(move || Ok(store.try_open_cache_mount(&id)?)).await? {
            return Ok(cache);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Gives a new cache its owner and mode.
pub(super) fn own(cache: &CacheMount, owner: Option<CacheOwner>, store: &Store) -> Result<()> {
    let owner = owner.unwrap_or(CacheOwner { uid: 0, gid: 0, mode: 0o755 });
    let looks = Looks { owner: (owner.uid, owner.gid), mode: Some(owner.mode), mtime: now() };
    give(store, &cache.path(), looks)
}

/// The directory `source` in the cache. What is in it was written by containers: no link is followed.
pub(super) fn directory(cache: &CacheMount, source: &str, store: &Store) -> Result<OwnedFd> {
    let root = cache.directory()?;
    let inside = source.trim_matches('/');
    if inside.is_empty() {
        return Ok(root);
    }
    opened(root.as_fd(), inside.as_bytes(), store.authority())
}
