//! The resident helper: waits for sockets, and makes a process for each that takes a plan from there.
//!
//! It stays small and single-threaded whatever becomes of the host, so that making a process from it costs the same
//! for a host of any size, and needs no program to be executed first.

use crate::syscall::{call, nr};
use crate::wire::{CONTROL, FDS_PER_MESSAGE, message};
use crate::{BAD_HELLO, die, receive_message, send_message};

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
    if pid > 0 {
        send_message([message::PID, pid as u32, 0, 0], &[pidfd]);
    } else {
        send_message([message::FAILED, 0, -pid as u32, 0], &[]);
    }
}
