//! Where a container's root filesystem comes from.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// The root filesystem, assembled inside the container's own mount namespace: nothing of it is ever mounted on
/// the host, so nothing can be left there.
///
/// File descriptors may be opened with `O_PATH`. The kernel only builds mounts from directories it reaches in the
/// *new* mount namespace, so each directory is opened again there by its name and compared (device and inode) with
/// the descriptor: a directory that was moved or replaced in between is an error, never a different root.
#[derive(Debug)]
#[non_exhaustive]
pub enum Rootfs {
    /// A directory by its path.
    Path(PathBuf),
    /// A directory by a descriptor.
    Fd(OwnedFd),
    /// A detached mount, as from `fsmount(2)` or `open_tree(2)` with `OPEN_TREE_CLONE`.
    Detached(OwnedFd),
    /// An overlay of directories. Without `upper` it is read-only.
    ///
    /// It is always mounted with `userxattr`, as root too, so that the form on disk does not depend on who ran it.
    Overlay {
        /// The lower directories, topmost first. At least one.
        lower: Vec<OwnedFd>,
        /// The directory that takes the changes.
        upper: Option<OwnedFd>,
        /// An empty directory on the same filesystem as `upper`; required with it.
        work: Option<OwnedFd>,
    },
}

/// A tree of files that is mounted below a container's root.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) destination: PathBuf,
    pub(crate) source: Rootfs,
    pub(crate) read_only: bool,
}
