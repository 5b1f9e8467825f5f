//! The standard streams.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::assemble::{Assembler, Reg};
use crate::{Errno, Error, Io, Phase, Stdio};

/// Hands the three descriptors over.
pub(super) fn hand_over(asm: &mut Assembler, io: Io) -> Result<[Reg; 3], Error> {
    let stdin = resolve(io.stdin, std::io::stdin().as_fd())?;
    let stdout = resolve(io.stdout, std::io::stdout().as_fd())?;
    let stderr = resolve(io.stderr, std::io::stderr().as_fd())?;
    Ok([asm.fd(stdin), asm.fd(stdout), asm.fd(stderr)])
}

fn resolve(stdio: Stdio, own: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    match stdio {
        Stdio::Fd(fd) => Ok(fd),
        Stdio::Null => null(),
        // A copy, so that it does not matter whose child the helper is. A stream that is closed here leads nowhere.
        Stdio::Inherit => rustix::io::fcntl_dupfd_cloexec(own, 3).or_else(|_| null()),
    }
}

fn null() -> Result<OwnedFd, Error> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/null");
    file.map(OwnedFd::from)
        .map_err(|error| Error::host_call(Phase::Launch, "open", "/dev/null", Errno::of(&error)))
}

/// Puts the descriptors in their places.
pub(super) fn place(asm: &mut Assembler, streams: [Reg; 3]) {
    asm.phase(Phase::Process);
    for (number, (fd, name)) in streams.into_iter().zip(["stdin", "stdout", "stderr"]).enumerate() {
        let number = u32::try_from(number).unwrap_or(0);
        asm.call("dup3", libc::SYS_dup3, &[fd.into(), number.into(), 0.into()], name);
    }
}
