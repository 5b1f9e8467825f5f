//! A user namespace that is held open, and file operations in it.
//!
//! A threaded program cannot enter a user namespace, and so cannot make, read or remove files that belong to its other
//! ids. A [`UserNamespace`] keeps helpers in one and has them do it, in batches:
//!
//! ```text
//!   this process                      a memory file that both have mapped        helper, root of the namespace
//!   FileBatch ──records, texts──▶  [Call|Call|…|texts and room for answers]  ──▶ one system call a record
//!   Outcome  ◀──────results──────                                            ◀── and the descriptors it opened
//!             ◀────────────────────── SCM_RIGHTS over a socket pair ───────────
//! ```
//!
//! Batches of several threads go to several helpers. A helper ends with this process, whatever becomes of it.

mod batch;
mod outcome;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

pub use batch::{CallId, FileBatch, Slot};
pub use outcome::{DirectoryEntry, FileStat, Outcome};

use crate::launch::{Helper, Launched};
use crate::plan::{Plan, Privilege};
use crate::userns::IdMaps;
use crate::{Error, UserMapping};

/// The memory file of a helper, in bytes.
const MEMORY: usize = 2 << 20;
/// So many helpers are kept when nothing is to do.
const KEPT: usize = 4;

/// A user namespace in which files can be worked on. Made by [`crate::Runtime::user_namespace`].
#[derive(Debug)]
pub struct UserNamespace {
    helper: Helper,
    maps: IdMaps,
    idle: Mutex<Vec<Worker>>,
}

/// A helper that serves, and the memory that it shares with us.
#[derive(Debug)]
struct Worker {
    launched: Launched,
    memory: OwnedFd,
}

impl UserNamespace {
    /// Makes the namespace and its first helper.
    pub(crate) fn make(helper: Helper, mapping: &UserMapping) -> Result<Self, Error> {
        let privilege = Privilege::of_this_process();
        let (uids, gids) = mapping.clone().into_ranges();
        let maps = IdMaps::new(uids, gids, privilege.euid, privilege.egid, privilege.is_privileged())?;
        let made = Self { helper, maps, idle: Mutex::default() };
        let first = made.worker()?;
        made.keep(first);
        Ok(made)
    }

    /// Does `batch`, in order, and stops at the first call that fails and that is not to be passed over. What came
    /// before it is done.
    ///
    /// # Errors
    /// When the batch is larger than [`FileBatch::is_full`] allows, or no helper can be reached. A call that failed is
    /// no error here: [`Outcome::failure`] tells it.
    pub fn perform(&self, batch: FileBatch<'_>) -> io::Result<Outcome> {
        if batch.is_empty() {
            return Ok(Outcome::default());
        }
        let taken = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let worker = match taken {
            Some(worker) => worker,
            None => self.worker().map_err(io::Error::other)?,
        };
        let outcome = worker.perform(batch)?;
        // One that failed may not be in step with us any more: it ends here.
        self.keep(worker);
        Ok(outcome)
    }

    fn keep(&self, worker: Worker) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEPT {
            idle.push(worker);
        }
    }

    fn worker(&self) -> Result<Worker, Error> {
        let launched = self.helper.launch(Plan::file_server(self.maps.clone())?, &mut |_, _| Ok(()))?;
        let memory = launched.serve(MEMORY)?;
        Ok(Worker { launched, memory })
    }
}

impl Worker {
    fn perform(&self, batch: FileBatch<'_>) -> io::Result<Outcome> {
        let encoded = batch.encode(MEMORY)?;
        write_at(&self.memory, &encoded.bytes)?;
        let given: Vec<_> = encoded.given.iter().map(AsFd::as_fd).collect();
        let served = self.launched.calls(encoded.calls, &given)?;
        let records = read_at(&self.memory, 0, encoded.records)?;
        encoded.outcome(served, &records, |at, length| read_at(&self.memory, at, length))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.launched.dismiss();
    }
}

fn write_at(memory: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while !bytes.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::pwrite(memory, bytes, at))?;
        at += count as u64;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

fn read_at(memory: &OwnedFd, at: usize, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::retry_on_intr(|| rustix::io::pread(memory, &mut *rest, (at + done) as u64))? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    Ok(bytes)
}
