//! A directory tree to entries, and bytes from here to there.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use image_core::{Digest, Digester};
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::authority::{FileAuthority, Found, Owners};
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::index::{Entry, Kind, OPAQUE_XATTR, is_applied};
use crate::view::View;

const BUFFER: usize = 256 << 10;

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
    match fs::openat(fd, ".", flags, Mode::empty()) {
        // Somebody else's, who lets nobody look in; but to be mounted it need not be read.
        Err(Errno::ACCESS) => fd.try_clone_to_owned().map_err(|source| Error::Io {
            action: "open",
            path: "a layer's tree".into(),
            source,
        }),
        other => other.map_err(Error::io("open", "a layer's tree")),
    }
}
