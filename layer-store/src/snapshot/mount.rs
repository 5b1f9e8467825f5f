//! What a snapshot looks like to whoever mounts it.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};

/// How the root of a process is made of a snapshot: a value, for whoever mounts it in the process's own mount
/// namespace. One mount is all that any driver needs.
#[derive(Debug)]
#[non_exhaustive]
pub enum Mount {
    /// An overlay of directories, to be mounted with `userxattr`, as root too: the form on disk must not depend on
    /// who ran it.
    Overlay {
        /// The trees of the layers, topmost first: the order of overlayfs. At least two when there is no `upper`.
        lower: Vec<OwnedFd>,
        /// The directory that takes changes and the one that overlayfs works in; `None`: nothing can be changed.
        upper: Option<(OwnedFd, OwnedFd)>,
    },
    /// A directory, to be bind-mounted or entered as it is.
    Bind {
        /// The directory.
        directory: OwnedFd,
        /// Nothing may be changed in it.
        read_only: bool,
    },
}

impl Mount {
    /// Mounts it nowhere: the result is a detached mount (`fsmount(2)`), whose files are reached through the
    /// descriptor alone and which is gone when that is closed. Takes CAP_SYS_ADMIN in the user namespace of the
    /// calling process's mount namespace, and Linux 6.5.
    ///
    /// # Errors
    /// What the kernel says: `EPERM` without the right, `ENODEV` without overlayfs, `EINVAL` for directories that
    /// cannot be an overlay's; `Unsupported` for a directory that is to be read-only, which takes a real mount.
    pub fn detached(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Overlay { lower, upper } => overlay(lower, upper.as_ref()),
            Self::Bind { read_only: true, .. } => Err(io::Error::from(io::ErrorKind::Unsupported)),
            Self::Bind { directory, .. } => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_EMPTY_PATH;
                let tree = open_tree(directory, "", flags)?;
                Ok(tree)
            }
        }
    }
}

fn overlay(lower: &[OwnedFd], upper: Option<&(OwnedFd, OwnedFd)>) -> io::Result<OwnedFd> {
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let context: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(&context);
    for directory in lower {
        fsconfig_set_string(context, "lowerdir+", name(directory))?;
    }
    let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    if let Some((upper, work)) = upper {
        fsconfig_set_string(context, "upperdir", name(upper))?;
        fsconfig_set_string(context, "workdir", name(work))?;
        attributes = MountAttrFlags::empty();
    }
    fsconfig_set_flag(context, "userxattr")?;
    fsconfig_create(context)?;
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
