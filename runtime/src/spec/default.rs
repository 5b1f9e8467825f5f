//! Docker's defaults.

use std::path::Path;

use oci_spec::runtime::{Capability, Mount};

use super::UserMapping;

/// The capabilities of a container's root.
pub(super) const CAPABILITIES: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// What of the kernel's files is hidden.
pub(super) const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/kernel/debug",
];

/// What of the kernel's files can only be read.
pub(super) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The group of terminals, `tty`, on most distributions.
const TTY_GROUP: u32 = 5;

/// The mounts of every container. In a user namespace, what it may not mount is bound.
pub(super) fn mounts(mapping: Option<&UserMapping>, own_network: bool) -> Vec<Mount> {
    let simple =
        |dest: &str, typ: &str, options: &[&str]| mount(Path::new(dest), typ, Path::new(typ), options);
    let strict = ["nosuid", "noexec", "nodev"];
    let mut pts = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if mapping.is_none_or(|mapping| mapping.has_gid(TTY_GROUP)) {
        pts.push("gid=5");
    }
    let sys = if mapping.is_some() && !own_network {
        // Only the owner of a network namespace may mount its sysfs.
        mount(
            Path::new("/sys"),
            "bind",
            Path::new("/sys"),
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"],
        )
    } else {
        simple("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
    };
    vec![
        simple("/proc", "proc", &strict),
        simple("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        simple("/dev/pts", "devpts", &pts),
        sys,
        simple("/dev/mqueue", "mqueue", &strict),
        simple("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ]
}

pub(super) fn mount(dest: &Path, typ: &str, source: &Path, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(dest.to_path_buf())
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.to_path_buf()))
        .set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
}
