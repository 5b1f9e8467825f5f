//! Version 2. Limits are written by libcgroups, which knows how the Spec's values of version 1 translate; directories,
//! joining, killing, freezing and waiting are done here, where libcgroups works with bare pids and sleeps.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use libcgroups::common::{CgroupManager, ControllerOpt};
use libcgroups::v2::manager::Manager;
use oci_spec::runtime::{LinuxPids, LinuxResources};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::group::TreeRecord;
use super::stats::Stats;
use super::{Tree, devices, failed, missing, program, read, write};
use crate::{Errno, Error, Hint, Phase};

/// A group of the version 2 tree.
#[derive(Debug)]
pub(super) struct V2 {
    tree: TreeRecord,
}

/// Names of version 1 for controllers that version 2 calls otherwise.
fn name(controller: &str) -> &str {
    match controller {
        "blkio" => "io",
        other => other,
    }
}

/// The first process is one already: a limit of 0 and one of 1 are the same, and to libcgroups 0 is none.
fn at_least_one(mut pids: LinuxPids) -> LinuxPids {
    if pids.limit() == 0 {
        pids.set_limit(1);
    }
    pids
}

impl V2 {
    pub(super) fn new(tree: TreeRecord) -> Self {
        Self { tree }
    }

    fn beneath(&self) -> &Path {
        self.tree.directory.strip_prefix(&self.tree.point).unwrap_or(Path::new(""))
    }

    /// Hands controllers down to the group, from the root on. Only those that are needed.
    fn enable(&self, controllers: &[&str]) -> Result<(), Error> {
        let mut at = self.tree.point.clone();
        for part in self.beneath() {
            let enabled = read(&at, "cgroup.subtree_control");
            for controller in controllers {
                if !enabled.split_ascii_whitespace().any(|known| known == *controller) {
                    write(&at, "cgroup.subtree_control", &format!("+{controller}"))?;
                }
            }
            at.push(part);
        }
        Ok(())
    }
}

/// Writes `rdma.max`, which both versions have alike.
pub(super) fn rdma(directory: &Path, resources: &LinuxResources) -> Result<(), Error> {
    let limits: std::collections::BTreeMap<_, _> = resources.rdma().iter().flatten().collect();
    for (device, limit) in limits {
        let mut line = device.clone();
        for (key, value) in [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())] {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        write(directory, "rdma.max", &line)?;
    }
    Ok(())
}

impl Tree for V2 {
    fn directory(&self) -> &Path {
        &self.tree.directory
    }

    fn carries(&self, controller: &str) -> bool {
        self.tree.controllers.iter().any(|known| known == name(controller))
    }

    fn make(&self) -> Result<(), Error> {
        let directory = &self.tree.directory;
        std::fs::create_dir_all(directory).map_err(|error| failed("mkdir", directory, &error))
    }

    fn limit(&self, resources: &LinuxResources) -> Result<(), Error> {
        let mut needed: Vec<&str> = Vec::new();
        let mut own = LinuxResources::default();
        for (controller, _) in super::v1::wanted(resources) {
            if !self.carries(controller) {
                continue;
            }
            needed.push(name(controller));
            match controller {
                "memory" => drop(own.set_memory(*resources.memory())),
                "cpu" | "cpuset" => drop(own.set_cpu(resources.cpu().clone())),
                "pids" => drop(own.set_pids(resources.pids().map(at_least_one))),
                "blkio" => drop(own.set_block_io(resources.block_io().clone())),
                "hugetlb" => drop(own.set_hugepage_limits(resources.hugepage_limits().clone())),
                _ => {}
            }
        }
        if let Some(unified) = resources.unified().as_ref().filter(|map| !map.is_empty()) {
            for key in unified.keys() {
                let controller = key.split('.').next().unwrap_or_default();
                if controller != "cgroup" {
                    if !self.carries(controller) {
                        return Err(missing(format!("linux.resources.unified.{key}")));
                    }
                    needed.push(controller);
                }
            }
            own.set_unified(Some(unified.clone()));
        }
        needed.sort_unstable();
        needed.dedup();
        if needed.is_empty() && own.unified().is_none() {
            return Ok(());
        }
        self.enable(&needed)?;
        if needed.contains(&"rdma") {
            rdma(&self.tree.directory, resources)?;
        }
        let other = |error: &dyn std::error::Error| {
            let mut text = error.to_string();
            let mut source = error.source();
            let mut errno = None;
            while let Some(cause) = source {
                errno =
                    errno.or(cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error));
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            let errno = Errno::from_raw(errno.unwrap_or(libc::EINVAL));
            Error::host_call(Phase::Cgroup, "write", text, errno).with_hint(Hint::new(
                "the kernel did not take a limit of cgroup version 2",
                "see the value that is named",
            ))
        };
        let beneath = Path::new("/").join(self.beneath());
        let manager = Manager::new(self.tree.point.clone(), beneath).map_err(|error| other(&error))?;
        let options = ControllerOpt {
            resources: &own,
            disable_oom_killer: false,
            oom_score_adj: None,
            freezer_state: None,
        };
        manager.apply(&options).map_err(|error| other(&error))
    }

    fn restrict_devices(&self, resources: &LinuxResources) -> Result<(), Error> {
        // Where version 1 does it, twice would only be slower.
        if Path::new("/sys/fs/cgroup/devices/devices.list").exists() {
            return Ok(());
        }
        let directory = &self.tree.directory;
        program::attach(directory, &devices::rules(resources)?)
            .map_err(|error| failed("bpf", directory, &error))
    }

    fn freeze(&self, yes: bool) -> Result<(), Error> {
        write(&self.tree.directory, "cgroup.freeze", if yes { "1" } else { "0" })?;
        self.wait(|events| events.contains(if yes { "frozen 1" } else { "frozen 0" }), Duration::from_secs(5))
    }

    fn is_frozen(&self) -> Option<bool> {
        let text = read(&self.tree.directory, "cgroup.freeze");
        (!text.is_empty()).then(|| text.trim() == "1")
    }

    fn stats(&self, stats: &mut Stats) {
        super::stats::read_v2(&self.tree.directory, &self.tree.controllers, stats);
    }

    fn oom_kills(&self) -> Option<u64> {
        let text = read(&self.tree.directory, "memory.events");
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }

    fn kill(&self) -> Result<bool, Error> {
        // Linux 5.14. A group that is gone has nothing to kill.
        match write(&self.tree.directory, "cgroup.kill", "1") {
            Ok(()) => Ok(true),
            Err(error) if super::is(&error, libc::ENOENT) => Ok(!self.tree.directory.exists()),
            Err(error) => Err(error),
        }
    }

    fn wait_until_empty(&self) -> Result<(), Error> {
        self.wait(|events| events.contains("populated 0") || events.is_empty(), Duration::from_secs(1))
    }
}

impl V2 {
    /// Waits for the events file to say something, which the kernel announces.
    fn wait(&self, until: impl Fn(&str) -> bool, limit: Duration) -> Result<(), Error> {
        use std::io::{Read, Seek};
        let path = self.tree.directory.join("cgroup.events");
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("open", &path, &error)),
        };
        let deadline = std::time::Instant::now() + limit;
        loop {
            let mut text = String::new();
            // A group that is removed meanwhile cannot be read any more: empty.
            drop(file.rewind().and_then(|()| file.read_to_string(&mut text)));
            if until(&text) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Err(failed("poll", &path, &std::io::Error::from_raw_os_error(libc::ETIMEDOUT)));
            }
            let time = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let fd = file.as_fd();
            match rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::PRI)], Some(&time)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed("poll", &path, &errno.into())),
            }
        }
    }
}
