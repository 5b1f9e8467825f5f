//! What the host allows.

use std::fs;

use crate::cgroup::Mounts;
use crate::launch::Helper;
use crate::plan::{Plan, Privilege};
use crate::{Error, Hint, IdRange, hint, userns};

/// Facts about the host that decide what a runtime can do on it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Host {
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// The effective user id of this process.
    pub euid: u32,
    /// Why user namespaces cannot be made by this process; `Ok` when they can.
    pub user_namespaces: Result<(), Hint>,
    /// Why overlay cannot be mounted by this process (in a user namespace unless root); `Ok` when it can.
    pub overlay: Result<(), Hint>,
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
    /// Looks at the host. Makes nothing, except for two short-lived processes in namespaces of their own.
    #[must_use]
    pub fn probe() -> Self {
        let privilege = Privilege::of_this_process();
        let single = |outside| vec![IdRange { inside: 0, outside, count: 1 }];
        let maps = userns::IdMaps::new(
            single(privilege.euid),
            single(privilege.egid),
            privilege.euid,
            privilege.egid,
            privilege.is_privileged(),
        );
        let helper = Helper::load(false);
        let attempt = |overlay: bool| match (&helper, &maps) {
            (Ok(helper), Ok(maps)) => {
                let maps = (!overlay || privilege.euid != 0).then(|| maps.clone());
                Plan::probe(maps, overlay)
                    .and_then(|plan| helper.launch(plan, &mut |_, _| Ok(())))
                    .and_then(|launched| launched.child.wait().map(drop))
            }
            (Err(error), _) | (_, Err(error)) => Err(Error::unsupported(error.to_string())),
        };
        let user_namespaces = attempt(false).map_err(|error| {
            explain(
                &error,
                "user namespaces cannot be made here",
                "ask the operator to allow them, or run as root",
            )
        });
        let overlay = attempt(true).map_err(|error| {
            explain(&error, "overlay cannot be mounted here", "use Linux 5.11 or newer, or run as root")
        });
        let user = user_name(privilege.euid);
        Self {
            kernel: table("/proc/sys/kernel/osrelease").trim().to_owned(),
            euid: privilege.euid,
            user_namespaces,
            overlay,
            seccomp: fs::metadata("/proc/sys/kernel/seccomp/actions_avail").is_ok(),
            cgroups: Mounts::of_this_process().setup(),
            subuid: ranges("/etc/subuid", user.as_deref(), privilege.euid),
            subgid: ranges("/etc/subgid", user.as_deref(), privilege.euid),
            newuidmap: userns::programs_installed(),
        }
    }
}

fn explain(error: &Error, fact: &'static str, remedy: &'static str) -> Hint {
    if let Some(hint) = error.hint().cloned().or_else(hint::user_namespaces) {
        return hint;
    }
    match error.errno() {
        Some(errno) => Hint::new(format!("{fact}: {error}: {errno}"), remedy),
        None => Hint::new(format!("{fact}: {error}"), remedy),
    }
}

/// The largest account or subordinate-id file that is read, in bytes.
const MAX_TABLE: usize = 1 << 20;

fn table(path: &str) -> String {
    fs::read_to_string(path).ok().filter(|text| text.len() <= MAX_TABLE).unwrap_or_default()
}

fn user_name(uid: u32) -> Option<String> {
    table("/etc/passwd").lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>() == Ok(uid)).then(|| name.to_owned())
    })
}

fn ranges(path: &str, user: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (Some(owner) == user || owner == number).then_some(range)
    };
    table(path).lines().filter_map(parse).collect()
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
