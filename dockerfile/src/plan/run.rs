//! RUN: the process and what it sees.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::Input;
use crate::env::Env;

/// A process to run over a root file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Exec {
    /// The command; the shell form has its shell in front.
    pub args: Vec<String>,
    /// ENV and ARG as the process sees them.
    pub env: Env,
    /// Names of the declared ARGs in the order of their first declaration, whether they have a value or not.
    pub declared_args: Vec<String>,
    /// Absolute directory to start in.
    pub cwd: String,
    /// `user[:group]`, names or ids; empty for root.
    pub user: String,
    /// Which network it gets.
    pub network: Network,
    /// What it may do.
    pub security: Security,
    /// What is mounted, in the order of the file.
    pub mounts: Vec<Mount>,
    /// CDI devices.
    pub devices: Vec<Device>,
    /// Proxy variables from the build arguments: in the environment, not in the cache key.
    pub proxy: BTreeMap<String, String>,
    /// Lines for `/etc/hosts`.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// The host name, when the caller fixed one.
    pub hostname: Option<String>,
    /// Size of `/dev/shm` in bytes, when the caller fixed one.
    pub shm_size: Option<u64>,
    /// Whether the caller asked not to use the cache for this step.
    pub ignore_cache: bool,
}

/// The network of a RUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// What the engine gives by default.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// The confinement of a RUN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// The ordinary one.
    #[default]
    Sandbox,
    /// All capabilities, no seccomp profile.
    Insecure,
}

/// `RUN --device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Device {
    /// The CDI name.
    pub name: String,
    /// Whether the step fails without it.
    pub required: bool,
}

/// `RUN --mount`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Mount {
    /// Absolute path in the container. For a secret that is only a variable, empty.
    pub target: String,
    /// Whether it cannot be written.
    pub readonly: bool,
    /// What it is.
    pub kind: MountKind,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
#[non_exhaustive]
pub enum MountKind {
    /// A tree; writes are thrown away.
    Bind {
        /// Which tree.
        from: Input,
        /// Absolute path in it.
        source: String,
    },
    /// A directory that outlives the build.
    Cache {
        /// The name under which it is kept.
        id: String,
        /// Who may use it at the same time.
        sharing: Sharing,
        /// Initial content.
        from: Input,
        /// Absolute path in the initial content.
        source: String,
        /// Owner and mode of the directory, when given.
        owner: Option<CacheOwner>,
    },
    /// Memory.
    Tmpfs {
        /// Size in bytes.
        size: Option<u64>,
    },
    /// A file or variable that never reaches a layer.
    Secret {
        /// The caller's name for it.
        id: String,
        /// The variable that holds it, when asked for.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Permission bits of the file.
        mode: u32,
        /// Owner of the file.
        uid: u32,
        /// Group of the file.
        gid: u32,
    },
    /// The socket of an ssh agent.
    Ssh {
        /// The caller's name for it; empty for `default`.
        id: String,
        /// Whether the step fails without it.
        required: bool,
        /// Permission bits of the socket.
        mode: u32,
        /// Owner of the socket.
        uid: u32,
        /// Group of the socket.
        gid: u32,
    },
    /// A directory with one file from the Dockerfile (a heredoc that begins with `#!`).
    Inline {
        /// The file's name.
        name: String,
        /// The file's content.
        data: String,
        /// Permission bits of the file.
        mode: u32,
    },
}

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// Nobody else: a second user gets a new directory.
    Private,
    /// Nobody else: a second user waits.
    Locked,
}

/// Owner and mode of a cache directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CacheOwner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Mount {
    /// The tree that it shows, if it shows one.
    pub const fn from(&self) -> Option<Input> {
        match &self.kind {
            MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => Some(*from),
            _ => None,
        }
    }
}
