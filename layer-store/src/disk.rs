//! The one module through which the store's own files are read and written.
//!
//! Trees of layers are the affair of [`crate::authority`]. Everything here works relative to a directory that is
//! held open, so no path is resolved twice. [`Disk`] counts every change and can be told to fail at one: that is
//! where the crash tests hook in.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::authority::{BatchError, Direct, FileAuthority, Op, Reply};
use crate::error::{Error, Result};

/// Called before every change with its number; an error makes the change fail.
pub type FaultPoint = dyn Fn(u64) -> io::Result<()> + Send + Sync;

/// Counts changes, and fails where a test says so.
#[derive(Default)]
pub struct Disk {
    changes: AtomicU64,
    fault: Option<Box<FaultPoint>>,
    careless: bool,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("changes", &self.changes).finish_non_exhaustive()
    }
}

impl Disk {
    /// A disk that asks `fault` before every change.
    #[must_use]
    pub fn with_fault(fault: Box<FaultPoint>) -> Self {
        Self { changes: AtomicU64::new(0), fault: Some(fault), careless: false }
    }

    /// The same disk without any barrier or fsync: what is written may be lost or half there after a power cut. Only
    /// for tests that must show that they notice.
    #[must_use]
    pub fn careless(mut self) -> Self {
        self.careless = true;
        self
    }

    /// Starts writing back what was written below `root`, so that the barrier has less to wait for.
    pub(crate) fn write_back(&self, root: BorrowedFd<'_>) {
        if !self.careless {
            // The barrier at the end reports what goes wrong.
            _ = fs::syncfs(root);
        }
    }

    /// How many changes were made through it.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// As for its own files, for one piece of work on a layer's tree.
    pub(crate) fn tree_change(&self, op: &Op) -> Result<()> {
        let number = self.changes.fetch_add(1, Ordering::Relaxed);
        let Some(fault) = &self.fault else { return Ok(()) };
        let path = || String::from_utf8_lossy(op.path()).into_owned().into();
        fault(number).map_err(|source| Error::Io { action: "unpack", path: path(), source })
    }

    pub(crate) fn change(&self, action: &'static str, path: &Path) -> Result<()> {
        let number = self.changes.fetch_add(1, Ordering::Relaxed);
        match &self.fault {
            None => Ok(()),
            Some(fault) => {
                fault(number).map_err(|source| Error::Io { action, path: path.to_owned(), source })
            }
        }
    }
}

/// The largest record that is read into memory, in bytes.
pub(crate) const RECORD_LIMIT: u64 = 64 << 20;

/// A directory of the store, held open.
#[derive(Clone)]
pub(crate) struct Dir {
    fd: Arc<OwnedFd>,
    path: Arc<Path>,
    disk: Arc<Disk>,
    /// Who removes and measures trees with files of other owners.
    authority: Arc<dyn FileAuthority>,
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dir({})", self.path.display())
    }
}

const OPEN_DIR: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::RDONLY);

impl Dir {
    /// Opens the store's root, making it (0700) when it is not there.
    pub(crate) fn root(path: &Path, disk: Arc<Disk>, authority: Arc<dyn FileAuthority>) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|source| Error::Io {
            action: "make",
            path: path.to_owned(),
            source,
        })?;
        let fd = fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())
            .map_err(Error::io("open", path))?;
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { fd: Arc::new(fd), path: path.into(), disk, authority })
    }

    /// Opens the root of a store that is there and is not written to.
    pub(crate) fn existing(path: &Path, disk: Arc<Disk>, authority: Arc<dyn FileAuthority>) -> Result<Self> {
        let fd = fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty())
            .map_err(Error::io("open", path))?;
        Ok(Self { fd: Arc::new(fd), path: path.into(), disk, authority })
    }

    /// A foreign directory that is open already.
    pub(crate) fn held(fd: OwnedFd, path: &Path) -> Self {
        let authority = Arc::new(Direct::detect());
        Self { fd: Arc::new(fd), path: path.into(), disk: Arc::default(), authority }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Who works on the trees in it.
    pub(crate) fn authority(&self) -> &dyn FileAuthority {
        &*self.authority
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory `name` in this one.
    pub(crate) fn dir(&self, name: &str) -> Result<Self> {
        let fd = match fs::openat(&*self.fd, name, OPEN_DIR, Mode::empty()) {
            // Somebody else's, who lets nobody look in.
            Err(Errno::ACCESS) => self.open_by_authority(name)?,
            other => other.map_err(Error::io("open", self.at(name)))?,
        };
        let (disk, authority) = (self.disk.clone(), self.authority.clone());
        Ok(Self { fd: Arc::new(fd), path: self.at(name).into(), disk, authority })
    }

    fn open_by_authority(&self, name: &str) -> Result<OwnedFd> {
        let fail = |source| Error::Io { action: "open", path: self.at(name), source };
        let replies = self.authority.perform(self.as_fd(), &[Op::Open(name.into())]);
        match replies.map_err(|error| fail(error.source))?.pop() {
            Some(Reply::File(fd)) => Ok(fd),
            _ => Err(fail(io::ErrorKind::Unsupported.into())),
        }
    }

    /// The directory `name` in this one, made with `mode` when it is not there.
    pub(crate) fn make_dir(&self, name: &str, mode: u32) -> Result<Self> {
        match self.dir(name) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        self.disk.change("make", &self.at(name))?;
        match fs::mkdirat(&*self.fd, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => self.dir(name),
            Err(errno) => Err(Error::io("make", self.at(name))(errno)),
        }
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Opens the file `name` for reading; `None` when it is not there.
    pub(crate) fn open(&self, name: &str) -> Result<Option<std::fs::File>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match fs::openat(&*self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("open", self.at(name))(errno)),
        }
    }

    /// As [`Self::open`], with its size, for a directory of somebody else's: what is no regular file is refused, and not
    /// waited for.
    pub(crate) fn open_regular(&self, name: &str) -> Result<Option<(std::fs::File, u64)>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match fs::openat(&*self.fd, name, flags, Mode::empty()) {
            Ok(fd) => std::fs::File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(Error::io("open", self.at(name))(errno)),
        };
        let fail = |source| Error::Io { action: "open", path: self.at(name), source };
        let found = file.metadata().map_err(fail)?;
        if !found.is_file() {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
        }
        Ok(Some((file, found.len())))
    }

    /// The bytes of the record `name`; `None` when it is not there.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let fail = |source| Error::Io { action: "read", path: self.at(name), source };
        file.take(RECORD_LIMIT + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > RECORD_LIMIT {
            return Err(Error::Damaged { path: self.at(name), reason: format!("over {RECORD_LIMIT} bytes") });
        }
        Ok(Some(bytes))
    }

    /// The first `limit` bytes of the file `name`, or all of it; `None` when it is not there.
    pub(crate) fn read_head(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let mut bytes = vec![0; limit];
        let count = rustix::io::pread(&file, &mut bytes, 0).map_err(Error::io("read", self.at(name)))?;
        bytes.truncate(count);
        Ok(Some(bytes))
    }

    /// The record `name`, parsed; `None` when it is not there.
    pub(crate) fn read_json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        parse_record(&bytes, &self.at(name)).map(Some)
    }

    /// The file `name` is there and begins with `bytes`.
    pub(crate) fn begins_with(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        use std::os::unix::fs::FileExt;
        let Some(file) = self.open(name)? else { return Ok(false) };
        let mut found = vec![0; bytes.len()];
        match file.read_exact_at(&mut found, 0) {
            Ok(()) => Ok(found == bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(source) => Err(Error::Io { action: "read", path: self.at(name), source }),
        }
    }

    /// As [`Self::read_json`], for a file without a sum that others may read.
    pub(crate) fn read_plain_json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let damaged =
            |error: serde_json::Error| Error::Damaged { path: self.at(name), reason: error.to_string() };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Makes the file `name`, which must not be there yet, empty and open for writing.
    pub(crate) fn create(&self, name: &str) -> Result<std::fs::File> {
        self.disk.change("create", &self.at(name))?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        fs::openat(&*self.fd, name, flags, Mode::from_raw_mode(0o600))
            .map(std::fs::File::from)
            .map_err(Error::io("create", self.at(name)))
    }

    /// Writes a new file; not durable until the next barrier.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut file = self.create(name)?;
        self.disk.change("write", &self.at(name))?;
        file.write_all(bytes).map_err(|source| Error::Io { action: "write", path: self.at(name), source })
    }

    /// Replaces the record `name`: temporary file, fsync, rename, fsync of the directory.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let temporary = format!(".{name}.{}", unique());
        let result = self.write(&temporary, bytes).and_then(|()| {
            let path = self.at(&temporary);
            let file = self
                .open(&temporary)?
                .ok_or_else(|| Error::NotFound { kind: "file", name: temporary.clone() })?;
            self.disk.change("fsync", &path)?;
            if !self.disk.careless {
                fs::fsync(&file).map_err(Error::io("fsync", path))?;
            }
            self.rename(&temporary, self, name)?;
            self.sync()
        });
        if result.is_err() {
            // Best effort: a temporary left behind is swept by the next gc.
            _ = fs::unlinkat(&*self.fd, temporary.as_str(), AtFlags::empty());
        }
        result
    }

    pub(crate) fn replace_json<T: serde::Serialize>(&self, name: &str, record: &T) -> Result<()> {
        self.replace(name, &record_bytes(record, &self.at(name))?)
    }

    pub(crate) fn rename(&self, from: &str, to: &Self, name: &str) -> Result<()> {
        self.disk.change("rename", &to.at(name))?;
        fs::renameat(&*self.fd, from, &*to.fd, name).map_err(Error::io("rename", to.at(name)))
    }

    /// Moves what is at `path` here, as `name`.
    pub(crate) fn adopt(&self, path: &Path, name: &str) -> Result<()> {
        self.disk.change("rename", &self.at(name))?;
        fs::renameat(fs::CWD, path, &*self.fd, name).map_err(Error::io("rename", self.at(name)))
    }

    /// Puts `name` of this directory and `other` of `to` each in the other's place, at once.
    pub(crate) fn exchange(&self, name: &str, to: &Self, other: &str) -> Result<()> {
        self.disk.change("exchange", &to.at(other))?;
        fs::renameat_with(&*self.fd, name, &*to.fd, other, fs::RenameFlags::EXCHANGE)
            .map_err(Error::io("exchange", to.at(other)))
    }

    /// Type and permission bits of `name`, links not followed; `None` when it is not there.
    pub(crate) fn mode(&self, name: &str) -> Result<Option<u32>> {
        match fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat.st_mode)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("stat", self.at(name))(errno)),
        }
    }

    /// When `name` was last written to; `None` when it is not there.
    pub(crate) fn modified(&self, name: &str) -> Option<image_core::Timestamp> {
        let stat = fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(image_core::Timestamp::new(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)))
    }

    /// Bytes that `name` itself takes on disk, by blocks; 0 when it is not there.
    pub(crate) fn allocated(&self, name: &str) -> u64 {
        let stat = fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }

    /// Bytes on disk of this directory and everything in it. What vanishes meanwhile counts nothing.
    pub(crate) fn disk_usage(&self) -> Result<u64> {
        let fail = |source| Error::Io { action: "measure", path: self.path.to_path_buf(), source };
        self.authority.usage(self.as_fd()).map_err(fail)
    }

    pub(crate) fn chmod(&self, name: &str, mode: u32) -> Result<()> {
        self.disk.change("chmod", &self.at(name))?;
        fs::chmodat(&*self.fd, name, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(Error::io("chmod", self.at(name)))
    }

    /// Removes the file `name`; `false` when it was not there.
    pub(crate) fn unlink(&self, name: &str) -> Result<bool> {
        self.disk.change("remove", &self.at(name))?;
        match fs::unlinkat(&*self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::io("remove", self.at(name))(errno)),
        }
    }

    /// Removes whatever `name` is, with everything in it.
    pub(crate) fn remove_tree(&self, name: &str) -> Result<()> {
        self.disk.change("remove", &self.at(name))?;
        let removed = self.authority.perform(self.as_fd(), &[Op::Remove(name.into())]);
        let fail =
            |error: BatchError| Error::Io { action: "remove", path: self.at(name), source: error.source };
        removed.map(drop).map_err(fail)
    }

    /// The names in this directory, sorted; those that begin with a dot are temporaries and left out.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        Ok(self.all_names()?.into_iter().filter(|name| !name.starts_with('.')).collect())
    }

    pub(crate) fn all_names(&self) -> Result<Vec<String>> {
        let fail = Error::io("list", &*self.path);
        let mut names = Vec::new();
        // A fresh descriptor: reading moves the position, which would be shared.
        let fd =
            fs::openat(&*self.fd, ".", OPEN_DIR, Mode::empty()).map_err(Error::io("list", &*self.path))?;
        let entries = fs::Dir::new(fd).map_err(fail)?;
        for entry in entries {
            let entry = entry.map_err(Error::io("list", &*self.path))?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if let Ok(name) = name.into_string()
                && name != "."
                && name != ".."
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Makes the names in this directory durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.disk.change("fsync", &self.path)?;
        if self.disk.careless {
            return Ok(());
        }
        fs::fsync(&*self.fd).map_err(Error::io("fsync", &*self.path))
    }

    /// The barrier: makes everything written so far on this file system durable.
    pub(crate) fn barrier(&self) -> Result<()> {
        self.disk.change("syncfs", &self.path)?;
        if self.disk.careless {
            return Ok(());
        }
        fs::syncfs(&*self.fd).map_err(Error::io("syncfs", &*self.path))
    }

    /// Opens (making it if need be) and locks the file `name`.
    pub(crate) fn lock(&self, name: &str, operation: FlockOperation) -> Result<OwnedFd, Errno> {
        self.open_and_lock(name, OFlags::CREATE, operation)
    }

    /// As [`Self::lock`], but makes nothing: `NOENT` when `name` is not there.
    pub(crate) fn lock_existing(&self, name: &str, operation: FlockOperation) -> Result<OwnedFd, Errno> {
        self.open_and_lock(name, OFlags::empty(), operation)
    }

    /// `name` is the file that `fd` has open, and not another that came in its place.
    pub(crate) fn is(&self, name: &str, fd: &OwnedFd) -> bool {
        let (here, held) = (fs::statat(&*self.fd, name, AtFlags::SYMLINK_NOFOLLOW), fs::fstat(fd));
        here.ok()
            .zip(held.ok())
            .is_some_and(|(here, held)| (here.st_dev, here.st_ino) == (held.st_dev, held.st_ino))
    }

    fn open_and_lock(&self, name: &str, make: OFlags, operation: FlockOperation) -> Result<OwnedFd, Errno> {
        let flags = make | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = fs::openat(&*self.fd, name, flags, Mode::from_raw_mode(0o600))?;
        loop {
            match fs::flock(&fd, operation) {
                Err(Errno::INTR) => {}
                Ok(()) => return Ok(fd),
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// The bytes of a record: a line of JSON, then a line with the sha256 of the first, so that no flipped byte is lost
/// on a reader.
pub(crate) fn record_bytes<T: serde::Serialize>(record: &T, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = json(record, path)?;
    let sum = image_core::Digest::sha256(&bytes);
    bytes.extend_from_slice(format!("{sum}\n").as_bytes());
    Ok(bytes)
}

/// Reads what [`record_bytes`] made.
pub(crate) fn parse_record<T: serde::de::DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T> {
    let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    let (line, sum) = bytes.split_at(end);
    if sum != format!("{}\n", image_core::Digest::sha256(line)).as_bytes() {
        return Err(damaged("its checksum is wrong".to_owned()));
    }
    serde_json::from_slice(line).map_err(|error| damaged(error.to_string()))
}

/// A value as a line of JSON.
pub(crate) fn json<T: serde::Serialize>(record: &T, path: &Path) -> Result<Vec<u8>> {
    let damaged =
        |error: image_core::JsonError| Error::Damaged { path: path.to_owned(), reason: error.to_string() };
    let mut bytes = image_core::json::to_bytes(record).map_err(damaged)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Sixteen hex characters that no other call on this machine gives.
pub(crate) fn unique() -> String {
    let mut bytes = [0_u8; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    image_core::hex(&bytes)
}
