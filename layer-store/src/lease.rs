//! Leases: what work in flight needs is not swept.
//!
//! A lease is a file under `leases/` that its process holds by flock. It lists what the work uses; it dies with the
//! process, so nothing expires and nothing leaks. Adding to a lease and sweeping exclude each other by the file
//! `gc.lock`: shared for the one, exclusive for the other, never held while a store is merely open.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::disk::{Dir, unique};
use crate::error::{Error, Result};
use crate::layer::LayerKey;
use crate::store::{GC_LOCK, Places};

/// A held lease.
#[derive(Debug)]
pub(crate) struct Lease {
    name: String,
    leases: Dir,
    root: Dir,
    file: Mutex<std::fs::File>,
}

impl Lease {
    pub(crate) fn take(places: &Places) -> Result<Self> {
        // Under the shared lock, so that a sweep never sees the file before its lock.
        let _guard = guard(&places.root, FlockOperation::LockShared)?;
        let name = unique();
        let fd = places
            .leases
            .lock(&name, FlockOperation::LockExclusive)
            .map_err(Error::io("lock", places.leases.at(&name)))?;
        Ok(Self {
            name,
            leases: places.leases.clone(),
            root: places.root.clone(),
            file: Mutex::new(fd.into()),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Protects the layer `key` from now on; `exists` then says whether it is still there.
    pub(crate) fn protect<T>(&self, key: &LayerKey, exists: impl FnOnce() -> Result<T>) -> Result<T> {
        self.note(&format!("layer {key}\n"), exists)
    }

    pub(crate) fn protect_blob<T>(
        &self,
        digest: &image_core::Digest,
        exists: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.note(&format!("blob {digest}\n"), exists)
    }

    fn note<T>(&self, line: &str, exists: impl FnOnce() -> Result<T>) -> Result<T> {
        let _guard = guard(&self.root, FlockOperation::LockShared)?;
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fail = |source| Error::Io { action: "write", path: self.leases.at(&self.name), source };
        file.write_all(line.as_bytes()).map_err(fail)?;
        drop(file);
        exists()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Best effort: without its lock the file is swept by the next gc.
        drop(self.leases.unlink(&self.name));
    }
}

/// Holds `gc.lock` until dropped.
pub(crate) fn guard(root: &Dir, operation: FlockOperation) -> Result<OwnedFd> {
    root.lock(GC_LOCK, operation).map_err(Error::io("lock", root.at(GC_LOCK)))
}

/// Holds `dir` until dropped: who changes records that are read first does it alone.
pub(crate) fn alone(dir: &Dir) -> Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    // A descriptor of its own, as the lock is the descriptor's.
    let fd = fs::openat(dir.as_fd(), ".", flags, Mode::empty()).map_err(Error::io("open", dir.path()))?;
    loop {
        match fs::flock(&fd, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            other => return other.map(|()| fd).map_err(Error::io("lock", dir.path())),
        }
    }
}

/// The lines of every lease that is held, and the names of those that nobody holds any more.
pub(crate) fn survey(leases: &Dir) -> Result<(Vec<String>, Vec<String>)> {
    let (mut lines, mut dead) = (Vec::new(), Vec::new());
    for name in leases.names()? {
        match leases.lock_existing(&name, FlockOperation::NonBlockingLockExclusive) {
            // Its transaction has ended meanwhile.
            Err(Errno::NOENT) => {}
            Ok(_released) => dead.push(name),
            Err(Errno::WOULDBLOCK) => {
                let text = leases.read(&name)?.unwrap_or_default();
                lines.extend(String::from_utf8_lossy(&text).lines().map(str::to_owned));
            }
            Err(errno) => return Err(Error::io("lock", leases.at(&name))(errno)),
        }
    }
    Ok((lines, dead))
}
