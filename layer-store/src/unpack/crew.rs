//! The threads that make files: each takes a batch of entries of one directory, hashes and writes them.

use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use image_core::Digest;

use super::{Degradation, failed};
use crate::authority::{FileAuthority, Op, Reply, direct};
use crate::disk::Disk;
use crate::error::{Error, Result};

/// Entries and bytes of one batch. It is of one directory, so that two threads seldom want the same one.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
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
    bytes: usize,
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
    batches: SyncSender<Batch>,
    batch: Batch,
    flush: SyncSender<()>,
    unflushed: usize,
    root: BorrowedFd<'a>,
    authority: &'a dyn FileAuthority,
    disk: &'a Disk,
}

impl<'a> Crew<'a> {
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, 'a>,
        root: BorrowedFd<'a>,
        authority: &'a dyn FileAuthority,
        disk: &'a Disk,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let (batches, queue) = sync_channel::<Batch>(WAITING);
        let queue = Arc::new(Mutex::new(queue));
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(CREW);
        for _ in 0..count {
            let (shared, queue) = (shared.clone(), queue.clone());
            scope.spawn(move || work(&shared, &queue, root, authority, disk));
        }
        // One request may wait: while the disk is busy, asking again is idle.
        let (flush, requests) = sync_channel::<()>(1);
        scope.spawn(move || {
            while requests.recv().is_ok() {
                disk.write_back(root);
            }
        });
        Self { shared, batches, batch: Batch::default(), flush, unflushed: 0, root, authority, disk }
    }

    /// So many bytes went to the disk, or will.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.unflushed += bytes;
        if self.unflushed >= WRITE_BACK {
            self.unflushed = 0;
            _ = self.flush.try_send(());
        }
    }

    /// A whole file, made some time before [`Self::wait`] returns.
    pub(super) fn file(&mut self, directory: &[u8], op: Op, number: u32, bytes: usize) -> Result<()> {
        self.room(directory)?;
        self.batch.ops.push(op);
        self.batch.files.push(number);
        self.batch.bytes += bytes;
        self.wrote(bytes);
        if self.batch.ops.len() >= BATCH || self.batch.bytes >= BATCH_BYTES { self.send() } else { Ok(()) }
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
        let mut state = self.shared.state();
        if let Some(error) = state.failure.take() {
            return Err(error);
        }
        state.at_work += 1;
        drop(state);
        let gone = |_| Error::Unsupported { what: "unpacking without threads".to_owned() };
        self.batches.send(batch).map_err(gone)
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

    /// Does `ops` now, in this thread.
    pub(super) fn now(&self, ops: &[Op]) -> Result<Vec<Reply>> {
        let mut findings = Findings::default();
        let replies = perform(self.root, self.authority, self.disk, ops, &mut findings)?;
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

fn perform(
    root: BorrowedFd<'_>,
    authority: &dyn FileAuthority,
    disk: &Disk,
    ops: &[Op],
    findings: &mut Findings,
) -> Result<Vec<Reply>> {
    for op in ops {
        disk.tree_change(op)?;
    }
    let mut replies = authority.perform(root, ops).map_err(failed)?;
    for (op, reply) in ops.iter().zip(&mut replies) {
        if let Reply::Stamped { blocks, without } = reply {
            findings.blocks += *blocks;
            let shown = String::from_utf8_lossy(op.path());
            let lost = without.iter().map(|name| String::from_utf8_lossy(name).into_owned());
            findings.degraded.extend(lost.map(|what| Degradation { path: shown.clone().into_owned(), what }));
        }
    }
    Ok(replies)
}

fn work(
    shared: &Shared,
    queue: &Mutex<Receiver<Batch>>,
    root: BorrowedFd<'_>,
    authority: &dyn FileAuthority,
    disk: &Disk,
) {
    direct::own_umask();
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = next else { return };
        let _done = Done(shared);
        let mut findings = Findings::default();
        let failed = shared.state().failure.is_some();
        let mut numbers = batch.files.iter();
        let result = if failed {
            Ok(Vec::new())
        } else {
            for op in &batch.ops {
                if let Op::Put(_, content, _) = op
                    && let Some(number) = numbers.next()
                {
                    findings.digests.push((*number, Digest::sha256(content)));
                }
            }
            perform(root, authority, disk, &batch.ops, &mut findings)
        };
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
