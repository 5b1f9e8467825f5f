//! A layer in the store: its index and its tree.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use image_core::{ChainId, DiffId, Digest};
use rustix::fs::{self, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::authority::FileAuthority;
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::index::Index;

/// The name of the index in a layer's directory.
pub(crate) const INDEX: &str = "index";
/// The name of the tree in a layer's directory.
pub(crate) const TREE: &str = "diff";

/// Under what an unpacked layer is kept: its diff ID, and what it borrowed from below, if anything.
///
/// A layer whose every parent directory and link target is its own looks the same over any parent, so it is unpacked
/// once. One that borrows (a parent directory without an entry takes the lower one's metadata) is keyed by what it
/// borrowed as well.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerKey(String);

impl LayerKey {
    pub(crate) fn new(diff_id: &DiffId, borrowed: Option<&Digest>) -> Self {
        let diff_id = diff_id.digest();
        let name = format!("{}-{}", diff_id.algorithm().name(), diff_id.hex());
        Self(match borrowed {
            None => name,
            Some(digest) => format!("{name}+{}", digest.hex().chars().take(32).collect::<String>()),
        })
    }

    /// A key as it stands in a directory.
    pub(crate) fn from_name(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The digest of the tar stream of the layer that is kept under it; `None` when the key is none of ours.
    pub(crate) fn diff_id(&self) -> Option<DiffId> {
        let plain = self.0.split('+').next().unwrap_or_default();
        crate::gc::digest_of(plain).map(DiffId::new)
    }

    /// A layer with this diff ID may be kept under it.
    pub(crate) fn is_of(&self, diff_id: &DiffId) -> bool {
        self.diff_id().as_ref() == Some(diff_id)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for LayerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A layer with its index and its tree open. Cheap to clone; stays readable when the layer is published.
#[derive(Clone)]
pub struct Layer(Arc<Inner>);

struct Inner {
    key: LayerKey,
    index: Index,
    tree: OwnedFd,
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("key", &self.0.key)
            .field("entries", &self.0.index.entries.len())
            .finish()
    }
}

impl Layer {
    /// Loads the layer in the directory `name` of `parent`; `None` when it is not there.
    pub(crate) fn load(parent: &Dir, name: &str) -> Result<Option<Self>> {
        let dir = match parent.dir(name) {
            Ok(dir) => dir,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some(bytes) = dir.read(INDEX)? else { return Ok(None) };
        let damaged = |reason: &str| Error::Damaged { path: dir.at(INDEX), reason: reason.to_owned() };
        let index = Index::decode(&bytes).map_err(damaged)?;
        Self::open(LayerKey::from_name(name), index, &dir).map(Some)
    }

    pub(crate) fn open(key: LayerKey, index: Index, dir: &Dir) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let tree =
            fs::openat(dir.as_fd(), TREE, flags, Mode::empty()).map_err(Error::io("open", dir.at(TREE)))?;
        Ok(Self(Arc::new(Inner { key, index, tree })))
    }

    /// Under what it is kept.
    #[must_use]
    pub fn key(&self) -> &LayerKey {
        &self.0.key
    }

    /// The digest of its tar stream.
    #[must_use]
    pub fn diff_id(&self) -> DiffId {
        self.0.index.diff_id
    }

    /// What is in it.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.0.index
    }

    /// Its tree, in overlay form: whiteouts are character devices 0/0, opaque directories have `user.overlay.opaque`.
    #[must_use]
    pub fn tree(&self) -> BorrowedFd<'_> {
        self.0.tree.as_fd()
    }

    /// Opens the content of the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when it is not there or no file.
    pub fn open_file(&self, authority: &dyn FileAuthority, path: &[u8]) -> Result<std::fs::File> {
        crate::pack::open(authority, self.tree(), path).map_err(|source| Error::Io {
            action: "open",
            path: String::from_utf8_lossy(path).into_owned().into(),
            source,
        })
    }
}

/// The chain ID of `layers`, lowest first.
#[must_use]
pub fn chain_id(layers: &[Layer]) -> Option<ChainId> {
    ChainId::of(layers.iter().map(Layer::diff_id))
}
