//! The groups of one container, one in every tree.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::mounts::{Mount, Mounts};
use super::path::Place;
use super::stats::Stats;
use super::v1::V1;
use super::v2::V2;
use super::{Tree, failed, missing};
use crate::child::Child;
use crate::{Error, Signal};

/// How long a group may take to become empty after everything in it was killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is kept about a group, to find it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GroupRecord {
    pub(crate) trees: Vec<TreeRecord>,
}

/// One tree of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TreeRecord {
    pub(crate) point: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) controllers: Vec<String>,
    pub(crate) unified: bool,
    /// The groups above it that are made with it and have to have realtime for it to have some, the topmost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) realtime_above: Vec<PathBuf>,
}

/// The groups of one container.
#[derive(Debug)]
pub(crate) struct Group {
    trees: Vec<Box<dyn Tree>>,
    record: GroupRecord,
}

/// A group beneath those of the container.
#[derive(Clone, Debug)]
pub(crate) struct Beneath {
    /// The controllers whose trees are meant; none for all of them.
    pub(crate) controllers: Vec<String>,
    pub(crate) path: PathBuf,
}

/// What the first process needs to join.
#[derive(Debug)]
pub(crate) struct Joining {
    /// `tasks` of the groups of version 1, open for writing, with the path to name.
    pub(crate) tasks: Vec<(OwnedFd, String)>,
    /// The directory of the version 2 group.
    pub(crate) unified: Option<(OwnedFd, String)>,
}

impl Group {
    /// The groups at a place of every tree, for these limits. Nothing is made.
    pub(crate) fn at(mounts: &Mounts, place: &Place, resources: Option<&LinuxResources>) -> Self {
        let tree = |mount: &Mount| {
            let directory = place.directory(mount);
            let realtime = resources.is_some_and(super::v1::has_realtime)
                && !mount.unified
                && mount.controllers.iter().any(|name| name == "cpu");
            TreeRecord {
                realtime_above: if realtime { missing_above(&mount.point, &directory) } else { Vec::new() },
                point: mount.point.clone(),
                directory,
                controllers: mount.controllers.clone(),
                unified: mount.unified,
            }
        };
        Self::load(GroupRecord { trees: mounts.trees.iter().map(tree).collect() })
    }

    /// The groups that a record names.
    pub(crate) fn load(record: GroupRecord) -> Self {
        let tree = |tree: &TreeRecord| -> Box<dyn Tree> {
            if tree.unified { Box::new(V2::new(tree.clone())) } else { Box::new(V1::new(tree.clone())) }
        };
        Self { trees: record.trees.iter().map(tree).collect(), record }
    }

    pub(crate) fn record(&self) -> &GroupRecord {
        &self.record
    }

    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        self.trees.iter().map(|tree| tree.directory().to_path_buf()).collect()
    }

    /// Makes the directories and writes the limits. What was made is removed again when something fails.
    pub(crate) fn make(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.check(resources)?;
        self.is_free()?;
        let result = self.trees.iter().try_for_each(|tree| {
            tree.make()?;
            tree.limit(resources)?;
            tree.restrict_devices(resources)
        });
        if result.is_err() {
            // Best effort, on the way out with that error.
            drop(self.remove());
        }
        result
    }

    /// Refuses groups that are another's: they would be killed with the container.
    fn is_free(&self) -> Result<(), Error> {
        let taken = |problem: String| Err(Error::spec("linux.cgroupsPath", problem));
        for tree in &self.trees {
            if tree.is_frozen() == Some(true) {
                return taken(format!(
                    "container's cgroup unexpectedly frozen: {}",
                    tree.directory().display()
                ));
            }
            if !super::read(tree.directory(), "cgroup.procs").is_empty() {
                return taken(format!("container's cgroup is not empty: {}", tree.directory().display()));
            }
        }
        Ok(())
    }

    /// Refuses limits of controllers that no tree carries.
    fn check(&self, resources: &LinuxResources) -> Result<(), Error> {
        for (controller, field) in super::v1::wanted(resources) {
            if !self.trees.iter().any(|tree| tree.carries(controller)) {
                return Err(missing(format!("linux.resources.{field} ({controller})")));
            }
        }
        for key in resources.unified().iter().flat_map(|map| map.keys()) {
            let controller = key.split('.').next().unwrap_or_default();
            let has = |tree: &TreeRecord| {
                tree.unified
                    && (controller == "cgroup" || tree.controllers.iter().any(|one| one == controller))
            };
            if !self.record.trees.iter().any(has) {
                return Err(missing(format!("linux.resources.unified.{key} (cgroup version 2)")));
            }
        }
        Ok(())
    }

    /// Changes limits.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.check(resources)?;
        self.trees.iter().try_for_each(|tree| tree.limit(resources))
    }

    /// Opens what the first process needs to join.
    pub(crate) fn joining(&self) -> Result<Joining, Error> {
        self.joining_beneath(&[])
    }

    /// Opens what a process needs to join groups beneath these.
    pub(crate) fn joining_beneath(&self, beneath: &[Beneath]) -> Result<Joining, Error> {
        for one in beneath {
            if one.path.components().any(|part| part == Component::ParentDir) {
                return Err(Error::spec("cgroup", format!("bad sub cgroup path {}", one.path.display())));
            }
            let unknown =
                |name: &&String| !self.record.trees.iter().any(|tree| tree.controllers.contains(name));
            if let Some(name) = one.controllers.iter().find(unknown) {
                return Err(Error::spec("cgroup", format!("unknown controller {name}")));
            }
        }
        let mut joining = Joining { tasks: Vec::new(), unified: None };
        for (tree, record) in self.trees.iter().zip(&self.record.trees) {
            let meant = beneath.iter().rfind(|one| {
                one.controllers.is_empty()
                    || one.controllers.iter().any(|name| record.controllers.contains(name))
            });
            let inner = meant.and_then(|one| one.path.strip_prefix("/").or(Ok::<_, ()>(&one.path)).ok());
            let directory =
                inner.map_or_else(|| tree.directory().to_path_buf(), |path| tree.directory().join(path));
            let failed = |error: std::io::Error| {
                let target = format!("adding pid to {}", directory.display());
                Error::host_call(crate::Phase::Cgroup, "open", target, crate::Errno::of(&error))
            };
            if record.unified {
                let file = File::open(&directory).map_err(failed)?;
                joining.unified = Some((file.into(), directory.display().to_string()));
            } else {
                let path = directory.join("tasks");
                let file = std::fs::OpenOptions::new().write(true).open(&path).map_err(failed)?;
                joining.tasks.push((file.into(), path.display().to_string()));
            }
        }
        Ok(joining)
    }

    /// Freezes or thaws all of its processes.
    pub(crate) fn freeze(&self, yes: bool) -> Result<(), Error> {
        match self.freezer() {
            Some(tree) => tree.freeze(yes),
            None => Err(missing("freezer")),
        }
    }

    /// The tree that freezes: version 1's controller goes before version 2, as that is where others look.
    fn freezer(&self) -> Option<&dyn Tree> {
        self.trees.iter().map(AsRef::as_ref).find(|tree| tree.is_frozen().is_some())
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.trees.iter().any(|tree| tree.is_frozen() == Some(true))
    }

    pub(crate) fn thaw_if_frozen(&self) -> Result<(), Error> {
        if self.is_frozen() { self.freeze(false) } else { Ok(()) }
    }

    pub(crate) fn stats(&self) -> Result<Stats, Error> {
        let mut stats = Stats::default();
        if !self.trees.iter().any(|tree| tree.directory().is_dir()) {
            let gone = std::io::Error::from_raw_os_error(libc::ENOENT);
            let first = self.trees.first().map_or(Path::new(""), |tree| tree.directory());
            return Err(failed("open", first, &gone));
        }
        for tree in &self.trees {
            tree.stats(&mut stats);
        }
        Ok(stats)
    }

    pub(crate) fn oom_kills(&self) -> u64 {
        self.trees.iter().filter_map(|tree| tree.oom_kills()).max().unwrap_or(0)
    }

    /// All processes in it and in the groups beneath.
    pub(crate) fn pids(&self) -> Result<Vec<u32>, Error> {
        let mut pids = BTreeSet::new();
        for tree in &self.trees {
            for directory in beneath(tree.directory())? {
                let text = super::read(&directory, "cgroup.procs");
                // A pid of 0 is a process that this pid namespace does not see.
                pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
            }
        }
        Ok(pids.into_iter().collect())
    }

    /// Sends a signal to everything in it. SIGKILL leaves nothing alive.
    pub(crate) fn kill(&self, signal: Signal) -> Result<(), Error> {
        if signal != Signal::KILL {
            return self.signal(signal);
        }
        for tree in &self.trees {
            if tree.kill()? {
                return self.thaw_if_frozen();
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            // Frozen, it cannot make new processes while the list is gone through. Without a freezer the loop does it.
            let frozen = self.freeze(true).is_ok();
            let result = self.signal(signal);
            if frozen {
                self.freeze(false)?;
            }
            result?;
            if Instant::now() > deadline {
                return Err(Error::host_call(
                    crate::Phase::Lifecycle,
                    "kill",
                    format!("processes {pids:?} of the container"),
                    crate::Errno::from_raw(libc::ETIMEDOUT),
                ));
            }
            // Until they have gone, which needs somebody to reap them: not always us.
            std::thread::sleep(Duration::from_millis(1));
            if self.pids()?.iter().all(|pid| is_zombie(*pid)) {
                return Ok(());
            }
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        for pid in self.pids()? {
            if let Some(child) = Child::open(pid) {
                child.kill(signal)?;
            }
        }
        Ok(())
    }

    /// Removes the directories, with those that the container made beneath.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        for tree in &self.trees {
            tree.give_back();
            remove(tree.as_ref())?;
            tree.removed();
        }
        Ok(())
    }
}

/// The directories between the two that do not exist, the topmost first.
fn missing_above(point: &Path, directory: &Path) -> Vec<PathBuf> {
    let above = directory.ancestors().skip(1).take_while(|above| above.starts_with(point));
    let mut missing: Vec<_> = above.filter(|above| !above.exists()).map(Path::to_path_buf).collect();
    missing.reverse();
    missing
}

fn is_zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
}

/// A directory and all beneath it, deepest last.
fn beneath(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = vec![directory.to_path_buf()];
    let mut at = 0;
    while let Some(next) = found.get(at).cloned() {
        at += 1;
        let entries = match std::fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("open", &next, &error)),
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|typ| typ.is_dir()) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

fn remove(tree: &dyn Tree) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Nearly always there is nothing beneath, and nobody inside.
        let error = match std::fs::remove_dir(tree.directory()) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline {
            return Err(failed("rmdir", tree.directory(), &error));
        }
        let mut children = beneath(tree.directory())?;
        children.reverse();
        children.pop();
        for child in &children {
            // Best effort: the loop finds what stays.
            drop(std::fs::remove_dir(child));
        }
        if children.is_empty() {
            tree.wait_until_empty()?;
        }
    }
}
