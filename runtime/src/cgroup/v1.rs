//! Version 1: a tree for each controller or few, with control files of their own.

use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::group::TreeRecord;
use super::stats::Stats;
use super::{Tree, devices, failed, is, number, read, write};
use crate::{Errno, Error, Hint};

/// How long processes may take to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a directory is made whose parents are removed meanwhile.
const TRIES: usize = 16;

/// A group of one tree.
#[derive(Debug)]
pub(super) struct V1 {
    tree: TreeRecord,
}

/// The controllers that limits need, with the field that asks.
pub(super) fn wanted(resources: &LinuxResources) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    if resources.memory().is_some_and(|memory| memory != LinuxMemory::default()) {
        wanted.push(("memory", "memory"));
    }
    if let Some(cpu) = resources.cpu() {
        if has_cpu(cpu) {
            wanted.push(("cpu", "cpu"));
        }
        if cpu.cpus().is_some() || cpu.mems().is_some() {
            wanted.push(("cpuset", "cpu.cpus"));
        }
    }
    if resources.pids().is_some_and(|pids| pids.limit() >= 0) {
        wanted.push(("pids", "pids"));
    }
    if resources.block_io().as_ref().is_some_and(|io| *io != LinuxBlockIo::default()) {
        wanted.push(("blkio", "blockIO"));
    }
    if resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()) {
        wanted.push(("hugetlb", "hugepageLimits"));
    }
    if let Some(network) = resources.network() {
        if network.class_id().is_some() {
            wanted.push(("net_cls", "network.classID"));
        }
        if network.priorities().as_ref().is_some_and(|list| !list.is_empty()) {
            wanted.push(("net_prio", "network.priorities"));
        }
    }
    if resources.rdma().as_ref().is_some_and(|map| !map.is_empty()) {
        wanted.push(("rdma", "rdma"));
    }
    wanted
}

/// Whether anything of the controller `cpu` is asked for.
pub(super) fn has_cpu(cpu: &LinuxCpu) -> bool {
    cpu.shares().is_some()
        || cpu.quota().is_some()
        || cpu.period().is_some()
        || cpu.burst().is_some()
        || cpu.idle().is_some()
        || cpu.realtime_runtime().is_some()
        || cpu.realtime_period().is_some()
}

/// Whether realtime is asked for, of which a group has no more than those above it.
pub(super) fn has_realtime(resources: &LinuxResources) -> bool {
    resources.cpu().as_ref().and_then(LinuxCpu::realtime_runtime).is_some_and(|runtime| runtime > 0)
}

impl V1 {
    pub(super) fn new(tree: TreeRecord) -> Self {
        Self { tree }
    }

    #[expect(clippy::needless_pass_by_value, reason = "numbers and texts alike")]
    fn write(&self, file: &str, value: impl ToString) -> Result<(), Error> {
        write(&self.tree.directory, file, &value.to_string())
    }

    /// Two values of which the kernel takes one only when the other fits it: in the other order when it refuses.
    fn write_pair(&self, first: (&str, &str), second: (&str, &str)) -> Result<(), Error> {
        write_pair(&self.tree.directory, first, second)
    }

    fn memory(&self, memory: &LinuxMemory) -> Result<(), Error> {
        const LIMIT: &str = "memory.limit_in_bytes";
        const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
        // Without a limit of memory there can be none of memory and swap.
        let swap = match (memory.limit(), memory.swap()) {
            (Some(-1), None) if self.tree.directory.join(WITH_SWAP).exists() => Some(-1),
            (_, swap) => swap.filter(|swap| *swap != 0),
        };
        match (memory.limit().filter(|limit| *limit != 0), swap) {
            (Some(limit), Some(swap)) => {
                self.write_pair((LIMIT, &limit.to_string()), (WITH_SWAP, &swap.to_string()))?;
            }
            (Some(limit), None) => self.write(LIMIT, limit)?,
            (None, Some(swap)) => self.write(WITH_SWAP, swap)?,
            (None, None) => {}
        }
        let kernel = memory.kernel();
        for (file, value) in [
            ("memory.soft_limit_in_bytes", memory.reservation()),
            ("memory.kmem.limit_in_bytes", kernel),
            ("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp()),
        ] {
            if let Some(value) = value.filter(|value| *value != 0) {
                match self.write(file, value) {
                    // Limits of kernel memory went in Linux 6.3 and are refused since; they never limited anything
                    // that the limit of all memory does not.
                    Err(error) if file == "memory.kmem.limit_in_bytes" && is(&error, libc::EOPNOTSUPP) => {}
                    result => result?,
                }
            }
        }
        if let Some(swappiness) = memory.swappiness() {
            self.write("memory.swappiness", swappiness)?;
        }
        if let Some(disable) = memory.disable_oom_killer() {
            self.write("memory.oom_control", u8::from(disable))?;
        }
        Ok(())
    }

    fn cpu(&self, cpu: &LinuxCpu) -> Result<(), Error> {
        const PERIOD: &str = "cpu.cfs_period_us";
        const QUOTA: &str = "cpu.cfs_quota_us";
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            self.write("cpu.shares", shares)?;
        }
        let quota = cpu.quota().filter(|quota| *quota != 0).map(|quota| quota.to_string());
        let period = cpu.period().filter(|period| *period != 0).map(|period| period.to_string());
        match (period, quota) {
            (Some(period), Some(quota)) => self.write_pair((PERIOD, &period), (QUOTA, &quota))?,
            (Some(period), None) => self.write(PERIOD, period)?,
            (None, Some(quota)) => self.write(QUOTA, quota)?,
            (None, None) => {}
        }
        if let Some(burst) = cpu.burst() {
            self.write("cpu.cfs_burst_us", burst)?;
        }
        self.realtime(cpu)?;
        if let Some(idle) = cpu.idle() {
            self.write("cpu.idle", idle)?;
        }
        Ok(())
    }

    fn realtime(&self, cpu: &LinuxCpu) -> Result<(), Error> {
        let runtime = cpu.realtime_runtime().filter(|runtime| *runtime != 0);
        let period = cpu.realtime_period().filter(|period| *period != 0).map(|period| period.to_string());
        for above in self.tree.realtime_above.iter().filter(|_| runtime > Some(0)) {
            // The kernel gives a group nothing before the one above it has something.
            let has: i64 = read(above, REALTIME).trim().parse().unwrap_or(0);
            if let Some(runtime) = runtime.filter(|runtime| *runtime > has) {
                write_realtime(above, Some(runtime), period.as_deref())?;
            }
        }
        write_realtime(&self.tree.directory, runtime, period.as_deref())
    }

    fn block_io(&self, io: &LinuxBlockIo) -> Result<(), Error> {
        // The weight files of CFQ went in Linux 5.0; BFQ has its own.
        let weight = |plain: &'static str, bfq: &'static str| {
            if self.tree.directory.join(plain).exists() { plain } else { bfq }
        };
        if let Some(value) = io.weight().filter(|value| *value != 0) {
            self.write(weight("blkio.weight", "blkio.bfq.weight"), value)?;
        }
        if let Some(value) = io.leaf_weight().filter(|value| *value != 0) {
            self.write("blkio.leaf_weight", value)?;
        }
        for device in io.weight_device().iter().flatten() {
            let number = format!("{}:{}", device.major(), device.minor());
            if let Some(value) = device.weight().filter(|value| *value != 0) {
                self.write(
                    weight("blkio.weight_device", "blkio.bfq.weight_device"),
                    format!("{number} {value}"),
                )?;
            }
            if let Some(value) = device.leaf_weight().filter(|value| *value != 0) {
                self.write("blkio.leaf_weight_device", format!("{number} {value}"))?;
            }
        }
        let throttles: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
            ("blkio.throttle.read_bps_device", io.throttle_read_bps_device()),
            ("blkio.throttle.write_bps_device", io.throttle_write_bps_device()),
            ("blkio.throttle.read_iops_device", io.throttle_read_iops_device()),
            ("blkio.throttle.write_iops_device", io.throttle_write_iops_device()),
        ];
        for (file, devices) in throttles {
            for device in devices.iter().flatten() {
                self.write(file, format!("{}:{} {}", device.major(), device.minor(), device.rate()))?;
            }
        }
        Ok(())
    }
}

const REALTIME: &str = "cpu.rt_runtime_us";

/// Two values of which the kernel takes one only when the other fits it: in the other order when it refuses.
fn write_pair(directory: &Path, first: (&str, &str), second: (&str, &str)) -> Result<(), Error> {
    match write(directory, first.0, first.1) {
        Ok(()) => write(directory, second.0, second.1),
        Err(error) if is(&error, libc::EINVAL) || is(&error, libc::EBUSY) => {
            write(directory, second.0, second.1)?;
            write(directory, first.0, first.1)
        }
        Err(error) => Err(error),
    }
}

/// How long tasks with a realtime policy may run in each period, both in microseconds.
fn write_realtime(directory: &Path, runtime: Option<i64>, period: Option<&str>) -> Result<(), Error> {
    const PERIOD: &str = "cpu.rt_period_us";
    let runtime = runtime.map(|runtime| runtime.to_string());
    let written = match (period, &runtime) {
        (Some(period), Some(runtime)) => write_pair(directory, (PERIOD, period), (REALTIME, runtime)),
        (Some(period), None) => write(directory, PERIOD, period),
        (None, Some(runtime)) => write(directory, REALTIME, runtime),
        (None, None) => Ok(()),
    };
    written.map_err(|error| match error.errno().map(Errno::raw) {
        Some(libc::EINVAL) => error.with_hint(Hint::new(
            "a group has no more realtime than what the group above it has left",
            "write more to cpu.rt_runtime_us of the groups above it that were there already, or ask for less",
        )),
        _ => error,
    })
}

/// A group of the controller `cpuset` takes no process before it has processors and memory: the parent's.
fn inherit_cpuset(point: &Path, directory: &Path) -> Result<(), Error> {
    let beneath = directory.strip_prefix(point).unwrap_or(Path::new(""));
    let mut parent = point.to_path_buf();
    for name in beneath {
        let next = parent.join(name);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if read(&next, file).trim().is_empty() {
                write(&next, file, read(&parent, file).trim())?;
            }
        }
        parent = next;
    }
    Ok(())
}

impl Tree for V1 {
    fn directory(&self) -> &Path {
        &self.tree.directory
    }

    fn carries(&self, controller: &str) -> bool {
        self.tree.controllers.iter().any(|known| known == controller)
    }

    fn make(&self) -> Result<(), Error> {
        let directory = &self.tree.directory;
        // What is above may go with another group at any time before this one is in it.
        let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        let mut tries = 0;
        while let Err(error) = std::fs::create_dir_all(directory) {
            tries += 1;
            if !gone(&error) || tries > TRIES {
                return Err(failed("mkdir", directory, &error));
            }
        }
        if self.carries("cpuset") { inherit_cpuset(&self.tree.point, directory) } else { Ok(()) }
    }

    fn limit(&self, resources: &LinuxResources) -> Result<(), Error> {
        for controller in &self.tree.controllers {
            match controller.as_str() {
                "memory" => resources.memory().as_ref().map_or(Ok(()), |memory| self.memory(memory))?,
                "cpu" => resources.cpu().as_ref().map_or(Ok(()), |cpu| self.cpu(cpu))?,
                "cpuset" => {
                    let Some(cpu) = resources.cpu() else { continue };
                    for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
                        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                            self.write(file, value)?;
                        }
                    }
                }
                "pids" => {
                    let Some(pids) = resources.pids() else { continue };
                    match pids.limit() {
                        // Its first process is one already: 0 and 1 are the same, and not every reader takes 0.
                        limit @ 0.. => self.write("pids.max", limit.max(1))?,
                        _ => self.write("pids.max", "max")?,
                    }
                }
                "blkio" => resources.block_io().as_ref().map_or(Ok(()), |io| self.block_io(io))?,
                "hugetlb" => {
                    for limit in resources.hugepage_limits().iter().flatten() {
                        let name = format!("hugetlb.{}", limit.page_size());
                        self.write(&format!("{name}.limit_in_bytes"), limit.limit())?;
                        let reserved = format!("{name}.rsvd.limit_in_bytes");
                        if self.tree.directory.join(&reserved).exists() {
                            self.write(&reserved, limit.limit())?;
                        }
                    }
                }
                "net_cls" => {
                    if let Some(class) = resources.network().as_ref().and_then(|network| network.class_id()) {
                        self.write("net_cls.classid", class)?;
                    }
                }
                "net_prio" => {
                    let network = resources.network().as_ref();
                    for one in network.and_then(|network| network.priorities().as_ref()).into_iter().flatten()
                    {
                        self.write("net_prio.ifpriomap", format!("{} {}", one.name(), one.priority()))?;
                    }
                }
                "rdma" => super::v2::rdma(&self.tree.directory, resources)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn restrict_devices(&self, resources: &LinuxResources) -> Result<(), Error> {
        if !self.carries("devices") {
            return Ok(());
        }
        let rules = devices::rules(resources)?;
        for rule in &rules {
            self.write(if rule.allow { "devices.allow" } else { "devices.deny" }, rule)?;
        }
        Ok(())
    }

    fn freeze(&self, yes: bool) -> Result<(), Error> {
        let word = if yes { "FROZEN" } else { "THAWED" };
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(50);
        loop {
            self.write("freezer.state", word)?;
            if read(&self.tree.directory, "freezer.state").trim() == word {
                return Ok(());
            }
            if std::time::Instant::now() > deadline {
                // Nobody is to be left half frozen.
                self.write("freezer.state", "THAWED")?;
                let busy = std::io::Error::from_raw_os_error(libc::EBUSY);
                return Err(failed("write", &self.tree.directory.join("freezer.state"), &busy));
            }
            // On a busy host a process may take a while until it runs to where it can stop.
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }

    fn is_frozen(&self) -> Option<bool> {
        self.carries("freezer").then(|| read(&self.tree.directory, "freezer.state").trim() == "FROZEN")
    }

    fn stats(&self, stats: &mut Stats) {
        for controller in &self.tree.controllers {
            super::stats::read_v1(controller, &self.tree.directory, stats);
        }
    }

    fn oom_kills(&self) -> Option<u64> {
        if !self.carries("memory") {
            return None;
        }
        let text = read(&self.tree.directory, "memory.oom_control");
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }

    fn kill(&self) -> Result<bool, Error> {
        Ok(false)
    }

    fn give_back(&self) {
        // The kernel goes on counting what a removed group had, for a while; and it refuses as long as another group
        // beneath has some.
        let own = Some(&self.tree.directory).filter(|_| !self.tree.realtime_above.is_empty());
        for directory in own.into_iter().chain(self.tree.realtime_above.iter().rev()) {
            drop(write(directory, REALTIME, "0"));
        }
    }

    fn removed(&self) {
        for above in self.tree.realtime_above.iter().rev() {
            // Left without realtime, it would be in the way of the next group that wants some.
            drop(std::fs::remove_dir(above));
        }
    }

    fn wait_until_empty(&self) -> Result<(), Error> {
        // This version has no event for it. What is left is being torn down by the kernel.
        let busy = number(&self.tree.directory, "cgroup.procs").is_some();
        std::thread::sleep(Duration::from_micros(if busy { 2000 } else { 100 }));
        Ok(())
    }
}
