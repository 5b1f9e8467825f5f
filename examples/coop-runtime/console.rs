//! Sending descriptors to sockets: the terminal, as conmon and containerd expect it, and pidfds.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::Outcome;

/// Connects and sends one descriptor with a name.
pub(crate) fn send(socket: &Path, fd: BorrowedFd<'_>, name: &str) -> Outcome {
    let stream = connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(&stream, &[IoSlice::new(name.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// A path may be longer than an address: the directory is then named by its descriptor.
fn connect(path: &Path) -> std::io::Result<UnixStream> {
    use rustix::fs::{Mode, OFlags};
    use std::os::fd::AsRawFd;
    match UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            let (parent, name) =
                (path.parent().unwrap_or(Path::new("/")), path.file_name().unwrap_or_default());
            let parent = rustix::fs::open(parent, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let short = Path::new("/proc/self/fd").join(parent.as_fd().as_raw_fd().to_string()).join(name);
            UnixStream::connect(short)
        }
        other => other,
    }
}
