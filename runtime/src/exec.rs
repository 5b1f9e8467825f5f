//! Further processes in a container that runs.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use oci_spec::runtime::Process;

use crate::child::Child;
use crate::container::Body;
use crate::orphan::Orphans;
use crate::plan::{ExecRequest, Plan};
use crate::{Errno, Error, Exit, Io, Phase, Signal};

/// A process that was started in a running container, beside its first one.
///
/// It ends with the container when that has a pid namespace of its own. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct Exec {
    child: Arc<Child>,
    orphans: Orphans,
}

impl Exec {
    /// Starts it. Returns when `execve` has succeeded.
    pub(crate) fn start(body: &Body, process: &Process, io: Io) -> Result<Self, Error> {
        let init = body.child.pidfd().try_clone_to_owned().map_err(|error| {
            Error::host_call(Phase::Launch, "fcntl", "the pidfd of the container", Errno::of(&error))
        })?;
        let root = open_root(&body.child)?;
        let record = &body.record;
        let (namespaces, maps) = (record.namespaces, record.maps.as_ref());
        let plan = Plan::exec(ExecRequest { process, io, init, root, namespaces, maps })?;
        let launched = body.helper.launch(plan)?;
        // Whoever waits for the container reaps this process too: the container cannot end before.
        body.orphans.adopt(Arc::clone(&launched.child));
        let started = launched.start();
        if started.is_err() {
            // It ends by itself after a failure; best effort on the way out with that error.
            drop(launched.child.kill(Signal::KILL));
            drop(launched.child.wait());
            body.orphans.reap();
        }
        started?;
        Ok(Self { child: Arc::clone(&launched.child), orphans: body.orphans.clone() })
    }

    /// Its pid, in this process's pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// A descriptor that polls readable when it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd()
    }

    /// Waits until it has ended. Blocks the thread. Can be called again: the answer is kept.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when the kernel refuses to wait.
    pub fn wait(&self) -> Result<Exit, Error> {
        self.child.wait_among(&self.orphans)
    }

    /// [`Exec::wait`] without a thread.
    ///
    /// # Errors
    ///
    /// Those of [`Exec::wait`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing; call it again.
    #[cfg(feature = "tokio")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub async fn wait_async(&self) -> Result<Exit, Error> {
        self.child.wait_async(&self.orphans).await
    }

    /// Sends it a signal. That it has ended already is not an error.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when the kernel refuses.
    pub fn kill(&self, signal: Signal) -> Result<(), Error> {
        self.child.kill(signal)
    }
}

/// Opens the root directory of a process that is not to be mistaken for a later one with its pid.
fn open_root(child: &Child) -> Result<OwnedFd, Error> {
    use rustix::fs::{Mode, OFlags};
    let path = format!("/proc/{}/root", child.pid());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty());
    // If it runs still, the pid was its own when the directory was opened.
    if child.has_ended()? {
        return Err(Error::host_call(Phase::Launch, "open", path, Errno::from_raw(libc::ESRCH)));
    }
    root.map_err(|errno| Error::host_call(Phase::Launch, "open", path, errno))
}
