//! Work that adds to the store, all of it or nothing.
//!
//! ```text
//!  begin ─▶ stage layers, blobs, cache records        in ingest/<lease>/, seen by this transaction alone
//!        ─▶ commit:  1. syncfs                        one barrier for everything
//!                    2. layers, blobs  renamed, directories fsynced
//!                    3. cache records  renamed, directory fsynced
//!                    4. image record and names follow, each fsync + rename + fsync
//! ```
//!
//! A process that dies in between leaves a staging directory without a lease, which gc removes. Dropping a
//! transaction removes it at once.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use image_core::{Descriptor, DiffId, MediaType};

use crate::blob::{Encoding, file_name};
use crate::compose::Composer;
use crate::disk::{Dir, unique};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::ingest::Ingest;
use crate::layer::{INDEX, Layer, LayerKey, TREE};
use crate::lease::Lease;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::unpack::{Degradation, borrowed};
use crate::view::View;

mod commit;
mod records;
mod unpack;

/// In what a file system gives room, in bytes.
const BLOCK: u64 = 4_096;

/// Work in progress. Shared between threads by cloning; the last clone that is dropped ends it.
#[derive(Clone, Debug)]
pub struct Transaction(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    lease: Lease,
    staging: Dir,
    layers: Dir,
    blobs: Dir,
    cache: Dir,
    slots: Dir,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    staged: BTreeMap<LayerKey, Layer>,
    encodings: Vec<(DiffId, Encoding)>,
    borrows: Vec<(DiffId, Vec<String>)>,
}

/// An unpacked layer and what the host could not take of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct UnpackedLayer {
    /// The layer.
    pub layer: Layer,
    /// What is in the index but not in the tree.
    pub degraded: Vec<Degradation>,
}

impl Transaction {
    pub(crate) fn begin(store: &Store) -> Result<Self> {
        let lease = Lease::take(&store.places)?;
        let staging = store.places.ingest.make_dir(lease.name(), 0o700)?;
        let layers = staging.make_dir("layers", 0o700)?;
        let blobs = staging.make_dir("blobs", 0o700)?;
        let cache = staging.make_dir("cache", 0o700)?;
        let slots = staging.make_dir("slots", 0o700)?;
        let state = Mutex::new(State::default());
        Ok(Self(Arc::new(Inner { store: store.clone(), lease, staging, layers, blobs, cache, slots, state })))
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer kept under `key`, staged or in the store, protected from gc from now on.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn layer(&self, key: &LayerKey) -> Result<Option<Layer>> {
        if let Some(layer) = self.state().staged.get(key) {
            return Ok(Some(layer.clone()));
        }
        self.0.lease.protect(key, || self.0.store.find_layer(key))
    }

    /// The unpacked form of `diff_id` over `below`, if there is one.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn find(&self, diff_id: &DiffId, below: &View) -> Result<Option<Layer>> {
        if let Some(layer) = self.layer(&LayerKey::new(diff_id, None))? {
            return Ok(Some(layer));
        }
        let name = file_name(diff_id.digest());
        let store = &self.0.store;
        for dir in store.shelves(&store.places.borrows, |shelf| &shelf.borrows) {
            let Some(paths) = dir.read_json::<Vec<String>>(&name)? else { continue };
            let paths = paths.iter().filter_map(|path| unhex(path)).collect();
            if let Some(layer) = self.layer(&LayerKey::new(diff_id, borrowed(&paths, below).as_ref()))? {
                return Ok(Some(layer));
            }
        }
        Ok(None)
    }

    /// Takes a blob. `expected` says what its bytes must be.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn ingest(&self, expected: &Descriptor) -> Result<Ingest> {
        Ingest::new(self.0.blobs.clone(), Some(expected.clone()), expected.media_type.clone())
    }

    /// As [`Self::ingest`], but goes on with what an earlier attempt left, maybe in a process that is gone: see
    /// [`Ingest::offset`]. What this one leaves when it is dropped stays for the next.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn resume(&self, expected: &Descriptor) -> Result<Ingest> {
        Ingest::resume(&self.0.store.places, self.0.blobs.clone(), expected)
    }

    /// Takes a blob whose digest is not known before; it will be a sha256.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn ingest_unknown(&self, media_type: MediaType) -> Result<Ingest> {
        Ingest::new(self.0.blobs.clone(), None, media_type)
    }

    /// As [`Self::ingest_unknown`], by another algorithm.
    pub(crate) fn ingest_by(
        &self,
        algorithm: image_core::Algorithm,
        media_type: MediaType,
    ) -> Result<Ingest> {
        Ingest::by(self.0.blobs.clone(), algorithm, media_type)
    }

    /// Keeps `bytes` as a blob.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn put_blob(&self, media_type: MediaType, bytes: &[u8]) -> Result<Descriptor> {
        let descriptor = Descriptor::of(media_type, bytes);
        if self.has_blob(&descriptor)? {
            return Ok(descriptor);
        }
        let mut ingest = self.ingest(&descriptor)?;
        let fail = |source| Error::Io { action: "write", path: self.0.blobs.path().to_owned(), source };
        std::io::Write::write_all(&mut ingest, bytes).map_err(fail)?;
        ingest.finish()
    }

    /// The blob is staged or in the store, and protected from gc from now on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        if self.0.blobs.exists(&file_name(&descriptor.digest)) {
            return Ok(true);
        }
        self.0.lease.protect_blob(&descriptor.digest, || Ok(self.0.store.has_blob(&descriptor.digest)))
    }

    /// Opens a staged or stored blob.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<std::fs::File> {
        let name = file_name(&descriptor.digest);
        if let Some(file) = self.0.blobs.open(&name)? {
            return Ok(file);
        }
        let file = self.0.store.open_blob(&name)?;
        file.ok_or_else(|| Error::NotFound { kind: "blob", name: descriptor.digest.to_string() })
    }

    /// Makes the tree at `path`, in overlay form, a layer: what a container or another store wrote. It is moved into
    /// the store, so it must be on the same file system.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn adopt(&self, path: &std::path::Path, latest: Option<image_core::Timestamp>) -> Result<Layer> {
        let dir = self.work()?;
        dir.adopt(path, TREE)?;
        Snapshot::over(self.clone(), &dir)?.commit(latest)
    }

    /// Makes a layer entry by entry, over `below`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn compose(&self, below: View) -> Result<Composer> {
        Composer::new(self.clone(), self.work()?, below)
    }

    /// A writable directory over `layers`, for a process to change.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn snapshot(&self, layers: &[Layer]) -> Result<Snapshot> {
        Snapshot::prepare(self.clone(), &self.work()?, layers)
    }

    /// What `layers` show, to be mounted and not changed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn view(&self, layers: &[Layer]) -> Result<Snapshot> {
        Snapshot::view(self.clone(), &self.work()?, layers)
    }

    /// Remembers how the layer `diff_id` was encoded.
    pub fn record_encoding(&self, diff_id: DiffId, encoding: Encoding) {
        self.state().encodings.push((diff_id, encoding));
    }

    /// The staging area.
    pub(crate) fn staging(&self) -> &Dir {
        &self.0.staging
    }

    /// Takes the staged layer `key` back as a plain directory of the staging area.
    pub(crate) fn staged_dir(&self, key: &LayerKey) -> Result<Option<Dir>> {
        if self.state().staged.remove(key).is_none() {
            return Ok(None);
        }
        let name = format!("work-{}", unique());
        self.0.layers.rename(key.as_str(), &self.0.staging, &name)?;
        self.0.staging.dir(&name).map(Some)
    }

    /// A fresh directory in the staging area.
    pub(crate) fn work(&self) -> Result<Dir> {
        self.0.staging.make_dir(&format!("work-{}", unique()), 0o700)
    }

    /// Removes a work directory, as far as that goes; the rest goes with the staging area.
    pub(crate) fn discard(&self, work: &Dir) {
        if let Some(name) = work.path().file_name().and_then(|name| name.to_str())
            && let Err(error) = self.0.staging.remove_tree(name)
        {
            tracing::debug!(%error, "a work directory stays until the transaction ends");
        }
    }

    /// Makes `work`, with the tree in it, the staged layer `key`.
    pub(crate) fn stage(&self, work: &Dir, key: LayerKey, mut index: Index) -> Result<Layer> {
        let mut state = self.state();
        if let Some(layer) = state.staged.get(&key) {
            let layer = layer.clone();
            drop(state);
            self.discard(work);
            return Ok(layer);
        }
        // The tree's files are counted; its root, the layer's directory and the index itself come on top.
        index.allocated += work.allocated(".") + work.allocated(TREE);
        let encoded = index.encode_counted(BLOCK);
        work.write(INDEX, &encoded)?;
        let layer = Layer::open(key.clone(), index, work)?;
        let name = work.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.0.staging.rename(name, &self.0.layers, key.as_str())?;
        state.staged.insert(key, layer.clone());
        Ok(layer)
    }

    pub(crate) fn stage_cache_record(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let _state = self.state();
        self.0.cache.unlink(name)?;
        self.0.cache.write(name, bytes)
    }

    pub(crate) fn stage_slot(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let _state = self.state();
        self.0.slots.unlink(name)?;
        self.0.slots.write(name, bytes)
    }

    pub(crate) fn staged_cache_record(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.0.cache.read(name)
    }
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    if text.len() % 2 == 1 {
        return None;
    }
    (0..text.len()).step_by(2).map(pair).collect()
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.store.places.ingest.remove_tree(self.lease.name()) {
            tracing::debug!(%error, "a staging directory stays until the next gc");
        }
    }
}

impl AsFd for Transaction {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.staging.as_fd()
    }
}
