//! The resident helper: waits for sockets, and makes a process for each that takes a plan from there.
//!
//! It stays small and single-threaded whatever becomes of the host, so that making a process from it costs the same
//! for a host of any size, and needs no program to be executed first.

use crate::syscall::{call, nr};
use crate::wire::{CONTROL, FDS_PER_MESSAGE, message};
use crate::{BAD_HELLO, CONTROL_SPACE, ControlBuffer, IoVec, MessageHeader, die, receive_message};

/// `CLONE_PARENT` and `CLONE_PIDFD`.
const FLAGS: u64 = 0x8000 | 0x1000;

/// Serves until the host is gone. Returns in each process that is made, which then has its socket as `CONTROL`.
pub(crate) fn serve() {
    // The host's directory must not be kept from being unmounted.
    // SAFETY: the path is terminated.
    unsafe { call(nr::CHDIR, [c"/".as_ptr() as usize, 0, 0, 0, 0, 0]) };
    let mut fds = [0i32; FDS_PER_MESSAGE];
    loop {
        let (body, count) = receive_message(&mut fds);
        if body[0] != message::LAUNCH || count != 1 {
            die(BAD_HELLO);
        }
        let socket = fds[0] as usize;
        let mut pidfd = 0i32;
        // `struct clone_args`, in its first form.
        let mut args = [0u64; 8];
        args[0] = FLAGS;
        args[1] = core::ptr::addr_of_mut!(pidfd) as u64;
        // SAFETY: a plain fork; the structure lives until the call returns.
        let pid = unsafe { call(nr::CLONE3, [args.as_ptr() as usize, 64, 0, 0, 0, 0]) };
        if pid == 0 {
            // SAFETY: both are open; CONTROL, the host's way to the resident helper, is replaced.
            unsafe {
                call(nr::DUP3, [socket, CONTROL as usize, 0, 0, 0, 0]);
                call(nr::CLOSE, [socket, 0, 0, 0, 0, 0]);
            }
            return;
        }
        answer(pid, pidfd);
        // SAFETY: both are ours, and the host has its copy of the pidfd.
        unsafe {
            call(nr::CLOSE, [socket, 0, 0, 0, 0, 0]);
            if pid > 0 {
                call(nr::CLOSE, [pidfd as usize, 0, 0, 0, 0, 0]);
            }
        }
    }
}

/// Tells the host about the new process, or why there is none.
fn answer(pid: isize, pidfd: i32) {
    let body = if pid > 0 {
        [message::PID, pid as u32, 0, 0]
    } else {
        [message::FAILED, 0, -pid as u32, 0]
    };
    let iov = IoVec { base: body.as_ptr() as usize, len: 16 };
    let mut control = ControlBuffer([0; CONTROL_SPACE]);
    // `struct cmsghdr` with one descriptor: SOL_SOCKET, SCM_RIGHTS.
    control.0[0] = 20;
    control.0[8] = 1;
    control.0[12] = 1;
    control.0[16..20].copy_from_slice(&pidfd.to_ne_bytes());
    let header = MessageHeader {
        name: 0,
        name_len: 0,
        iov: core::ptr::addr_of!(iov) as usize,
        iov_len: 1,
        control: control.0.as_ptr() as usize,
        control_len: if pid > 0 { 24 } else { 0 },
        flags: 0,
    };
    const MSG_NOSIGNAL: usize = 0x4000;
    let at = core::ptr::addr_of!(header) as usize;
    // SAFETY: the header points to live buffers of the given lengths.
    unsafe { call(nr::SENDMSG, [CONTROL as usize, at, MSG_NOSIGNAL, 0, 0, 0]) };
}
