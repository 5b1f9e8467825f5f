//! Specs with safe defaults.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::Error;

/// Builds a [`Spec`] with docker's defaults: its capabilities, mounts, masked and read-only paths and namespaces.
#[derive(Clone, Debug, Default)]
pub struct SpecBuilder {
    args: Vec<String>,
    env: Vec<String>,
    cwd: Option<PathBuf>,
    hostname: Option<String>,
}

impl SpecBuilder {
    /// A container with the host's network and nothing to execute yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The program and its arguments. A program without a slash is looked up in the container's `PATH`.
    #[must_use]
    pub fn args<I: IntoIterator<Item: Into<String>>>(mut self, args: I) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// The environment, as `NAME=value`. Replaces what was set before; nothing is inherited from this process.
    #[must_use]
    pub fn env<I: IntoIterator<Item: Into<String>>>(mut self, env: I) -> Self {
        self.env = env.into_iter().map(Into::into).collect();
        self
    }

    /// The working directory; made when missing. Default `/`.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> Self {
        self.cwd = Some(cwd.into());
        self
    }

    /// The ids inside the container. Default: 0, 0 and no others.
    #[must_use]
    pub fn user(self, _uid: u32, _gid: u32, _groups: &[u32]) -> Self {
        self
    }

    /// The host name inside the container.
    #[must_use]
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// The network. Default: the host's.
    #[must_use]
    pub fn network(self, _network: Network) -> Self {
        self
    }

    /// Binds a file or directory of the host into the container (recursively, `nosuid,nodev`).
    #[must_use]
    pub fn mount_bind(self, _host: impl AsRef<Path>, _dest: impl AsRef<Path>, _read_only: bool) -> Self {
        self
    }

    /// An empty tmpfs at `dest`, with mount options such as `size=64m` and `mode=1777`.
    #[must_use]
    pub fn mount_tmpfs<I: IntoIterator<Item: Into<String>>>(self, _dest: impl AsRef<Path>, _options: I) -> Self {
        self
    }

    /// Makes the root filesystem read-only. Default: no.
    #[must_use]
    pub fn read_only(self, _yes: bool) -> Self {
        self
    }

    /// Runs in a new user namespace with these ids. Needed when this process is not root.
    #[must_use]
    pub fn user_mapping(self, _mapping: UserMapping) -> Self {
        self
    }

    /// The umask of the process. Default 0o022.
    #[must_use]
    pub fn umask(self, _umask: u32) -> Self {
        self
    }

    /// The Spec. Fields that this builder does not know can be changed in it.
    ///
    /// # Errors
    ///
    /// [`Error::Spec`] without args.
    pub fn build(self) -> Result<Spec, Error> {
        Err(Error::unsupported("SpecBuilder::build"))
    }
}

/// The network of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Network {
    /// The host's.
    #[default]
    Host,
    /// A private one that has only a loopback device, which is up.
    None,
    /// An existing network namespace, by the path of its file.
    Path(PathBuf),
}

/// Which ids exist in a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserMapping {
    pub(crate) uids: Vec<IdRange>,
    pub(crate) gids: Vec<IdRange>,
}

/// A range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first id inside.
    pub inside: u32,
    /// The first id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl UserMapping {
    /// One user and one group: they are 0 inside. Needs no preparation of the host.
    #[must_use]
    pub fn single(uid: u32, gid: u32) -> Self {
        let range = |outside| vec![IdRange { inside: 0, outside, count: 1 }];
        Self { uids: range(uid), gids: range(gid) }
    }

    /// Ranges of ids. As an ordinary user all but one's own id need `newuidmap` and `/etc/subuid`.
    #[must_use]
    pub fn ranges(uids: impl Into<Vec<IdRange>>, gids: impl Into<Vec<IdRange>>) -> Self {
        Self { uids: uids.into(), gids: gids.into() }
    }
}
