//! Events: what a container uses, in runc's form.

use std::time::Duration;

use cooperage::runtime::{Container, Stats, Status};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Context, Outcome};

pub(crate) fn events(context: &Context, id: &str, once: bool, interval: &str) -> Outcome {
    let container = context.load(id)?;
    if container.status() == Status::Stopped {
        return Err(format!("container with id {id} is not running").into());
    }
    let interval = duration(interval)?;
    let mut killed = container.oom_kills();
    loop {
        say("stats", id, Some(data(&container.stats()?)))?;
        if once {
            return Ok(());
        }
        if wait(&container, interval) {
            return Ok(());
        }
        let now = container.oom_kills();
        if now > killed {
            say("oom", id, None)?;
            killed = now;
        }
    }
}

/// An event; readers take it line by line, and know its fields by their order too.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

fn say(kind: &str, id: &str, data: Option<Value>) -> Outcome {
    println!("{}", serde_json::to_string(&Line { r#type: kind, id, data })?);
    Ok(())
}

/// Waits for that long, or until the container has ended: then true.
fn wait(container: &Container, interval: Duration) -> bool {
    let Some(pidfd) = container.pidfd() else { return true };
    let time = rustix::event::Timespec {
        tv_sec: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(interval.subsec_nanos()),
    };
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&time)).is_ok_and(|count| count > 0)
}

/// `5s`, `100ms`, `1m`, as in Go.
fn duration(text: &str) -> Outcome<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let wrong = || format!("duration interval must be greater than 0: {text:?}");
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let seconds = match text.get(digits.len()..).unwrap_or_default() {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(wrong().into()),
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|one| !one.is_zero()).ok_or_else(|| wrong().into())
}

fn data(stats: &Stats) -> Value {
    let block = |list: &[(u64, u64, String, u64)]| -> Value {
        list.iter()
            .map(
                |(major, minor, op, value)| json!({"major": major, "minor": minor, "op": op, "value": value}),
            )
            .collect()
    };
    let memory = &stats.memory;
    let entry = |usage: u64, limit: Option<u64>, max: Option<u64>, failures: u64| json!({"limit": limit.unwrap_or(u64::MAX), "usage": usage, "max": max.unwrap_or(0), "failcnt": failures});
    let raw: serde_json::Map<String, Value> =
        memory.raw.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let huge: serde_json::Map<String, Value> = stats
        .hugetlb
        .iter()
        .map(|one| {
            let value =
                json!({"usage": one.usage, "max": one.max_usage.unwrap_or(0), "failcnt": one.failures});
            (one.page_size.clone(), value)
        })
        .collect();
    json!({
        "cpu": {
            "usage": {
                "total": stats.cpu.usage,
                "percpu": stats.cpu.per_cpu,
                "kernel": stats.cpu.system,
                "user": stats.cpu.user,
            },
            "throttling": {
                "periods": stats.cpu.periods,
                "throttledPeriods": stats.cpu.throttled_periods,
                "throttledTime": stats.cpu.throttled_time,
            },
        },
        "memory": {
            "cache": memory.cache,
            "usage": entry(memory.usage, memory.limit, memory.max_usage, memory.failures),
            "swap": entry(memory.swap_usage.unwrap_or(0), memory.swap_limit, None, 0),
            "kernel": entry(memory.kernel.unwrap_or(0), None, None, 0),
            "raw": raw,
        },
        "pids": {"current": stats.pids.current, "limit": stats.pids.limit.unwrap_or(0)},
        "blkio": {
            "ioServiceBytesRecursive": block(&stats.block_io.bytes),
            "ioServicedRecursive": block(&stats.block_io.operations),
        },
        "hugetlb": huge,
    })
}
