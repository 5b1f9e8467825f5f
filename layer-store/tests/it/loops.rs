//! File systems of their own in files, mounted where nobody else sees it.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use layer_store::FaultPoint;

use crate::peers;

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Small, and flushes nothing by itself.
    Ext4,
    Xfs,
    /// Without shared extents.
    PlainXfs,
    /// With much room in store behind the end of files that are written.
    RoomyXfs,
    Btrfs,
}

impl Format {
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs | Self::PlainXfs | Self::RoomyXfs => "mkfs.xfs",
            Self::Btrfs => "mkfs.btrfs",
        }
    }

    fn make(self, image: &str) -> bool {
        match self {
            Self::Ext4 => run("mkfs.ext4", &["-q", "-F", "-O", "^metadata_csum_seed", image]),
            Self::Xfs | Self::RoomyXfs => run("mkfs.xfs", &["-q", "-f", "-m", "reflink=1", image]),
            Self::PlainXfs => run("mkfs.xfs", &["-q", "-f", "-m", "reflink=0", image]),
            Self::Btrfs => run("mkfs.btrfs", &["-q", "-f", image]),
        }
    }

    /// Bytes; the smallest that the programs make.
    const fn size(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            _ => 320 << 20,
        }
    }

    const fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "loop,commit=1000,nodiscard",
            // No room in store behind the end of files: it would go at a time of its own, and with it blocks.
            Self::Xfs | Self::PlainXfs => "loop,nodiscard,allocsize=4096",
            Self::RoomyXfs => "loop,nodiscard,allocsize=16m",
            Self::Btrfs => "loop,nodiscard",
        }
    }
}

/// A file system in a file, mounted.
pub(crate) struct Loop {
    image: PathBuf,
    pub(crate) mount: PathBuf,
    format: Format,
    mounted: bool,
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|out| out.status.success())
}

impl Loop {
    /// `None`: it cannot be made, or not be mounted.
    pub(crate) fn new(place: &Path, format: Format) -> Option<Self> {
        let (image, mount) = (place.join("disk"), place.join("mnt"));
        std::fs::create_dir_all(&mount).unwrap();
        // A new file each time: the last one's loop device may still be on its way out.
        drop(std::fs::remove_file(&image));
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(format.size()).unwrap();
        drop(file);
        let made = format.make(image.to_str().unwrap());
        let mut disk = Self { image, mount, format, mounted: false };
        (made && disk.mount()).then_some(disk)
    }

    pub(crate) fn mount(&mut self) -> bool {
        let args = ["-o", self.format.options(), self.image.to_str().unwrap(), self.mount.to_str().unwrap()];
        // Loop devices are few, and others take and give them back.
        for _ in 0..100 {
            self.mounted = run("mount", &args);
            if self.mounted {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        self.mounted
    }

    pub(crate) fn unmount(&mut self) {
        for _ in 0..50 {
            if run("umount", &[self.mount.to_str().unwrap()]) {
                self.mounted = false;
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        panic!("cannot unmount {}", self.mount.display());
    }

    /// Bytes that are taken, by `statfs`, when everything is written.
    pub(crate) fn used(&self) -> u64 {
        let dir = std::fs::File::open(&self.mount).unwrap();
        // What Btrfs gives back is free after the commit that follows the one that gave it.
        for _ in 0..2 {
            rustix::fs::syncfs(&dir).unwrap();
        }
        let stat = rustix::fs::fstatvfs(&dir).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.mounted {
            run("umount", &["-l", self.mount.to_str().unwrap()]);
        }
    }
}

/// Cuts the power: nothing more reaches the disk, not even what the log holds.
#[expect(unsafe_code, reason = "there is no safe call for this ioctl")]
pub(crate) fn shut_down(mount: &std::fs::File) {
    // FS_IOC_SHUTDOWN, _IOR('X', 125, __u32), FS_SHUTDOWN_FLAGS_NOLOGFLUSH = 2.
    const OPCODE: rustix::ioctl::Opcode = 0x8004_587d;
    const NO_LOG_FLUSH: u32 = 2;
    // SAFETY: the call reads one u32 at the address that it is given, which outlives it.
    let setter = unsafe { rustix::ioctl::Setter::<OPCODE, u32>::new(NO_LOG_FLUSH) };
    // SAFETY: as above; the kernel checks the descriptor.
    unsafe { rustix::ioctl::ioctl(mount.as_fd(), setter) }.unwrap();
}

/// A fault point that cuts the power right before change `step`; nothing succeeds from then on.
pub(crate) fn power_cut(mount: std::fs::File, step: u64) -> Box<FaultPoint> {
    let seen = AtomicU64::new(0);
    Box::new(move |_: u64| {
        let number = seen.fetch_add(1, Ordering::Relaxed);
        if number == step {
            shut_down(&mount);
        }
        if number >= step { Err(std::io::Error::other("the power is gone")) } else { Ok(()) }
    })
}

/// Runs `work` where nobody else sees its mounts. A mount namespace that another test makes meanwhile would copy them,
/// and a file system that is mounted somewhere does not come back anew when it is mounted again: it stays shut down.
pub(crate) fn alone(work: impl FnOnce() + Send) {
    let thread = || {
        use nix::sched::{CloneFlags, unshare};
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        assert!(run("mount", &["--make-rprivate", "/"]));
        work();
    };
    let ended = std::thread::scope(|scope| scope.spawn(thread).join());
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `work` on a new file system of each of `formats`, or says why not.
pub(crate) fn on(formats: &[Format], work: impl Fn(Format, &mut Loop) + Sync) {
    if !peers::is_root() {
        peers::skip("mounting a loop device needs root");
        return;
    }
    for format in formats {
        if peers::need(&[format.program(), "mount", "umount"]).is_none() {
            continue;
        }
        alone(|| {
            let place = tempfile::tempdir().unwrap();
            match Loop::new(place.path(), *format) {
                Some(mut disk) => work(*format, &mut disk),
                None => _ = peers::skip(&format!("this machine makes or mounts no {format:?}")),
            }
        });
    }
}
