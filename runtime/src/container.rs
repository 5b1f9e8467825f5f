//! Handles on containers.

use std::os::fd::BorrowedFd;

use crate::{ContainerId, Error, Exit, Signal};

/// A container that is prepared and waits to be started.
///
/// Dropping it removes the container.
#[derive(Debug)]
pub struct Created {
    id: ContainerId,
}

impl Created {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The pid of its first process, in this process's pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        0
    }

    /// Executes the program. Returns when `execve` has succeeded.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] in phase `exec`: see [`Error::is_not_found`] and [`Error::is_not_executable`]. The container
    /// is then removed.
    pub fn start(self) -> Result<Running, Error> {
        Err(Error::unsupported("start"))
    }

    /// Removes the container.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] with what could not be removed.
    pub fn delete(self) -> Result<(), Error> {
        Err(Error::unsupported("delete"))
    }
}

/// A container whose program has been started.
///
/// Dropping it leaves the container running unless
/// [`CreateOptions::kill_on_drop`](crate::CreateOptions::kill_on_drop) was chosen.
#[derive(Debug)]
pub struct Running {
    id: ContainerId,
}

impl Running {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The pid of its first process, in this process's pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        0
    }

    /// A descriptor that polls readable when the first process has ended: `pidfd_open(2)`.
    #[must_use]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Waits until the first process has ended. Blocks the thread. Can be called again: the answer is kept.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when the kernel refuses to wait.
    pub fn wait(&self) -> Result<Exit, Error> {
        Err(Error::unsupported("wait"))
    }

    /// The exit if the first process has ended already.
    ///
    /// # Errors
    ///
    /// Those of [`Running::wait`].
    pub fn try_wait(&self) -> Result<Option<Exit>, Error> {
        Err(Error::unsupported("try_wait"))
    }

    /// [`Running::wait`] without a thread.
    ///
    /// # Errors
    ///
    /// Those of [`Running::wait`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing; call it again.
    #[cfg(feature = "tokio")]
    pub async fn wait_async(&self) -> Result<Exit, Error> {
        Err(Error::unsupported("wait_async"))
    }

    /// Sends a signal to the first process. A process that has ended already is not an error.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when the kernel refuses.
    pub fn kill(&self, _signal: Signal) -> Result<(), Error> {
        Err(Error::unsupported("kill"))
    }

    /// Ends every process of the container, waits for it, and removes its cgroups and state.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] with what could not be removed.
    pub fn delete(self) -> Result<(), Error> {
        Err(Error::unsupported("delete"))
    }
}

/// A container found in the state directory.
#[derive(Debug)]
pub struct Container {
    id: ContainerId,
}

impl Container {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Where in its life it is, asked from the kernel now.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::Stopped
    }

    /// The pid of its first process, in this process's pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        0
    }

    /// Sends a signal to the first process.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] when it is stopped.
    pub fn kill(&self, _signal: Signal) -> Result<(), Error> {
        Err(Error::unsupported("kill"))
    }

    /// Ends every process of the container and removes its cgroups and state.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] with what could not be removed.
    pub fn delete(self) -> Result<(), Error> {
        Err(Error::unsupported("delete"))
    }
}

/// The states of runtime-spec's `runtime.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// It is being prepared.
    Creating,
    /// It waits to be started.
    Created,
    /// Its program runs.
    Running,
    /// Its first process has ended.
    Stopped,
}
