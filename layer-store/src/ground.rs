//! Where on the disk layers come to lie.
//!
//! ext4 keeps what is below a directory near it, and makes files slowly where others were removed lately: their inodes
//! are passed over for a minute, for six where the removal is not written back yet, and each new file looks at all of
//! them again (`recently_deleted`). Layers that are unpacked after a prune would come to lie just there. A directory
//! that is the top of a hierarchy (`chattr +T`, [`ioctl_setflags`]) has each child begin where the disk is least used.

use std::os::fd::AsFd;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Each directory that is made in `dir` from now on begins somewhere else, where the file system knows of that.
pub(crate) fn spread(dir: impl AsFd) {
    let spread = ioctl_getflags(&dir).and_then(|flags| ioctl_setflags(&dir, flags | IFlags::TOPDIR));
    if let Err(error) = spread {
        tracing::debug!(%error, "layers lie where the file system puts them");
    }
}
