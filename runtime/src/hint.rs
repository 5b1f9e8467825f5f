//! Facts about the host that explain why a step failed.

use std::fs;

use crate::plan::Note;
use crate::{Errno, Hint, Phase};

/// Explains a failed step, when a fact is known that does.
pub(crate) fn step(note: &Note, errno: Errno) -> Option<Hint> {
    match (&*note.syscall, errno.raw()) {
        ("clone3", libc::EPERM | libc::ENOSPC | libc::EUSERS) => user_namespaces(),
        ("clone3", libc::ENOSYS) => Some(Hint::new(
            "clone3 is not there: the kernel is older than 5.3, or a seccomp filter hides it",
            "use a newer kernel, or allow clone3 in the filter of the surrounding container",
        )),
        ("fsmount" | "fsconfig", libc::EPERM) if note.target.contains("of type proc") => Some(Hint::new(
            "the host's own /proc is partly covered, as in most containers, and the kernel allows no fresh one there",
            "run the surrounding container with an uncovered /proc (docker: --security-opt systempaths=unconfined)",
        )),
        ("fsmount" | "fsconfig", libc::EPERM) if note.target.contains("of type sysfs") => Some(Hint::new(
            "only the owner of a network namespace may mount its /sys",
            "bind the host's /sys read-only instead, or give the container its own network namespace",
        )),
        ("fsopen" | "fsconfig" | "fsmount", libc::EPERM | libc::ENODEV | libc::EINVAL)
            if note.phase == Phase::Rootfs =>
        {
            Some(Hint::new(
                "the kernel does not mount this overlay here",
                "overlay in a user namespace needs Linux 5.11, as many layers as these 6.7, and a filesystem below \
                 that takes user attributes",
            ))
        }
        ("prlimit64", libc::EPERM) => Some(Hint::new(
            "this process may not raise hard limits (no CAP_SYS_RESOURCE)",
            "ask for no more than its own hard limit",
        )),
        ("write", libc::EACCES) if note.target.contains("oom_score_adj") => Some(Hint::new(
            "this process may not lower oom_score_adj below its own (no CAP_SYS_RESOURCE)",
            "ask for no less",
        )),
        ("move_mount", libc::EINVAL | libc::ENOTDIR) if note.phase == Phase::Mounts => Some(Hint::new(
            "a directory cannot be mounted over a file, nor a file over a directory",
            "give the mount a destination that is of the source's kind in the root filesystem, or is not there",
        )),
        ("openat2", libc::ELOOP)
            if note.phase == Phase::Mounts
                && (note.target.starts_with("/proc ") || note.target.starts_with("/sys ")) =>
        {
            Some(Hint::new(
                "what the kernel shows of itself must be mounted on ordinary directory, not behind a link",
                "have a directory there in the root filesystem",
            ))
        }
        ("(check)", libc::ESTALE) => Some(Hint::new(
            "the directory was moved or replaced after it was opened",
            "keep it in place while the container is created",
        )),
        _ => None,
    }
}

/// Explains why the helper program could not be executed.
pub(crate) fn exec_helper(errno: Errno) -> Hint {
    match errno.raw() {
        libc::ENOENT => Hint::new(
            "/proc is not mounted, so the helper cannot be executed from memory",
            "mount procfs on /proc",
        ),
        libc::EACCES => Hint::new(
            "memory files cannot be executed (vm.memfd_noexec, or a policy)",
            "set vm.memfd_noexec to 0 or 1",
        ),
        libc::EAGAIN => {
            Hint::new("the limit on processes is reached (RLIMIT_NPROC or pids cgroup)", "raise it")
        }
        _ => Hint::new("the helper program could not be started", "see the error number"),
    }
}

/// Why user namespaces cannot be made here, when the host says so.
pub(crate) fn user_namespaces() -> Option<Hint> {
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        return Some(Hint::new("user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=15000"));
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        return Some(Hint::new(
            "kernel.unprivileged_userns_clone is 0",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        ));
    }
    if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Some(Hint::new(
            "kernel.apparmor_restrict_unprivileged_userns is 1",
            "give the program an AppArmor profile with the rule `userns,`, or set the sysctl to 0",
        ));
    }
    None
}
