//! Id maps of user namespaces, and how they get written.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::{Errno, Error, Hint, IdRange, Phase};

/// The id maps of a new user namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdMaps {
    pub(crate) uids: Vec<IdRange>,
    pub(crate) gids: Vec<IdRange>,
    pub(crate) way: Way,
}

/// Who is allowed to write the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Way {
    /// This process, for any ids: it has CAP_SETUID and CAP_SETGID.
    Privileged,
    /// This process, for its own ids alone; `setgroups(2)` is given up for it.
    OwnIds,
    /// The set-user-id programs `newuidmap` and `newgidmap`, within `/etc/subuid` and `/etc/subgid`.
    Programs,
}

/// Where the programs of the package `uidmap` are.
const NEWUIDMAP: [&str; 2] = ["/usr/bin/newuidmap", "/bin/newuidmap"];
const NEWGIDMAP: [&str; 2] = ["/usr/bin/newgidmap", "/bin/newgidmap"];

/// The kernel's limit on the lines of a map.
const MAX_RANGES: usize = 340;

fn installed(candidates: [&'static str; 2]) -> Option<&'static str> {
    candidates.into_iter().find(|path| Path::new(path).exists())
}

/// Whether both programs are installed.
pub(crate) fn programs_installed() -> bool {
    installed(NEWUIDMAP).is_some() && installed(NEWGIDMAP).is_some()
}

/// The remedy for having only one id.
pub(crate) fn more_ids_hint() -> Hint {
    Hint::new(
        "only the caller's own ids are mapped",
        "install uidmap, give the user a range in /etc/subuid and /etc/subgid, and map it; or run as root",
    )
}

impl IdMaps {
    /// Chooses the way to write the maps.
    pub(crate) fn new(
        uids: Vec<IdRange>,
        gids: Vec<IdRange>,
        euid: u32,
        egid: u32,
        privileged: bool,
    ) -> Result<Self, Error> {
        for (field, ranges) in [("linux.uidMappings", &uids), ("linux.gidMappings", &gids)] {
            if ranges.is_empty() || ranges.len() > MAX_RANGES {
                return Err(Error::spec(field, format!("1 to {MAX_RANGES} ranges are needed")));
            }
            if ranges.iter().any(|range| {
                range.count == 0
                    || range.inside.checked_add(range.count).is_none()
                    || range.outside.checked_add(range.count).is_none()
            }) {
                return Err(Error::spec(field, "a range is empty or passes the largest id"));
            }
        }
        let own = |ranges: &[IdRange], id| matches!(ranges, [one] if one.count == 1 && one.outside == id);
        let way = if privileged {
            Way::Privileged
        } else if own(&uids, euid) && own(&gids, egid) {
            Way::OwnIds
        } else if programs_installed() {
            Way::Programs
        } else {
            return Err(Error::Host {
                what: "newuidmap and newgidmap, which map more ids than the caller's own".to_owned(),
                hint: Hint::new("the package uidmap is not installed", "install it, or map a single id"),
            });
        };
        Ok(Self { uids, gids, way })
    }

    /// Whether `setgroups(2)` will be denied inside.
    pub(crate) fn denies_setgroups(&self) -> bool {
        self.way == Way::OwnIds
    }

    /// Whether a user id exists inside.
    pub(crate) fn has_uid(&self, id: u32) -> bool {
        contains(&self.uids, id)
    }

    /// Whether a group id exists inside.
    pub(crate) fn has_gid(&self, id: u32) -> bool {
        contains(&self.gids, id)
    }

    /// Writes the maps of the user namespace in which the process `pid` is.
    pub(crate) fn write(&self, pid: u32) -> Result<(), Error> {
        match self.way {
            Way::Programs => {
                run(NEWUIDMAP, pid, &self.uids, "/etc/subuid")?;
                run(NEWGIDMAP, pid, &self.gids, "/etc/subgid")
            }
            Way::Privileged | Way::OwnIds => {
                if self.denies_setgroups() {
                    write_file(pid, "setgroups", "deny")?;
                }
                write_file(pid, "uid_map", &text(&self.uids))?;
                write_file(pid, "gid_map", &text(&self.gids))
            }
        }
    }
}

fn contains(ranges: &[IdRange], id: u32) -> bool {
    ranges.iter().any(|range| id >= range.inside && id - range.inside < range.count)
}

fn text(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for range in ranges {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.count);
    }
    text
}

fn write_file(pid: u32, name: &str, content: &str) -> Result<(), Error> {
    let path = format!("/proc/{pid}/{name}");
    // One write: the kernel takes a map once and whole.
    OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|error| {
            let failure = Error::host_call(Phase::Namespaces, "write", path, Errno::of(&error));
            if error.raw_os_error() == Some(libc::EPERM) {
                failure.with_hint(more_ids_hint())
            } else {
                failure
            }
        })
}

fn run(candidates: [&'static str; 2], pid: u32, ranges: &[IdRange], table: &str) -> Result<(), Error> {
    let [name, _] = candidates;
    let path = installed(candidates).unwrap_or(name);
    let mut command = Command::new(path);
    command
        .arg(pid.to_string())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for range in ranges {
        command.args([range.inside, range.outside, range.count].map(|id| id.to_string()));
    }
    let output = command
        .output()
        .map_err(|error| Error::host_call(Phase::Namespaces, "execve", path, Errno::of(&error)))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::host_call(
        Phase::Namespaces,
        "execve",
        format!("{path}: {said}"),
        Errno::from_raw(libc::EPERM),
    )
    .with_hint(Hint::new(
        format!("{path} refused the map"),
        format!("check that {table} has the range for this user"),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: IdRange = IdRange { inside: 0, outside: 1000, count: 1 };

    #[test]
    fn the_way_follows_from_privilege_and_ranges() {
        let maps = |uid, privileged| IdMaps::new(vec![OWN], vec![OWN], uid, 1000, privileged);
        assert_eq!(maps(1000, false).unwrap().way, Way::OwnIds);
        assert_eq!(maps(0, true).unwrap().way, Way::Privileged);
        assert!(maps(1000, false).unwrap().denies_setgroups());
    }

    #[test]
    fn ranges_are_checked() {
        for bad in [vec![], vec![IdRange { count: 0, ..OWN }], vec![IdRange { outside: u32::MAX, ..OWN }]] {
            assert!(IdMaps::new(bad, vec![OWN], 0, 0, true).is_err());
        }
        let maps = IdMaps::new(vec![IdRange { count: 10, ..OWN }], vec![OWN], 0, 0, true).unwrap();
        assert!(maps.has_uid(9) && !maps.has_uid(10) && !maps.has_gid(1));
    }
}
