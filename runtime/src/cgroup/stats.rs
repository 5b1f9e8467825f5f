//! What a container uses.

use std::path::Path;

use super::{number, read};

/// What a container uses, as its cgroups count it. What no controller counts is zero or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Processors.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: PidsStats,
    /// Block devices.
    pub block_io: BlockIoStats,
    /// Huge pages, by page size.
    pub hugetlb: Vec<HugetlbStats>,
}

/// Use of processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CpuStats {
    /// All time, in nanoseconds.
    pub usage: u64,
    /// Time in user mode, in nanoseconds.
    pub user: u64,
    /// Time in kernel mode, in nanoseconds.
    pub system: u64,
    /// Time by processor, in nanoseconds; only version 1 has it.
    pub per_cpu: Vec<u64>,
    /// Periods in which the quota counted.
    pub periods: u64,
    /// Those in which it was used up.
    pub throttled_periods: u64,
    /// How long it was held up, in nanoseconds.
    pub throttled_time: u64,
}

/// Use of memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// In use now, caches included.
    pub usage: u64,
    /// The most that was.
    pub max_usage: Option<u64>,
    /// The limit; none without one.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    /// Memory and swap in use.
    pub swap_usage: Option<u64>,
    /// Memory and swap limit.
    pub swap_limit: Option<u64>,
    /// Page cache.
    pub cache: u64,
    /// Of kernel objects; none where it is not counted.
    pub kernel: Option<u64>,
    /// The lines of `memory.stat`, in their order.
    pub raw: Vec<(String, u64)>,
}

/// Processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PidsStats {
    /// How many there are.
    pub current: u64,
    /// How many there may be; none without a limit.
    pub limit: Option<u64>,
}

/// Use of block devices: one entry per device and operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockIoStats {
    /// Bytes: major and minor number, operation (`Read`, `Write` …), count.
    pub bytes: Vec<(u64, u64, String, u64)>,
    /// Operations, in the same form.
    pub operations: Vec<(u64, u64, String, u64)>,
}

/// Use of huge pages of one size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HugetlbStats {
    /// The size, as in `2MB`.
    pub page_size: String,
    /// Bytes in use.
    pub usage: u64,
    /// The most that were.
    pub max_usage: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
}

/// What the kernel of version 1 answers for "no limit" is the largest number of whole pages.
const UNLIMITED: u64 = 0x7fff_ffff_ffff_f000;

fn pairs(text: &str) -> Vec<(String, u64)> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

fn value(pairs: &[(String, u64)], key: &str) -> u64 {
    pairs.iter().find(|(known, _)| known == key).map_or(0, |(_, value)| *value)
}

/// Reads what a controller of version 1 counts.
pub(super) fn read_v1(controller: &str, directory: &Path, stats: &mut Stats) {
    let limit = |file| number(directory, file).filter(|limit| *limit < UNLIMITED);
    match controller {
        "cpuacct" => {
            stats.cpu.usage = number(directory, "cpuacct.usage").unwrap_or(0);
            stats.cpu.user = number(directory, "cpuacct.usage_user").unwrap_or(0);
            stats.cpu.system = number(directory, "cpuacct.usage_sys").unwrap_or(0);
            let each = read(directory, "cpuacct.usage_percpu");
            stats.cpu.per_cpu = each.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        }
        "cpu" => {
            let counted = pairs(&read(directory, "cpu.stat"));
            stats.cpu.periods = value(&counted, "nr_periods");
            stats.cpu.throttled_periods = value(&counted, "nr_throttled");
            stats.cpu.throttled_time = value(&counted, "throttled_time");
        }
        "memory" => {
            let memory = &mut stats.memory;
            memory.usage = number(directory, "memory.usage_in_bytes").unwrap_or(0);
            memory.max_usage = number(directory, "memory.max_usage_in_bytes");
            memory.limit = limit("memory.limit_in_bytes");
            memory.failures = number(directory, "memory.failcnt").unwrap_or(0);
            memory.swap_usage = number(directory, "memory.memsw.usage_in_bytes");
            memory.swap_limit = limit("memory.memsw.limit_in_bytes");
            memory.kernel = number(directory, "memory.kmem.usage_in_bytes");
            memory.raw = pairs(&read(directory, "memory.stat"));
            memory.cache = value(&memory.raw, "cache");
        }
        "pids" => {
            stats.pids.current = number(directory, "pids.current").unwrap_or(0);
            stats.pids.limit = number(directory, "pids.max");
        }
        "blkio" => {
            let entries = |file| block(&read(directory, file));
            stats.block_io.bytes = entries("blkio.throttle.io_service_bytes_recursive");
            stats.block_io.operations = entries("blkio.throttle.io_serviced_recursive");
        }
        "hugetlb" => huge(directory, "usage_in_bytes", Some("max_usage_in_bytes"), stats),
        _ => {}
    }
}

/// Lines as `8:0 Read 4096`.
fn block(text: &str) -> Vec<(u64, u64, String, u64)> {
    let one = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (device, operation, count) = (words.next()?, words.next()?, words.next()?);
        let (major, minor) = device.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?, operation.to_owned(), count.parse().ok()?))
    };
    text.lines().filter_map(one).collect()
}

fn huge(directory: &Path, usage: &str, max: Option<&str>, stats: &mut Stats) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let suffix = format!(".{usage}");
    let mut sizes: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(&suffix)?;
            (!size.contains('.')).then(|| size.to_owned())
        })
        .collect();
    sizes.sort();
    for size in sizes {
        let read = |what: &str| number(directory, &format!("hugetlb.{size}.{what}"));
        let events = pairs(&super::read(directory, &format!("hugetlb.{size}.events")));
        stats.hugetlb.push(HugetlbStats {
            usage: read(usage).unwrap_or(0),
            max_usage: max.and_then(read),
            failures: read("failcnt").unwrap_or_else(|| value(&events, "max")),
            page_size: size,
        });
    }
}

/// Reads what version 2 counts, but only what no tree of version 1 does.
pub(super) fn read_v2(directory: &Path, controllers: &[String], stats: &mut Stats) {
    let carries = |name: &str| controllers.iter().any(|known| known == name);
    if stats.cpu.usage == 0 {
        // These lines are there without the controller.
        let counted = pairs(&read(directory, "cpu.stat"));
        stats.cpu.usage = value(&counted, "usage_usec").saturating_mul(1000);
        stats.cpu.user = value(&counted, "user_usec").saturating_mul(1000);
        stats.cpu.system = value(&counted, "system_usec").saturating_mul(1000);
        if carries("cpu") {
            stats.cpu.periods = value(&counted, "nr_periods");
            stats.cpu.throttled_periods = value(&counted, "nr_throttled");
            stats.cpu.throttled_time = value(&counted, "throttled_usec").saturating_mul(1000);
        }
    }
    if carries("memory") {
        let memory = &mut stats.memory;
        memory.usage = number(directory, "memory.current").unwrap_or(0);
        memory.max_usage = number(directory, "memory.peak");
        memory.limit = number(directory, "memory.max");
        let swap = number(directory, "memory.swap.current");
        memory.swap_usage = swap.map(|swap| swap.saturating_add(memory.usage));
        memory.swap_limit = match (number(directory, "memory.swap.max"), memory.limit) {
            (Some(swap), Some(limit)) => Some(swap.saturating_add(limit)),
            _ => None,
        };
        memory.raw = pairs(&read(directory, "memory.stat"));
        memory.cache = value(&memory.raw, "file");
        memory.failures = value(&pairs(&read(directory, "memory.events")), "max");
    }
    if carries("pids") {
        stats.pids.current = number(directory, "pids.current").unwrap_or(0);
        stats.pids.limit = number(directory, "pids.max");
    }
    if carries("io") {
        io(&read(directory, "io.stat"), &mut stats.block_io);
    }
    if carries("hugetlb") {
        huge(directory, "current", None, stats);
    }
}

/// Lines as `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn io(text: &str, stats: &mut BlockIoStats) {
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let device = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for word in words {
            let Some((key, Ok(count))) = word.split_once('=').map(|(key, count)| (key, count.parse())) else {
                continue;
            };
            let (list, operation) = match key {
                "rbytes" => (&mut stats.bytes, "Read"),
                "wbytes" => (&mut stats.bytes, "Write"),
                "rios" => (&mut stats.operations, "Read"),
                "wios" => (&mut stats.operations, "Write"),
                _ => continue,
            };
            list.push((major, minor, operation.to_owned(), count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_block_statistics_are_read() {
        assert_eq!(block("8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n")[0], (8, 0, "Read".into(), 4096));
        let mut stats = BlockIoStats::default();
        io("8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nbad\n", &mut stats);
        assert_eq!(stats.bytes, [(8, 16, "Read".into(), 1), (8, 16, "Write".into(), 2)]);
        assert_eq!(stats.operations[1], (8, 16, "Write".into(), 4));
    }
}
