//! Handles on containers.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use oci_spec::runtime::Process;

use crate::child::Child;
use crate::launch::{Helper, Launched};
use crate::orphan::Orphans;
use crate::state::{Place, Record, Stage};
use crate::{ContainerId, Error, Exec, Exit, Io, Signal};

/// What every handle has.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) id: ContainerId,
    pub(crate) child: Arc<Child>,
    pub(crate) place: Place,
    pub(crate) record: Record,
    pub(crate) orphans: Orphans,
    pub(crate) helper: Helper,
}

impl Body {
    /// Ends every process and removes everything.
    fn remove(&self) -> Result<(), Error> {
        self.child.kill(Signal::KILL)?;
        self.child.wait_among(&self.orphans)?;
        self.place.remove()
    }
}

/// A container that is prepared and waits to be started.
///
/// Dropping it removes the container.
#[derive(Debug)]
pub struct Created {
    body: Option<Body>,
    launched: Launched,
    kill_on_drop: bool,
    id: ContainerId,
}

impl Created {
    pub(crate) fn new(body: Body, launched: Launched, kill_on_drop: bool) -> Self {
        Self { id: body.id.clone(), body: Some(body), launched, kill_on_drop }
    }

    pub(crate) fn write_record(&self) -> Result<(), Error> {
        self.body.as_ref().map_or(Ok(()), |body| body.place.write(&body.record))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// The pid of its first process, in this process's pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.launched.child.pid()
    }

    /// Executes the program. Returns when `execve` has succeeded.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] in phase `exec`: see [`Error::is_not_found`] and [`Error::is_not_executable`]. The container
    /// is then removed.
    pub fn start(mut self) -> Result<Running, Error> {
        self.launched.start()?;
        // `drop` removes the container if the record cannot be written.
        if let Some(body) = &mut self.body {
            body.record.stage = Stage::Started;
            body.place.write(&body.record)?;
        }
        match self.body.take() {
            Some(body) => {
                Ok(Running { body: Some(body), kill_on_drop: self.kill_on_drop, id: self.id.clone() })
            }
            None => Err(Error::NoSuchContainer { id: self.id.to_string() }),
        }
    }

    /// Removes the container.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] with what could not be removed.
    pub fn delete(mut self) -> Result<(), Error> {
        self.body.take().map_or(Ok(()), |body| body.remove())
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            // Best effort: `delete` is there for those who want to know.
            drop(body.remove());
        }
    }
}

/// A container whose program has been started.
///
/// Dropping it leaves the container running unless
/// [`CreateOptions::kill_on_drop`](crate::CreateOptions::kill_on_drop) was chosen.
#[derive(Debug)]
pub struct Running {
    body: Option<Body>,
    kill_on_drop: bool,
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
        self.body.as_ref().map_or(0, |body| body.child.pid())
    }

    /// A descriptor that polls readable when the first process has ended: `pidfd_open(2)`.
    ///
    /// With a pid namespace of its own that is after the processes of [`Running::exec`] were reaped too, which every
    /// kind of waiting does, but polling this descriptor alone does not.
    #[must_use]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.body.as_ref().map(|body| body.child.pidfd())
    }

    fn body(&self) -> Result<&Body, Error> {
        match &self.body {
            Some(body) => Ok(body),
            None => Err(Error::NoSuchContainer { id: self.id.to_string() }),
        }
    }

    /// Waits until the first process has ended. Blocks the thread. Can be called again: the answer is kept.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when the kernel refuses to wait.
    pub fn wait(&self) -> Result<Exit, Error> {
        let body = self.body()?;
        body.child.wait_among(&body.orphans)
    }

    /// The exit if the first process has ended already.
    ///
    /// # Errors
    ///
    /// Those of [`Running::wait`].
    pub fn try_wait(&self) -> Result<Option<Exit>, Error> {
        let body = self.body()?;
        body.orphans.reap();
        body.child.try_wait()
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
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub async fn wait_async(&self) -> Result<Exit, Error> {
        let body = self.body()?;
        body.child.wait_async(&body.orphans).await
    }

    /// Sends a signal to the first process. A process that has ended already is not an error.
    ///
    /// A container's first process only receives signals it has a handler for, and KILL and STOP: the kernel keeps
    /// the others from the first process of a pid namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when the kernel refuses.
    pub fn kill(&self, signal: Signal) -> Result<(), Error> {
        self.body()?.child.kill(signal)
    }

    /// Runs another process in the container. Returns when `execve` has succeeded.
    ///
    /// # Errors
    ///
    /// [`Error::Step`]: see [`Error::is_not_found`] and [`Error::is_not_executable`]; [`Error::Spec`] and
    /// [`Error::Unsupported`] before anything was made.
    pub fn exec(&self, process: &Process, io: Io) -> Result<Exec, Error> {
        Exec::start(self.body()?, process, io)
    }

    /// Ends every process of the container, waits for it, and removes its state.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] with what could not be removed.
    pub fn delete(mut self) -> Result<(), Error> {
        self.body.take().map_or(Ok(()), |body| body.remove())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        if self.kill_on_drop {
            // Best effort: `delete` is there for those who want to know.
            drop(body.remove());
        } else {
            body.orphans.adopt(Arc::clone(&body.child));
        }
    }
}

/// A container found in the state directory.
#[derive(Debug)]
pub struct Container {
    pub(crate) id: ContainerId,
    pub(crate) place: Place,
    pub(crate) record: Record,
    /// The first process, while it exists.
    pub(crate) child: Option<Child>,
    pub(crate) orphans: Orphans,
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
        let alive = self.child.as_ref().is_some_and(|child| !matches!(child.has_ended(), Ok(true)));
        match (self.record.stage, alive) {
            (Stage::Creating, _) if self.record.creator.exists() => Status::Creating,
            (Stage::Created, true) => Status::Created,
            (Stage::Started, true) => Status::Running,
            _ => Status::Stopped,
        }
    }

    /// The pid of its first process, in this process's pid namespace; 0 when it has none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::pid)
    }

    /// Sends a signal to the first process.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] when it is stopped.
    pub fn kill(&self, signal: Signal) -> Result<(), Error> {
        match (&self.child, self.status()) {
            (Some(child), Status::Created | Status::Running) => child.kill(signal),
            (_, status) => Err(Error::WrongState {
                id: self.id.to_string(),
                actual: status.as_str(),
                action: "signal it",
            }),
        }
    }

    /// Waits until the first process has ended. The status is known to the process that created the container, and
    /// from Linux 6.15 to others too once it was reaped.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when the kernel refuses to wait.
    pub fn wait(&self) -> Result<Exit, Error> {
        match &self.child {
            Some(child) => child.wait_among(&self.orphans),
            None => Ok(Exit { status: crate::ExitStatus::Unknown, usage: None }),
        }
    }

    /// Ends every process of the container and removes its state.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] with what could not be removed; [`Error::WrongState`] while another process creates it.
    pub fn delete(self) -> Result<(), Error> {
        let status = self.status();
        if status == Status::Creating {
            return Err(Error::WrongState {
                id: self.id.to_string(),
                actual: status.as_str(),
                action: "delete it",
            });
        }
        if let Some(child) = &self.child {
            child.kill(Signal::KILL)?;
            child.wait_among(&self.orphans)?;
        }
        self.place.remove()
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

impl Status {
    /// The word of runtime-spec.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Stopped => "stopped",
        }
    }
}
