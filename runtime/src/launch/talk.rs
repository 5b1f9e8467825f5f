//! The conversation with a helper: messages of four words, and the descriptors that ride along. See `wire.rs`.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::child::Child;
use crate::plan::Note;
use crate::plan::wire::{EXEC_EXISTS, FDS_PER_MESSAGE, MESSAGE, message};
use crate::{Errno, Error, Hint, Phase, hint};

/// Receives a message and the descriptor that rides along; no message when the other side is gone.
pub(super) fn receive_from(
    socket: BorrowedFd<'_>,
    phase: Phase,
) -> Result<(Option<[u32; 4]>, Option<OwnedFd>), Error> {
    let mut body = [0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut iov = [IoSliceMut::new(&mut body)];
        match rustix::net::recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => break 0,
            Err(errno) => return Err(Error::host_call(phase, "recvmsg", "the helper", errno)),
        }
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match received {
        0 => Ok((None, fd)),
        MESSAGE => Ok((Some(words(&body)), fd)),
        other => Err(Error::Protocol { what: format!("a message of {other} bytes") }),
    }
}

/// One answer of the helper.
pub(super) enum Answer {
    Process(Child),
    Ready,
    Hooks,
    Network(OwnedFd),
    Listener(OwnedFd),
    Terminal(OwnedFd),
    End,
}

/// The conversation with the helper.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) socket: OwnedFd,
    /// What the steps from `first` on are for.
    pub(super) notes: Vec<Note>,
    pub(super) first: u32,
    pub(super) programs: Vec<String>,
}

impl Talk {
    pub(super) fn go(&self) -> Result<(), Error> {
        let body = message_bytes([message::GO, 0, 0, 0]);
        match rustix::net::send(&self.socket, &body, SendFlags::NOSIGNAL) {
            // A peer that is gone has left an answer, or its absence is one.
            Ok(_) | Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(Error::host_call(Phase::Gate, "send", "the helper", errno)),
        }
    }

    pub(super) fn receive(&self, phase: Phase) -> Result<Answer, Error> {
        let (body, fd) = receive_from(self.socket.as_fd(), phase)?;
        let Some([kind, a, b, c]) = body else { return Ok(Answer::End) };
        match (kind, fd) {
            (message::PID, Some(pidfd)) => Ok(Answer::Process(Child::new(a, pidfd))),
            (message::LISTENER, Some(fd)) => Ok(Answer::Listener(fd)),
            (message::TERMINAL, Some(fd)) => Ok(Answer::Terminal(fd)),
            (message::NETWORK, Some(fd)) => Ok(Answer::Network(fd)),
            (message::HOOKS, None) => Ok(Answer::Hooks),
            (message::READY, None) => Ok(Answer::Ready),
            (message::FAILED, None) => Err(self.failure(a, b, c)),
            _ => Err(Error::Protocol { what: format!("a message of kind {kind}") }),
        }
    }

    /// The error that a failed step stands for.
    fn failure(&self, step: u32, errno: u32, detail: u32) -> Error {
        let Some(note) = step.checked_sub(self.first).and_then(|at| self.notes.get(at as usize)) else {
            return Error::Protocol { what: format!("step {step} failed, which the plan does not have") };
        };
        let errno = Errno::from_raw(i32::try_from(errno).unwrap_or(libc::EIO));
        let mut target = note.target.clone();
        let mut explained = hint::step(note, errno);
        if note.phase == Phase::Exec && note.syscall == "execve" {
            let tried = self.programs.get((detail & !EXEC_EXISTS) as usize);
            if detail & EXEC_EXISTS != 0 {
                target = tried.cloned().unwrap_or(target);
                explained = Some(Hint::new(
                    "the file exists, so what is missing is its interpreter: the one in its first line, or the loader",
                    "add that to the root filesystem, or use a static program",
                ));
            } else if errno.raw() != libc::ENOENT {
                target = tried.cloned().unwrap_or(target);
            }
        }
        Error::Step {
            phase: note.phase,
            step: Some(step),
            syscall: note.syscall.clone(),
            target,
            errno,
            hint: explained,
        }
    }
}

pub(super) fn words(body: &[u8; MESSAGE]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(body.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
    }
    words
}

pub(super) fn message_bytes(words: [u32; 4]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(super) fn send_fds(
    socket: BorrowedFd<'_>,
    body: [u32; 4],
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    let body = message_bytes(body);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(rustix::io::Errno::TOOBIG);
    }
    let iov = [IoSlice::new(&body)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &iov, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}
