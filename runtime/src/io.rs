//! The standard streams of a process in a container.

use std::os::fd::OwnedFd;

/// Where one standard stream leads.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Stdio {
    /// Nowhere: the host's `/dev/null`.
    #[default]
    Null,
    /// To the same place as this process's stream of that number.
    Inherit,
    /// To a descriptor: a file, a pipe, a socket.
    Fd(OwnedFd),
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self::Fd(fd)
    }
}

impl From<std::fs::File> for Stdio {
    fn from(file: std::fs::File) -> Self {
        Self::Fd(file.into())
    }
}

impl From<std::io::PipeReader> for Stdio {
    fn from(pipe: std::io::PipeReader) -> Self {
        Self::Fd(pipe.into())
    }
}

impl From<std::io::PipeWriter> for Stdio {
    fn from(pipe: std::io::PipeWriter) -> Self {
        Self::Fd(pipe.into())
    }
}

/// The three standard streams, and further descriptors.
///
/// Of a process with a terminal (`process.terminal`), the streams lead to the terminal, and what is said here does not
/// count.
///
/// ```
/// # use runtime::Io;
/// let (reader, writer) = std::io::pipe()?;
/// let io = Io::null().stdout(writer);
/// # drop((reader, io));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Io {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
    pub(crate) preserved: Vec<OwnedFd>,
}

impl Io {
    /// All three lead nowhere.
    #[must_use]
    pub fn null() -> Self {
        Self::default()
    }

    /// All three are this process's own.
    #[must_use]
    pub fn inherit() -> Self {
        Self { stdin: Stdio::Inherit, stdout: Stdio::Inherit, stderr: Stdio::Inherit, preserved: Vec::new() }
    }

    /// Replaces standard input.
    #[must_use]
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stdin = stdio.into();
        self
    }

    /// Replaces standard output.
    #[must_use]
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stdout = stdio.into();
        self
    }

    /// Gives the process a further descriptor: the first one is 3, the next 4, and so on.
    #[must_use]
    pub fn preserve(mut self, fd: OwnedFd) -> Self {
        self.preserved.push(fd);
        self
    }

    /// Replaces standard error.
    #[must_use]
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Self {
        self.stderr = stdio.into();
        self
    }
}
