//! Files beside the store that containers see: given to their owners, opened and removed by the store's authority, as
//! they may be other people's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use layer_store::Store;
use layer_store::authority::{BatchError, FileAuthority, Op, Owners, Reply, Stamp};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::tree::Scratch;
use crate::error::{Error, Result};

/// How a file is to look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looks {
    pub(super) owner: (u32, u32),
    /// Not for links.
    pub(super) mode: Option<u32>,
    pub(super) mtime: (i64, u32),
}

/// Now, as a time of modification: of what no layer ever holds.
pub(super) fn now() -> (i64, u32) {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(since.as_secs()).unwrap_or(0), since.subsec_nanos())
}

/// Gives `path` its looks; owners as far as there are others than the caller.
pub(super) fn give(store: &Store, path: &Path, looks: Looks) -> Result<()> {
    give_all(store, path, &[(Vec::new(), looks)])
}

/// Gives each path below `root`, which is the empty one, its looks, in this order.
pub(super) fn give_all(store: &Store, root: &Path, files: &[(Vec<u8>, Looks)]) -> Result<()> {
    let authority = store.authority();
    let (dir, name) = place(root)?;
    let owned = authority.owners() == Owners::True;
    let stamp = |(below, looks): &(Vec<u8>, Looks)| {
        let path = if below.is_empty() { name.clone() } else { [name.as_slice(), b"/", below].concat() };
        let mut stamp = Stamp::at(looks.mtime.0, looks.mtime.1);
        stamp.mode = looks.mode;
        stamp.owner = owned.then_some(looks.owner);
        Op::Stamp(path, stamp)
    };
    let batch: Vec<Op> = files.iter().map(stamp).collect();
    let fail = |error: BatchError| Error::Io { path: root.with_file_name(error.path), source: error.source };
    authority.perform(dir.as_fd(), &batch).map(drop).map_err(fail)
}

/// The directory that `path` is in, open, and its last component.
fn place(path: &Path) -> Result<(OwnedFd, Vec<u8>)> {
    let fail = |source| Error::Io { path: path.to_owned(), source };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(fail(std::io::ErrorKind::InvalidInput.into()));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(parent, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
    Ok((dir, name.as_bytes().to_vec()))
}

/// Opens the directory `path` below `root`, through no link.
pub(super) fn opened(root: BorrowedFd<'_>, path: &[u8], authority: &dyn FileAuthority) -> Result<OwnedFd> {
    let fail = |source| Error::Io { path: String::from_utf8_lossy(path).into_owned().into(), source };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        // Somebody else's, who lets nobody through. As it is not root who asks, there are no devices in it.
        Err(Errno::ACCESS) => {}
        other => return other.map_err(|errno| fail(errno.into())),
    }
    let replies = authority.perform(root, &[Op::Open(path.to_vec())]);
    match replies.map_err(|error| fail(error.source))?.pop() {
        Some(Reply::File(fd)) => Ok(fd),
        _ => Err(fail(std::io::ErrorKind::Unsupported.into())),
    }
}

/// A scratch directory that containers wrote to: what is in it may not be the caller's to remove.
#[derive(Debug)]
pub(super) struct Shelter {
    scratch: Scratch,
    store: Store,
}

impl Shelter {
    pub(super) fn new(scratch: Scratch, store: &Store) -> Self {
        Self { scratch, store: store.clone() }
    }
}

impl Drop for Shelter {
    fn drop(&mut self) {
        // What cannot be removed so is tried, and reported, by the scratch directory itself.
        if let Ok((dir, name)) = place(&self.scratch.0) {
            drop(self.store.authority().perform(dir.as_fd(), &[Op::Remove(name)]));
        }
    }
}
