//! The resident helper: processes are made from it, at a cost that does not depend on the host's size.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::net::SendFlags;

use super::talk::{message_bytes, receive_from, send_fds};
use super::{Helper, Stage, failed, pair};
use crate::child::Child;
use crate::plan::wire::{VERSION, message};
use crate::{Errno, Error, Phase, hint};

/// The resident helper, started when it is first needed.
#[derive(Debug, Default)]
pub(super) struct Resident {
    running: Mutex<Option<Running>>,
}

/// It runs: the way to it, and the process, which ends when the way is closed.
#[derive(Debug)]
struct Running {
    socket: OwnedFd,
    process: Child,
}

impl Resident {
    /// Has it make a process.
    pub(super) fn stage(&self, helper: &Helper, theirs: BorrowedFd<'_>) -> Result<Stage, Error> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = running.as_ref() {
            match ask(known, theirs) {
                Ok(stage) => return Ok(stage),
                // It was ended by somebody: a new one is started.
                Err(Error::HelperDied { .. }) => {}
                Err(error) => return Err(error),
            }
            if let Some(Running { socket, process }) = running.take() {
                drop(socket);
                process.wait()?;
            }
        }
        let (ours, its) = pair()?;
        let pid = helper.spawn(its.as_fd())?;
        drop(its);
        let mut stage = Stage::of_pid(pid)?;
        let Some(process) = stage.0.take() else {
            return Err(Error::Protocol { what: "a helper without a process".to_owned() });
        };
        let started = Running { socket: ours, process };
        let body = message_bytes([message::RESIDE, VERSION, 0, 0]);
        rustix::net::send(&started.socket, &body, SendFlags::NOSIGNAL)
            .map_err(|errno| failed("send", errno))?;
        let stage = ask(&started, theirs);
        *running = Some(started);
        stage
    }

    /// Ends it.
    pub(super) fn end(&self) {
        let taken = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { socket, process }) = taken {
            drop(socket);
            // It ends by itself when the socket closes.
            drop(process.wait());
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends a socket to the resident helper, and receives the process that listens on it.
fn ask(running: &Running, theirs: BorrowedFd<'_>) -> Result<Stage, Error> {
    let died = |_| Error::HelperDied { phase: Phase::Launch, how: "the resident helper is gone".to_owned() };
    send_fds(running.socket.as_fd(), [message::LAUNCH, 0, 0, 0], &[theirs]).map_err(died)?;
    let (body, fd) = receive_from(running.socket.as_fd(), Phase::Launch)?;
    match (body, fd) {
        (None, _) => Err(died(rustix::io::Errno::PIPE)),
        (Some([message::PID, pid, ..]), Some(pidfd)) => Ok(Stage(Some(Child::new(pid, pidfd)))),
        (Some([message::FAILED, _, errno, _]), _) => {
            let errno = Errno::from_raw(i32::try_from(errno).unwrap_or(libc::EIO));
            Err(failed("clone3", errno).with_hint(hint::exec_helper(errno)))
        }
        _ => Err(Error::Protocol { what: "an answer of the resident helper".to_owned() }),
    }
}
