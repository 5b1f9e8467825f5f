//! Snapshots: layers to mount, and a place for a process to change them.
//!
//! ```text
//!  prepare ─▶ mount ─▶ (a process changes things) ─▶ commit ─▶ layer
//!          └────────────────────────────────────────▶ remove
//!  view    ─▶ mount, read-only ─────────────────────▶ remove
//! ```
//!
//! How that is done is the affair of a driver, a [`Snapshotter`]: [`OverlayDriver`] where the kernel lets the store's file
//! system be an overlay, [`CopyDriver`] where it does not. A store asks [`probe`](crate::Store::probe) at its first
//! snapshot, unless it was opened with a driver. What a snapshot was made by is written beside it, so that it stays
//! readable whatever is chosen later.
//!
//! A snapshot mounts nothing. It gives a [`Mount`], a value; whoever runs the process mounts that in the process's
//! own mount namespace, so that nothing is left when it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use image_core::Timestamp;

use crate::authority::{FileAuthority, Op};
use crate::compose::{clamp, failed, seal};
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::index::{Entry, Kind};
use crate::layer::{Layer, TREE};
use crate::store::Store;
use crate::transaction::Transaction;

mod compare;
mod copy;
mod mount;
mod overlay;
mod probe;
mod tree;

pub(crate) use compare::Compared;
pub use copy::CopyDriver;
pub use mount::Mount;
pub use overlay::OverlayDriver;
pub use probe::{Candidate, Cost, Probe, Verdict};
pub(crate) use tree::{copy_into, digest_into, duplicate, read_tree};

/// The file that says which driver made a snapshot; it is left out for the first driver there was, overlay.
const DRIVER: &str = "driver";

/// Where one snapshot is kept: a directory that its driver fills as it likes.
#[derive(Clone, Copy, Debug)]
pub struct Workspace<'a> {
    dir: &'a Dir,
    authority: &'a dyn FileAuthority,
}

impl Workspace<'_> {
    /// The directory, open.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Its path, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Who works on files of other owners.
    #[must_use]
    pub const fn authority(&self) -> &dyn FileAuthority {
        self.authority
    }
}

/// What was changed in a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// By path, with whiteouts; digests of contents are left open.
    pub entries: BTreeMap<Vec<u8>, Entry>,
    /// Bytes that they take on disk, by blocks.
    pub allocated: u64,
}

impl Changes {
    /// These entries, which take so many bytes on disk.
    #[must_use]
    pub const fn new(entries: BTreeMap<Vec<u8>, Entry>, allocated: u64) -> Self {
        Self { entries, allocated }
    }

    /// The bytes of all files in it.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.entries
            .values()
            .map(|entry| if let Kind::File { size, .. } = entry.kind { size } else { 0 })
            .sum()
    }
}

/// A way to give a process layers that it can change.
///
/// All that is kept of a snapshot is in its [`Workspace`]; a driver has no state of its own, so that any process may go
/// on with a snapshot that another made. The feature `conformance` has a suite for drivers.
pub trait Snapshotter: fmt::Debug + Send + Sync {
    /// Its name, which is written beside snapshots and so never changes.
    fn name(&self) -> &'static str;

    /// Makes a snapshot over `layers`, lowest first, that takes changes.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn prepare(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<()>;

    /// Makes one that takes none.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn view(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<()>;

    /// How it is mounted.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn mount(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<Mount>;

    /// Says at which paths (relative to the root; `true`: a directory) the runner will mount something. A driver whose
    /// [`Mount`] is a [`Mount::Bind`] makes those that are missing, and does not take them for changes.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn mount_points(&self, place: &Workspace<'_>, points: &[(Vec<u8>, bool)]) -> Result<()> {
        let _ = (place, points);
        Ok(())
    }

    /// What was changed so far. Nothing may write in it meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn changes(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<Changes>;

    /// The bytes of the files that were changed so far, cheaply: what a list of containers shows.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn written(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<u64> {
        Ok(self.changes(place, layers)?.size())
    }

    /// Opens the content of a changed file.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn open(&self, place: &Workspace<'_>, path: &[u8]) -> Result<File>;

    /// Ends it: what was changed is left in the directory `diff` of `place`, in overlay form and with the metadata that
    /// the entries say, and nothing else stays. Nothing may have it mounted any more.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn commit(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<Changes>;

    /// Ends it without keeping anything.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn remove(&self, place: &Workspace<'_>) -> Result<()> {
        for name in place.dir.all_names()? {
            place.dir.remove_tree(&name)?;
        }
        Ok(())
    }
}

pub(crate) fn open_in(place: &Workspace<'_>, tree: &str, path: &[u8]) -> Result<File> {
    let tree = place.dir.dir(tree)?;
    crate::pack::open(place.authority, tree.as_fd(), path).map_err(|source| Error::Io {
        action: "open",
        path: tree.at(&String::from_utf8_lossy(path)),
        source,
    })
}

/// See [`Snapshotter::written`]; `layers` are asked for only if the driver of the snapshot in `dir` looks at them.
pub(crate) fn written(store: &Store, dir: Dir, layers: impl FnOnce() -> Result<Vec<Layer>>) -> Result<u64> {
    let layers = if dir.exists(DRIVER) { layers()? } else { Vec::new() };
    let upper = Upper::open(store, dir, &layers)?;
    upper.driver.written(&upper.place(), &layers)
}

/// The part of a snapshot that is mounted: what its driver keeps, and the layers under it.
#[derive(Debug)]
pub struct Upper {
    pub(crate) dir: Dir,
    driver: Arc<dyn Snapshotter>,
    authority: Arc<dyn FileAuthority>,
    layers: Vec<Layer>,
}

impl Upper {
    fn new(store: &Store, dir: Dir, driver: Arc<dyn Snapshotter>, layers: &[Layer]) -> Self {
        Self { dir, driver, authority: store.authority.clone(), layers: layers.to_vec() }
    }

    /// Makes one in `dir` by the store's driver.
    pub(crate) fn prepare(store: &Store, dir: Dir, layers: &[Layer]) -> Result<Self> {
        let upper = Self::new(store, dir, store.snapshotter()?, layers);
        if upper.driver.name() != overlay::NAME {
            upper.dir.write(DRIVER, upper.driver.name().as_bytes())?;
        }
        upper.driver.prepare(&upper.place(), layers)?;
        Ok(upper)
    }

    fn view(store: &Store, dir: Dir, layers: &[Layer]) -> Result<Self> {
        let upper = Self::new(store, dir, store.snapshotter()?, layers);
        upper.driver.view(&upper.place(), layers)?;
        Ok(upper)
    }

    /// Opens what [`Self::prepare`] made, maybe in another process.
    pub(crate) fn open(store: &Store, dir: Dir, layers: &[Layer]) -> Result<Self> {
        let driver = match dir.read(DRIVER)? {
            None => Arc::new(OverlayDriver),
            Some(name) => store.snapshotter_named(&String::from_utf8_lossy(&name))?,
        };
        Ok(Self::new(store, dir, driver, layers))
    }

    fn place(&self) -> Workspace<'_> {
        Workspace { dir: &self.dir, authority: &*self.authority }
    }

    /// The layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Who made it.
    #[must_use]
    pub fn driver(&self) -> &dyn Snapshotter {
        &*self.driver
    }

    /// How it is mounted.
    ///
    /// # Errors
    /// [`Error::Io`] when there are no descriptors left.
    pub fn mount(&self) -> Result<Mount> {
        self.driver.mount(&self.place(), &self.layers)
    }

    /// See [`Snapshotter::mount_points`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn mount_points(&self, points: &[(Vec<u8>, bool)]) -> Result<()> {
        self.driver.mount_points(&self.place(), points)
    }

    /// What was changed so far. Nothing may write in it meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn changes(&self) -> Result<Changes> {
        self.driver.changes(&self.place(), &self.layers)
    }

    /// Opens the content of a changed file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_file(&self, path: &[u8]) -> Result<File> {
        self.driver.open(&self.place(), path)
    }
}

impl AsFd for Upper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// An [`Upper`] that becomes a layer. Dropped before, it leaves nothing.
#[derive(Debug)]
pub struct Snapshot {
    transaction: Transaction,
    upper: Option<Upper>,
}

impl Snapshot {
    pub(crate) fn prepare(transaction: Transaction, dir: &Dir, layers: &[Layer]) -> Result<Self> {
        Self::made(transaction, dir, |store, dir| Upper::prepare(store, dir, layers))
    }

    pub(crate) fn view(transaction: Transaction, dir: &Dir, layers: &[Layer]) -> Result<Self> {
        Self::made(transaction, dir, |store, dir| Upper::view(store, dir, layers))
    }

    /// A snapshot whose changes are in `dir` already, in overlay form and over nothing.
    pub(crate) fn over(transaction: Transaction, dir: &Dir) -> Result<Self> {
        Self::made(transaction, dir, |store, dir| Ok(Upper::new(store, dir, Arc::new(OverlayDriver), &[])))
    }

    fn made(
        transaction: Transaction,
        dir: &Dir,
        make: impl FnOnce(&Store, Dir) -> Result<Upper>,
    ) -> Result<Self> {
        match make(transaction.store(), dir.clone()) {
            Ok(upper) => Ok(Self { transaction, upper: Some(upper) }),
            Err(error) => {
                transaction.discard(dir);
                Err(error)
            }
        }
    }

    /// What is mounted.
    ///
    /// # Errors
    /// [`Error::Unsupported`] after it has ended, which no caller can see.
    pub fn upper(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or_else(ended)
    }

    /// Makes the changes a layer: times later than `latest` become `latest`, in the tree too.
    ///
    /// Nothing may have it mounted any more.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit(mut self, latest: Option<Timestamp>) -> Result<Layer> {
        let upper = self.upper.take().ok_or_else(ended)?;
        let result = commit(&self.transaction, &upper, latest);
        if result.is_err() {
            self.transaction.discard(&upper.dir);
        }
        result
    }

    /// Ends it without keeping anything.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(mut self) -> Result<()> {
        let upper = self.upper.take().ok_or_else(ended)?;
        let removed = upper.driver.remove(&upper.place());
        self.transaction.discard(&upper.dir);
        removed
    }
}

fn ended() -> Error {
    Error::Unsupported { what: "a snapshot that has ended".to_owned() }
}

fn commit(transaction: &Transaction, upper: &Upper, latest: Option<Timestamp>) -> Result<Layer> {
    let authority = transaction.store().authority();
    let Changes { mut entries, allocated } = upper.driver.commit(&upper.place(), &upper.layers)?;
    let tree = upper.dir.dir(TREE)?;
    upper.dir.unlink(DRIVER)?;
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
    authority.perform(tree.as_fd(), &batch).map_err(failed)?;
    seal(transaction, &upper.dir, &tree, entries, allocated, true)
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Some(upper) = self.upper.take() {
            self.transaction.discard(&upper.dir);
        }
    }
}
