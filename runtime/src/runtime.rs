//! The runtime: a state directory and the means to start containers.

use std::path::PathBuf;

use oci_spec::runtime::Spec;

use crate::{Container, ContainerId, Created, Error, Io, Rootfs};

/// Starts, finds and removes containers whose state lives in one directory.
///
/// Cheap to clone, `Send` and `Sync`; any number of threads and processes may use one state directory.
#[derive(Clone, Debug)]
pub struct Runtime {
    state_dir: PathBuf,
}

impl Runtime {
    /// Starts describing a runtime.
    #[must_use]
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// Prepares a container up to the point where only the program remains to be executed.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] with the step that failed; [`Error::Exists`] when the id is taken; [`Error::Spec`] and
    /// [`Error::Unsupported`] before anything was made. Nothing is left behind in any case.
    pub fn create(&self, id: &ContainerId, spec: &Spec, rootfs: Rootfs, io: Io) -> Result<Created, Error> {
        self.create_with(id, spec, rootfs, io, CreateOptions::default())
    }

    /// [`Runtime::create`] with options.
    ///
    /// # Errors
    ///
    /// Those of [`Runtime::create`].
    pub fn create_with(
        &self,
        _id: &ContainerId,
        _spec: &Spec,
        _rootfs: Rootfs,
        _io: Io,
        _options: CreateOptions,
    ) -> Result<Created, Error> {
        Err(Error::unsupported("create"))
    }

    /// A container of this state directory, whoever started it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchContainer`]; [`Error::StateFile`] and [`Error::StateFormat`].
    pub fn load(&self, id: &ContainerId) -> Result<Container, Error> {
        Err(Error::NoSuchContainer { id: id.to_string() })
    }

    /// All containers of this state directory, by id.
    ///
    /// # Errors
    ///
    /// [`Error::StateFile`] when the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Container>, Error> {
        Err(Error::unsupported("list"))
    }

    /// Removes what containers left whose creator died: unfinished ones, and stopped ones nobody deleted.
    /// Running containers are left alone.
    ///
    /// # Errors
    ///
    /// The first error met; the others are still removed.
    pub fn recover(&self) -> Result<Vec<ContainerId>, Error> {
        Err(Error::unsupported("recover"))
    }

    /// Ends the resident helper, if there is one, and reaps the processes of dropped handles.
    pub fn shutdown(&self) {}
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
    /// [`Error::Spec`] without a state directory; [`Error::StateFile`] when it cannot be made.
    pub fn build(self) -> Result<Runtime, Error> {
        let state_dir = self.state_dir.ok_or_else(|| Error::spec("state_dir", "not given"))?;
        Ok(Runtime { state_dir })
    }
}

/// Settings of one [`Runtime::create_with`].
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    kill_on_drop: bool,
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
}
