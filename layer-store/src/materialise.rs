//! Entries to a tree: the way back from an index.

use std::collections::BTreeMap;

use image_core::Digest;

use crate::authority::{FileAuthority, Op, Owners, Reply};
use crate::compose::failed;
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::index::{Entry, Kind};
use crate::store::Store;

impl Store {
    /// Makes the tree of `entries` in `tree`; `content` writes the file at a path with a digest, or says that it
    /// cannot: then this gives `false`.
    pub(crate) fn materialise(
        &self,
        entries: &BTreeMap<Vec<u8>, Entry>,
        tree: &Dir,
        content: impl FnMut(&[u8], &Digest, &mut std::fs::File) -> std::io::Result<bool>,
    ) -> Result<bool> {
        materialise(tree.authority(), entries, tree, content).map(|made| made.is_some())
    }
}

/// An attribute that could not be set: of which path, and its name.
pub(crate) type Lost = (Vec<u8>, Vec<u8>);

/// As [`Store::materialise`]; gives the attributes that the file system or the caller's rights did not allow, or
/// `None` when a content was not to be had.
pub(crate) fn materialise(
    authority: &dyn FileAuthority,
    entries: &BTreeMap<Vec<u8>, Entry>,
    tree: &Dir,
    mut content: impl FnMut(&[u8], &Digest, &mut std::fs::File) -> std::io::Result<bool>,
) -> Result<Option<Vec<Lost>>> {
    let owned = authority.owners() == Owners::True;
    let devices = authority.makes_devices();
    let perform = |op: Op| authority.perform(tree.as_fd(), &[op]).map_err(failed);
    let mut last = Vec::new();
    for (path, entry) in entries.iter().filter(|(path, _)| !path.is_empty()) {
        let stamp = Op::Stamp(path.clone(), entry.stamp(owned));
        let make = match &entry.kind {
            Kind::Directory { .. } => Op::Directory(path.clone()),
            Kind::File { size, digest } => {
                let reply = perform(Op::File(path.clone()))?.pop();
                let Some(Reply::File(fd)) = reply else { return Ok(None) };
                let mut file = std::fs::File::from(fd);
                let write = |source| Error::Io {
                    action: "write",
                    path: tree.at(&String::from_utf8_lossy(path)),
                    source,
                };
                if *size > 0 && !content(path, digest, &mut file).map_err(write)? {
                    return Ok(None);
                }
                last.push(stamp);
                continue;
            }
            Kind::Symlink { target } => Op::Symlink(path.clone(), target.clone()),
            Kind::Hardlink { target } => {
                last.push(Op::Link(path.clone(), target.clone()));
                continue;
            }
            // Nobody but root makes devices: an empty file keeps the place.
            Kind::CharDevice(_) | Kind::BlockDevice(_) if !devices => Op::File(path.clone()),
            Kind::CharDevice(device) => Op::Node(path.clone(), 0o020_000, *device),
            Kind::BlockDevice(device) => Op::Node(path.clone(), 0o060_000, *device),
            Kind::Fifo => Op::Node(path.clone(), 0o010_000, 0),
            Kind::Whiteout => {
                perform(Op::Node(path.clone(), 0o020_000, 0))?;
                continue;
            }
        };
        perform(make)?;
        last.push(stamp);
    }
    // Links before any stamp, children before parents: a directory's time changes with what is made in it.
    let (links, stamps): (Vec<Op>, Vec<Op>) = last.into_iter().partition(|op| matches!(op, Op::Link(..)));
    let batch: Vec<Op> = links.into_iter().chain(stamps.into_iter().rev()).collect();
    let replies = authority.perform(tree.as_fd(), &batch).map_err(failed)?;
    let mut lost = Vec::new();
    for (op, reply) in batch.iter().zip(replies) {
        if let Reply::Stamped { without, .. } = reply {
            lost.extend(without.into_iter().map(|name| (op.path().to_vec(), name)));
        }
    }
    Ok(Some(lost))
}

/// Fills `to` with the bytes of `from`: shared blocks where the file system can, a copy where not.
pub(crate) fn clone_or_copy(from: &mut std::fs::File, to: &mut std::fs::File) -> std::io::Result<()> {
    if rustix::fs::ioctl_ficlone(&*to, &*from).is_ok() {
        return Ok(());
    }
    std::io::copy(from, to).map(|_| ())
}
