//! Who makes the files: threads of which each takes a batch of entries of one directory, hashes and writes them, or the
//! parser itself.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use image_core::Digest;

use super::{Degradation, Place, failed};
use crate::authority::{Op, Reply, direct};
use crate::error::{Error, Result};

/// Entries of one batch. It is of one directory, so that two threads seldom want the same one.
const BATCH: usize = 512;
/// From how much of the stream the files of a batch come at most, in bytes: they hold on to the chunks that they are
/// in, so this bounds memory.
const BATCH_SPAN: u64 = 1 << 20;
const WAITING: usize = 4;
const CREW: usize = 4;
/// After how many bytes writing back is started.
const WRITE_BACK: usize = 48 << 20;

/// What the crew found out.
#[derive(Default)]
pub(super) struct Findings {
    /// The digest of the content of file number n.
    pub(super) digests: Vec<(u32, Digest)>,
    pub(super) degraded: Vec<Degradation>,
    /// Allocated 512-byte blocks.
    pub(super) blocks: u64,
}

#[derive(Default)]
struct Batch {
    ops: Vec<Op>,
    files: Vec<u32>,
    /// Where in the stream the first of the files ended.
    begin: u64,
    directory: Vec<u8>,
}

#[derive(Default)]
struct State {
    findings: Findings,
    failure: Option<Error>,
    at_work: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    idle: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Crew<'a> {
    shared: Arc<Shared>,
    batch: Batch,
    place: Place<'a>,
    threads: Option<Threads>,
}

/// The ways to the threads.
struct Threads {
    batches: SyncSender<Batch>,
    flush: SyncSender<()>,
    unflushed: usize,
}

impl<'a> Crew<'a> {
    /// Who gives the files makes them.
    pub(super) fn alone(place: Place<'a>) -> Self {
        Self { shared: Arc::default(), batch: Batch::default(), place, threads: None }
    }

    pub(super) fn start<'scope>(scope: &'scope Scope<'scope, 'a>, place: Place<'a>) -> Self {
        let shared = Arc::new(Shared::default());
        let (batches, queue) = sync_channel::<Batch>(WAITING);
        let queue = Arc::new(Mutex::new(queue));
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(CREW);
        for _ in 0..count {
            let (shared, queue) = (shared.clone(), queue.clone());
            scope.spawn(move || work(&shared, &queue, place));
        }
        // One request may wait: while the disk is busy, asking again is idle.
        let (flush, requests) = sync_channel::<()>(1);
        scope.spawn(move || {
            while requests.recv().is_ok() {
                place.disk.write_back(place.root);
            }
        });
        let threads = Some(Threads { batches, flush, unflushed: 0 });
        Self { shared, batch: Batch::default(), place, threads }
    }

    /// So many bytes went to the disk, or will.
    pub(super) fn wrote(&mut self, bytes: usize) {
        let Some(threads) = &mut self.threads else { return };
        threads.unflushed += bytes;
        if threads.unflushed >= WRITE_BACK {
            threads.unflushed = 0;
            _ = threads.flush.try_send(());
        }
    }

    /// A whole file of so many bytes that ends at `position` of the stream, made some time before [`Self::wait`]
    /// returns.
    pub(super) fn file(
        &mut self,
        directory: &[u8],
        op: Op,
        number: u32,
        bytes: usize,
        position: u64,
    ) -> Result<()> {
        self.room(directory)?;
        if self.batch.files.is_empty() {
            self.batch.begin = position;
        }
        self.batch.ops.push(op);
        self.batch.files.push(number);
        self.wrote(bytes);
        let full = self.batch.ops.len() >= BATCH || position - self.batch.begin >= BATCH_SPAN;
        if full { self.send() } else { Ok(()) }
    }

    /// Something else in `directory`.
    pub(super) fn ops(&mut self, directory: &[u8], ops: impl IntoIterator<Item = Op>) -> Result<()> {
        self.room(directory)?;
        self.batch.ops.extend(ops);
        Ok(())
    }

    fn room(&mut self, directory: &[u8]) -> Result<()> {
        if self.batch.directory != directory {
            self.send()?;
            self.batch.directory = directory.to_vec();
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        if self.batch.ops.is_empty() {
            return Ok(());
        }
        let directory = self.batch.directory.clone();
        let batch = std::mem::replace(&mut self.batch, Batch { directory, ..Batch::default() });
        let Some(threads) = &self.threads else {
            let mut findings = Findings::default();
            let made = make(self.place, &batch, &mut findings);
            self.shared.state().findings.add(findings);
            return made;
        };
        let mut state = self.shared.state();
        if let Some(error) = state.failure.take() {
            return Err(error);
        }
        state.at_work += 1;
        drop(state);
        let gone = |_| Error::Unsupported { what: "unpacking without threads".to_owned() };
        threads.batches.send(batch).map_err(gone)
    }

    /// Everything given so far is done.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.send()?;
        let mut state = self.shared.state();
        while state.at_work > 0 {
            state = self.shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.failure.take().map_or(Ok(()), Err)
    }

    /// Shares `ops`, which do not depend on one another, out among the threads.
    pub(super) fn spread(&mut self, mut ops: Vec<Op>) -> Result<()> {
        self.send()?;
        while !ops.is_empty() {
            let part = ops.split_off(ops.len().saturating_sub(BATCH / 4));
            self.batch.ops = part;
            self.send()?;
        }
        Ok(())
    }

    /// Does `ops` now, in this thread.
    pub(super) fn now(&self, ops: &[Op]) -> Result<Vec<Reply>> {
        let mut findings = Findings::default();
        let replies = perform(self.place, ops, &mut findings)?;
        self.shared.state().findings.add(findings);
        Ok(replies)
    }

    pub(super) fn findings(&mut self) -> Result<Findings> {
        self.wait()?;
        Ok(std::mem::take(&mut self.shared.state().findings))
    }
}

impl Findings {
    fn add(&mut self, other: Self) {
        self.digests.extend(other.digests);
        self.degraded.extend(other.degraded);
        self.blocks += other.blocks;
    }
}

fn perform(place: Place<'_>, ops: &[Op], findings: &mut Findings) -> Result<Vec<Reply>> {
    for op in ops {
        place.disk.tree_change(op)?;
    }
    let mut replies = place.authority.perform(place.root, ops).map_err(failed)?;
    for (op, reply) in ops.iter().zip(&mut replies) {
        if let Reply::Stamped { blocks, without } = reply {
            findings.blocks += *blocks;
            if without.is_empty() {
                continue;
            }
            let shown = String::from_utf8_lossy(op.path());
            let lost = without.iter().map(|name| String::from_utf8_lossy(name).into_owned());
            findings.degraded.extend(lost.map(|what| Degradation { path: shown.clone().into_owned(), what }));
        }
    }
    Ok(replies)
}

/// Hashes and makes the files of `batch`.
fn make(place: Place<'_>, batch: &Batch, findings: &mut Findings) -> Result<()> {
    let contents = batch.ops.iter().filter_map(|op| match op {
        Op::Put(_, content, _) => Some(content),
        _ => None,
    });
    let digests =
        batch.files.iter().zip(contents).map(|(number, content)| (*number, Digest::sha256(content)));
    findings.digests.extend(digests);
    perform(place, &batch.ops, findings).map(drop)
}

fn work(shared: &Shared, queue: &Mutex<Receiver<Batch>>, place: Place<'_>) {
    direct::own_umask();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = next else { return };
        let _done = Done(shared);
        let mut findings = Findings::default();
        let failed = shared.state().failure.is_some();
        let result = if failed { Ok(()) } else { make(place, &batch, &mut findings) };
        let mut state = shared.state();
        state.findings.add(findings);
        if let Err(error) = result {
            state.failure.get_or_insert(error);
        }
    }
}

/// A batch is over, also when the authority panicked in it.
struct Done<'a>(&'a Shared);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.at_work -= 1;
        if std::thread::panicking() {
            let error = Error::Unsupported { what: "an authority that panics".to_owned() };
            state.failure.get_or_insert(error);
        }
        if state.at_work == 0 {
            self.0.idle.notify_all();
        }
    }
}
