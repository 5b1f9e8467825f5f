//! A layer's truth: what is in it, with all metadata and the digest of every content.
//!
//! ```text
//!  "CPIX" 2                                     magic and version
//!  flags            1 = packed by us            the tar stream can be made again from index and tree
//!  diff ID          text
//!  size             varint, bytes               the sum of the sizes of all files
//!  allocated        varint, bytes               blocks that the tree takes on disk, as it was made
//!  entries          varint                      how many
//!  head sum         8 bytes                     the first of the sha256 of everything before: a summary can be
//!                                               read alone
//!  each entry:
//!     path          varint length, bytes        sorted; no leading or trailing slash
//!     kind          1 byte                      d D f l h c b p w
//!     mode uid gid  varint
//!     mtime         varint (zigzag) seconds, varint nanoseconds
//!     xattrs        varint count, then name and value
//!     …             by kind: size and digest · target · device
//!  sha256           32 bytes, of everything before
//! ```
//!
//! The empty path is the root directory itself; it is there only when the layer says something of it.
//! Numbers are LEB128. A reader refuses anything else: wrong order, wrong length, wrong sum.

use std::collections::BTreeMap;

use image_core::{DiffId, Digest};

use crate::authority::Stamp;

mod codec;

/// How a tree says that a directory is opaque; trees are mounted with `userxattr`, as root too.
pub(crate) const OPAQUE_XATTR: &[u8] = b"user.overlay.opaque";

/// Attributes that belong into a tree. Labels of the host's security modules do not, nor does what overlayfs reads.
pub(crate) fn is_applied(name: &[u8]) -> bool {
    let user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    let trusted = name.starts_with(b"trusted.") && !name.starts_with(b"trusted.overlay.");
    user || trusted || name == b"security.capability"
}

/// What an entry is, beyond its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A directory. `opaque`: nothing below it in lower layers is seen.
    Directory {
        /// See above.
        opaque: bool,
    },
    /// A regular file: size in bytes and the sha256 of its content.
    File {
        /// Bytes.
        size: u64,
        /// Of the content.
        digest: Digest,
    },
    /// A symbolic link.
    Symlink {
        /// Where to.
        target: Vec<u8>,
    },
    /// Another name of a file in the same layer. Its metadata are that file's.
    Hardlink {
        /// The file's path.
        target: Vec<u8>,
    },
    /// A character device: device number.
    CharDevice(u64),
    /// A block device: device number.
    BlockDevice(u64),
    /// A fifo.
    Fifo,
    /// What lower layers have here is gone.
    Whiteout,
}

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, 07777.
    pub mode: u32,
    /// The true owner.
    pub uid: u32,
    /// The true group.
    pub gid: u32,
    /// Time of modification: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Entry {
    /// An entry without attributes.
    #[must_use]
    pub const fn new(kind: Kind, mode: u32, uid: u32, gid: u32, mtime: (i64, u32)) -> Self {
        Self { kind, mode, uid, gid, mtime, xattrs: BTreeMap::new() }
    }

    /// A whiteout; it has no metadata of its own.
    #[must_use]
    pub const fn whiteout() -> Self {
        Self::new(Kind::Whiteout, 0, 0, 0, (0, 0))
    }

    /// It is a directory.
    #[must_use]
    pub const fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    /// How a tree that holds true owners (`owned`) or not is stamped for this entry.
    pub(crate) fn stamp(&self, owned: bool) -> Stamp {
        let is_link = matches!(self.kind, Kind::Symlink { .. });
        // Attributes that the overlay itself reads are kept in the index only: an image must not steer the mount.
        let kept = self.xattrs.iter().filter(|(name, _)| is_applied(name));
        let mut xattrs: Vec<_> = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        if matches!(self.kind, Kind::Directory { opaque: true }) {
            xattrs.push((OPAQUE_XATTR.to_vec(), b"y".to_vec()));
        }
        Stamp {
            owner: owned.then_some((self.uid, self.gid)),
            mode: (!is_link).then_some(self.mode),
            mtime: self.mtime,
            xattrs: if is_link { Vec::new() } else { xattrs },
        }
    }
}

/// Everything in a layer, by path.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Index {
    /// The digest of the layer's tar stream.
    pub diff_id: DiffId,
    /// The tar stream was made by this store and can be made again.
    pub packed: bool,
    /// Bytes that the tree takes on disk, by blocks.
    pub allocated: u64,
    /// The entries, sorted by path.
    pub entries: BTreeMap<Vec<u8>, Entry>,
}

/// The head of an index: all that `df` needs of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The digest of the layer's tar stream.
    pub diff_id: DiffId,
    /// The tar stream was made by this store and can be made again.
    pub packed: bool,
    /// The sum of the sizes of all files, in bytes.
    pub size: u64,
    /// Bytes that the tree takes on disk, by blocks.
    pub allocated: u64,
    /// How many entries there are.
    pub entries: u64,
}

impl Summary {
    /// No head is longer than this, in bytes.
    pub(crate) const LIMIT: usize = 256;

    /// Reads the head of an index.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        codec::summary(bytes)
    }
}

impl Index {
    /// The sum of the sizes of all files, in bytes: what docker shows as the layer's size.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entries
            .values()
            .map(|entry| if let Kind::File { size, .. } = entry.kind { size } else { 0 })
            .sum()
    }

    /// The index as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// As [`Self::encode`], after what the bytes themselves take on disk, in whole blocks of `block` bytes, was added to
    /// what is allocated.
    pub(crate) fn encode_counted(&mut self, block: u64) -> Vec<u8> {
        codec::encode_counted(self, block)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        codec::decode(bytes)
    }
}
