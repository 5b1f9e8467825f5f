//! The runtime: a state directory and the means to start containers.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use oci_spec::runtime::{LinuxResources, Spec};

use crate::cgroup::{self, Group, Mounts, Place as GroupPlace};
use crate::child::Child;
use crate::container::Inner;
use crate::hook::{self, Point};
use crate::launch::{Helper, Wait, start_socket};
use crate::orphan::Orphans;
use crate::plan::{Plan, Request};
use crate::rootfs::Tree;
use crate::state::{Identity, Place, Record, Stage};
use crate::{
    Container, ContainerId, Created, Error, Io, Rootfs, Status, UserMapping, UserNamespace, idmap,
    network_device, seccomp, warning,
};

/// Starts, finds and removes containers whose state lives in one directory.
///
/// Cheap to clone, `Send` and `Sync`; any number of threads and processes may use one state directory.
#[derive(Clone, Debug)]
pub struct Runtime {
    state_dir: Arc<Path>,
    helper: Helper,
    orphans: Orphans,
    mounts: Arc<Mounts>,
    cgroup_parent: Option<Arc<Path>>,
}

impl Runtime {
    /// Starts describing a runtime.
    #[must_use]
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// Prepares a container up to the point where only the program remains to be executed.
    ///
    /// Blocks for some milliseconds.
    ///
    /// Devices of `linux.netDevices` come from the network namespace of the calling thread, and go to the container's
    /// when this succeeds; otherwise they come back, with their addresses. What was routed over them is not restored.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] with the step that failed; [`Error::Exists`] when the id is taken; [`Error::Spec`] and
    /// [`Error::Unsupported`] before anything was made; [`Error::Hook`]. Nothing is left behind in any case.
    pub fn create(&self, id: &ContainerId, spec: &Spec, rootfs: Rootfs, io: Io) -> Result<Created, Error> {
        self.create_with(id, spec, rootfs, io, &CreateOptions::default())
    }

    /// [`Runtime::create`] with options.
    ///
    /// # Errors
    ///
    /// Those of [`Runtime::create`].
    pub fn create_with(
        &self,
        id: &ContainerId,
        spec: &Spec,
        rootfs: Rootfs,
        io: Io,
        options: &CreateOptions,
    ) -> Result<Created, Error> {
        self.orphans.reap();
        let mut request = Request::new(spec, rootfs, io);
        request.inject = options.inject;
        request.trees.clone_from(&options.trees);
        request.no_pivot = options.no_pivot;
        request.check()?;
        let group = self.group(id, spec)?;

        let place = Place::new(&self.state_dir, id);
        place.claim(id)?;
        let mut claim = Claim { place: &place, group: None, armed: true };
        let mut record = Record::new(id);
        record.bundle = options.bundle.clone().unwrap_or_else(|| place.directory().to_path_buf());
        record.group = group.as_ref().map(|(group, _)| group.record().clone());
        place.write(&record)?;
        place.write_spec(spec)?;
        if let Some((group, required)) = group {
            claim.group = make(group, spec, required)?;
        }
        request.group = claim.group.as_ref().map(Group::joining).transpose()?;
        request.cgroups = claim.group.as_ref().map(|group| group.record().trees.clone()).unwrap_or_default();
        request.opened = idmap::prepare(&self.helper, spec, &request.privilege)?;
        if options.detachable {
            request.start = Some(start_socket(&place)?);
        }
        let mut plan = Plan::create(request)?;
        let warnings = std::mem::take(&mut plan.warnings);
        warning::log(&warnings);
        record.namespaces = plan.namespaces;
        record.maps.clone_from(&plan.maps);
        record.group = claim.group.as_ref().map(|group| group.record().clone());
        tracing::debug!(%id, steps = plan.len(), "launching the helper");
        let gate = plan.gate;
        let spec = Arc::new(spec.clone());
        let container = |record: Record, child: &Arc<Child>, group| {
            self.container(id.clone(), place.clone(), record, Some(Arc::clone(child)), group, Some(&spec))
        };
        let devices = network_device::of(&spec);
        // Until the container is there, what fails brings them back.
        let mut moved = None;
        let mut launched = self.helper.launch(plan, &mut |child, wait| {
            if let Wait::Network(namespace) = wait {
                moved = Some(network_device::Move::all(&devices, namespace.into())?);
                return Ok(());
            }
            record.init = Identity::of(child.pid());
            // Hooks may ask for the state.
            place.write(&record)?;
            // To the deprecated kind the container is created: they were once run by `start`.
            let state = hook::state(&record, &spec, Status::Created, child.pid())?;
            hook::run_outside(&spec, Point::Prestart, &state)?;
            let state = hook::state(&record, &spec, Status::Creating, child.pid())?;
            hook::run_outside(&spec, Point::CreateRuntime, &state)?;
            if hook::any(&spec, Point::CreateContainer) {
                let inside = container(record.clone(), child, None);
                hook::run_inside(&inside, &spec, Point::CreateContainer, &state)?;
            }
            Ok(())
        })?;
        if let Some(listener) = launched.listener.take() {
            let pid = launched.child.pid();
            let state = hook::state(&record, &spec, Status::Creating, pid)?;
            let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
            let handed = seccomp::hand_over(profile, &state, i32::try_from(pid).unwrap_or(0), &listener);
            if handed.is_err() {
                // Best effort, on the way out with that error.
                drop(launched.child.kill(crate::Signal::KILL));
                drop(launched.child.wait());
            }
            handed?;
        }
        record.stage = Stage::Created;
        record.init = Identity::of(launched.child.pid());
        record.start = options.detachable.then(|| launched.rest(gate));
        let container = container(record, &launched.child, claim.group.take());
        claim.keep();
        // From here on the handle's own `drop` cleans up.
        let created = Created::new(container, launched, options.kill_on_drop, options.detachable, warnings);
        created.inner.place.write(&created.record())?;
        if let Some(moved) = moved {
            moved.leave();
        }
        Ok(created)
    }

    /// A container of this state directory, whoever started it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchContainer`]; [`Error::StateFile`] and [`Error::StateFormat`].
    pub fn load(&self, id: &ContainerId) -> Result<Container, Error> {
        let place = Place::new(&self.state_dir, id);
        match place.read()? {
            Some(record) => Ok(self.found(id.clone(), place, record)),
            None => Err(Error::NoSuchContainer { id: id.to_string() }),
        }
    }

    /// All containers of this state directory, by id.
    ///
    /// # Errors
    ///
    /// [`Error::StateFile`] when the directory cannot be read; [`Error::StateFormat`].
    pub fn list(&self) -> Result<Vec<Container>, Error> {
        let mut found = Vec::new();
        for (id, place) in self.places()? {
            if let Some(record) = place.read()? {
                found.push(self.found(id, place, record));
            }
        }
        Ok(found)
    }

    /// Removes what containers left whose creator died before they were started. Started containers are left alone,
    /// running or stopped, and so are those that were detached. Returns the ids of those removed.
    ///
    /// # Errors
    ///
    /// The first error met; the others are still removed.
    pub fn recover(&self) -> Result<Vec<ContainerId>, Error> {
        let mut removed = Vec::new();
        let mut failure = None;
        for (id, place) in self.places()? {
            let result = match place.read() {
                Ok(Some(record)) if record.is_settled() || record.creator.exists() => continue,
                Ok(Some(record)) => self.found(id.clone(), place, record).remove(),
                // Claimed and not written: the creator is either about to write it or dead; age tells them apart.
                Ok(None) if place.is_young() => continue,
                Ok(None) => place.remove(),
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => removed.push(id),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(removed), Err)
    }

    /// A user namespace with these ids, in which files can be worked on that are not the caller's.
    ///
    /// # Errors
    ///
    /// [`Error::Spec`] for ranges that are none; [`Error::Host`] and [`Error::Step`] when the host does not let this
    /// process map the ids.
    pub fn user_namespace(&self, mapping: &UserMapping) -> Result<UserNamespace, Error> {
        UserNamespace::make(self.helper.clone(), mapping)
    }

    /// Reaps the processes of dropped handles, ends the resident helper, and removes the cgroup directories that hold
    /// this runtime's containers, if they are empty. Containers that run are left alone. The runtime can be used on.
    pub fn shutdown(&self) {
        self.orphans.reap();
        self.helper.shutdown();
        for tree in self.cgroup_parent.iter().flat_map(|parent| {
            let place = GroupPlace::of(parent).ok();
            self.mounts.trees.iter().filter_map(move |tree| Some(place.as_ref()?.directory(tree)))
        }) {
            // Somebody else's containers may be there.
            drop(std::fs::remove_dir(tree));
        }
    }

    fn places(&self) -> Result<Vec<(ContainerId, Place)>, Error> {
        let failed = |source| Error::StateFile { action: "read", path: self.state_dir.to_path_buf(), source };
        let mut places = Vec::new();
        for entry in std::fs::read_dir(&self.state_dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            // What is not an id is not ours.
            if let Some(id) = name.to_str().and_then(|name| name.parse::<ContainerId>().ok()) {
                let place = Place::new(&self.state_dir, &id);
                places.push((id, place));
            }
        }
        places.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(places)
    }

    fn found(&self, id: ContainerId, place: Place, record: Record) -> Container {
        let child = record.init.as_ref().and_then(|init| Child::open(init.pid).filter(|_| init.exists()));
        let group = record.group.clone().map(Group::load);
        self.container(id, place, record, child.map(Arc::new), group, None)
    }

    fn container(
        &self,
        id: ContainerId,
        place: Place,
        record: Record,
        child: Option<Arc<Child>>,
        group: Option<Group>,
        spec: Option<&Arc<Spec>>,
    ) -> Container {
        let inner = Inner {
            id,
            place,
            record: Mutex::new(record),
            spec: spec.map_or_else(OnceLock::new, |spec| Arc::clone(spec).into()),
            child,
            group,
            orphans: self.orphans.clone(),
            helper: self.helper.clone(),
        };
        Container { inner: Arc::new(inner) }
    }

    /// The groups a Spec gets, and whether it cannot do without.
    fn group(&self, id: &ContainerId, spec: &Spec) -> Result<Option<(Group, bool)>, Error> {
        let linux = spec.linux().as_ref();
        let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let limits = resources.is_some_and(cgroup::has_limits);
        let place = match (path.filter(|path| !path.as_os_str().is_empty()), &self.cgroup_parent) {
            (Some(path), _) => GroupPlace::of(path)?,
            (None, Some(parent)) => GroupPlace::of(&parent.join(id.as_str()))?,
            (None, None) if limits => GroupPlace::of(Path::new(id.as_str()))?,
            (None, None) => return Ok(None),
        };
        if self.mounts.trees.is_empty() {
            return if limits { Err(cgroup::missing("linux.resources")) } else { Ok(None) };
        }
        Ok(Some((Group::at(&self.mounts, &place, resources), limits)))
    }
}

/// Makes the groups. An ordinary user may not, most of the time: that is an error only when limits are asked for.
fn make(group: Group, spec: &Spec, required: bool) -> Result<Option<Group>, Error> {
    let none = LinuxResources::default();
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()).unwrap_or(&none);
    match group.make(resources) {
        Ok(()) => Ok(Some(group)),
        Err(error) if cgroup::is_denied(&error) && !rustix::process::geteuid().is_root() => {
            if required {
                return Err(cgroup::missing("linux.resources, which this user may not make"));
            }
            tracing::debug!(%error, "a container without a cgroup");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An id that is given back, with its groups, unless the container comes to be.
struct Claim<'a> {
    place: &'a Place,
    group: Option<Group>,
    armed: bool,
}

impl Claim<'_> {
    fn keep(mut self) {
        self.armed = false;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.armed {
            // Best effort, on the way out with another error: `recover` finds what stays.
            if let Some(group) = &self.group {
                drop(group.kill(crate::Signal::KILL));
                drop(group.remove());
            }
            drop(self.place.remove());
        }
    }
}

/// Describes a [`Runtime`].
#[derive(Clone, Debug)]
pub struct RuntimeBuilder {
    state_dir: Option<PathBuf>,
    cgroup_parent: Option<PathBuf>,
    resident: bool,
}

impl Default for RuntimeBuilder {
    fn default() -> Self {
        Self { state_dir: None, cgroup_parent: Some("/cooperage".into()), resident: true }
    }
}

impl RuntimeBuilder {
    /// Where the state of containers is kept: best a directory on a tmpfs. It is made (mode 0700) when missing.
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
        self
    }

    /// Where containers have their cgroups whose Spec does not say (`linux.cgroupsPath`, whose form this has): each in
    /// a directory of its id. Default `/cooperage`. With none, such containers have no cgroup unless they have limits.
    #[must_use]
    pub fn cgroup_parent(mut self, parent: Option<PathBuf>) -> Self {
        self.cgroup_parent = parent;
        self
    }

    /// Keeps the helper program running between containers, as one small process that ends with this one or with
    /// [`Runtime::shutdown`]. Default: yes. Without, each container starts it anew, which takes longer.
    #[must_use]
    pub fn resident_helper(mut self, yes: bool) -> Self {
        self.resident = yes;
        self
    }

    /// Makes the runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Spec`] without a state directory; [`Error::StateFile`] when it cannot be made; [`Error::Step`] when
    /// the helper cannot be put into memory.
    pub fn build(self) -> Result<Runtime, Error> {
        let state_dir = self.state_dir.ok_or_else(|| Error::spec("state_dir", "not given"))?;
        let made = std::fs::DirBuilder::new().mode(0o700).recursive(true).create(&state_dir);
        made.map_err(|source| Error::StateFile { action: "make", path: state_dir.clone(), source })?;
        Ok(Runtime {
            state_dir: state_dir.into(),
            helper: Helper::load(self.resident)?,
            orphans: Orphans::new()?,
            mounts: Arc::new(Mounts::of_this_process()),
            cgroup_parent: self.cgroup_parent.map(Into::into),
        })
    }
}

/// Settings of one [`Runtime::create_with`].
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    kill_on_drop: bool,
    trees: Vec<Arc<Tree>>,
    detachable: bool,
    no_pivot: bool,
    bundle: Option<PathBuf>,
    inject: Option<(u32, i32)>,
}

impl CreateOptions {
    /// Kill and remove the container when its [`Running`](crate::Running) handle is dropped. Default: no.
    ///
    /// A [`Created`] that is dropped without being started or detached is always removed.
    #[must_use]
    pub fn kill_on_drop(mut self, yes: bool) -> Self {
        self.kill_on_drop = yes;
        self
    }

    /// Mounts a tree at `destination`, before those of the Spec's mounts that go below it. An overlay with an upper
    /// directory takes writes there; with `read_only` nothing takes writes.
    ///
    /// This is what a Spec's mounts cannot say: an overlay of any number of directories, given by descriptors.
    #[must_use]
    pub fn tree(mut self, destination: impl Into<PathBuf>, source: Rootfs, read_only: bool) -> Self {
        self.trees.push(Arc::new(Tree { destination: destination.into(), source, read_only }));
        self
    }

    /// Let another process start it: see [`Created::detach`]. Default: no; the container then ends when its creator
    /// does before it was started.
    #[must_use]
    pub fn detachable(mut self, yes: bool) -> Self {
        self.detachable = yes;
        self
    }

    /// Do without `pivot_root(2)`, which a root filesystem in the kernel's own initial one (`rootfs`) does not allow.
    /// Weaker: what escapes the new root finds the host's. Default: no.
    #[must_use]
    pub fn no_pivot(mut self, yes: bool) -> Self {
        self.no_pivot = yes;
        self
    }

    /// The directory of the bundle, which hooks and `state` are told. Default: the container's state directory.
    #[must_use]
    pub fn bundle(mut self, bundle: impl Into<PathBuf>) -> Self {
        self.bundle = Some(bundle.into());
        self
    }

    /// Makes the step of this index wait for 400 ms before it is done.
    #[cfg(feature = "testing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    #[must_use]
    pub fn pause_at(mut self, step: u32) -> Self {
        self.inject = Some((step, i32::try_from(crate::plan::wire::PAUSE).unwrap_or(0)));
        self
    }

    /// Makes the step of this index fail with this error number, without executing it.
    #[cfg(feature = "testing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    #[must_use]
    pub fn fail_at(mut self, step: u32, errno: crate::Errno) -> Self {
        self.inject = Some((step, errno.raw()));
        self
    }
}
