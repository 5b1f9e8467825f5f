//! A container, whoever made it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use oci_spec::runtime::{LinuxResources, Process, Spec, State};

use crate::cgroup::{Group, Stats};
use crate::child::Child;
use crate::hook::{self, Point};
use crate::launch::{Helper, Launched};
use crate::orphan::Orphans;
use crate::state::{Place, Record, Stage};
use crate::{ContainerId, Error, Exec, Exit, Io, Signal, Status, seccomp};

/// What all handles of a container share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) id: ContainerId,
    pub(crate) place: Place,
    pub(crate) record: Mutex<Record>,
    pub(crate) spec: OnceLock<Arc<Spec>>,
    /// The first process, while it exists.
    pub(crate) child: Option<Arc<Child>>,
    pub(crate) group: Option<Group>,
    pub(crate) orphans: Orphans,
    pub(crate) helper: Helper,
}

/// A container of a state directory: what [`Created`](crate::Created) and [`Running`](crate::Running) are, and what
/// [`Runtime::load`](crate::Runtime::load) and [`Runtime::list`](crate::Runtime::list) find.
///
/// Cheap to clone. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Container {
    pub(crate) inner: Arc<Inner>,
}

impl Container {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ContainerId {
        &self.inner.id
    }

    /// Where in its life it is, asked from the kernel now.
    #[must_use]
    pub fn status(&self) -> Status {
        let inner = &self.inner;
        let alive = inner.child.as_ref().is_some_and(|child| !matches!(child.has_ended(), Ok(true)));
        let record = self.record();
        match (record.stage, alive) {
            (Stage::Creating, _) if record.creator.exists() => Status::Creating,
            (Stage::Created | Stage::Started, true) if inner.group.as_ref().is_some_and(Group::is_frozen) => {
                Status::Paused
            }
            (Stage::Created, true) => Status::Created,
            (Stage::Started, true) => Status::Running,
            _ => Status::Stopped,
        }
    }

    /// The pid of its first process, in this process's pid namespace; 0 when it has none.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.child.as_ref().map_or(0, |child| child.pid())
    }

    /// A descriptor that polls readable when the first process has ended: `pidfd_open(2)`.
    ///
    /// With a pid namespace of its own that is after the processes of [`Container::exec`] were reaped too, which
    /// every kind of waiting does, but polling this descriptor alone does not.
    #[must_use]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.child.as_ref().map(|child| child.pidfd())
    }

    /// The Spec it was made from.
    ///
    /// # Errors
    ///
    /// [`Error::StateFile`] and [`Error::StateFormat`] when it has to be read and cannot be.
    pub fn spec(&self) -> Result<Arc<Spec>, Error> {
        if let Some(spec) = self.inner.spec.get() {
            return Ok(Arc::clone(spec));
        }
        let spec = Arc::new(self.inner.place.read_spec()?);
        Ok(Arc::clone(self.inner.spec.get_or_init(|| spec)))
    }

    /// The state as runtime-spec's `runtime.md` has it, for hooks and for `state`. A container that is paused is
    /// `running` to the specification.
    ///
    /// # Errors
    ///
    /// Those of [`Container::spec`].
    pub fn state(&self) -> Result<State, Error> {
        let status = self.status();
        let pid = if status == Status::Stopped { 0 } else { self.pid() };
        hook::state(&self.record(), &*self.spec()?, status, pid)
    }

    /// When it was made, in seconds after 1970.
    #[must_use]
    pub fn created_at(&self) -> u64 {
        self.record().made
    }

    /// The directory of the bundle, as it was given to `create`.
    #[must_use]
    pub fn bundle(&self) -> std::path::PathBuf {
        self.record().bundle
    }

    /// The user id that made it.
    #[must_use]
    pub fn owner(&self) -> u32 {
        self.record().owner
    }

    /// Sends a signal to the first process.
    ///
    /// The first process of a pid namespace only receives signals it has a handler for, and KILL and STOP: the kernel
    /// keeps the others from it. Before it is started, HUP, INT, QUIT and TERM end it.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] when it is stopped; [`Error::Step`] when the kernel refuses.
    pub fn kill(&self, signal: Signal) -> Result<(), Error> {
        // Without a pid namespace of its own the others do not end with the first process, and may outlive it.
        let shared = self.record().namespaces & libc::CLONE_NEWPID.cast_unsigned() == 0;
        if let Some(group) = self.inner.group.as_ref().filter(|_| shared && signal == Signal::KILL)
            && !group.pids()?.is_empty()
        {
            return group.kill(signal);
        }
        match (&self.inner.child, self.status()) {
            (Some(child), Status::Created | Status::Running | Status::Paused) => {
                child.kill(signal)?;
                // What is frozen does not die on cgroup v1, not even of SIGKILL.
                match &self.inner.group {
                    Some(group) if signal == Signal::KILL => group.thaw_if_frozen(),
                    _ => Ok(()),
                }
            }
            (_, status) => Err(self.wrong_state(status, "signal it")),
        }
    }

    /// Sends a signal to every process in its cgroup; without a cgroup, to the first process.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when the kernel refuses.
    pub fn kill_all(&self, signal: Signal) -> Result<(), Error> {
        match &self.inner.group {
            Some(group) => group.kill(signal),
            None => self.kill(signal),
        }
    }

    /// Waits until the first process has ended. Blocks the thread. Can be called again: the answer is kept.
    ///
    /// The status is known to the process that created the container, and from Linux 6.15 to others too once it was
    /// reaped.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when the kernel refuses to wait.
    pub fn wait(&self) -> Result<Exit, Error> {
        let exit = match &self.inner.child {
            Some(child) => child.wait_among(&self.inner.orphans)?,
            None => Exit::unknown(),
        };
        Ok(self.with_memory_events(exit))
    }

    /// The exit if the first process has ended already.
    ///
    /// # Errors
    ///
    /// Those of [`Container::wait`].
    pub fn try_wait(&self) -> Result<Option<Exit>, Error> {
        self.inner.orphans.reap();
        match &self.inner.child {
            Some(child) => Ok(child.try_wait()?.map(|exit| self.with_memory_events(exit))),
            None => Ok(Some(Exit::unknown())),
        }
    }

    /// [`Container::wait`] without a thread.
    ///
    /// # Errors
    ///
    /// Those of [`Container::wait`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing; call it again.
    #[cfg(feature = "tokio")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub async fn wait_async(&self) -> Result<Exit, Error> {
        let exit = match &self.inner.child {
            Some(child) => child.wait_async(&self.inner.orphans).await?,
            None => Exit::unknown(),
        };
        Ok(self.with_memory_events(exit))
    }

    fn with_memory_events(&self, mut exit: Exit) -> Exit {
        exit.oom_killed = self.inner.group.as_ref().is_some_and(|group| group.oom_kills() > 0);
        exit
    }

    /// Executes the program of a container that was made [detachable](crate::CreateOptions::detachable) and left by
    /// [`Created::detach`](crate::Created::detach).
    /// Returns when `execve` has succeeded.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] unless it is created; [`Error::Step`] in phase `exec`: see [`Error::is_not_found`] and
    /// [`Error::is_not_executable`]; [`Error::Hook`]. The container is then stopped.
    pub fn start(&self) -> Result<(), Error> {
        let status = self.status();
        if status != Status::Created {
            return Err(self.wrong_state(status, "start it"));
        }
        let record = self.record();
        let (Some(start), Some(child)) = (record.start, &self.inner.child) else {
            return Err(self.wrong_state(status, "start it: its creator starts it"));
        };
        let launched = Launched::connect(&self.inner.place, start, Arc::clone(child))?;
        self.start_with(&launched)
    }

    /// Starts it over a way to its first process.
    pub(crate) fn start_with(&self, launched: &Launched) -> Result<(), Error> {
        let spec = self.spec()?;
        let record = self.record();
        let state = |status| hook::state(&record, &spec, status, self.pid());
        // A hook that fails ends the container; best effort, on the way out with its error.
        if hook::any(&spec, Point::StartContainer) {
            hook::run_inside(self, &spec, Point::StartContainer, &state(Status::Created)?)
                .inspect_err(|_| drop(self.end()))?;
        }
        launched.start(|listener| {
            let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
            let pid = i32::try_from(self.pid()).unwrap_or(0);
            seccomp::hand_over(profile, &state(Status::Running)?, pid, &listener)
        })?;
        self.change(|record| {
            record.stage = Stage::Started;
            record.start = None;
        })?;
        if hook::any(&spec, Point::Poststart) {
            hook::run_outside(&spec, Point::Poststart, &state(Status::Running)?)
                .inspect_err(|_| drop(self.end()))?;
        }
        Ok(())
    }

    /// Ends every process of it, and waits for the first.
    fn end(&self) -> Result<(), Error> {
        let inner = &self.inner;
        if let Some(child) = &inner.child {
            child.kill(Signal::KILL)?;
        }
        if let Some(group) = &inner.group {
            group.kill(Signal::KILL)?;
        }
        if let Some(child) = &inner.child {
            child.wait_among(&inner.orphans)?;
        }
        Ok(())
    }

    /// Runs another process in the container. Returns when `execve` has succeeded.
    ///
    /// It gets the container's seccomp filter, and nothing else that `process` does not say.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] unless it is created or running; [`Error::Step`]: see [`Error::is_not_found`] and
    /// [`Error::is_not_executable`]; [`Error::Spec`] and [`Error::Unsupported`] before anything was made.
    pub fn exec(&self, process: &Process, io: Io) -> Result<Exec, Error> {
        self.exec_with(process, io, &crate::ExecOptions::default())
    }

    /// [`Container::exec`] with options.
    ///
    /// # Errors
    ///
    /// Those of [`Container::exec`]; [`Error::Spec`] for a group that cannot be one of the container's.
    pub fn exec_with(&self, process: &Process, io: Io, options: &crate::ExecOptions) -> Result<Exec, Error> {
        let status = self.status();
        match &self.inner.child {
            Some(child) if matches!(status, Status::Created | Status::Running) => {
                Exec::start(self, child, process, io, options)
            }
            _ => Err(self.wrong_state(status, "execute another process in it")),
        }
    }

    /// Stops all of its processes where they are, through its cgroup.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] unless it is created or running; [`Error::Host`] without a cgroup that can.
    pub fn pause(&self) -> Result<(), Error> {
        match self.status() {
            Status::Created | Status::Running => self.group("freezer")?.freeze(true),
            status => Err(self.wrong_state(status, "pause it")),
        }
    }

    /// Lets them go on.
    ///
    /// # Errors
    ///
    /// [`Error::WrongState`] unless it is paused.
    pub fn resume(&self) -> Result<(), Error> {
        match self.status() {
            Status::Paused => self.group("freezer")?.freeze(false),
            status => Err(self.wrong_state(status, "resume it")),
        }
    }

    /// Changes the limits that are given, and no others. Devices are left as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] when a controller is missing; [`Error::Step`] when the kernel refuses a value.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.group("cgroup")?.update(resources)
    }

    /// What it uses.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] without a cgroup; [`Error::Step`] when it cannot be read.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.group("cgroup")?.stats()
    }

    /// How often the kernel has ended one of its processes for want of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        self.inner.group.as_ref().map_or(0, Group::oom_kills)
    }

    /// The pids of its processes, in this process's pid namespace; without a cgroup, that of the first one.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] when the cgroup cannot be read.
    pub fn pids(&self) -> Result<Vec<u32>, Error> {
        match &self.inner.group {
            Some(group) => group.pids(),
            None => Ok(Some(self.pid()).filter(|pid| *pid != 0).into_iter().collect()),
        }
    }

    /// The directories of its cgroups on the host.
    #[must_use]
    pub fn cgroups(&self) -> Vec<std::path::PathBuf> {
        self.inner.group.as_ref().map(Group::directories).unwrap_or_default()
    }

    /// Ends every process of the container, waits for it, and removes its cgroups and its state. The Spec's poststop
    /// hooks run then, all of them; that one fails is logged.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] with what could not be removed; [`Error::WrongState`] while another process creates it.
    pub fn delete(self) -> Result<(), Error> {
        let status = self.status();
        if status == Status::Creating {
            return Err(self.wrong_state(status, "delete it"));
        }
        self.remove()
    }

    /// [`Container::delete`] in any state.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let inner = &self.inner;
        // Without the file there was no Spec yet, so no hook either.
        let spec = self.spec().ok();
        self.end()?;
        if let Some(group) = &inner.group {
            group.remove()?;
        }
        let record = self.record();
        inner.place.remove()?;
        if let Some(spec) = spec.filter(|spec| hook::any(spec, Point::Poststop) && record.init.is_some()) {
            let state = hook::state(&record, &spec, Status::Stopped, 0)?;
            for error in hook::run_all_outside(&spec, Point::Poststop, &state) {
                tracing::warn!(id = %inner.id, %error, "a poststop hook failed");
            }
        }
        Ok(())
    }

    pub(crate) fn record(&self) -> Record {
        self.inner.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
        let mut record = self.inner.record.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut record);
        self.inner.place.write(&record)
    }

    fn group(&self, what: &'static str) -> Result<&Group, Error> {
        self.inner.group.as_ref().ok_or_else(|| crate::cgroup::missing(what))
    }

    pub(crate) fn wrong_state(&self, status: Status, action: &'static str) -> Error {
        Error::WrongState { id: self.inner.id.to_string(), actual: status.as_str(), action }
    }

    pub(crate) fn group_fds(
        &self,
        beneath: &[crate::cgroup::Beneath],
    ) -> Result<Option<crate::cgroup::Joining>, Error> {
        self.inner.group.as_ref().map(|group| group.joining_beneath(beneath)).transpose()
    }

    pub(crate) fn init(&self, child: &Child) -> Result<OwnedFd, Error> {
        child.pidfd().try_clone_to_owned().map_err(|error| {
            Error::host_call(
                crate::Phase::Launch,
                "fcntl",
                "the pidfd of the container",
                crate::Errno::of(&error),
            )
        })
    }
}
