//! What has no safe wrapper: descriptors by number, and signals as a descriptor.
#![expect(unsafe_code, reason = "inherited descriptors and signalfd(2) are known by number alone")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

/// A copy of an inherited descriptor.
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: it is only borrowed for the copy; one that is not open is an error of fcntl.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(fd)?.contains(rustix::io::FdFlags::CLOEXEC) {
        // This process's own: what came through execve has no such flag.
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 64)?)
}

/// Blocks all signals but those that tell of errors in this process, and gives them as a descriptor.
pub(crate) fn signals() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is filled before it is used; this process has one thread.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGPIPE]
        {
            libc::sigdelset(set.as_mut_ptr(), signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}
