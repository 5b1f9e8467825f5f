//! Times the whole cycle of a container (create, start, wait, delete) in this process.
//!
//! `cycle ROOTFS COUNT [GAP_MS] [BALLAST_MIB] [seccomp|-]`: prints median, 90th percentile and minimum in microseconds,
//! then the resident set of the helper in KiB. The Spec is that of `runc spec`; BALLAST_MIB is memory that this process
//! has touched before. `cycle --profile` prints the default seccomp profile instead.
#![expect(clippy::print_stdout, reason = "a command line talks to a terminal")]

use std::time::{Duration, Instant};

use runtime::{Io, Network, Rootfs, Runtime, SpecBuilder};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().collect();
    let word = |at: usize| args.get(at).map(String::as_str);
    let number = |at: usize| word(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if word(1) == Some("--profile") {
        let spec = SpecBuilder::new().args(["true"]).build()?;
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        println!("{}", serde_json::to_string(&profile)?);
        return Ok(());
    }
    let root = word(1).ok_or("a root filesystem is needed")?;
    let (count, gap, ballast) = (number(2).max(1), Duration::from_millis(number(3)), number(4));
    let mut memory = vec![0u8; usize::try_from(ballast << 20)?];
    for page in memory.chunks_mut(4096) {
        page.fill(1);
    }
    let state = std::path::Path::new("/tmp").join(format!("cycle-{}", std::process::id()));
    let runtime = Runtime::builder().state_dir(&state).build()?;
    let mut builder = SpecBuilder::new()
        .args(["true"])
        .env(["PATH=/bin"])
        .hostname("cycle")
        .network(Network::None)
        .no_new_privileges(true)
        .read_only(true);
    if word(5) != Some("seccomp") {
        builder = builder.seccomp(None);
    }
    let spec = builder.build()?;
    let mut times = Vec::new();
    for at in 0..count + 5 {
        if !gap.is_zero() {
            std::thread::sleep(gap);
        }
        let begin = Instant::now();
        let id = format!("cycle-{at}").parse()?;
        let created = runtime.create(&id, &spec, Rootfs::Path(root.into()), Io::null())?;
        let running = created.start()?;
        let exit = running.wait()?;
        running.delete()?;
        // The first few warm up.
        if at >= 5 {
            times.push(begin.elapsed());
        }
        if !exit.success() {
            return Err(format!("it ended with {}", exit.status).into());
        }
    }
    times.sort();
    let at = |share: usize| times.get(times.len() * share / 100).map_or(0, Duration::as_micros);
    println!("{} {} {} {}", at(50), at(90), at(0), helper_size().unwrap_or(0));
    runtime.shutdown();
    std::fs::remove_dir(&state)?;
    drop(memory);
    Ok(())
}

/// The resident set of the child that is the helper, in KiB.
fn helper_size() -> Option<u64> {
    let me = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("PPid:") == Some(&me) {
            return field("VmRSS:")?.split(' ').next()?.parse().ok();
        }
    }
    None
}
