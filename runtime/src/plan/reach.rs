//! Reaching files: on the host by name with a check of identity, in the root filesystem only beneath its descriptor.

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use super::assemble::{Assembler, At, Reg};
use crate::{Error, Phase};

/// `RESOLVE_NO_MAGICLINKS`, `RESOLVE_NO_SYMLINKS` and `RESOLVE_IN_ROOT` of `openat2(2)`.
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const RESOLVE_IN_ROOT: u64 = 0x10;

/// Offsets of `struct statx`, and its length.
const STATX_MODE: u32 = 28;
const STATX_INO: u32 = 32;
const STATX_RDEV_MAJOR: u32 = 128;
const STATX_RDEV_MINOR: u32 = 132;
const STATX_DEV_MAJOR: u32 = 136;
const STATX_DEV_MINOR: u32 = 140;
const STATX_LEN: usize = 256;

/// What a mount point has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
}

/// Whether symbolic links inside the root may be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    Follow,
    Refuse,
}

/// A file of the host that the helper opens by name in another mount namespace.
#[derive(Debug)]
pub(super) struct HostFile {
    path: PathBuf,
    dev: (u32, u32),
    ino: u64,
    pub(super) directory: bool,
}

impl HostFile {
    /// Looks at what the descriptor stands for.
    pub(super) fn of_fd(fd: impl AsFd, what: &str) -> Result<Self, Error> {
        use std::os::fd::AsRawFd;
        let number = fd.as_fd().as_raw_fd();
        let link = format!("/proc/self/fd/{number}");
        let path = std::fs::read_link(&link).map_err(|error| {
            Error::host_call(Phase::Rootfs, "readlink", format!("{link} ({what})"), crate::Errno::of(&error))
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| {
            Error::host_call(Phase::Rootfs, "fstat", format!("{what} {}", path.display()), errno)
        })?;
        if !path.is_absolute() {
            return Err(Error::spec(what, format!("{} is not a file with a name", path.display())));
        }
        Ok(Self::new(path, &stat))
    }

    /// Looks at the file of this name.
    pub(super) fn of_path(path: &Path, phase: Phase, what: &str) -> Result<Self, Error> {
        let stat = rustix::fs::stat(path)
            .map_err(|errno| Error::host_call(phase, "stat", format!("{what} {}", path.display()), errno))?;
        Ok(Self::new(path.to_path_buf(), &stat))
    }

    fn new(path: PathBuf, stat: &rustix::fs::Stat) -> Self {
        let dev = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        Self { path, dev, ino: stat.st_ino, directory }
    }

    /// Opens it in the helper and checks that it is the same file.
    pub(super) fn open(&self, asm: &mut Assembler, scratch: At, what: &str) -> Reg {
        let name = asm.text(path_bytes(&self.path));
        let target = format!("{what} {}", self.path.display());
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        let args = [libc::AT_FDCWD.into(), name.into(), flags.into()];
        let fd = asm.call("openat", libc::SYS_openat, &args, target.clone()).out();
        statx(asm, fd, scratch, &target);
        let moved = format!("{target}: it is still the file that was meant");
        let checks = [
            (STATX_INO, 8, self.ino),
            (STATX_DEV_MAJOR, 4, u64::from(self.dev.0)),
            (STATX_DEV_MINOR, 4, u64::from(self.dev.1)),
        ];
        for (offset, size, want) in checks {
            let value = asm.load(scratch, offset, size, "what statx said");
            asm.check(value, u64::MAX, want, libc::ESTALE, moved.clone());
        }
        fd
    }
}

/// Room for one `struct statx`.
pub(super) fn statx_scratch(asm: &mut Assembler) -> At {
    asm.bytes(&[0; STATX_LEN])
}

fn statx(asm: &mut Assembler, fd: Reg, scratch: At, target: &str) {
    let empty = asm.text("");
    let mask = libc::STATX_BASIC_STATS;
    let args = [fd.into(), empty.into(), libc::AT_EMPTY_PATH.into(), mask.into(), scratch.into()];
    asm.call("statx", libc::SYS_statx, &args, target.to_owned());
}

/// The mode of an open file, in a register.
pub(super) fn mode_of(asm: &mut Assembler, fd: Reg, scratch: At, target: &str) -> Reg {
    statx(asm, fd, scratch, target);
    // `stx_mode` of `struct statx`.
    asm.load(scratch, 28, 2, target)
}

/// Checks that an open file is the character or block device with these numbers.
pub(super) fn check_device(
    asm: &mut Assembler,
    fd: Reg,
    scratch: At,
    mode: u32,
    dev: (u32, u32),
    target: &str,
) {
    statx(asm, fd, scratch, target);
    let checks = [
        (STATX_MODE, 2, u64::from(libc::S_IFMT), u64::from(mode & libc::S_IFMT)),
        (STATX_RDEV_MAJOR, 4, u64::MAX, u64::from(dev.0)),
        (STATX_RDEV_MINOR, 4, u64::MAX, u64::from(dev.1)),
    ];
    for (offset, size, mask, want) in checks {
        let value = asm.load(scratch, offset, size, "what statx said");
        asm.check(value, mask, want, libc::ENODEV, format!("{target}: it is that device"));
    }
}

/// A path inside the root, cleaned of `.` and `..` by name: relative, and empty for the root itself.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// The bytes of a path.
pub(super) fn path_bytes(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes()
}

fn open_how(asm: &mut Assembler, flags: i32, mode: u32, links: Links) -> At {
    let resolve = RESOLVE_IN_ROOT
        | RESOLVE_NO_MAGICLINKS
        | match links {
            Links::Follow => 0,
            Links::Refuse => RESOLVE_NO_SYMLINKS,
        };
    asm.words(&[flags.into(), mode.into(), resolve.into()])
}

/// Length of `struct open_how`.
const OPEN_HOW: u32 = 24;

/// Opens a file with these very flags and through no link, beneath the root; without one, beneath that of this process.
pub(super) fn open_exactly(
    asm: &mut Assembler,
    root: Option<Reg>,
    path: &str,
    flags: i32,
    what: &str,
) -> Reg {
    let slash = asm.text("/");
    let (base, opened) = match root {
        Some(root) => (root, None),
        None => {
            let args = [libc::AT_FDCWD.into(), slash.into(), (libc::O_PATH | libc::O_CLOEXEC).into()];
            let fd = asm.call("openat", libc::SYS_openat, &args, "the root directory").out();
            (fd, Some(fd))
        }
    };
    let how = open_how(asm, flags, 0, Links::Refuse);
    let name = asm.text(path.trim_start_matches('/'));
    let args = [base.into(), name.into(), how.into(), OPEN_HOW.into()];
    let fd = asm.call("openat2", libc::SYS_openat2, &args, what.to_owned()).out();
    if let Some(opened) = opened {
        asm.close(opened);
    }
    fd
}

/// Opens a path beneath the root, as `O_PATH` plus `flags`, and tells what happens when it does not exist.
pub(super) fn open_in_root(
    asm: &mut Assembler,
    root: Reg,
    path: &Path,
    flags: i32,
    links: Links,
    absent: Option<super::assemble::Label>,
) -> Reg {
    let out = asm.register();
    open_in_root_into(asm, root, path, flags, links, absent, out);
    out
}

fn open_in_root_into(
    asm: &mut Assembler,
    root: Reg,
    path: &Path,
    flags: i32,
    links: Links,
    absent: Option<super::assemble::Label>,
    out: Reg,
) {
    let how = open_how(asm, libc::O_PATH | libc::O_CLOEXEC | flags, 0, links);
    let relative = clean(path);
    let name = if relative.as_os_str().is_empty() { asm.text(".") } else { asm.text(path_bytes(&relative)) };
    let args = [root.into(), name.into(), how.into(), OPEN_HOW.into()];
    let target = format!("/{} in the root filesystem", relative.display());
    let pending = asm.call("openat2", libc::SYS_openat2, &args, target);
    let pending = match absent {
        Some(label) => pending.on(libc::ENOENT, label).on(libc::ENOTDIR, label),
        None => pending,
    };
    pending.into(out);
}

/// Opens a path beneath the root, making what is missing of it. Every directory is made through the descriptor of
/// its parent, so that nothing that changes meanwhile can lead outside.
pub(super) fn make_in_root(asm: &mut Assembler, root: Reg, path: &Path, kind: Kind, links: Links) -> Reg {
    let done = asm.label();
    let out = asm.register();
    let relative = clean(path);
    let (absent, nowhere) = (asm.label(), asm.label());
    open_in_root_into(asm, root, &relative, 0, links, Some(absent), out);
    asm.jump(done);
    asm.here(absent);

    let names: Vec<_> = relative.iter().collect();
    let mut parent = root;
    let mut prefix = PathBuf::new();
    for (index, name) in names.iter().enumerate() {
        prefix.push(name);
        let last = index + 1 == names.len();
        let mut shown = String::new();
        let _ = write!(shown, "/{} in the root filesystem", prefix.display());
        let next = if last { out } else { asm.register() };
        let (missing, found) = (asm.label(), asm.label());
        open_in_root_into(asm, root, &prefix, 0, links, Some(missing), next);
        asm.jump(found);
        asm.here(missing);
        let text = asm.text(std::os::unix::ffi::OsStrExt::as_bytes(*name));
        if last && kind == Kind::File {
            let how_follow = open_how(asm, libc::O_CREAT | libc::O_CLOEXEC | libc::O_WRONLY, 0o644, links);
            let through_link = asm.label();
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_WRONLY;
            let args = [parent.into(), text.into(), flags.into(), 0o644.into()];
            asm.call("openat", libc::SYS_openat, &args, format!("{shown}, a new file"))
                .on(libc::EEXIST, through_link)
                .then(found)
                .into(next);
            // A link that leads nowhere yet: the file is made where it leads, which openat2 keeps beneath the root.
            asm.here(through_link);
            let whole = asm.text(path_bytes(&prefix));
            let args = [root.into(), whole.into(), how_follow.into(), OPEN_HOW.into()];
            asm.call("openat2", libc::SYS_openat2, &args, format!("{shown}, a new file behind a link"))
                .on(libc::ENOENT, nowhere)
                .into(next);
        } else {
            let there = asm.label();
            let args = [parent.into(), text.into(), 0o755.into()];
            asm.call("mkdirat", libc::SYS_mkdirat, &args, shown.clone()).on(libc::EEXIST, there);
            asm.here(there);
            let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY | libc::O_CLOEXEC;
            let args = [parent.into(), text.into(), flags.into()];
            let opened = asm.call("openat", libc::SYS_openat, &args, format!("{shown}, a new directory"));
            match links {
                Links::Follow => opened.on(libc::ENOTDIR, nowhere).into(next),
                Links::Refuse => opened.into(next),
            }
        }
        asm.here(found);
        if parent != root {
            asm.close(parent);
        }
        parent = next;
    }
    asm.jump(done);
    // A link in the way leads nowhere yet.
    asm.here(nowhere);
    let what = format!("/{} in the root filesystem, behind links", relative.display());
    asm.make_behind(root, path_bytes(&relative), kind == Kind::File, what).into(out);
    asm.here(done);
    out
}
