//! The standard streams.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::assemble::{Arg, Assembler, Reg};
use super::wire::CONTROL;
use crate::{Errno, Error, Io, Phase, Stdio};

/// What a process gets, handed over.
#[derive(Debug)]
pub(super) struct Streams {
    standard: Option<[Reg; 3]>,
    preserved: Vec<Reg>,
}

/// Hands the descriptors over; the standard ones only without a terminal.
pub(super) fn hand_over(asm: &mut Assembler, io: Io, terminal: bool) -> Result<Streams, Error> {
    let standard = if terminal {
        None
    } else {
        let stdin = resolve(io.stdin, std::io::stdin().as_fd())?;
        let stdout = resolve(io.stdout, std::io::stdout().as_fd())?;
        let stderr = resolve(io.stderr, std::io::stderr().as_fd())?;
        Some([asm.fd(stdin), asm.fd(stdout), asm.fd(stderr)])
    };
    let preserved = io.preserved.into_iter().map(|fd| asm.fd(fd)).collect();
    Ok(Streams { standard, preserved })
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

impl Streams {
    /// Puts the standard streams in their places. A terminal, if there is one, becomes the controlling one.
    pub(super) fn place(&self, asm: &mut Assembler, terminal: Option<Reg>) {
        asm.phase(Phase::Process);
        let streams = match terminal {
            Some(slave) => [slave; 3],
            None => match self.standard {
                Some(streams) => streams,
                None => return,
            },
        };
        for (number, (fd, name)) in streams.into_iter().zip(["stdin", "stdout", "stderr"]).enumerate() {
            let number = u32::try_from(number).unwrap_or(0);
            asm.call("dup3", libc::SYS_dup3, &[fd.into(), number.into(), 0.into()], name);
        }
        if terminal.is_some() {
            super::terminal::control(asm);
        }
    }

    /// The further descriptors, before they are in their places.
    pub(super) fn preserved(&self) -> &[Reg] {
        &self.preserved
    }

    /// Puts the further descriptors in their places, from 3 on. The way to the host and those that are still to be
    /// placed move out of their way first. Returns the registers with the numbers that stay open, and the way to the host.
    pub(super) fn place_preserved(&self, asm: &mut Assembler) -> (Vec<Reg>, Arg) {
        if self.preserved.is_empty() {
            return (Vec::new(), CONTROL.into());
        }
        let count = u32::try_from(self.preserved.len()).unwrap_or(0);
        let first_free = 3 + count;
        let move_up = |asm: &mut Assembler, fd: Arg, what: &str| {
            let args = [fd, libc::F_DUPFD_CLOEXEC.into(), first_free.into()];
            asm.call("fcntl", libc::SYS_fcntl, &args, what.to_owned()).out()
        };
        let report = move_up(asm, CONTROL.into(), "the way to the host, out of the way");
        asm.report_to(report);
        let moved: Vec<Reg> = self
            .preserved
            .iter()
            .map(|fd| move_up(asm, (*fd).into(), "a preserved descriptor, out of the way"))
            .collect();
        let mut kept = Vec::new();
        for (number, fd) in (3..first_free).zip(moved) {
            let args = [fd.into(), number.into(), 0.into()];
            asm.call("dup3", libc::SYS_dup3, &args, format!("preserved descriptor {number}"));
            kept.push(asm.value(number, "a preserved descriptor"));
        }
        (kept, report.into())
    }
}
