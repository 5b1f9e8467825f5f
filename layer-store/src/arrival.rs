//! Blobs that are still coming, for who already unpacks them.
//!
//! ```text
//!  download ─▶ Ingest ─▶ file ─▶ Follower ─▶ decode, hash, parse, write
//!                └─ bytes so far ──▲ waits for more; at an end when the blob was verified, never before
//! ```
//!
//! The file is the buffer between the two: a slow disk never slows the download, and memory does not grow. What is
//! unpacked before the blob was verified is in a staging directory, and goes with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use image_core::{Descriptor, Digest};

use crate::error::{Error, Result};
use crate::ingest::Ingest;
use crate::transaction::Transaction;

/// Made by [`Transaction::expect`]: tells who unpacks how far the downloads of an image are.
///
/// Dropped, it ends the wait for every blob that did not arrive.
#[derive(Debug)]
pub struct Arrivals(BTreeMap<Digest, Arc<Arrival>>);

/// The other side of [`Arrivals`]: what [`Transaction::unpack_arriving`] reads from.
#[derive(Clone, Debug, Default)]
pub struct Arriving(BTreeMap<Digest, Arc<Arrival>>);

/// One blob on its way.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing can be read yet.
    #[default]
    Expected,
    /// So many bytes are in the file.
    Coming(Arc<File>, u64),
    /// Verified, and kept by the transaction.
    Here,
    Failed,
}

impl Transaction {
    /// What is needed to unpack `blobs` while they are still being downloaded.
    #[must_use]
    pub fn expect<'a>(&self, blobs: impl IntoIterator<Item = &'a Descriptor>) -> (Arrivals, Arriving) {
        let all: BTreeMap<_, _> =
            blobs.into_iter().map(|blob| (blob.digest, Arc::<Arrival>::default())).collect();
        (Arrivals(all.clone()), Arriving(all))
    }

    /// The bytes of `blob`, which may still be coming.
    pub(crate) fn follow(&self, blob: &Descriptor, arriving: &Arriving) -> Result<Box<dyn Read + Send>> {
        let Some(arrival) = arriving.0.get(&blob.digest) else { return Ok(Box::new(self.open_blob(blob)?)) };
        match arrival.begun() {
            State::Coming(file, _) => {
                Ok(Box::new(Follower { arrival: arrival.clone(), file, at: 0, size: blob.size }))
            }
            State::Failed => Err(Error::Stream { format: "compressed", source: lost() }),
            State::Here | State::Expected => Ok(Box::new(self.open_blob(blob)?)),
        }
    }
}

impl Arrivals {
    /// From now on the bytes that `ingest` takes can be read.
    ///
    /// An ingest that goes on with an earlier attempt is not read before it is verified: what it found may be wrong,
    /// and is thrown away then.
    pub fn begin(&self, ingest: &mut Ingest) {
        if ingest.offset() == 0
            && let Some(arrival) = ingest.expected().and_then(|blob| self.0.get(&blob.digest)).cloned()
        {
            ingest.tell(arrival);
        }
    }

    /// The blob is verified and in the transaction.
    pub fn arrived(&self, digest: &Digest) {
        if let Some(arrival) = self.0.get(digest) {
            arrival.set(State::Here);
        }
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        for arrival in self.0.values() {
            arrival.fail();
        }
    }
}

impl Arriving {
    /// A download ended without its blob. Why is known to who downloads.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.0.values().any(|arrival| matches!(*arrival.state(), State::Failed))
    }
}

impl Arrival {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state() = state;
        self.changed.notify_all();
    }

    /// Ends every wait for it, if it is not here.
    pub(crate) fn fail(&self) {
        let mut state = self.state();
        if !matches!(*state, State::Here) {
            *state = State::Failed;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The bytes up to `size` are in `file`.
    pub(crate) fn reach(&self, file: &Arc<File>, size: u64) {
        self.set(State::Coming(file.clone(), size));
    }

    /// Waits until there is something to read, or nothing to wait for.
    fn begun(&self) -> State {
        let waiting = |state: &mut State| matches!(state, State::Expected);
        let state = self.changed.wait_while(self.state(), waiting).unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Coming(file, size) => State::Coming(file.clone(), *size),
            State::Here => State::Here,
            State::Expected | State::Failed => State::Failed,
        }
    }

    /// Waits for bytes from `at` on, or for the end; up to where they can be read.
    fn past(&self, at: u64, whole: u64) -> io::Result<u64> {
        let waiting = |state: &mut State| matches!(state, State::Coming(_, size) if *size <= at);
        let state = self.changed.wait_while(self.state(), waiting).unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Coming(_, size) => Ok(*size),
            State::Here => Ok(whole),
            State::Expected | State::Failed => Err(lost()),
        }
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the blob did not arrive")
}

/// Reads a file that is being written.
struct Follower {
    arrival: Arc<Arrival>,
    file: Arc<File>,
    at: u64,
    /// What the blob has in the end.
    size: u64,
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let until = self.arrival.past(self.at, self.size)?;
        let room = usize::try_from(until.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(buffer.get_mut(..room).unwrap_or_default(), self.at)?;
        // A file that became shorter is no end: that comes when the blob was verified.
        if count == 0 && room > 0 {
            return Err(lost());
        }
        self.at += count as u64;
        Ok(count)
    }
}
