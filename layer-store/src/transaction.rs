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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use image_core::{Descriptor, DiffId, MediaType};
use rustix::io::Errno;

use crate::blob::{Encoding, file_name};
use crate::compose::Composer;
use crate::compress::Source;
use crate::disk::{Dir, unique};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::layer::{INDEX, Layer, LayerKey, TREE};
use crate::ingest::Ingest;
use crate::lease::Lease;
use crate::lower::{Coming, Lower};
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::unpack::{Degradation, Place, borrowed, unpack};
use crate::view::View;

/// How many layers of one image are unpacked at the same time at most.
const LAYERS_AT_ONCE: usize = 4;

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

    /// Unpacks the blob of a layer over `below`. The diff ID is computed and must be `expected`.
    ///
    /// # Errors
    /// Whatever is wrong with the layer; nothing is kept then.
    pub fn unpack(&self, blob: &Descriptor, expected: &DiffId, below: &View) -> Result<UnpackedLayer> {
        self.unpack_over(blob, expected, &Lower::Known(below))
    }

    /// Unpacks all layers of an image, lowest first, several at the same time: `layers` are their blobs and diff IDs.
    /// What is in the store already is taken from there. `done` hears of each that was unpacked, in any order.
    ///
    /// # Errors
    /// As [`Self::unpack`], of the first that failed.
    pub fn unpack_all(
        &self,
        layers: &[(Descriptor, DiffId)],
        done: &(dyn Fn(&Descriptor) + Sync),
    ) -> Result<Vec<UnpackedLayer>> {
        let stack = Coming::new(layers.len());
        let next = AtomicUsize::new(0);
        let results: Vec<OnceLock<Result<UnpackedLayer>>> = layers.iter().map(|_| OnceLock::new()).collect();
        let work = || {
            // Lowest first: a layer only ever waits for one that another thread has begun.
            while !stack.failed() {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let (Some((blob, diff_id)), Some(place)) = (layers.get(at), results.get(at)) else { return };
                // The same layer twice in a stack is unpacked once.
                let twin = layers.iter().take(at).any(|(_, other)| other == diff_id);
                let result = self.unpack_one(blob, diff_id, &Lower::coming(&stack, at), twin, done);
                match &result {
                    Ok(unpacked) => stack.put(at, unpacked.layer.clone()),
                    Err(_) => stack.fail(),
                }
                drop(place.set(result));
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(LAYERS_AT_ONCE);
        std::thread::scope(|scope| {
            for _ in 1..threads.min(layers.len()) {
                scope.spawn(work);
            }
            work();
        });
        let mut unpacked = Vec::new();
        let mut failure = None;
        for result in results.into_iter().filter_map(OnceLock::into_inner) {
            match result {
                Ok(layer) => unpacked.push(layer),
                // One that waited for another says less than the other.
                Err(error) if failure.is_none() || !matches!(error, Error::Unsupported { .. }) => {
                    failure = Some(error);
                }
                Err(_) => {}
            }
        }
        failure.map_or(Ok(unpacked), Err)
    }

    fn unpack_one(
        &self,
        blob: &Descriptor,
        diff_id: &DiffId,
        below: &Lower<'_>,
        twin: bool,
        done: &(dyn Fn(&Descriptor) + Sync),
    ) -> Result<UnpackedLayer> {
        if let Some(layer) = self.layer(&LayerKey::new(diff_id, None))? {
            return Ok(UnpackedLayer { layer, degraded: Vec::new() });
        }
        let name = file_name(diff_id.digest());
        let store = &self.0.store;
        let mut hints = store.shelves(&store.places.borrows, |shelf| &shelf.borrows);
        let borrows = hints.any(|hints| hints.exists(&name));
        if (twin || borrows)
            && let Some(layer) = self.find(diff_id, below.view()?)?
        {
            return Ok(UnpackedLayer { layer, degraded: Vec::new() });
        }
        let unpacked = self.unpack_over(blob, diff_id, below)?;
        done(blob);
        Ok(unpacked)
    }

    /// As [`Self::unpack`], from a file or a stream that may still be coming, and that may be compressed. Its bytes
    /// are not kept; only the diff ID is verified.
    ///
    /// # Errors
    /// As [`Self::unpack`].
    pub fn unpack_file(
        &self,
        source: impl std::io::Read + Send,
        expected: &DiffId,
        below: &View,
    ) -> Result<UnpackedLayer> {
        let stream = |source| Error::Stream { format: "compressed", source };
        self.unpack_source(Source::sniffed(source).map_err(stream)?, Some(expected), &Lower::Known(below))
    }

    /// Makes what is in a tar stream, which may be compressed, a layer of our own over `below`: its diff ID is that of
    /// our packing, so that it can leave the store again without the stream being kept.
    ///
    /// # Errors
    /// As [`Self::unpack`].
    pub fn import(&self, source: impl std::io::Read + Send, below: &View) -> Result<UnpackedLayer> {
        let stream = |source| Error::Stream { format: "compressed", source };
        self.unpack_source(Source::sniffed(source).map_err(stream)?, None, &Lower::Known(below))
    }

    /// Makes the tree at `path`, in overlay form, a layer: what a container or another store wrote. It is moved into
    /// the store, so it must be on the same file system.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn adopt(&self, path: &std::path::Path, latest: Option<image_core::Timestamp>) -> Result<Layer> {
        let dir = self.work()?;
        dir.adopt(path, TREE)?;
        Snapshot::over(self.clone(), dir)?.commit(latest)
    }

    fn unpack_over(&self, blob: &Descriptor, expected: &DiffId, below: &Lower<'_>) -> Result<UnpackedLayer> {
        let stream = |source| Error::Stream { format: "compressed", source };
        let source = Source::sniffed(self.open_blob(blob)?).map_err(stream)?;
        let unpacked = self.unpack_source(source, Some(expected), below)?;
        let encoding = Encoding { blob: blob.clone(), encoder: "as pulled".to_owned() };
        self.state().encodings.push((*expected, encoding));
        Ok(unpacked)
    }

    /// Unpacks a plain tar stream over `below`.
    ///
    /// # Errors
    /// As [`Self::unpack`].
    pub fn unpack_stream(
        &self,
        source: impl std::io::Read + Send,
        expected: &DiffId,
        below: &View,
    ) -> Result<UnpackedLayer> {
        self.unpack_source(Source::plain(source), Some(expected), &Lower::Known(below))
    }

    fn unpack_source(
        &self,
        source: Source<'_>,
        expected: Option<&DiffId>,
        below: &Lower<'_>,
    ) -> Result<UnpackedLayer> {
        let work = self.work()?;
        let tree = work.make_dir(TREE, 0o755)?;
        let store = &self.0.store;
        let algorithm = expected.map_or(image_core::Algorithm::Sha256, |known| known.digest().algorithm());
        let place = Place { root: tree.as_fd(), authority: &*store.authority, disk: tree.disk() };
        let result = unpack(source, algorithm, below, place, store.budget);
        let result = result.and_then(|unpacked| {
            let actual = unpacked.index.diff_id;
            let Some(expected) = expected.filter(|expected| **expected != actual) else {
                return Ok(unpacked);
            };
            let what = "the layer's uncompressed content".to_owned();
            Err(Error::DigestMismatch { what, expected: expected.to_string(), actual: actual.to_string() })
        });
        let unpacked = match result {
            Ok(unpacked) => unpacked,
            Err(error) => {
                self.discard(&work);
                return Err(error);
            }
        };
        if expected.is_none() {
            let Index { entries, allocated, .. } = unpacked.index;
            let layer = crate::compose::seal(self, &work, &tree, entries, allocated, false)?;
            return Ok(UnpackedLayer { layer, degraded: unpacked.degraded });
        }
        if !unpacked.looked_up.is_empty() {
            let paths = unpacked.looked_up.iter().map(|path| image_core::hex(path)).collect();
            self.state().borrows.push((unpacked.index.diff_id, paths));
        }
        let borrowed =
            if unpacked.looked_up.is_empty() { None } else { borrowed(&unpacked.looked_up, below.view()?) };
        let key = LayerKey::new(&unpacked.index.diff_id, borrowed.as_ref());
        let layer = self.stage(&work, key, unpacked.index)?;
        Ok(UnpackedLayer { layer, degraded: unpacked.degraded })
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
        Snapshot::prepare(self.clone(), self.work()?, layers)
    }

    /// What `layers` show, to be mounted and not changed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn view(&self, layers: &[Layer]) -> Result<Snapshot> {
        Snapshot::view(self.clone(), self.work()?, layers)
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
        index.allocated += (index.encode().len() as u64).next_multiple_of(BLOCK);
        work.write(INDEX, &index.encode())?;
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

    /// Publishes everything staged. The transaction goes on, empty.
    ///
    /// # Errors
    /// [`Error::Io`]; what was renamed by then is complete, the rest stays staged.
    pub fn commit(&self) -> Result<()> {
        let mut state = self.state();
        let places = &self.0.store.places;
        let blobs: Vec<String> =
            self.0.blobs.names()?.into_iter().filter(|name| !name.starts_with("part-")).collect();
        let (cache, slots) = (self.0.cache.names()?, self.0.slots.names()?);
        let is_empty = state.staged.is_empty() && blobs.is_empty() && cache.is_empty() && slots.is_empty();
        if is_empty && state.encodings.is_empty() && state.borrows.is_empty() {
            return Ok(());
        }
        self.0.staging.barrier()?;
        // Under the shared lock: between a rename and the record that names the thing, a sweep must not come.
        // The lease protects from then on.
        for key in state.staged.keys() {
            self.0.lease.protect(key, || publish(&self.0.layers, key.as_str(), &places.layers))?;
        }
        for name in &blobs {
            if let Some(digest) = crate::gc::digest_of(name) {
                self.0.lease.protect_blob(&digest, || publish(&self.0.blobs, name, &places.blobs))?;
            }
        }
        places.layers.sync()?;
        places.blobs.sync()?;
        for (staged, names, place) in
            [(&self.0.cache, &cache, &places.cache), (&self.0.slots, &slots, &places.slots)]
        {
            for name in names {
                staged.rename(name, place, name)?;
            }
            if !names.is_empty() {
                place.sync()?;
            }
        }
        for (diff_id, encoding) in std::mem::take(&mut state.encodings) {
            self.0.store.add_encoding(&diff_id, encoding)?;
        }
        // A sweep takes temporaries of records away; nobody makes one without the shared lock.
        let _guard = crate::lease::guard(&places.root, rustix::fs::FlockOperation::LockShared)?;
        for (diff_id, paths) in std::mem::take(&mut state.borrows) {
            places.borrows.replace_json(&file_name(diff_id.digest()), &paths)?;
        }
        state.staged.clear();
        Ok(())
    }
}

/// Moves `name` to where it belongs; when the same thing is there already, the staged copy goes.
fn publish(from: &Dir, name: &str, to: &Dir) -> Result<()> {
    let occupied = |error: &Error| matches!(error, Error::Io { source, .. } if matches!(Errno::from_io_error(source), Some(Errno::NOTEMPTY | Errno::EXIST)));
    match from.rename(name, to, name) {
        Err(error) if occupied(&error) => from.remove_tree(name),
        other => other,
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
