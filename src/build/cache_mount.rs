//! Directories that outlive builds: `RUN --mount=type=cache`.
//!
//! ```text
//!  <state>/caches/<sha256 of the id>/<n>/data      what the container sees; n > 0: copies for `private`
//!                                       /lock      flocked while somebody uses it
//! ```

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use dockerfile::plan::{CacheOwner, Sharing};
use image_core::Digest;
use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// More users of one private cache at the same time than this wait.
const COPIES: usize = 64;

/// A cache directory in use.
#[derive(Debug)]
pub(super) struct CacheMount {
    data: PathBuf,
    /// It was made now, and is empty.
    pub(super) is_new: bool,
    /// Dropped, others may use it.
    _lock: OwnedFd,
}

fn fail(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

impl CacheMount {
    /// The directory of the cache `id`, waiting for it if its sharing says so.
    pub(super) fn take(state: &Path, id: &str, sharing: Sharing, owner: Option<CacheOwner>) -> Result<Self> {
        let cache = state.join("caches").join(Digest::sha256(id.as_bytes()).hex());
        let copies = if sharing == Sharing::Private { COPIES } else { 1 };
        for copy in 0..copies {
            let directory = cache.join(copy.to_string());
            std::fs::create_dir_all(&directory).map_err(fail(&directory))?;
            let path = directory.join("lock");
            let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let lock = OwnedFd::from(lock.map_err(fail(&path))?);
            let last = copy + 1 == copies;
            let operation = match sharing {
                Sharing::Shared => FlockOperation::LockShared,
                Sharing::Private if !last => FlockOperation::NonBlockingLockExclusive,
                _ => FlockOperation::LockExclusive,
            };
            match rustix::fs::flock(&lock, operation) {
                Ok(()) => return Self::open(&directory, lock, owner),
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(fail(&path)(errno.into())),
            }
        }
        Err(Error::unsupported("that many users of one private cache mount"))
    }

    fn open(directory: &Path, lock: OwnedFd, owner: Option<CacheOwner>) -> Result<Self> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let data = directory.join("data");
        let owner = owner.unwrap_or(CacheOwner { uid: 0, gid: 0, mode: 0o755 });
        let is_new = match std::fs::DirBuilder::new().mode(0o700).create(&data) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(fail(&data)(error)),
        };
        if is_new {
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::chown(&data, Some(owner.uid), Some(owner.gid)).map_err(fail(&data))?;
            }
            std::fs::set_permissions(&data, std::fs::Permissions::from_mode(owner.mode))
                .map_err(fail(&data))?;
        }
        Ok(Self { data, is_new, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.data
    }

    /// The directory `source` in it. What is in the cache was written by containers: no link is followed.
    pub(super) fn directory(&self, source: &str) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.data, flags, Mode::empty())
            .map_err(|errno| fail(&self.data)(errno.into()))?;
        let inside = source.trim_matches('/');
        if inside.is_empty() {
            return Ok(root);
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(&root, inside, flags, Mode::empty(), resolve);
        opened.map_err(|errno| fail(&self.data.join(inside))(errno.into()))
    }
}
