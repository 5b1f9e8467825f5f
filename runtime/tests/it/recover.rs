//! The host is killed while a container is made; `recover` leaves nothing of it.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use runtime::oci_spec::runtime::Spec;
use runtime::{CreateOptions, Io, Plan, Rootfs, Runtime};

use crate::network_device;
use crate::support::{Bench, bench, fresh_id, is_root, shell, skipped};

const STATE: &str = "VICTIM_STATE";
const ROOT: &str = "VICTIM_ROOT";
const STEP: &str = "VICTIM_STEP";
const DEVICE: &str = "VICTIM_DEVICE";

/// The host that is killed: this test, run by another process.
#[test]
#[ignore = "no test: the process that the tests below start and kill, in every run"]
fn victim() {
    let (Some(state), Some(root)) = (std::env::var_os(STATE), std::env::var_os(ROOT)) else { return };
    let step = std::env::var(STEP).unwrap().parse().unwrap();
    let runtime = Runtime::builder().state_dir(state).build().unwrap();
    let mut spec = shell("sleep 1000").build().unwrap();
    if std::env::var_os(DEVICE).is_some() {
        assert!(network_device::own_devices());
        spec = with_device();
    }
    let options = CreateOptions::default().pause_at(step);
    let created = runtime.create_with(&fresh_id(), &spec, Rootfs::Path(root.into()), Io::null(), &options);
    // Until it is killed.
    std::thread::sleep(Duration::from_secs(20));
    drop(created);
}

/// Processes whose root or program is the helper's or lies below a directory.
pub(crate) fn processes(below: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let root = std::fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        if comm.starts_with("container-") && root.contains(below.to_str().unwrap()) {
            found.push(format!("{pid} {comm}"));
        }
    }
    found
}

pub(crate) fn groups() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for tree in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        for entry in std::fs::read_dir(tree.path().join("cooperage")).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|typ| typ.is_dir()) {
                found.insert(entry.path().display().to_string());
            }
        }
    }
    found
}

fn with_device() -> Spec {
    network_device::with("sleep 1000", &[("give0", None)])
}

/// Kills a host at some steps of a plan; how many there were.
fn kill_at(every: usize) -> usize {
    let Some(bench) = bench() else { return 0 };
    let plan = Plan::compile(&shell("sleep 1000").build().unwrap(), bench.rootfs()).unwrap();
    kill_at_steps(&bench, &(0..plan.len()).step_by(every).collect::<Vec<_>>(), false)
}

fn kill_at_steps(bench: &Bench, steps: &[usize], device: bool) -> usize {
    for batch in steps.chunks(8) {
        let victims: Vec<_> = batch
            .iter()
            .map(|step| {
                let state = bench.dir.path().join(format!("state-{step}"));
                let mut command = Command::new(std::env::current_exe().unwrap());
                command
                    .args(["--exact", "recover::victim", "--ignored"])
                    .env(STATE, &state)
                    .env(ROOT, bench.root())
                    .env(STEP, step.to_string())
                    .envs(device.then_some((DEVICE, "1")))
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                (state, command.spawn().unwrap())
            })
            .collect();
        std::thread::sleep(Duration::from_millis(250));
        let mut left = Vec::new();
        for (state, mut victim) in victims {
            let pid = victim.id();
            victim.kill().unwrap();
            assert_eq!(victim.wait().unwrap().signal(), Some(libc::SIGKILL));
            left.push((state, pid));
        }
        // Until what was paused has gone on and found its host gone.
        std::thread::sleep(Duration::from_millis(600));
        for (state, pid) in left {
            let runtime = Runtime::builder().state_dir(&state).build().unwrap();
            runtime.recover().unwrap();
            assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0, "{}", state.display());
            assert!(groups().iter().all(|group| !group.contains(&format!("it-{pid}-"))), "{:?}", groups());
        }
    }
    assert_eq!(processes(bench.dir.path()), Vec::<String>::new());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(bench.dir.path().to_str().unwrap()));
    steps.len()
}

#[test]
fn a_host_that_is_killed_leaves_nothing_after_recovery() {
    let plan = Plan::compile(&shell("sleep 1000").build().unwrap(), Rootfs::Path("/".into())).unwrap();
    kill_at(plan.len() / 12);
}

#[test]
fn a_host_that_is_killed_while_it_moves_devices_leaves_nothing_after_recovery() {
    let Some(bench) = bench() else { return };
    if !is_root() || Command::new("ip").arg("-V").output().is_err() {
        return skipped("network devices are made by root, with ip(8)");
    }
    let plan = Plan::compile(&with_device(), bench.rootfs()).unwrap().explain();
    let waits = plan.lines().position(|line| line.contains("its network devices are there")).unwrap();
    kill_at_steps(&bench, &[waits - 3, waits - 1, waits, waits + 1, waits + 2, waits + 3], true);
}

#[test]
#[ignore = "takes minutes: .ci/run runs it by --ignored"]
fn a_host_that_is_killed_at_each_step_leaves_nothing() {
    println!("steps at which the host was killed: {}", kill_at(1));
}
