//! Changing limits.

use std::io::Read;

use cooperage::runtime::oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::args::Update;
use crate::{Context, Outcome};

pub(crate) fn update(context: &Context, args: &Update) -> Outcome {
    let container = context.load(&args.id)?;
    let resources = match &args.resources {
        Some(path) => {
            let mut text = String::new();
            if path.as_os_str() == "-" {
                std::io::stdin().read_to_string(&mut text)?;
            } else {
                text =
                    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            serde_json::from_str(&text)?
        }
        None => from_flags(args)?,
    };
    Ok(container.update(&resources)?)
}

/// A size in bytes, with a unit such as `k` or `MB`; -1 for no limit.
fn size(text: &str) -> Outcome<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.trim().to_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower.get(digits.len()..).unwrap_or_default().trim_end_matches("ib").trim_end_matches('b');
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(format!("invalid size: {text:?}").into()),
    };
    let number: i64 = digits.trim().parse().map_err(|_| format!("invalid size: {text:?}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("invalid size: {text:?}").into())
}

fn from_flags(args: &Update) -> Outcome<LinuxResources> {
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    let parse = |text: &Option<String>| text.as_deref().map(size).transpose();
    let (limit, swap, reservation) =
        (parse(&args.memory)?, parse(&args.memory_swap)?, parse(&args.memory_reservation)?);
    if limit.is_some() || swap.is_some() || reservation.is_some() {
        let mut memory = LinuxMemory::default();
        memory.set_limit(limit).set_swap(swap).set_reservation(reservation);
        resources.set_memory(Some(memory));
    }
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(args.cpu_share)
        .set_quota(args.cpu_quota)
        .set_period(args.cpu_period)
        .set_burst(args.cpu_burst)
        .set_realtime_period(args.cpu_rt_period)
        .set_realtime_runtime(args.cpu_rt_runtime)
        .set_idle(args.cpu_idle)
        .set_cpus(args.cpuset_cpus.clone())
        .set_mems(args.cpuset_mems.clone());
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    if let Some(limit) = args.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = args.blkio_weight {
        let mut io = LinuxBlockIo::default();
        io.set_weight(Some(weight));
        resources.set_block_io(Some(io));
    }
    Ok(resources)
}
