//! Waiting for a process with what it used, and asking for the status of one that somebody else reaped.
#![expect(unsafe_code, reason = "waitid with rusage and PIDFD_GET_INFO have no safe wrappers")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use crate::{Exit, ExitStatus, Signal, Usage};

/// What an attempt to reap says.
#[derive(Debug)]
pub(crate) enum Reaped {
    /// It ended, and this is how.
    Exited(Exit),
    /// It still runs.
    Running,
    /// It is not a child of this process, or was reaped by somebody else.
    NotOurs,
}

/// Reaps the process if it has ended.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Reaped> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both structures are writable and of the kernel's layout; the descriptor is open.
        let code = unsafe {
            libc::syscall(
                libc::SYS_waitid,
                libc::P_PIDFD,
                pidfd.as_raw_fd(),
                info.as_mut_ptr(),
                libc::WEXITED | libc::WNOHANG,
                usage.as_mut_ptr(),
            )
        };
        if code == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::ECHILD) => return Ok(Reaped::NotOurs),
            _ => return Err(error),
        }
    }
    // SAFETY: zeroed, then filled by the kernel; all bit patterns are valid.
    let (info, usage) = unsafe { (info.assume_init(), usage.assume_init()) };
    // SAFETY: the kernel fills these fields for WEXITED, and leaves zeros when nothing ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(Reaped::Running);
    }
    let status = match info.si_code {
        libc::CLD_EXITED => ExitStatus::Code(status),
        code => match Signal::from_raw(status) {
            Some(signal) => ExitStatus::Signal { signal, core_dumped: code == libc::CLD_DUMPED },
            None => ExitStatus::Unknown,
        },
    };
    let usage = Usage {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        max_rss: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
    };
    Ok(Reaped::Exited(Exit { status, usage: Some(usage), oom_killed: false }))
}

fn duration(time: libc::timeval) -> Duration {
    let micros = u32::try_from(time.tv_usec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), micros.saturating_mul(1000))
}

/// Sends a signal through a pidfd: any number, real-time signals too.
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: plain numbers and a null pointer, which stands for "as kill(2) would".
    let code = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct pidfd_info` as of Linux 6.15.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// The status of a process that somebody else reaped (Linux 6.15); none while it is not known.
pub(crate) fn exit_info(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    const PIDFD_GET_INFO: u64 = 0xc040_ff0b;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request's size is that of the structure, which is writable.
    let code = unsafe { libc::syscall(libc::SYS_ioctl, pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    if code != 0 || info.mask & PIDFD_INFO_EXIT == 0 {
        return None;
    }
    let (signal, code) = (info.exit_code & 0x7f, (info.exit_code >> 8) & 0xff);
    Some(match Signal::from_raw(signal) {
        Some(signal) => ExitStatus::Signal { signal, core_dumped: info.exit_code & 0x80 != 0 },
        None => ExitStatus::Code(code),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_the_kernels_size() {
        assert_eq!(size_of::<PidfdInfo>(), 64);
    }
}
