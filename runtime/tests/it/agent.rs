//! A seccomp agent: receives a listener and answers a call in the kernel's place.
#![expect(unsafe_code, reason = "the ioctls of a seccomp listener have no safe wrapper")]

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// Receives one message with one descriptor.
pub(crate) fn receive(socket: &UnixStream) -> (String, OwnedFd) {
    let mut bytes = vec![0; 64 << 10];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let got = rustix::net::recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let fd = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .unwrap();
    bytes.truncate(got);
    (String::from_utf8(bytes).unwrap(), fd)
}

/// Answers the next call with an error number.
pub(crate) fn answer_once(listener: &OwnedFd, errno: i32) {
    const RECV: u64 = 0xc050_2100;
    const SEND: u64 = 0xc018_2101;
    // `struct seccomp_notif`: id, pid, flags, then the 64 bytes of seccomp_data; `seccomp_notif_resp`: id, value,
    // error, flags.
    let mut request = [0u64; 10];
    // SAFETY: the structure has the size that the request's number says, and is zero as the kernel wants it.
    let code = unsafe { libc::ioctl(listener.as_raw_fd(), RECV, request.as_mut_ptr()) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
    let mut answer = [request[0], 0, u64::from((-errno).cast_unsigned())];
    // SAFETY: as above.
    let code = unsafe { libc::ioctl(listener.as_raw_fd(), SEND, answer.as_mut_ptr()) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
}
