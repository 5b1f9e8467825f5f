//! Cgroups: versions 1 and 2, and both at once.
//!
//! On a hybrid host each controller is on one of the trees; a container joins all of them, the version 2 tree too when
//! it has no controller, as only that one can kill a group in one go and tell when it is empty.
//!
//! ```text
//!   host                                   first process of the container
//!   ────                                   ──────────────────────────────
//!   mkdir in every tree
//!   write every limit                      (born in the version 2 group: CLONE_INTO_CGROUP)
//!   open `tasks` of every v1 group ──────▶ write "0" to each: a thread that moves itself waits for nobody
//! ```
//!
//! Nobody ever writes a pid to `cgroup.procs`: on an idle host that waits for a grace period of RCU, some 10 ms.

mod devices;
mod group;
mod mounts;
mod path;
mod program;
mod stats;
mod v1;
mod v2;

pub(crate) use group::{Beneath, Group, GroupRecord, Joining, TreeRecord};
pub(crate) use mounts::{Mounts, unescape};
pub(crate) use path::Place;
pub use stats::{BlockIoStats, CpuStats, HugetlbStats, MemoryStats, PidsStats, Stats};

use std::fmt::Debug;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use crate::{Errno, Error, Hint, Phase};

/// One group in one tree.
pub(crate) trait Tree: Debug + Send + Sync {
    /// Its directory on the host.
    fn directory(&self) -> &Path;

    /// Whether limits of this controller are set here.
    fn carries(&self, controller: &str) -> bool;

    /// Makes the directory, ready to be joined.
    fn make(&self) -> Result<(), Error>;

    /// Sets the limits of the controllers that this tree carries.
    fn limit(&self, resources: &LinuxResources) -> Result<(), Error>;

    /// Restricts devices, if this tree does that.
    fn restrict_devices(&self, resources: &LinuxResources) -> Result<(), Error>;

    /// Freezes or thaws, if this tree does that.
    fn freeze(&self, yes: bool) -> Result<(), Error>;

    /// Whether it is frozen; none if this tree does not know.
    fn is_frozen(&self) -> Option<bool>;

    /// Adds what this tree knows.
    fn stats(&self, stats: &mut Stats);

    /// How often the kernel ended a process here for want of memory; none if this tree does not know.
    fn oom_kills(&self) -> Option<u64>;

    /// Ends everything in it at once; false when this tree cannot.
    fn kill(&self) -> Result<bool, Error>;

    /// Waits until nothing is in it, if this tree can tell.
    fn wait_until_empty(&self) -> Result<(), Error>;

    /// Gives back what groups above it got for its sake. Nothing is in it any more.
    fn give_back(&self) {}

    /// Removes what was made above it for its sake and holds nothing else, once it is gone.
    fn removed(&self) {}
}

/// The error for a controller that is not there.
pub(crate) fn missing(what: impl Into<String>) -> Error {
    Error::Host {
        what: format!("the cgroup controller for {}", what.into()),
        hint: Hint::new(
            "it is not mounted, not delegated to this user, or the container has no cgroup",
            "run as root, have the controller mounted or delegated, or take the limit out of the Spec",
        ),
    }
}

pub(crate) fn failed(syscall: &'static str, path: &Path, error: &std::io::Error) -> Error {
    Error::host_call(Phase::Cgroup, syscall, path.display().to_string(), Errno::of(error))
}

/// Writes a value to a control file.
pub(crate) fn write(directory: &Path, file: &str, value: &str) -> Result<(), Error> {
    use std::io::Write;
    let path = directory.join(file);
    let opened = std::fs::OpenOptions::new().write(true).open(&path);
    // One write: the kernel takes a value whole.
    opened.and_then(|mut file| file.write_all(value.as_bytes())).map_err(|error| {
        let failure = Error::host_call(
            Phase::Cgroup,
            "write",
            format!("{value:?} to {}", path.display()),
            Errno::of(&error),
        );
        match error.raw_os_error() {
            Some(libc::ENOENT) => failure.with_hint(Hint::new(
                "this kernel has no such control file",
                "take the limit out of the Spec",
            )),
            _ => failure,
        }
    })
}

/// Reads a control file; empty when it cannot be read.
pub(crate) fn read(directory: &Path, file: &str) -> String {
    std::fs::read_to_string(directory.join(file)).unwrap_or_default()
}

/// Reads a number; none for `max` and for what is not there.
pub(crate) fn number(directory: &Path, file: &str) -> Option<u64> {
    read(directory, file).trim().parse().ok()
}

/// Whether limits are asked for: devices are not among them.
pub(crate) fn has_limits(resources: &LinuxResources) -> bool {
    !v1::wanted(resources).is_empty() || resources.unified().as_ref().is_some_and(|map| !map.is_empty())
}

/// Whether this user may not.
pub(crate) fn is_denied(error: &Error) -> bool {
    [libc::EACCES, libc::EPERM, libc::EROFS].iter().any(|errno| is(error, *errno))
}

/// Whether an error has this number.
pub(crate) fn is(error: &Error, errno: i32) -> bool {
    error.errno().is_some_and(|known| known.raw() == errno)
}
