//! The runtime: a state directory and the means to start containers.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Spec;

use crate::child::Child;
use crate::container::Body;
use crate::launch::Helper;
use crate::orphan::Orphans;
use crate::plan::{Plan, Request};
use crate::rootfs::Tree;
use crate::state::{Identity, Place, Record, Stage};
use crate::{Container, ContainerId, Created, Error, Io, Rootfs};

/// Starts, finds and removes containers whose state lives in one directory.
///
/// Cheap to clone, `Send` and `Sync`; any number of threads and processes may use one state directory.
#[derive(Clone, Debug)]
pub struct Runtime {
    state_dir: Arc<Path>,
    helper: Helper,
    orphans: Orphans,
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
    /// # Errors
    ///
    /// [`Error::Step`] with the step that failed; [`Error::Exists`] when the id is taken; [`Error::Spec`] and
    /// [`Error::Unsupported`] before anything was made. Nothing is left behind in any case.
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
        let plan = Plan::create(request)?;
        let place = Place::new(&self.state_dir, id);
        place.claim(id)?;
        let claim = Claim { place: &place, armed: true };
        let mut record = Record::new(id, plan.namespaces, plan.maps.clone());
        place.write(&record)?;
        tracing::debug!(%id, steps = plan.len(), "launching the helper");
        let launched = self.helper.launch(plan)?;
        record.stage = Stage::Created;
        record.init = Identity::of(launched.child.pid());
        let body = Body {
            id: id.clone(),
            child: Arc::clone(&launched.child),
            place: place.clone(),
            record,
            orphans: self.orphans.clone(),
            helper: self.helper.clone(),
        };
        claim.keep();
        // From here on the handle's own `drop` cleans up.
        let created = Created::new(body, launched, options.kill_on_drop);
        created.write_record()?;
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
            Some(record) => Ok(container(id.clone(), place, record, &self.orphans)),
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
                found.push(container(id, place, record, &self.orphans));
            }
        }
        Ok(found)
    }

    /// Removes what containers left whose creator died before they were started. Started containers are left alone,
    /// running or stopped. Returns the ids of those removed.
    ///
    /// # Errors
    ///
    /// The first error met; the others are still removed.
    pub fn recover(&self) -> Result<Vec<ContainerId>, Error> {
        let mut removed = Vec::new();
        let mut failure = None;
        for (id, place) in self.places()? {
            let result = match place.read() {
                Ok(Some(record)) if record.stage == Stage::Started || record.creator.exists() => continue,
                Ok(Some(record)) => container(id.clone(), place, record, &self.orphans).delete(),
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

    /// Reaps the processes of dropped handles. Containers that run are left alone.
    pub fn shutdown(&self) {
        self.orphans.reap();
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
}

fn container(id: ContainerId, place: Place, record: Record, orphans: &Orphans) -> Container {
    let child = record.init.as_ref().and_then(|init| Child::open(init.pid).filter(|_| init.exists()));
    Container { id, place, record, child, orphans: orphans.clone() }
}

/// An id that is given back unless the container comes to be.
struct Claim<'a> {
    place: &'a Place,
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
            drop(self.place.remove());
        }
    }
}

/// Describes a [`Runtime`].
#[derive(Clone, Debug, Default)]
pub struct RuntimeBuilder {
    state_dir: Option<PathBuf>,
}

impl RuntimeBuilder {
    /// Where the state of containers is kept: best a directory on a tmpfs. It is made (mode 0700) when missing.
    #[must_use]
    pub fn state_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(dir.into());
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
        Ok(Runtime { state_dir: state_dir.into(), helper: Helper::load()?, orphans: Orphans::new()? })
    }
}

/// Settings of one [`Runtime::create_with`].
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    kill_on_drop: bool,
    trees: Vec<Arc<Tree>>,
    inject: Option<(u32, i32)>,
}

impl CreateOptions {
    /// Kill and remove the container when its [`Running`](crate::Running) handle is dropped. Default: no.
    ///
    /// A [`Created`] that is dropped without being started is always removed.
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

    /// Makes the step of this index fail with this error number, without executing it.
    #[cfg(feature = "testing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    #[must_use]
    pub fn fail_at(mut self, step: u32, errno: crate::Errno) -> Self {
        self.inject = Some((step, errno.raw()));
        self
    }
}
