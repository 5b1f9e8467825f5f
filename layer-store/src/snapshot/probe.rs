//! Which driver serves here, what it costs, and why the others do not; and whether files can share.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, RenameFlags, XattrFlags};
use rustix::io::Errno;

use crate::deduplicate::FileSharing;
use crate::disk::Dir;
use crate::error::Result;
use crate::store::Store;

use super::{CopyDriver, Mount, OverlayDriver, Snapshotter, duplicate};

/// What a snapshot costs, beside what is changed in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cost {
    /// Two directories, whatever the image. A file that is changed is copied as a whole first.
    Directories,
    /// An inode for every file of the image; the bytes are shared. The commit reads the whole tree.
    Inodes,
    /// All bytes of the image, written again. The commit reads the whole tree.
    Bytes,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directories => "two directories a snapshot",
            Self::Inodes => "an inode for every file of the image a snapshot, and reading it all at commit",
            Self::Bytes => "a copy of the image a snapshot, and reading it all at commit",
        })
    }
}

/// What came of looking at a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It was tried and works.
    Works,
    /// This process may not mount, so it was not tried; everything that it needs is there. Whoever runs processes in a
    /// user namespace of their own can say more, see [`Store::probe_with`].
    Untried,
    /// It does not serve here.
    Refused(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("works"),
            Self::Untried => f.write_str("not tried: mounting takes a user namespace or root"),
            Self::Refused(reason) => write!(f, "refused: {reason}"),
        }
    }
}

/// A driver that was looked at.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidate {
    /// Its name.
    pub name: &'static str,
    /// What a snapshot costs by it.
    pub cost: Cost,
    /// Whether it serves.
    pub verdict: Verdict,
}

/// The drivers, cheapest first, and which of them is taken: the first that is not refused; and how files can share.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Probe {
    /// All that were looked at.
    pub candidates: Vec<Candidate>,
    /// The name of the one that is taken.
    pub chosen: &'static str,
    /// How equal files of different layers can share, see [`Store::deduplicate`].
    pub sharing: FileSharing,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Candidate { name, cost, verdict } in &self.candidates {
            let mark = if *name == self.chosen { '*' } else { ' ' };
            writeln!(f, "{mark} {name:<8} {verdict}; costs {cost}")?;
        }
        writeln!(f, "  sharing  {}", self.sharing)
    }
}

impl Store {
    /// Looks which snapshot drivers serve for this store, by trying them in its own directory.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when nothing can be made in the store.
    pub fn probe(&self) -> Result<Probe> {
        self.probe_with(&|mount| mount.detached().map(drop))
    }

    /// As [`Self::probe`], but `attempt` mounts: a program that runs processes in user namespaces does it there. It
    /// says `PermissionDenied` when it may not, and anything else when the kernel will not.
    ///
    /// # Errors
    /// As [`Self::probe`].
    pub fn probe_with(&self, attempt: &dyn Fn(&Mount) -> io::Result<()>) -> Result<Probe> {
        let work = self.begin()?;
        let place = work.work()?;
        let overlay = Candidate {
            name: OverlayDriver.name(),
            cost: Cost::Directories,
            verdict: overlay(&place, attempt)?,
        };
        let cost = if clones(&place)? { Cost::Inodes } else { Cost::Bytes };
        let copy = Candidate { name: CopyDriver.name(), cost, verdict: Verdict::Works };
        let refused = matches!(overlay.verdict, Verdict::Refused(_));
        let chosen = if refused { copy.name } else { overlay.name };
        Ok(Probe { candidates: vec![overlay, copy], chosen, sharing: self.file_sharing()? })
    }

    /// The driver of this store: the one that it was opened with, or what [`Self::probe`] chose at the first call.
    ///
    /// # Errors
    /// As [`Self::probe`].
    pub fn snapshotter(&self) -> Result<Arc<dyn Snapshotter>> {
        if let Some(driver) = self.driver.get() {
            return Ok(driver.clone());
        }
        let probe = self.probe()?;
        tracing::debug!(chosen = probe.chosen, candidates = ?probe.candidates, "snapshots");
        let driver: Arc<dyn Snapshotter> =
            if probe.chosen == OverlayDriver.name() { Arc::new(OverlayDriver) } else { Arc::new(CopyDriver) };
        Ok(self.driver.get_or_init(|| driver).clone())
    }

    /// The driver that made a snapshot.
    pub(crate) fn snapshotter_named(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        if name == CopyDriver.name() {
            return Ok(Arc::new(CopyDriver));
        }
        match self.driver.get() {
            Some(driver) if driver.name() == name => Ok(driver.clone()),
            _ => Err(crate::Error::Unsupported { what: format!("snapshots by the driver {name:?}") }),
        }
    }
}

/// What overlayfs needs of the file system, piece by piece, so that a refusal names the piece; then a mount.
fn overlay(place: &Dir, attempt: &dyn Fn(&Mount) -> io::Result<()>) -> Result<Verdict> {
    let dirs = ["upper", "lower", "base", "work"].map(|name| place.make_dir(name, 0o755));
    let [upper, lower, base, work] = dirs;
    let (upper, lower, base, work) = (upper?, lower?, base?, work?);
    for (what, result) in [
        ("the attribute user.overlay.opaque", attribute(upper.as_fd())),
        ("whiteouts (character device 0/0)", whiteout(upper.as_fd())),
        ("types in directory listings", types(upper.as_fd())),
        ("renaming with a whiteout", rename_whiteout(work.as_fd())),
    ] {
        if let Err(error) = result {
            return Ok(Verdict::Refused(format!("the store's file system has no {what}: {error}")));
        }
    }
    lower.write("file", b"below")?;
    let mount = Mount::Overlay {
        lower: vec![duplicate(lower.as_fd())?, duplicate(base.as_fd())?],
        upper: Some((duplicate(upper.as_fd())?, duplicate(work.as_fd())?)),
    };
    Ok(match attempt(&mount) {
        Ok(()) => Verdict::Works,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // The kernel was not asked; it may still not know overlayfs at all.
            if known_to_kernel() {
                Verdict::Untried
            } else {
                Verdict::Refused("the kernel has no overlayfs".to_owned())
            }
        }
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {
            Verdict::Refused("the kernel has no overlayfs".to_owned())
        }
        Err(error) => Verdict::Refused(format!("the kernel does not mount one here: {error}")),
    })
}

/// Overlayfs is there, or a module that the kernel loads by itself.
fn known_to_kernel() -> bool {
    let listed = std::fs::read_to_string("/proc/filesystems");
    if listed.is_ok_and(|text| text.split_whitespace().any(|word| word == "overlay")) {
        return true;
    }
    let release = rustix::system::uname();
    let modules = format!("/lib/modules/{}/kernel/fs/overlayfs", release.release().to_string_lossy());
    std::path::Path::new(&modules).is_dir()
}

fn attribute(dir: BorrowedFd<'_>) -> io::Result<()> {
    fs::fsetxattr(dir, "user.overlay.opaque", b"y", XattrFlags::empty())?;
    Ok(fs::fremovexattr(dir, "user.overlay.opaque")?)
}

fn whiteout(dir: BorrowedFd<'_>) -> io::Result<()> {
    fs::mknodat(dir, "whiteout", FileType::CharacterDevice, Mode::empty(), 0)?;
    Ok(fs::unlinkat(dir, "whiteout", AtFlags::empty())?)
}

fn rename_whiteout(dir: BorrowedFd<'_>) -> io::Result<()> {
    fs::openat(dir, "from", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR)?;
    fs::renameat_with(dir, "from", dir, "to", RenameFlags::WHITEOUT)?;
    fs::unlinkat(dir, "from", AtFlags::empty())?;
    Ok(fs::unlinkat(dir, "to", AtFlags::empty())?)
}

fn types(dir: BorrowedFd<'_>) -> io::Result<()> {
    fs::mkdirat(dir, "typed", Mode::RWXU)?;
    let listed = fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = Vec::with_capacity(4_096);
    let mut entries = RawDir::new(listed, buffer.spare_capacity_mut());
    let mut typed = false;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        typed |= entry.file_name().to_bytes() == b"typed" && entry.file_type() == FileType::Directory;
    }
    fs::unlinkat(dir, "typed", AtFlags::REMOVEDIR)?;
    if typed { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Files can share their blocks.
fn clones(place: &Dir) -> Result<bool> {
    let mut from = place.create("from")?;
    let to = place.create("to")?;
    let fail = |source| crate::Error::Io { action: "write", path: place.at("from"), source };
    from.write_all(&[1; 4_096]).map_err(fail)?;
    Ok(fs::ioctl_ficlone(to.as_fd(), from.as_fd()).is_ok())
}
