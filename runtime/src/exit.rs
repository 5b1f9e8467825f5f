//! How a process ended.

use std::fmt;
use std::time::Duration;

use crate::Signal;

/// How a process ended, and what it used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exit {
    /// The status.
    pub status: ExitStatus,
    /// What the process and its waited-for children used; none when this process is not its parent.
    pub usage: Option<Usage>,
    /// Whether the kernel ended a process of the container for want of memory; known when it has a memory cgroup.
    pub oom_killed: bool,
}

impl Exit {
    /// Nobody knows any more.
    pub(crate) fn unknown() -> Self {
        Self { status: ExitStatus::Unknown, usage: None, oom_killed: false }
    }

    /// The exit code as a shell shows it: the code itself, or 128 plus the signal's number; 255 when unknown.
    #[must_use]
    pub fn code(&self) -> i32 {
        match self.status {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal { signal, .. } => 128 + signal.raw(),
            ExitStatus::Unknown => 255,
        }
    }

    /// Whether the process ended with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == ExitStatus::Code(0)
    }
}

/// The status of a process that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// A signal ended it.
    #[non_exhaustive]
    Signal {
        /// The signal.
        signal: Signal,
        /// Whether the kernel wrote a core dump.
        core_dumped: bool,
    },
    /// It ended, and somebody else took its status: its parent is another process, or this process ignores SIGCHLD.
    Unknown,
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core_dumped } => {
                write!(f, "signal {signal}{}", if *core_dumped { " (core dumped)" } else { "" })
            }
            Self::Unknown => f.write_str("unknown exit status"),
        }
    }
}

/// Resources that a process used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in kernel mode.
    pub system: Duration,
    /// Largest resident set, in bytes.
    pub max_rss: u64,
}
