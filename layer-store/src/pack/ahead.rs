//! Reads (and hashes) the small files of a tree ahead of whoever writes them out, in order, by several threads.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use image_core::Digest;

use super::{Open, too_short};
use crate::index::{Entry, Kind};

/// A file up to this size is read ahead as a whole.
pub(super) const WHOLE: u64 = 1 << 20;
/// Files and bytes of one batch.
const BATCH: usize = 32;
const BATCH_BYTES: u64 = 1 << 20;
/// Batches that may be read or waiting to be written: what bounds memory.
const WINDOW: usize = 8;
const THREADS: usize = 4;

/// The files of a batch: path and size.
type Batch<'a> = Vec<(&'a Vec<u8>, u64)>;
/// A file's content, and its digest where one was asked for.
type Content = (Vec<u8>, Option<Digest>);

/// The small files of `entries`, in batches.
pub(super) fn plan<'a>(entries: &[(&'a Vec<u8>, &Entry)]) -> Vec<Batch<'a>> {
    let mut batches: Vec<Batch<'a>> = Vec::new();
    let mut bytes = 0;
    for (path, entry) in entries {
        let Kind::File { size, .. } = entry.kind else { continue };
        if size == 0 || size > WHOLE {
            continue;
        }
        match batches.last_mut().filter(|batch| batch.len() < BATCH && bytes + size <= BATCH_BYTES) {
            Some(batch) => {
                batch.push((path, size));
                bytes += size;
            }
            None => {
                batches.push(vec![(path, size)]);
                bytes = size;
            }
        }
    }
    batches
}

#[derive(Default)]
struct State {
    /// The next batch to read, and how many were handed out whole.
    next: usize,
    taken: usize,
    ready: BTreeMap<usize, io::Result<Vec<Content>>>,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// The files in order, as they become ready.
pub(super) struct Files<'a> {
    shared: &'a Shared,
    current: std::vec::IntoIter<Content>,
}

impl Files<'_> {
    pub(super) fn next(&mut self) -> io::Result<Content> {
        loop {
            if let Some(content) = self.current.next() {
                return Ok(content);
            }
            let mut state = self.shared.state();
            let batch = loop {
                let at = state.taken;
                if let Some(batch) = state.ready.remove(&at) {
                    break batch;
                }
                state = self.shared.wait(state);
            };
            state.taken += 1;
            drop(state);
            self.shared.changed.notify_all();
            self.current = batch?.into_iter();
        }
    }
}

/// Stops the readers when the writer is done, however it ended.
struct Stop<'a>(&'a Shared);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.state().stopped = true;
        self.0.changed.notify_all();
    }
}

pub(super) fn run<T>(
    plan: &[Batch<'_>],
    open: &Open<'_>,
    hash: bool,
    write: impl FnOnce(&mut Files<'_>) -> io::Result<T>,
) -> io::Result<T> {
    let shared = Shared::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS).min(plan.len());
    std::thread::scope(|scope| {
        let _stop = Stop(&shared);
        for _ in 0..threads {
            scope.spawn(|| work(&shared, plan, open, hash));
        }
        write(&mut Files { shared: &shared, current: Vec::new().into_iter() })
    })
}

fn work(shared: &Shared, plan: &[Batch<'_>], open: &Open<'_>, hash: bool) {
    loop {
        let mut state = shared.state();
        while !state.stopped && state.next < plan.len() && state.next >= state.taken + WINDOW {
            state = shared.wait(state);
        }
        let at = state.next;
        let Some(batch) = plan.get(at).filter(|_| !state.stopped) else { return };
        state.next += 1;
        drop(state);
        let result = read(batch, open, hash);
        shared.state().ready.insert(at, result);
        shared.changed.notify_all();
    }
}

fn read(batch: &Batch<'_>, open: &Open<'_>, hash: bool) -> io::Result<Vec<Content>> {
    let paths: Vec<&[u8]> = batch.iter().map(|(path, _)| path.as_slice()).collect();
    let mut contents = Vec::with_capacity(batch.len());
    for ((_, size), mut file) in batch.iter().zip(open(&paths)?) {
        let mut content = vec![0; usize::try_from(*size).unwrap_or(0)];
        file.read_exact(&mut content).map_err(|_| too_short())?;
        let digest = hash.then(|| Digest::sha256(&content));
        contents.push((content, digest));
    }
    Ok(contents)
}
