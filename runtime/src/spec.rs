//! Specs with safe defaults.

mod default;
mod mapping;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Linux, LinuxCapabilities, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace,
    LinuxNamespaceType, LinuxPids, LinuxResources, LinuxSeccomp, Mount, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, Root, Spec, User,
};

use crate::Error;
use crate::plan::{self, Privilege};
use crate::seccomp::default_profile;

pub use mapping::{IdRange, UserMapping};

/// Builds a [`Spec`] with docker's defaults: its capabilities, mounts, masked and read-only paths and namespaces.
///
/// ```
/// # use runtime::{Network, SpecBuilder};
/// let spec = SpecBuilder::new()
///     .args(["/bin/sh", "-c", "id"])
///     .env(["PATH=/usr/bin:/bin", "HOME=/root"])
///     .cwd("/work")
///     .network(Network::None)
///     .build()?;
/// assert_eq!(spec.hostname(), &None);
/// # Ok::<(), runtime::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct SpecBuilder {
    args: Vec<String>,
    env: Vec<String>,
    cwd: Option<PathBuf>,
    user: User,
    hostname: Option<String>,
    network: Network,
    mounts: Vec<Mount>,
    read_only: bool,
    no_new_privileges: bool,
    privileged: bool,
    mapping: Option<UserMapping>,
    rlimits: Vec<(PosixRlimitType, u64, u64)>,
    resources: Option<LinuxResources>,
    seccomp: Filter,
}

/// Which filter of system calls a container gets.
#[derive(Clone, Debug, Default)]
enum Filter {
    #[default]
    Docker,
    None,
    Own(Box<LinuxSeccomp>),
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
    pub fn user(mut self, uid: u32, gid: u32, groups: &[u32]) -> Self {
        self.user.set_uid(uid).set_gid(gid).set_additional_gids(Some(groups.to_vec()));
        self
    }

    /// The umask of the process. Default 0o022.
    #[must_use]
    pub fn umask(mut self, umask: u32) -> Self {
        self.user.set_umask(Some(umask));
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
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Binds a file or directory of the host into the container (recursively, `nosuid,nodev`). It is read-only where the host's
    /// mount is, too.
    #[must_use]
    pub fn mount_bind(self, host: impl AsRef<Path>, dest: impl AsRef<Path>, read_only: bool) -> Self {
        let mut options = vec!["rbind", "rprivate", "rnosuid", "rnodev"];
        if read_only {
            options.push("rro");
        }
        self.mount(default::mount(dest.as_ref(), "bind", host.as_ref(), &options))
    }

    /// An empty tmpfs at `dest`, with mount options such as `size=64m` and `mode=1777`.
    #[must_use]
    pub fn mount_tmpfs<I: IntoIterator<Item: Into<String>>>(
        self,
        dest: impl AsRef<Path>,
        options: I,
    ) -> Self {
        let options: Vec<String> = options.into_iter().map(Into::into).collect();
        let options: Vec<&str> =
            ["nosuid", "nodev"].into_iter().chain(options.iter().map(String::as_str)).collect();
        self.mount(default::mount(dest.as_ref(), "tmpfs", Path::new("tmpfs"), &options))
    }

    /// Any other mount, after the default ones and those added before.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Makes the root filesystem read-only. Default: no.
    #[must_use]
    pub fn read_only(mut self, yes: bool) -> Self {
        self.read_only = yes;
        self
    }

    /// All capabilities that this process can give, no seccomp filter unless one is asked for, and nothing of `/proc` and
    /// `/sys` hidden. Without a user namespace that is the host's root in all but name.
    #[must_use]
    pub fn privileged(mut self, yes: bool) -> Self {
        self.privileged = yes;
        self
    }

    /// Keeps set-user-id programs from giving privileges. Default: no, as docker does.
    #[must_use]
    pub fn no_new_privileges(mut self, yes: bool) -> Self {
        self.no_new_privileges = yes;
        self
    }

    /// Adds a resource limit of the process: soft and hard.
    #[must_use]
    pub fn rlimit(mut self, kind: PosixRlimitType, soft: u64, hard: u64) -> Self {
        self.rlimits.push((kind, soft, hard));
        self
    }

    /// The filter of system calls. Default: docker's, for the capabilities of the process
    /// ([`seccomp::default_profile`](crate::seccomp::default_profile)); with none, all calls are allowed.
    #[must_use]
    pub fn seccomp(mut self, profile: Option<LinuxSeccomp>) -> Self {
        self.seccomp = profile.map_or(Filter::None, |profile| Filter::Own(Box::new(profile)));
        self
    }

    /// The most memory it may use, in bytes; as much swap again. Needs the right to make cgroups.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        let mut memory = self.limits().memory().unwrap_or_default();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        memory.set_limit(Some(bytes)).set_swap(Some(bytes.saturating_mul(2)));
        self.limits().set_memory(Some(memory));
        self
    }

    /// How much processor time it may use, in thousandths of one processor. Needs the right to make cgroups.
    #[must_use]
    pub fn cpu_limit(mut self, thousandths: u32) -> Self {
        /// The kernel's default, in microseconds.
        const PERIOD: u32 = 100_000;
        let mut cpu = self.limits().cpu().clone().unwrap_or_default();
        let quota = i64::from(thousandths) * i64::from(PERIOD) / 1000;
        cpu.set_period(Some(u64::from(PERIOD))).set_quota(Some(quota.max(1000)));
        self.limits().set_cpu(Some(cpu));
        self
    }

    /// How many processes and threads there may be in it. Needs the right to make cgroups.
    #[must_use]
    pub fn pids_limit(mut self, count: u32) -> Self {
        let mut pids = LinuxPids::default();
        pids.set_limit(i64::from(count));
        self.limits().set_pids(Some(pids));
        self
    }

    fn limits(&mut self) -> &mut LinuxResources {
        self.resources.get_or_insert_with(LinuxResources::default)
    }

    /// Limits of the container's cgroup; replaces those given before.
    #[must_use]
    pub fn resources(mut self, resources: LinuxResources) -> Self {
        self.resources = Some(resources);
        self
    }

    /// Runs in a new user namespace with these ids. Needed when this process is not root.
    #[must_use]
    pub fn user_mapping(mut self, mapping: UserMapping) -> Self {
        self.mapping = Some(mapping);
        self
    }

    /// The Spec. Fields that this builder does not know can be changed in it.
    ///
    /// # Errors
    ///
    /// [`Error::Spec`] without args.
    pub fn build(self) -> Result<Spec, Error> {
        if self.args.is_empty() {
            return Err(Error::spec("process.args", "empty"));
        }
        let own_network = self.network == Network::None;
        let mut mounts = default::mounts(self.mapping.as_ref(), own_network);
        mounts.extend(self.mounts);

        let rlimits: Result<Vec<PosixRlimit>, _> = self
            .rlimits
            .into_iter()
            .map(|(kind, soft, hard)| PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build())
            .collect();
        let rlimits = rlimits.map_err(|error| Error::spec("process.rlimits", error.to_string()))?;

        let root = self.user.uid() == 0;
        let all = self
            .privileged
            .then(|| plan::capabilities_of(Privilege::of_this_process().available(self.mapping.is_some())));
        let seccomp = match self.seccomp {
            Filter::Docker if self.privileged => None,
            Filter::Docker => Some(default_profile(&default::CAPABILITIES)),
            Filter::None => None,
            Filter::Own(profile) => Some(*profile),
        };

        let mut process = Process::default();
        process
            .set_terminal(Some(false))
            .set_args(Some(self.args))
            .set_env(Some(self.env))
            .set_cwd(self.cwd.unwrap_or_else(|| PathBuf::from("/")))
            .set_capabilities(Some(capabilities(root, all)))
            .set_user(self.user)
            .set_rlimits((!rlimits.is_empty()).then_some(rlimits))
            .set_no_new_privileges(Some(self.no_new_privileges));

        let mut linux = Linux::default();
        linux
            .set_namespaces(Some(namespaces(&self.network, self.mapping.is_some())))
            .set_masked_paths((!self.privileged).then(|| default::MASKED.map(str::to_owned).to_vec()))
            .set_readonly_paths((!self.privileged).then(|| default::READ_ONLY.map(str::to_owned).to_vec()))
            .set_resources(self.resources)
            .set_devices(None)
            .set_seccomp(seccomp);
        if let Some(mapping) = &self.mapping {
            linux
                .set_uid_mappings(Some(id_mappings(&mapping.uids)?))
                .set_gid_mappings(Some(id_mappings(&mapping.gids)?));
        }

        let mut root = Root::default();
        // The root filesystem is given to `create`; the Spec's path is not used.
        root.set_path("rootfs".into()).set_readonly(Some(self.read_only));
        let mut spec = Spec::default();
        spec.set_version("1.2.0".to_owned())
            .set_root(Some(root))
            .set_mounts(Some(mounts))
            .set_process(Some(process))
            .set_hostname(self.hostname)
            .set_linux(Some(linux));
        Ok(spec)
    }
}

/// Docker's: another user than root gets none, but may gain them through set-user-id programs.
fn capabilities(root: bool, all: Option<Capabilities>) -> LinuxCapabilities {
    let set = all.unwrap_or_else(|| default::CAPABILITIES.into_iter().collect());
    let held = if root { set.clone() } else { Capabilities::new() };
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set))
        .set_effective(Some(held.clone()))
        .set_permitted(Some(held))
        .set_inheritable(None)
        .set_ambient(None);
    capabilities
}

fn namespaces(network: &Network, user: bool) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network as Net, Pid, User, Uts};
    let one = |typ, path: Option<PathBuf>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ).set_path(path);
        namespace
    };
    let mut list: Vec<_> = [Mount, Pid, Ipc, Uts, Cgroup].into_iter().map(|typ| one(typ, None)).collect();
    match network {
        Network::Host => {}
        Network::None => list.push(one(Net, None)),
        Network::Path(path) => list.push(one(Net, Some(path.clone()))),
    }
    if user {
        list.push(one(User, None));
    }
    list
}

fn id_mappings(ranges: &[IdRange]) -> Result<Vec<LinuxIdMapping>, Error> {
    let one = |range: &IdRange| {
        let builder = LinuxIdMappingBuilder::default();
        builder.container_id(range.inside).host_id(range.outside).size(range.count).build()
    };
    let built: Result<_, _> = ranges.iter().map(one).collect();
    built.map_err(|error| Error::spec("linux.uidMappings", error.to_string()))
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
