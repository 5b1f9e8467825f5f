//! What a helper that serves calls is told, and what it answers: see `crate::user_namespace`.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::talk::{send_fds, words};
use super::{Launched, failed};
use crate::Error;
use crate::plan::wire::{FDS_PER_MESSAGE, MESSAGE, NONE, message};

/// What came of a batch of calls.
#[derive(Debug)]
pub(crate) struct Served {
    /// The record that ended it early, with its error number.
    pub(crate) failure: Option<(u32, i32)>,
    /// What it opened for us.
    pub(crate) fds: Vec<OwnedFd>,
}

impl Launched {
    /// Hands it the memory that calls stand in, of `length` bytes.
    pub(crate) fn serve(&self, length: usize) -> Result<OwnedFd, Error> {
        let memory = rustix::fs::memfd_create("calls", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(|errno| failed("memfd_create", errno))?;
        rustix::fs::ftruncate(&memory, length as u64).map_err(|errno| failed("ftruncate", errno))?;
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(|errno| failed("fcntl", errno))?;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        send_fds(self.talk.socket.as_fd(), [message::SERVE, length, 0, 0], &[memory.as_fd()])
            .map_err(|errno| failed("sendmsg", errno))?;
        Ok(memory)
    }

    /// Has it work off `calls` records.
    pub(crate) fn calls(&self, calls: u32, given: &[BorrowedFd<'_>]) -> io::Result<Served> {
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the helper in the user namespace is gone");
        send_fds(self.talk.socket.as_fd(), [message::CALLS, calls, 0, 0], given)?;
        let mut body = [0; MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let mut iov = [IoSliceMut::new(&mut body)];
            rustix::net::recvmsg(&self.talk.socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        match (received.bytes, words(&body)) {
            (MESSAGE, [message::DONE, at, errno, count]) if count as usize == fds.len() => {
                let errno = i32::try_from(errno).unwrap_or(libc::EIO);
                Ok(Served { failure: (at != NONE).then_some((at, errno)), fds })
            }
            // The kernel drops descriptors for which there is no room.
            (MESSAGE, [message::DONE, ..]) => Err(rustix::io::Errno::MFILE.into()),
            _ => Err(gone()),
        }
    }

    /// Ends it.
    pub(crate) fn dismiss(&self) {
        // It ends when the way to it does; if it is gone already, so much the better.
        let _ = rustix::net::shutdown(&self.talk.socket, rustix::net::Shutdown::Both);
        drop(self.child.wait());
    }
}
