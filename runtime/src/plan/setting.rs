//! Names, kernel parameters, limits and the loopback device.

use std::collections::BTreeMap;

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

use super::assemble::{Assembler, Reg};
use super::namespace::Namespaces;
use super::rootfs::FSCONFIG_CMD_CREATE;
use crate::{Error, Phase};

/// Sets the host name and the NIS domain name.
pub(super) fn names(
    asm: &mut Assembler,
    hostname: Option<&str>,
    domainname: Option<&str>,
    has_uts: bool,
) -> Result<(), Error> {
    asm.phase(Phase::Settings);
    let calls = [
        ("hostname", "sethostname", libc::SYS_sethostname, hostname),
        ("domainname", "setdomainname", libc::SYS_setdomainname, domainname),
    ];
    for (field, name, nr, value) in calls {
        let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
        if !has_uts {
            return Err(Error::spec(field, "set without a uts namespace of the container's own"));
        }
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
        let text = asm.text(value);
        asm.call(name, nr, &[text.into(), length.into()], value.to_owned());
    }
    Ok(())
}

/// Brings the loopback device of a new network namespace up.
pub(super) fn loopback(asm: &mut Assembler) {
    asm.phase(Phase::Settings);
    const SIOCSIFFLAGS: u32 = 0x8914;
    let args = [libc::AF_INET.into(), (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC).into(), 0.into()];
    let socket = asm.call("socket", libc::SYS_socket, &args, "the loopback device").out();
    // struct ifreq: a name of 16 bytes, then the flags.
    let mut request = b"lo".to_vec();
    request.resize(16, 0);
    let flags = u16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    request.extend(flags.to_ne_bytes());
    request.resize(40, 0);
    let request = asm.bytes(&request);
    let args = [socket.into(), SIOCSIFFLAGS.into(), request.into()];
    asm.call("ioctl", libc::SYS_ioctl, &args, "the loopback device, up");
    asm.close(socket);
}

/// Writes kernel parameters through a procfs of the container's own that is attached nowhere.
pub(super) fn sysctls(
    asm: &mut Assembler,
    sysctls: &BTreeMap<&str, &str>,
    namespaces: &Namespaces,
) -> Result<(), Error> {
    asm.phase(Phase::Settings);
    if sysctls.is_empty() {
        return Ok(());
    }
    for key in sysctls.keys() {
        if !is_namespaced(key, namespaces) {
            return Err(Error::spec(
                format!("linux.sysctl.{key}"),
                "it is not the container's own: it has no such namespace, or the kernel keeps it for all",
            ));
        }
    }
    let proc = private_proc(asm);
    for (key, value) in sysctls {
        write(asm, proc, key, value);
    }
    asm.close(proc);
    Ok(())
}

/// A procfs of the container's own that is attached nowhere, so that nothing in the root filesystem can be taken for it.
pub(super) fn private_proc(asm: &mut Assembler) -> Reg {
    let kind = asm.text("proc");
    let what = "a private procfs";
    let fs = asm.call("fsopen", libc::SYS_fsopen, &[kind.into(), 1.into()], what).out();
    let args = [fs.into(), FSCONFIG_CMD_CREATE.into(), 0.into(), 0.into(), 0.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, what);
    let proc = asm.call("fsmount", libc::SYS_fsmount, &[fs.into(), 1.into(), 0.into()], what).out();
    asm.close(fs);
    proc
}

fn write(asm: &mut Assembler, proc: Reg, key: &str, value: &str) {
    /// `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS` of `openat2(2)`.
    const RESOLVE: u64 = 0x08 | 0x04;
    let path = format!("sys/{}", key.replace('.', "/"));
    let how = asm.words(&[(libc::O_WRONLY | libc::O_CLOEXEC).into(), 0.into(), RESOLVE.into()]);
    let (name, text) = (asm.text(&path), asm.text(value));
    let args = [proc.into(), name.into(), how.into(), 24.into()];
    let fd = asm.call("openat2", libc::SYS_openat2, &args, format!("/proc/{path}")).out();
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let args = [fd.into(), text.into(), length.into()];
    asm.call("write", libc::SYS_write, &args, format!("{value:?} to /proc/{path}"));
    asm.close(fd);
}

fn is_namespaced(key: &str, namespaces: &Namespaces) -> bool {
    const IPC: [&str; 8] =
        ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];
    let own = |flag| namespaces.makes(flag);
    if key.contains("..") || key.contains('/') {
        return false;
    }
    match key.split_once('.') {
        Some(("net", _)) => own(libc::CLONE_NEWNET),
        Some(("fs", rest)) => rest.starts_with("mqueue.") && own(libc::CLONE_NEWIPC),
        Some(("kernel", name)) if IPC.contains(&name) => own(libc::CLONE_NEWIPC),
        Some(("kernel", "domainname")) => own(libc::CLONE_NEWUTS),
        Some(("user", _)) => own(libc::CLONE_NEWUSER),
        _ => false,
    }
}

/// Written by the helper before the birth of the container's process, which inherits it.
pub(super) fn oom_score(asm: &mut Assembler, adjustment: i32) {
    asm.phase(Phase::Launch);
    let path = asm.text("/proc/self/oom_score_adj");
    let text = adjustment.to_string();
    let length = u32::try_from(text.len()).unwrap_or(0);
    let content = asm.text(&text);
    let args = [libc::AT_FDCWD.into(), path.into(), (libc::O_WRONLY | libc::O_CLOEXEC).into()];
    let fd = asm.call("openat", libc::SYS_openat, &args, "/proc/self/oom_score_adj").out();
    let args = [fd.into(), content.into(), length.into()];
    asm.call("write", libc::SYS_write, &args, format!("{text} to /proc/self/oom_score_adj"));
    asm.close(fd);
}

/// Sets resource limits.
pub(super) fn rlimits(asm: &mut Assembler, limits: &[PosixRlimit]) -> Result<(), Error> {
    asm.phase(Phase::Settings);
    for (index, limit) in limits.iter().enumerate() {
        let (number, name) = rlimit_number(limit.typ());
        if limits.iter().skip(index + 1).any(|other| other.typ() == limit.typ()) {
            return Err(Error::spec("process.rlimits", format!("{name} stands there twice")));
        }
        if limit.soft() > limit.hard() {
            return Err(Error::spec(
                "process.rlimits",
                format!("the soft limit of {name} is above the hard one"),
            ));
        }
        let pair = asm.words(&[limit.soft().into(), limit.hard().into()]);
        let args = [0.into(), number.into(), pair.into(), 0.into()];
        let target = format!("{name}, soft {}, hard {}", limit.soft(), limit.hard());
        asm.call("prlimit64", libc::SYS_prlimit64, &args, target);
    }
    Ok(())
}

fn rlimit_number(limit: PosixRlimitType) -> (u32, &'static str) {
    match limit {
        PosixRlimitType::RlimitCpu => (0, "RLIMIT_CPU"),
        PosixRlimitType::RlimitFsize => (1, "RLIMIT_FSIZE"),
        PosixRlimitType::RlimitData => (2, "RLIMIT_DATA"),
        PosixRlimitType::RlimitStack => (3, "RLIMIT_STACK"),
        PosixRlimitType::RlimitCore => (4, "RLIMIT_CORE"),
        PosixRlimitType::RlimitRss => (5, "RLIMIT_RSS"),
        PosixRlimitType::RlimitNproc => (6, "RLIMIT_NPROC"),
        PosixRlimitType::RlimitNofile => (7, "RLIMIT_NOFILE"),
        PosixRlimitType::RlimitMemlock => (8, "RLIMIT_MEMLOCK"),
        PosixRlimitType::RlimitAs => (9, "RLIMIT_AS"),
        PosixRlimitType::RlimitLocks => (10, "RLIMIT_LOCKS"),
        PosixRlimitType::RlimitSigpending => (11, "RLIMIT_SIGPENDING"),
        PosixRlimitType::RlimitMsgqueue => (12, "RLIMIT_MSGQUEUE"),
        PosixRlimitType::RlimitNice => (13, "RLIMIT_NICE"),
        PosixRlimitType::RlimitRtprio => (14, "RLIMIT_RTPRIO"),
        PosixRlimitType::RlimitRttime => (15, "RLIMIT_RTTIME"),
    }
}
