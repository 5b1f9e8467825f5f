//! How much of the store is the same file again: what sharing by file saves where it is done, and would save where not.
//!
//! A layer is kept once, whatever images have it. That equal files of different layers are kept once as well takes one of
//! three ways, of which the first is there:
//!
//! - **shared extents**, on file systems that have them (XFS, Btrfs): [`Store::deduplicate`] makes equal files share, each
//!   with its own metadata. `du` and df count such blocks once a file; `statfs` says what is saved. The copies that the store
//!   makes itself there (snapshots, flattened and squashed layers) share from the start.
//! - **hard links** are not made: they share an inode, and so owner, mode, time and attributes: two builds that differ in
//!   times share nothing ([`Duplicates::linkable`]). `st_nlink` shows in containers, ext4 ends at 65,000 names, and the
//!   blocks belong to no layer any more: df would need the link count of every file, where it now reads one record a layer.
//! - **stub trees over an object directory** (overlay redirects) are not made: they share content under different metadata
//!   on ext4 too, but without `metacopy`, which `userxattr` excludes, only in the lowest layer: each image would be one
//!   flattened tree, made anew for every layer that a build adds.
//!
//! So on ext4, and wherever extents cannot be shared, a file that two layers have is kept twice.

use std::collections::BTreeMap;

use image_core::Digest;

use crate::error::Result;
use crate::index::{Entry, Index, Kind};
use crate::layer::INDEX;
use crate::store::Store;

/// In what a file system gives room, in bytes.
const BLOCK: u64 = 4_096;

/// What is in the store more than once. Bytes are in whole blocks of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Duplicates {
    /// Files in all layers, and the bytes that they take.
    pub files: u64,
    /// See above.
    pub bytes: u64,
    /// Files whose content another file has as well, beyond the first of each, and the bytes that these take.
    pub copies: u64,
    /// See above.
    pub copied: u64,
    /// Of [`Self::copied`], bytes in files that also have the same owner, mode, time and attributes.
    pub linkable: u64,
}

type Metadata = (u32, u32, u32, (i64, u32), BTreeMap<Vec<u8>, Vec<u8>>);

impl Store {
    /// Reads the indexes of all layers and tells what is in them more than once; whether it shares its blocks is not looked
    /// at.
    ///
    /// # Errors
    /// [`crate::Error::Damaged`].
    pub fn duplicates(&self) -> Result<Duplicates> {
        self.duplicates_from(1)
    }

    /// As [`Self::duplicates`], of files of at least `min_size` bytes.
    ///
    /// # Errors
    /// As [`Self::duplicates`].
    pub fn duplicates_from(&self, min_size: u64) -> Result<Duplicates> {
        let mut found = Duplicates::default();
        let mut contents: BTreeMap<Digest, Vec<Metadata>> = BTreeMap::new();
        for name in self.places.layers.names()? {
            let Ok(dir) = self.places.layers.dir(&name) else { continue };
            let Some(index) = dir.read(INDEX)?.and_then(|bytes| Index::decode(&bytes).ok()) else { continue };
            for Entry { kind, mode, uid, gid, mtime, xattrs } in index.entries.into_values() {
                let Kind::File { size, digest } = kind else { continue };
                if size < min_size.max(1) {
                    continue;
                }
                let bytes = size.next_multiple_of(BLOCK);
                (found.files, found.bytes) = (found.files + 1, found.bytes + bytes);
                let known = contents.entry(digest).or_default();
                let metadata = (mode, uid, gid, mtime, xattrs);
                if !known.is_empty() {
                    (found.copies, found.copied) = (found.copies + 1, found.copied + bytes);
                }
                if known.contains(&metadata) {
                    found.linkable += bytes;
                } else {
                    known.push(metadata);
                }
            }
        }
        Ok(found)
    }
}
