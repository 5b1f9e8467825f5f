//! The root filesystem as a mount that is attached to nothing yet.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use super::assemble::{Assembler, At, Reg};
use super::mount::{MOUNT_ATTR_RDONLY, OPEN_TREE_CLONE, attach_over_root, open_tree, set_attributes};
use super::reach::{HostFile, Kind, path_bytes};
use crate::{Error, Phase, Rootfs};

/// `FSCONFIG_*` commands of `fsconfig(2)`.
pub(super) const FSCONFIG_SET_FLAG: u32 = 0;
pub(super) const FSCONFIG_SET_STRING: u32 = 1;
pub(super) const FSCONFIG_SET_FD: u32 = 5;
pub(super) const FSCONFIG_CMD_CREATE: u32 = 6;

/// Overlay's own limit on lower layers (`OVL_MAX_STACK`).
const MAX_LOWER: usize = 500;

/// What a root filesystem is made of, opened or to be opened.
#[derive(Debug)]
pub(super) enum Source {
    Bind(HostFile),
    Detached(OwnedFd),
    Overlay { lower: Vec<HostFile>, upper: Option<(HostFile, HostFile)> },
}

impl Source {
    /// Looks at the directories.
    pub(super) fn of(rootfs: &Rootfs) -> Result<Self, Error> {
        let directory = |file: HostFile| {
            if file.directory { Ok(file) } else { Err(Error::spec("rootfs", "it is not a directory")) }
        };
        Ok(match rootfs {
            Rootfs::Path(path) => {
                if !path.is_absolute() {
                    return Err(Error::spec("rootfs", format!("{} is not absolute", path.display())));
                }
                Self::Bind(directory(HostFile::of_path(path, Phase::Rootfs, "root filesystem")?)?)
            }
            Rootfs::Fd(fd) => Self::Bind(directory(HostFile::of_fd(fd, "root filesystem")?)?),
            Rootfs::Detached(fd) => Self::Detached(fd.try_clone().map_err(|error| {
                Error::host_call(
                    Phase::Rootfs,
                    "fcntl",
                    "the detached root filesystem",
                    crate::Errno::of(&error),
                )
            })?),
            Rootfs::Overlay { lower, upper, work } => {
                if lower.is_empty() || lower.len() > MAX_LOWER {
                    return Err(Error::spec(
                        "rootfs",
                        format!("an overlay has 1 to {MAX_LOWER} lower directories, not {}", lower.len()),
                    ));
                }
                let mut files = Vec::with_capacity(lower.len());
                for fd in lower {
                    files.push(directory(HostFile::of_fd(fd, "lower directory")?)?);
                }
                let upper = match (upper, work) {
                    (Some(upper), Some(work)) => Some((
                        directory(HostFile::of_fd(upper, "upper directory")?)?,
                        directory(HostFile::of_fd(work, "work directory")?)?,
                    )),
                    (None, None) => None,
                    _ => {
                        return Err(Error::spec(
                            "rootfs",
                            "an overlay needs both an upper and a work directory, or neither",
                        ));
                    }
                };
                Self::Overlay { lower: files, upper }
            }
        })
    }
}

/// Makes the mount; returns its descriptor, which also is the root filesystem's.
///
/// `mount_points` are the places where something will be mounted, with what each has to be.
pub(super) fn assemble(
    asm: &mut Assembler,
    source: Source,
    mount_points: &[(PathBuf, Kind)],
    scratch: At,
) -> Reg {
    asm.phase(Phase::Rootfs);
    match source {
        Source::Bind(file) => bind(asm, &file, scratch),
        Source::Detached(fd) => asm.fd(fd),
        Source::Overlay { lower, upper: None } if lower.len() == 1 => {
            let mut mount = None;
            for file in &lower {
                mount = Some(bind(asm, file, scratch));
            }
            // There is exactly one.
            let mount = mount.unwrap_or_else(|| asm.register());
            set_attributes(asm, mount, MOUNT_ATTR_RDONLY, 0, 0, false, "the root filesystem, read-only");
            mount
        }
        Source::Overlay { lower, upper } => overlay(asm, &lower, upper.as_ref(), mount_points, scratch),
    }
}

/// Makes the mount of a tree that goes below the root. `nested` are the mount points that it must have for others.
pub(super) fn tree(
    asm: &mut Assembler,
    source: Source,
    nested: &[(PathBuf, Kind)],
    read_only: bool,
    scratch: At,
) -> Reg {
    let mount = match source {
        // A layer of its own for the mount points, so that none has to be made in the directory.
        Source::Overlay { lower, upper } if upper.is_some() || lower.len() > 1 || !nested.is_empty() => {
            overlay(asm, &lower, upper.as_ref(), nested, scratch)
        }
        source => assemble(asm, source, &[], scratch),
    };
    if read_only {
        set_attributes(asm, mount, MOUNT_ATTR_RDONLY, 0, 0, true, "a tree, read-only");
    }
    mount
}

fn bind(asm: &mut Assembler, file: &HostFile, scratch: At) -> Reg {
    let directory = file.open(asm, scratch, "root filesystem");
    let flags = OPEN_TREE_CLONE | libc::AT_RECURSIVE.cast_unsigned();
    let mount = open_tree(asm, directory, flags, "the root filesystem");
    asm.close(directory);
    mount
}

fn overlay(
    asm: &mut Assembler,
    lower: &[HostFile],
    upper: Option<&(HostFile, HostFile)>,
    mount_points: &[(PathBuf, Kind)],
    scratch: At,
) -> Reg {
    let kind = asm.text("overlay");
    let fs = asm.call("fsopen", libc::SYS_fsopen, &[kind.into(), 1.into()], "overlay").out();
    fs_string(asm, fs, "source", "overlay", "overlay");
    // Where nobody is privileged, whiteouts and the like can only be written down in user attributes; always so,
    // so that one store serves root and users alike.
    fs_flag(asm, fs, "userxattr", "overlay");
    for file in lower {
        let directory = file.open(asm, scratch, "lowerdir+");
        fs_directory(asm, fs, "lowerdir+", directory);
        asm.close(directory);
    }
    skeleton(asm, fs, mount_points);
    for (key, file) in upper.iter().flat_map(|(upper, work)| [("upperdir", upper), ("workdir", work)]) {
        let directory = file.open(asm, scratch, key);
        fs_directory(asm, fs, key, directory);
        asm.close(directory);
    }
    let args = [fs.into(), FSCONFIG_CMD_CREATE.into(), 0.into(), 0.into(), 0.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, "overlay: make the filesystem");
    detach_topmost(asm, "a lowest layer for the mount points");
    let attributes = if upper.is_some() { 0 } else { MOUNT_ATTR_RDONLY };
    let args = [fs.into(), 1.into(), attributes.into()];
    let mount = asm.call("fsmount", libc::SYS_fsmount, &args, "overlay").out();
    asm.close(fs);
    mount
}

/// Adds a lowest layer in memory that has nothing but the mount points. Where the image has them, it has no effect;
/// where it has not, they are found here, so none has to be made in the upper directory and ends in a layer.
fn skeleton(asm: &mut Assembler, overlay: Reg, mount_points: &[(PathBuf, Kind)]) {
    let what = "a lowest layer for the mount points";
    let kind = asm.text("tmpfs");
    let fs = asm.call("fsopen", libc::SYS_fsopen, &[kind.into(), 1.into()], what).out();
    fs_string(asm, fs, "mode", "0755", what);
    let args = [fs.into(), FSCONFIG_CMD_CREATE.into(), 0.into(), 0.into(), 0.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, what);
    let root = asm.call("fsmount", libc::SYS_fsmount, &[fs.into(), 1.into(), 0.into()], what).out();
    asm.close(fs);
    let mut made = BTreeSet::new();
    for (path, kind) in mount_points {
        let mut prefix = PathBuf::new();
        let count = path.components().count();
        for (index, name) in path.components().enumerate() {
            prefix.push(name);
            if !made.insert(prefix.clone()) {
                continue;
            }
            let text = asm.text(path_bytes(&prefix));
            let shown = format!("/{} in the lowest layer", prefix.display());
            if index + 1 == count && *kind == Kind::File {
                let args = [root.into(), text.into(), (libc::S_IFREG | 0o644).into(), 0.into()];
                asm.call("mknodat", libc::SYS_mknodat, &args, shown).ignore();
            } else {
                asm.call("mkdirat", libc::SYS_mkdirat, &[root.into(), text.into(), 0o755.into()], shown)
                    .ignore();
            }
        }
    }
    // Overlay takes no detached mount as a layer.
    attach_over_root(asm, root, what);
    fs_directory(asm, overlay, "lowerdir+", root);
    asm.close(root);
}

/// Lets go of what was attached over the host's root last.
///
/// Nothing may stay there but the root filesystem: `umount2(2)` goes to the topmost mount of a place, so what stays
/// would be let go of after the pivot *instead of the host's root*, and `..` of a directory below the container's root
/// leads through whatever is stacked upon it.
fn detach_topmost(asm: &mut Assembler, what: &str) {
    let slash = asm.text("/");
    asm.call("umount2", libc::SYS_umount2, &[slash.into(), libc::MNT_DETACH.into()], what);
}

/// Gives a directory to overlay: by descriptor (Linux 6.13), else as the working directory (Linux 6.7).
fn fs_directory(asm: &mut Assembler, fs: Reg, key: &str, directory: Reg) {
    let (by_name, done) = (asm.label(), asm.label());
    let name = asm.text(key);
    let args = [fs.into(), FSCONFIG_SET_FD.into(), name.into(), 0.into(), directory.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, format!("overlay: {key} by descriptor"))
        .then(done)
        .on(libc::EINVAL, by_name)
        .on(libc::EBADF, by_name);
    asm.here(by_name);
    // Strings are looked up from the working directory, so that no long path has to be given.
    asm.call("fchdir", libc::SYS_fchdir, &[directory.into()], format!("overlay: {key}"));
    let dot = asm.text(".");
    let args = [fs.into(), FSCONFIG_SET_STRING.into(), name.into(), dot.into(), 0.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, format!("overlay: {key} as the working directory"));
    asm.here(done);
}

/// Sets a flag of a filesystem that is being configured.
pub(super) fn fs_flag(asm: &mut Assembler, fs: Reg, key: &str, what: &str) {
    let name = asm.text(key);
    let args = [fs.into(), FSCONFIG_SET_FLAG.into(), name.into(), 0.into(), 0.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, format!("{what}: {key}"));
}

/// Sets a value of a filesystem that is being configured.
pub(super) fn fs_string(asm: &mut Assembler, fs: Reg, key: &str, value: &str, what: &str) {
    let (name, text) = (asm.text(key), asm.text(value));
    let args = [fs.into(), FSCONFIG_SET_STRING.into(), name.into(), text.into(), 0.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, format!("{what}: {key}={value}"));
}
