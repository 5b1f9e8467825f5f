//! Snapshots: a writable directory over layers, for a process to change.
//!
//! A snapshot gives directories as descriptors; it mounts nothing. Whoever runs the process mounts an overlay of
//! them (with `userxattr`) in the process's own mount namespace, so that nothing is left when it ends.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use image_core::{Digest, Digester, Timestamp};
use rustix::fs::{self, FileType, Mode, OFlags};

use crate::authority::{FileAuthority, Found, Op, Owners};
use crate::compose::{clamp, failed, seal};
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::index::{Entry, Kind, OPAQUE_XATTR, is_applied};
use crate::layer::{Layer, TREE};
use crate::transaction::Transaction;
use crate::view::View;

const WORK: &str = "work";
const BUFFER: usize = 256 << 10;

/// The writable part and the layers under it.
#[derive(Debug)]
pub struct Upper {
    pub(crate) dir: Dir,
    pub(crate) tree: Dir,
    work: Dir,
    layers: Vec<Layer>,
}

impl Upper {
    /// Makes the directories in `dir`. The root looks as it does below.
    pub(crate) fn make(dir: Dir, layers: &[Layer], authority: &dyn FileAuthority) -> Result<Self> {
        let tree = dir.make_dir(TREE, 0o755)?;
        let work = dir.make_dir(WORK, 0o700)?;
        let view = View::of(layers);
        if let Some((entry, _)) = view.find(b"") {
            let stamp = entry.stamp(authority.owners() == Owners::True);
            let op =
                Op::Stamp(TREE.as_bytes().to_vec(), crate::authority::Stamp { xattrs: Vec::new(), ..stamp });
            authority.perform(dir.as_fd(), &[op]).map_err(failed)?;
        }
        Ok(Self { dir, tree, work, layers: layers.to_vec() })
    }

    /// Opens what [`Self::make`] made.
    pub(crate) fn open(dir: Dir, layers: Vec<Layer>) -> Result<Self> {
        let tree = dir.dir(TREE)?;
        let work = dir.dir(WORK)?;
        Ok(Self { dir, tree, work, layers })
    }

    /// The layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The directory that takes changes.
    ///
    /// # Errors
    /// [`Error::Io`] when there are no descriptors left.
    pub fn upper(&self) -> Result<OwnedFd> {
        duplicate(self.tree.as_fd())
    }

    /// The directory that overlayfs works in.
    ///
    /// # Errors
    /// As [`Self::upper`].
    pub fn work(&self) -> Result<OwnedFd> {
        duplicate(self.work.as_fd())
    }

    /// The trees of the layers, topmost first: the order of overlayfs.
    ///
    /// # Errors
    /// As [`Self::upper`].
    pub fn lower(&self) -> Result<Vec<OwnedFd>> {
        // A layer may be in a stack twice (two steps that did nothing); overlayfs takes a directory once. The topmost
        // has everything that the lower ones have, so those can go.
        let mut seen = std::collections::BTreeSet::new();
        let mut hidden = false;
        let fresh = self.layers.iter().rev().filter(|layer| {
            let shows = !hidden && seen.insert(layer.key().clone());
            // Overlayfs knows no opaque root: what is below such a layer is left out.
            hidden |= matches!(
                layer.index().entries.get(b"".as_slice()),
                Some(Entry { kind: Kind::Directory { opaque: true }, .. })
            );
            shows
        });
        fresh.map(|layer| duplicate(layer.tree())).collect()
    }
}

/// The entries of a tree: what a process made or changed over `below`, and the blocks that they take in bytes. Digests
/// of contents are left open.
pub(crate) fn read_tree(
    tree: &Dir,
    below: &View,
    authority: &dyn FileAuthority,
) -> Result<(BTreeMap<Vec<u8>, Entry>, u64)> {
    let found = authority.walk(tree.as_fd()).map_err(|source| Error::Io {
        action: "read",
        path: tree.path().to_owned(),
        source,
    })?;
    let mut entries = BTreeMap::new();
    let mut links: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut blocks = 0;
    for found in found {
        let Some(kind) = kind(&found, &mut links) else { continue };
        let (uid, gid) = owner(&found, below, authority.owners());
        let mut entry = match kind {
            Kind::Whiteout => Entry::whiteout(),
            kind => Entry::new(kind, found.mode & 0o7777, uid, gid, found.mtime),
        };
        if !matches!(entry.kind, Kind::Hardlink { .. }) {
            blocks += found.blocks;
        }
        if !matches!(entry.kind, Kind::Whiteout) {
            entry.xattrs = found.xattrs.into_iter().filter(|(name, _)| is_applied(name)).collect();
        }
        if let Kind::Symlink { .. } = entry.kind {
            // Linux shows 0777 for every link; so do we.
            entry.mode = 0o777;
        }
        entries.insert(found.path, entry);
    }
    Ok((entries, blocks * 512))
}

/// `None`: nothing that an archive holds.
fn kind(found: &Found, links: &mut BTreeMap<u64, Vec<u8>>) -> Option<Kind> {
    let (inode, count) = found.inode;
    let kind = FileType::from_raw_mode(found.mode);
    if count > 1 && kind == FileType::RegularFile {
        if let Some(first) = links.get(&inode) {
            return Some(Kind::Hardlink { target: first.clone() });
        }
        links.insert(inode, found.path.clone());
    }
    Some(match kind {
        FileType::Directory => {
            let opaque = found.xattrs.iter().any(|(name, value)| name == OPAQUE_XATTR && value == b"y");
            Kind::Directory { opaque }
        }
        FileType::RegularFile => Kind::File { size: found.size, digest: Digest::sha256(b"") },
        FileType::Symlink => Kind::Symlink { target: found.target.clone() },
        FileType::CharacterDevice if found.rdev == 0 => Kind::Whiteout,
        FileType::CharacterDevice => Kind::CharDevice(found.rdev),
        FileType::BlockDevice => Kind::BlockDevice(found.rdev),
        FileType::Fifo => Kind::Fifo,
        // A socket without its process means nothing; no archive holds one.
        _ => return None,
    })
}

/// Hashes what is left of `file`; gives its bytes.
pub(crate) fn digest_into(file: &mut impl Read, digester: &mut Digester) -> std::io::Result<u64> {
    copy_into(file, &mut std::io::sink(), digester)
}

/// Copies and hashes what is left of `from`; gives its bytes.
pub(crate) fn copy_into(
    from: &mut impl Read,
    to: &mut impl Write,
    digester: &mut Digester,
) -> std::io::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(size),
            Ok(count) => {
                let chunk = buffer.get(..count).unwrap_or_default();
                digester.update(chunk);
                to.write_all(chunk)?;
                size += count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The true owner of what was found. With a single id nobody can have given a file away: what was there before keeps
/// its owner, what is new belongs to root of the container.
fn owner(found: &Found, below: &View, owners: Owners) -> (u32, u32) {
    match owners {
        Owners::True => (found.uid, found.gid),
        Owners::Single => below.file(&found.path).map_or((0, 0), |(entry, _)| (entry.uid, entry.gid)),
    }
}

pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    // Reopened, not duplicated: a directory's position must not be shared.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    fs::openat(fd, ".", flags, Mode::empty()).map_err(Error::io("open", "a layer's tree"))
}

/// An [`Upper`] that becomes a layer. Dropped before, it leaves nothing.
#[derive(Debug)]
pub struct Snapshot {
    transaction: Transaction,
    upper: Option<Upper>,
}

impl Snapshot {
    pub(crate) fn prepare(transaction: Transaction, dir: Dir, layers: &[Layer]) -> Result<Self> {
        let upper = Upper::make(dir, layers, transaction.store().authority())?;
        Ok(Self { transaction, upper: Some(upper) })
    }

    /// A snapshot whose upper directory is in `dir` already, over nothing.
    pub(crate) fn over(transaction: Transaction, dir: Dir) -> Result<Self> {
        dir.make_dir(WORK, 0o700)?;
        let upper = Upper::open(dir, Vec::new())?;
        Ok(Self { transaction, upper: Some(upper) })
    }

    /// The directories to mount.
    ///
    /// # Errors
    /// [`Error::Unsupported`] after it has ended, which no caller can see.
    pub fn upper(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or_else(|| Error::Unsupported { what: "a snapshot that has ended".to_owned() })
    }

    /// Makes the changes a layer: times later than `latest` become `latest`, in the tree too.
    ///
    /// Nothing may have it mounted any more.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit(mut self, latest: Option<Timestamp>) -> Result<Layer> {
        let Some(upper) = self.upper.take() else {
            return Err(Error::Unsupported { what: "a snapshot that has ended".to_owned() });
        };
        let result = commit(&self.transaction, &upper, latest);
        if result.is_err() {
            self.transaction.discard(&upper.dir);
        }
        result
    }
}

fn commit(transaction: &Transaction, upper: &Upper, latest: Option<Timestamp>) -> Result<Layer> {
    let authority = transaction.store().authority();
    let (mut entries, allocated) = read_tree(&upper.tree, &View::of(&upper.layers), authority)?;
    let before: BTreeMap<Vec<u8>, (i64, u32)> =
        entries.iter().map(|(path, entry)| (path.clone(), entry.mtime)).collect();
    clamp(&mut entries, latest);
    let is_clamped = |path: &Vec<u8>, entry: &Entry| {
        before.get(path) != Some(&entry.mtime)
            && !matches!(entry.kind, Kind::Whiteout | Kind::Hardlink { .. })
    };
    let batch: Vec<Op> = entries
        .iter()
        .rev()
        .filter(|(path, entry)| is_clamped(path, entry))
        .map(|(path, entry)| Op::Touch(path.clone(), entry.mtime.0, entry.mtime.1))
        .collect();
    authority.perform(upper.tree.as_fd(), &batch).map_err(failed)?;
    upper.dir.remove_tree(WORK)?;
    seal(transaction, &upper.dir, &upper.tree, entries, allocated, true)
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Some(upper) = self.upper.take() {
            self.transaction.discard(&upper.dir);
        }
    }
}

impl AsFd for Upper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tree.as_fd()
    }
}
