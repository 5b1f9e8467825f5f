//! What the directories of a new store are told before anything is in them.

use std::os::fd::AsFd;

use rustix::fs::{IFlags, fremovexattr, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

/// What is made in `dir` has the modes that it is made with: where the directory above gives what is made in it an
/// access control list, `dir` has taken it over, and its files would get another mode, and the list.
pub(crate) fn without_lists(dir: impl AsFd) -> Result<(), Errno> {
    match fremovexattr(dir, "system.posix_acl_default") {
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => Ok(()),
        other => other,
    }
}

/// Each directory that is made in `dir` from now on begins where the disk is least used, as far as the file system knows
/// of that.
///
/// ext4 keeps what is below a directory near it, and makes files slowly where others were removed lately: their inodes
/// are passed over for a minute, for six where the removal is not written back yet, and each new file looks at all of
/// them again (`recently_deleted`). Layers that are unpacked after a prune would come to lie just there. The children of
/// a directory that is the top of a hierarchy (`chattr +T`, [`ioctl_setflags`]) seldom do: each has a place drawn by lot
/// among the emptiest.
pub(crate) fn spread(dir: impl AsFd) {
    let spread = ioctl_getflags(&dir).and_then(|flags| ioctl_setflags(&dir, flags | IFlags::TOPDIR));
    if let Err(error) = spread {
        tracing::debug!(%error, "layers lie where the file system puts them");
    }
}
