//! Further processes in a container that runs.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use oci_spec::runtime::Process;

use crate::cgroup::Beneath;
use crate::child::Child;
use crate::orphan::Orphans;
use crate::plan::{ExecRequest, Plan};
use crate::{Container, Errno, Error, Exit, Io, Phase, Signal, Warning, seccomp, warning};

/// A process that was started in a running container, beside its first one.
///
/// It ends with the container when that has a pid namespace of its own. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct Exec {
    child: Arc<Child>,
    orphans: Orphans,
    terminal: Option<OwnedFd>,
    warnings: Vec<Warning>,
}

/// Settings of one [`Container::exec_with`].
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    groups: Vec<Beneath>,
    before_start: Option<fn(BorrowedFd<'_>)>,
}

impl ExecOptions {
    /// Called with the controlling side of the terminal, if there is one, before the program starts: for its settings.
    #[must_use]
    pub fn before_start(mut self, prepare: fn(BorrowedFd<'_>)) -> Self {
        self.before_start = Some(prepare);
        self
    }

    /// Join a group beneath the container's, which is there already: in the trees of these controllers, or in all when
    /// none is named. `path` is relative to the container's own group.
    #[must_use]
    pub fn cgroup<I: IntoIterator<Item: Into<String>>>(
        mut self,
        controllers: I,
        path: impl Into<std::path::PathBuf>,
    ) -> Self {
        let controllers = controllers.into_iter().map(Into::into).collect();
        self.groups.push(Beneath { controllers, path: path.into() });
        self
    }
}

impl Exec {
    /// Starts it. Returns when `execve` has succeeded.
    pub(crate) fn start(
        container: &Container,
        init: &Child,
        process: &Process,
        io: Io,
        options: &ExecOptions,
    ) -> Result<Self, Error> {
        let root = open_root(init)?;
        let (inner, record, spec) = (&container.inner, container.record(), container.spec()?);
        let mut plan = Plan::exec(ExecRequest {
            process,
            io,
            init: container.init(init)?,
            root,
            namespaces: record.namespaces,
            maps: record.maps.as_ref(),
            linux: spec.linux().as_ref(),
            group: container.group_fds(&options.groups)?,
        })?;
        let warnings = std::mem::take(&mut plan.warnings);
        warning::log(&warnings);
        let launched = inner.helper.launch(plan, &mut |_, _| Ok(()))?;
        // Whoever waits for the container reaps this process too: the container cannot end before.
        inner.orphans.adopt(Arc::clone(&launched.child));
        let pid = launched.child.pid();
        if let (Some(prepare), Some(terminal)) = (options.before_start, &launched.terminal) {
            prepare(std::os::fd::AsFd::as_fd(terminal));
        }
        let started = launched.start(|listener| {
            let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
            let pid = i32::try_from(pid).unwrap_or(0);
            seccomp::hand_over(profile, &container.state()?, pid, &listener)
        });
        if started.is_err() {
            // It ends by itself after a failure; best effort on the way out with that error.
            drop(launched.child.kill(Signal::KILL));
            drop(launched.child.wait());
            inner.orphans.reap();
        }
        started?;
        let child = Arc::clone(&launched.child);
        Ok(Self { child, orphans: inner.orphans.clone(), terminal: launched.terminal, warnings })
    }

    /// What was left out of the process.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The controlling side of the terminal that the process asks for (`terminal`); once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
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
pub(crate) fn open_root(child: &Child) -> Result<OwnedFd, Error> {
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
