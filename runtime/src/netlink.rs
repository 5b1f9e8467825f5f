//! Talking to the kernel about network devices: just enough of rtnetlink (`rtnetlink(7)`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;

/// Kinds of messages.
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_GETADDR: u16 = 22;

/// Flags of a message.
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const EXCLUSIVE: u16 = 0x200;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// In an answer: what is listed has changed meanwhile.
const DUMP_INTERRUPTED: u16 = 0x10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The kernel writes no more than this at once to who reads with that much room.
const ROOM: usize = 64 * 1024;
/// The most messages of an answer: no device has as many addresses.
const MOST: usize = 100_000;
/// How often a list is asked for that changes while it is written.
const TRIES: usize = 16;
/// The kernel answers before `send` returns; this is for the day when it does not.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket of one network namespace, whatever namespace its user is in.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Opens one in the network namespace of the calling thread.
    pub(crate) fn open() -> rustix::io::Result<Self> {
        // No protocol is NETLINK_ROUTE, which is 0.
        let flags = SocketFlags::CLOEXEC;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { fd })
    }

    /// Opens one in another network namespace: by a thread of its own, which enters it and ends.
    pub(crate) fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        std::thread::scope(|scope| {
            let enter = move || -> io::Result<Self> {
                rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
                Ok(Self::open()?)
            };
            let thread = std::thread::Builder::new().name("network".to_owned()).spawn_scoped(scope, enter)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread did not end well")))
        })
    }

    /// Sends a message, and returns the bodies of those that answer it.
    pub(crate) fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> rustix::io::Result<Vec<Vec<u8>>> {
        for _ in 0..TRIES {
            if let Some(answer) = self.try_to_ask(kind, flags, body)? {
                return Ok(answer);
            }
        }
        Err(Errno::BUSY)
    }

    /// None when what was listed has changed meanwhile.
    fn try_to_ask(&self, kind: u16, flags: u16, body: &[u8]) -> rustix::io::Result<Option<Vec<Vec<u8>>>> {
        let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::TOOBIG)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((flags | REQUEST | ACK).to_ne_bytes());
        // A number and a port: the kernel fills in the port, and nothing else is asked for on this socket meanwhile.
        message.extend([0; 8]);
        message.extend(body);
        rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, &message, SendFlags::empty()))?;
        let (mut found, mut whole) = (Vec::new(), true);
        let mut room = vec![0; ROOM];
        loop {
            let (_, length) =
                rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut *room, RecvFlags::TRUNC))?;
            let mut rest = room.get(..length).ok_or(Errno::MSGSIZE)?;
            while let Some(answer) = Answer::split(&mut rest) {
                whole &= answer.flags & DUMP_INTERRUPTED == 0;
                match answer.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return match word(answer.body, 0).map_or(0, u32::cast_signed) {
                            0 => Ok(whole.then_some(found)),
                            errno => Err(Errno::from_raw_os_error(errno.saturating_neg())),
                        };
                    }
                    _ if found.len() >= MOST => return Err(Errno::MSGSIZE),
                    _ => found.push(answer.body.to_vec()),
                }
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One message of an answer.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Takes the first message; none when there is no whole one.
    fn split(rest: &mut &'a [u8]) -> Option<Self> {
        let length = word(rest, 0)? as usize;
        let (kind, flags) = (half(rest, 4)?, half(rest, 6)?);
        let body = rest.get(HEADER..length)?;
        *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Self { kind, flags, body })
    }
}

/// The number of 32 bits at an offset.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// The attributes behind the first `skip` bytes of a body, with their kinds.
pub(crate) fn attributes(body: &[u8], skip: usize) -> Vec<(u16, &[u8])> {
    /// Bits of an attribute's kind that say how it is written.
    const NESTED: u16 = 0xc000;
    let mut rest = body.get(skip..).unwrap_or_default();
    let mut found = Vec::new();
    while let (Some(length), Some(kind)) = (half(rest, 0), half(rest, 2)) {
        let Some(value) = rest.get(4..usize::from(length)) else { break };
        found.push((kind & !NESTED, value));
        rest = rest.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Adds an attribute to a body.
pub(crate) fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // What is longer than 64 KiB has no business here: the kernel refuses the length.
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let mut body = vec![7; 8];
        attribute(&mut body, 3, b"eth0\0");
        attribute(&mut body, 28, &5u32.to_ne_bytes());
        assert_eq!(attributes(&body, 8), [(3, &b"eth0\0"[..]), (28, &5u32.to_ne_bytes()[..])]);
        // What is cut short or says that it is shorter than its own head ends the list.
        body.truncate(body.len() - 1);
        assert_eq!(attributes(&body, 8).len(), 1);
        assert_eq!(attributes(&[2, 0, 1, 0, 0, 0], 0), []);
    }

    #[test]
    fn messages_are_taken_one_by_one() {
        let mut bytes = 20u32.to_ne_bytes().to_vec();
        bytes.extend([16, 0, 2, 0]);
        bytes.extend([0; 8]);
        bytes.extend(*b"body");
        bytes.extend(8u32.to_ne_bytes());
        let mut rest = &bytes[..];
        let first = Answer::split(&mut rest).unwrap();
        assert_eq!((first.kind, first.flags, first.body), (16, 2, &b"body"[..]));
        assert!(Answer::split(&mut rest).is_none());
    }

    #[test]
    fn the_kernel_answers() {
        let socket = Socket::open().unwrap();
        let links = socket.ask(RTM_GETLINK, DUMP, &[0; 16]).unwrap();
        let named = |body: &Vec<u8>| attributes(body, 16).contains(&(3, &b"lo\0"[..]));
        assert!(links.iter().any(named));
        assert_eq!(socket.ask(u16::MAX, 0, &[0; 16]).unwrap_err(), Errno::OPNOTSUPP);
    }
}
