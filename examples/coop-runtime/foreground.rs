//! Waiting for a process in the foreground: its terminal is ours, and signals to us are passed on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cooperage::runtime::{Container, Exec, Exit, Signal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, OutputModes, Termios};

use crate::{Outcome, sys};

/// What is waited for.
pub(crate) enum Waited<'a> {
    Container(&'a Container),
    Exec(&'a Exec),
}

impl Waited<'_> {
    fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Container(container) => container.pidfd(),
            Self::Exec(exec) => Some(exec.pidfd()),
        }
    }

    fn kill(&self, signal: Signal) {
        // One that has ended meanwhile is found by the loop.
        drop(match self {
            Self::Container(container) => container.kill(signal),
            Self::Exec(exec) => exec.kill(signal),
        });
    }

    fn wait(&self) -> Outcome<Exit> {
        Ok(match self {
            Self::Container(container) => container.wait()?,
            Self::Exec(exec) => exec.wait()?,
        })
    }
}

/// The terminal of this process in raw mode; as it was again when this is dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let stdin = io::stdin();
        let before = rustix::termios::tcgetattr(&stdin).ok();
        if let Some(mut raw) = before.clone() {
            raw.make_raw();
            // Lines come as the container ends them, see `plain_lines`.
            raw.output_modes.insert(OutputModes::OPOST);
            let _ = rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw);
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Lets lines end as the container ends them: the terminal of this process adds the carriage returns, and none are there
/// when there is no terminal. Before the program starts.
pub(crate) fn plain_lines(terminal: BorrowedFd<'_>) {
    if let Ok(mut settings) = rustix::termios::tcgetattr(terminal) {
        settings.output_modes.remove(OutputModes::ONLCR);
        let _ = rustix::termios::tcsetattr(terminal, OptionalActions::Now, &settings);
    }
}

fn resize(terminal: &OwnedFd) {
    if let Ok(size) = rustix::termios::tcgetwinsize(io::stdin()) {
        let _ = rustix::termios::tcsetwinsize(terminal, size);
    }
}

/// Copies what is there; false at the end.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 16 << 10];
    // A terminal whose other side is gone answers EIO.
    let Ok(count @ 1..) = rustix::io::read(from, &mut buffer) else { return false };
    let mut rest = buffer.get(..count).unwrap_or_default();
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Waits. `signals` comes from [`sys::signals`].
pub(crate) fn wait(waited: &Waited<'_>, signals: &OwnedFd, terminal: Option<&OwnedFd>) -> Outcome<Exit> {
    let Some(pidfd) = waited.pidfd() else { return waited.wait() };
    let raw = terminal.map(|_| Raw::enter());
    if let Some(terminal) = terminal {
        resize(terminal);
    }
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (mut reads, mut shows) = (terminal.is_some(), terminal.is_some());
    loop {
        let mut fds =
            vec![PollFd::new(signals, PollFlags::IN), PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
        let shown = shows.then_some(fds.len());
        if let (true, Some(terminal)) = (shows, terminal) {
            fds.push(PollFd::new(terminal, PollFlags::IN));
        }
        let read = reads.then_some(fds.len());
        if reads {
            fds.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let (signal, ended) = (ready(0), ready(1));
        let (shown, read) = (shown.is_some_and(ready), read.is_some_and(ready));
        drop(fds);
        if let Some(terminal) = terminal {
            if shown {
                shows = copy(terminal.as_fd(), stdout.as_fd());
            }
            if read {
                reads = copy(stdin.as_fd(), terminal.as_fd());
            }
        }
        if signal {
            pass_on(waited, signals, terminal);
        }
        if ended && !shown {
            break;
        }
    }
    drop(raw);
    waited.wait()
}

fn pass_on(waited: &Waited<'_>, signals: &OwnedFd, terminal: Option<&OwnedFd>) {
    // `struct signalfd_siginfo` has 128 bytes and begins with the number.
    let mut info = [0; 128];
    while let Ok(128) = rustix::io::read(signals, &mut info) {
        let [a, b, c, d, ..] = info;
        match i32::from_ne_bytes([a, b, c, d]) {
            libc::SIGCHLD | libc::SIGURG => {}
            libc::SIGWINCH => {
                if let Some(terminal) = terminal {
                    resize(terminal);
                }
            }
            number => {
                if let Some(signal) = Signal::from_raw(number) {
                    waited.kill(signal);
                }
            }
        }
    }
}

/// What [`sys::signals`] gives, with the error said.
pub(crate) fn signals() -> Outcome<OwnedFd> {
    sys::signals().map_err(|error| format!("signals cannot be taken: {error}").into())
}
