//! Foreign layers into a transaction.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use image_core::{Descriptor, DiffId};

use crate::arrival::Arriving;
use crate::authority::direct;
use crate::blob::{Encoding, file_name};
use crate::compress::Source;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::layer::{LayerKey, TREE};
use crate::lower::{Coming, Lower};
use crate::unpack::{Place, Threads, borrowed, unpack};
use crate::view::View;

use super::{Transaction, UnpackedLayer};

/// How many layers of one image are unpacked at the same time at most.
const LAYERS_AT_ONCE: usize = 4;
/// Of many layers, one whose blob has no more bytes than this is unpacked by one thread.
const SMALL: u64 = 4 << 20;

impl Transaction {
    /// Unpacks the blob of a layer over `below`. The diff ID is computed and must be `expected`.
    ///
    /// # Errors
    /// Whatever is wrong with the layer; nothing is kept then.
    pub fn unpack(&self, blob: &Descriptor, expected: &DiffId, below: &View) -> Result<UnpackedLayer> {
        self.unpack_over(blob, expected, &Lower::Known(below), &Arriving::default(), Threads::Several)
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
        self.unpack_arriving(layers, &Arriving::default(), done)
    }

    /// As [`Self::unpack_all`], while the blobs of `arriving` are still being downloaded: a layer is unpacked as its
    /// bytes come, and is not done before its blob was verified.
    ///
    /// # Errors
    /// As [`Self::unpack_all`]; [`Error::Stream`] where a blob did not arrive, and [`Arriving::failed`] says so.
    pub fn unpack_arriving(
        &self,
        layers: &[(Descriptor, DiffId)],
        arriving: &Arriving,
        done: &(dyn Fn(&Descriptor) + Sync),
    ) -> Result<Vec<UnpackedLayer>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(LAYERS_AT_ONCE);
        let many = layers.len() >= 2 * threads;
        let stack = Coming::new(layers.len());
        let next = AtomicUsize::new(0);
        let results: Vec<OnceLock<Result<UnpackedLayer>>> = layers.iter().map(|_| OnceLock::new()).collect();
        let work = || {
            direct::own_umask();
            // Lowest first: a layer only ever waits for one that another thread has begun.
            while !stack.failed() {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let (Some((blob, diff_id)), Some(place)) = (layers.get(at), results.get(at)) else { return };
                // The same layer twice in a stack is unpacked once.
                let twin = layers.iter().take(at).any(|(_, other)| other == diff_id);
                let below = Lower::coming(&stack, at);
                let by = if many && blob.size <= SMALL { Threads::Own } else { Threads::Several };
                let result = self.unpack_one((blob, diff_id), &below, twin, arriving, by);
                if matches!(result, Ok((_, true))) {
                    done(blob);
                }
                let result = result.map(|(unpacked, _)| unpacked);
                match &result {
                    Ok(unpacked) => stack.put(at, unpacked.layer.clone()),
                    Err(_) => stack.fail(),
                }
                drop(place.set(result));
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..threads.min(layers.len()) {
                scope.spawn(work);
            }
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

    /// One layer of a stack, and whether it had to be unpacked.
    fn unpack_one(
        &self,
        (blob, diff_id): (&Descriptor, &DiffId),
        below: &Lower<'_>,
        twin: bool,
        arriving: &Arriving,
        threads: Threads,
    ) -> Result<(UnpackedLayer, bool)> {
        let known = |layer| (UnpackedLayer { layer, degraded: Vec::new() }, false);
        if let Some(layer) = self.layer(&LayerKey::new(diff_id, None))? {
            return Ok(known(layer));
        }
        let name = file_name(diff_id.digest());
        let store = &self.0.store;
        let mut hints = store.shelves(&store.places.borrows, |shelf| &shelf.borrows);
        let borrows = hints.any(|hints| hints.exists(&name));
        if (twin || borrows)
            && let Some(layer) = self.find(diff_id, below.view()?)?
        {
            return Ok(known(layer));
        }
        Ok((self.unpack_over(blob, diff_id, below, arriving, threads)?, true))
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
        self.unpack_source(
            Source::sniffed(source).map_err(stream)?,
            Some(expected),
            &Lower::Known(below),
            Threads::Several,
        )
    }

    /// Makes what is in a tar stream, which may be compressed, a layer of our own over `below`: its diff ID is that of
    /// our packing, so that it can leave the store again without the stream being kept.
    ///
    /// # Errors
    /// As [`Self::unpack`].
    pub fn import(&self, source: impl std::io::Read + Send, below: &View) -> Result<UnpackedLayer> {
        let stream = |source| Error::Stream { format: "compressed", source };
        self.unpack_source(
            Source::sniffed(source).map_err(stream)?,
            None,
            &Lower::Known(below),
            Threads::Several,
        )
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
        self.unpack_source(Source::plain(source), Some(expected), &Lower::Known(below), Threads::Several)
    }

    fn unpack_over(
        &self,
        blob: &Descriptor,
        expected: &DiffId,
        below: &Lower<'_>,
        arriving: &Arriving,
        threads: Threads,
    ) -> Result<UnpackedLayer> {
        let stream = |source| Error::Stream { format: "compressed", source };
        let source = Source::sniffed(self.follow(blob, arriving)?).map_err(stream)?;
        let unpacked = self.unpack_source(source, Some(expected), below, threads)?;
        let encoding = Encoding { blob: blob.clone(), encoder: "as pulled".to_owned() };
        self.state().encodings.push((*expected, encoding));
        Ok(unpacked)
    }

    pub(super) fn unpack_source(
        &self,
        source: Source<'_>,
        expected: Option<&DiffId>,
        below: &Lower<'_>,
        threads: Threads,
    ) -> Result<UnpackedLayer> {
        let work = self.work()?;
        let tree = work.make_dir(TREE, 0o755)?;
        let store = &self.0.store;
        let algorithm = expected.map_or(image_core::Algorithm::Sha256, |known| known.digest().algorithm());
        let place = Place { root: tree.as_fd(), authority: &*store.authority, disk: tree.disk() };
        let result = unpack(source, algorithm, below, place, store.budget, threads);
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
}
