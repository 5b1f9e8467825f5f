//! Who works on the trees of layers.
//!
//! A store that keeps files of many owners without being root cannot touch them itself: a threaded program cannot
//! enter a user namespace. So all work on trees goes through [`FileAuthority`], in batches. [`Direct`] does it in this
//! process and serves root, and an ordinary user with a single id. A program that has a helper inside a user
//! namespace supplies its own.
//!
//! Paths are relative to the tree's root, slash-separated, without `.` or `..`; no component but the last may be a
//! symbolic link, and the last is never followed.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

mod content;
pub(crate) mod direct;
pub use content::Content;
pub use direct::Direct;

/// Whose the files of a tree are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Owners {
    /// The tree holds the true owners.
    True,
    /// Every file belongs to the caller; the index alone knows the true owner.
    Single,
}

/// One piece of work on a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Makes a directory (0700 until [`Op::Stamp`]).
    Directory(Vec<u8>),
    /// Makes an empty file and replies with it, open for writing.
    File(Vec<u8>),
    /// Makes a file with this content and stamps it.
    Put(Vec<u8>, Content, Stamp),
    /// Makes a symbolic link with this target.
    Symlink(Vec<u8>, Vec<u8>),
    /// Makes a hard link to the second path.
    Link(Vec<u8>, Vec<u8>),
    /// Makes a device or fifo: `st_mode` type bits and device number.
    Node(Vec<u8>, u32, u64),
    /// Sets owner, mode, attributes and time of modification.
    Stamp(Vec<u8>, Stamp),
    /// Sets the time of modification only: seconds and nanoseconds.
    Touch(Vec<u8>, i64, u32),
    /// Opens a file for reading and replies with it.
    Open(Vec<u8>),
    /// Removes a path with everything below; not being there is fine.
    Remove(Vec<u8>),
}

impl Op {
    /// The path that is worked on.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Directory(path)
            | Self::File(path)
            | Self::Put(path, ..)
            | Self::Symlink(path, _)
            | Self::Link(path, _)
            | Self::Node(path, ..)
            | Self::Stamp(path, _)
            | Self::Touch(path, ..)
            | Self::Open(path)
            | Self::Remove(path) => path,
        }
    }
}

/// What [`Op::Stamp`] sets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stamp {
    /// Owner and group, where the tree holds true owners.
    pub owner: Option<(u32, u32)>,
    /// Permission bits (07777); not for symbolic links.
    pub mode: Option<u32>,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes by full name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Stamp {
    /// A stamp of the time alone.
    #[must_use]
    pub const fn at(seconds: i64, nanoseconds: u32) -> Self {
        Self { owner: None, mode: None, mtime: (seconds, nanoseconds), xattrs: Vec::new() }
    }
}

/// The answer to one [`Op`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Reply {
    /// It is done.
    Done,
    /// It is stamped.
    Stamped {
        /// Allocated 512-byte blocks.
        blocks: u64,
        /// Attributes that the file system or the caller's rights do not allow.
        without: Vec<Vec<u8>>,
    },
    /// The open file.
    File(OwnedFd),
}

/// One entry of a tree, as [`FileAuthority::walk`] finds it. Authorities make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its path.
    pub path: Vec<u8>,
    /// `st_mode`: type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// Device number of a device node.
    pub rdev: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Inode and number of links, to find hard links.
    pub inode: (u64, u64),
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Extended attributes by full name, sorted.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn is_directory(found: &Found) -> bool {
    rustix::fs::FileType::from_raw_mode(found.mode) == rustix::fs::FileType::Directory
}

/// The first failure of a batch: what came before it is done, what comes after is not. Authorities make it.
#[derive(Debug, thiserror::Error)]
#[error("step {index} on {path:?} failed")]
pub struct BatchError {
    /// Which element of the batch.
    pub index: usize,
    /// Its path, lossy.
    pub path: String,
    /// Why.
    pub source: io::Error,
}

/// Works on trees. See the module's text.
pub trait FileAuthority: fmt::Debug + Send + Sync {
    /// Does `batch` in order, below `root`.
    ///
    /// # Errors
    /// The first failure.
    fn perform(&self, root: BorrowedFd<'_>, batch: &[Op]) -> Result<Vec<Reply>, BatchError>;

    /// Every entry below `root` (not `root` itself), sorted by path, depth first.
    ///
    /// # Errors
    /// When a directory cannot be read.
    fn walk(&self, root: BorrowedFd<'_>) -> io::Result<Vec<Found>>;

    /// Whose the files of the trees are.
    fn owners(&self) -> Owners;

    /// Whether [`Op::Node`] makes devices, which takes root outside of any user namespace. Otherwise an empty file
    /// keeps the place of one. Fifos, and the devices 0:0 of whiteouts, everybody makes.
    fn makes_devices(&self) -> bool;

    /// Bytes on disk of `root` and everything below, each file once. What vanishes meanwhile counts nothing.
    ///
    /// # Errors
    /// When a directory cannot be read.
    fn usage(&self, root: BorrowedFd<'_>) -> io::Result<u64> {
        let mut seen = std::collections::BTreeSet::new();
        let own = u64::try_from(rustix::fs::fstat(root)?.st_blocks).unwrap_or(0);
        let once = |found: &Found| found.inode.1 < 2 || is_directory(found) || seen.insert(found.inode.0);
        let below: u64 = self.walk(root)?.into_iter().filter(once).map(|found| found.blocks).sum();
        Ok((own + below) * 512)
    }
}
