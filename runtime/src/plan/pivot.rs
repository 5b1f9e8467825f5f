//! Making the root filesystem the root.

use std::path::{Path, PathBuf};

use super::assemble::{Assembler, Reg};
use super::mount::{MOUNT_ATTR_RDONLY, MOVE_MOUNT_FROM_EMPTY_PATH, attach_over_root, set_attributes};
use super::reach::path_bytes;
use crate::Phase;

/// Cuts the mount namespace's ties with the host's: nothing that is mounted here is seen there, or the reverse.
///
/// With `slave`, what is mounted on the host still shows here.
pub(super) fn detach_from_host(asm: &mut Assembler, slave: bool) {
    asm.phase(Phase::Rootfs);
    let root = asm.text("/");
    let (kind, name) = if slave { (libc::MS_SLAVE, "a slave") } else { (libc::MS_PRIVATE, "private") };
    let args = [0.into(), root.into(), 0.into(), (libc::MS_REC | kind).into(), 0.into()];
    asm.call("mount", libc::SYS_mount, &args, format!("/, {name} of the container's"));
}

/// Attaches the root filesystem in the mount namespace, where it can take mounts.
pub(super) fn attach_root(asm: &mut Assembler, root: Reg) {
    asm.phase(Phase::Rootfs);
    attach_over_root(asm, root, "the root filesystem, over the host's root");
}

/// Attaches it at its own path, where the host sees it: all that is mounted on it is seen there too, and nowhere else.
pub(super) fn attach_at(asm: &mut Assembler, root: Reg, path: &Path) {
    asm.phase(Phase::Rootfs);
    let what = "the root filesystem, at its place on the host";
    set_attributes(asm, root, 0, 0, libc::MS_PRIVATE, true, what);
    let (empty, path) = (asm.text(""), asm.text(path_bytes(path)));
    let args =
        [root.into(), empty.into(), libc::AT_FDCWD.into(), path.into(), MOVE_MOUNT_FROM_EMPTY_PATH.into()];
    asm.call("move_mount", libc::SYS_move_mount, &args, what);
    set_attributes(asm, root, 0, 0, libc::MS_PRIVATE, true, what);
}

/// Where the host has the kernel's own file systems, the latest mounts first.
pub(super) fn kernel_mounts() -> Vec<PathBuf> {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut found: Vec<_> = mounts.split(|byte| *byte == b'\n').filter_map(kernel_mount).collect();
    found.reverse();
    found
}

fn kernel_mount(line: &[u8]) -> Option<PathBuf> {
    let at = line.windows(3).position(|window| window == b" - ")?;
    let (left, right) = (line.get(..at)?, line.get(at + 3..)?);
    let kind = right.split(|byte| *byte == b' ').next()?;
    let point = left.split(|byte| *byte == b' ').nth(4)?;
    matches!(kind, b"proc" | b"sysfs").then(|| crate::cgroup::unescape(point))
}

/// Takes the host's own procfs and sysfs out of the mount namespace, where it stays below the container's root: as long as
/// one is there uncovered, the kernel lets who makes another user namespace mount it anew, without what is masked.
pub(super) fn hide_kernel(asm: &mut Assembler, mounts: &[PathBuf]) {
    asm.phase(Phase::Pivot);
    let tmpfs = asm.text("tmpfs");
    for point in mounts {
        let shown = format!("{} of the host, out of reach", point.display());
        let (gone, next) = (asm.label(), asm.label());
        let path = asm.text(path_bytes(point));
        let args = [path.into(), (libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW).into()];
        asm.call("umount2", libc::SYS_umount2, &args, shown.clone())
            .then(next)
            .on(libc::ENOENT, next)
            .otherwise(gone);
        // The kernel keeps it, as it is another user namespace's; or it went with the one it was on.
        asm.here(gone);
        let args = [tmpfs.into(), path.into(), tmpfs.into(), libc::MS_RDONLY.into(), 0.into()];
        asm.call("mount", libc::SYS_mount, &args, shown).on(libc::ENOENT, next).on(libc::ENOTDIR, next);
        asm.here(next);
    }
}

/// Swaps the roots and lets go of the host's.
pub(super) fn pivot(asm: &mut Assembler, root: Reg, read_only: bool, no_pivot: bool) {
    asm.phase(Phase::Pivot);
    if read_only {
        set_attributes(asm, root, MOUNT_ATTR_RDONLY, 0, 0, false, "the root filesystem, read-only");
    }
    let (slash, dot) = (asm.text("/"), asm.text("."));
    if no_pivot {
        asm.call("fchdir", libc::SYS_fchdir, &[root.into()], "the root filesystem");
        // It is attached over the host's root already: what remains is to enter it.
        asm.call("chroot", libc::SYS_chroot, &[dot.into()], "the root filesystem");
        asm.call("chdir", libc::SYS_chdir, &[slash.into()], "the new root");
        asm.close(root);
        return;
    }
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let args = [libc::AT_FDCWD.into(), slash.into(), flags.into()];
    let old = asm.call("openat", libc::SYS_openat, &args, "the host's root").out();
    asm.call("fchdir", libc::SYS_fchdir, &[root.into()], "the root filesystem");
    asm.call("pivot_root", libc::SYS_pivot_root, &[dot.into(), dot.into()], "the root filesystem");
    asm.call("fchdir", libc::SYS_fchdir, &[old.into()], "the host's root");
    asm.call("umount2", libc::SYS_umount2, &[dot.into(), libc::MNT_DETACH.into()], "the host's root");
    asm.call("chdir", libc::SYS_chdir, &[slash.into()], "the new root");
    asm.close(old);
    asm.close(root);
}

/// Sets how mounts below the container's root propagate.
pub(super) fn propagate(asm: &mut Assembler, kind: u64, recursive: bool) {
    asm.phase(Phase::Pivot);
    let root = asm.text("/");
    let flags = kind | if recursive { libc::MS_REC } else { 0 };
    let args = [0.into(), root.into(), 0.into(), flags.into(), 0.into()];
    asm.call("mount", libc::SYS_mount, &args, "the propagation of the root filesystem");
}
