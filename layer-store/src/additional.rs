//! Additional stores: read-only ones below a store, whose layers and images are used where they are.
//!
//! A host may have images that many stores share: on a read-only medium, or of another user. They are found as if they
//! were in the store itself; what is in both is taken from the store. Nothing is ever written there, nothing is locked,
//! nothing is collected, and df counts none of it. So whoever keeps one must not remove from it what others use.

use std::path::Path;
use std::sync::Arc;

use crate::authority::FileAuthority;
use crate::disk::{Dir, Disk};
use crate::error::{Error, Result};
use crate::store::{Store, VERSION, Version};

/// The directories of a store that are read from outside.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    pub(crate) blobs: Dir,
    pub(crate) layers: Dir,
    pub(crate) borrows: Dir,
    pub(crate) encodings: Dir,
    pub(crate) images: Dir,
    pub(crate) refs: Dir,
}

impl Shelf {
    /// Opens the store at `path` to be read.
    pub(crate) fn open(path: &Path, authority: &Arc<dyn FileAuthority>) -> Result<Self> {
        let root = Dir::existing(path, Arc::new(Disk::default()), authority.clone())?;
        let missing = || Error::NotFound { kind: "store", name: path.display().to_string() };
        let version = root.read_plain_json::<Version>(VERSION)?.ok_or_else(missing)?;
        version.check(path, false)?;
        Ok(Self {
            blobs: root.dir("blobs")?,
            layers: root.dir("layers")?,
            borrows: root.dir("borrows")?,
            encodings: root.dir("encodings")?,
            images: root.dir("images")?,
            refs: root.dir("refs")?,
        })
    }
}

impl Store {
    /// The store's own directory first, then the same one of every additional store.
    pub(crate) fn shelves<'a>(
        &'a self,
        own: &'a Dir,
        other: impl Fn(&'a Shelf) -> &'a Dir + 'a,
    ) -> impl Iterator<Item = &'a Dir> {
        std::iter::once(own).chain(self.additional.iter().map(other))
    }

    /// The first that `find` finds in them.
    pub(crate) fn search<'a, T>(
        &'a self,
        own: &'a Dir,
        other: impl Fn(&'a Shelf) -> &'a Dir + 'a,
        find: impl Fn(&Dir) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        for dir in self.shelves(own, other) {
            if let Some(found) = find(dir)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    pub(crate) fn blob_shelves(&self) -> impl Iterator<Item = &Dir> {
        self.shelves(&self.places.blobs, |shelf| &shelf.blobs)
    }
}
