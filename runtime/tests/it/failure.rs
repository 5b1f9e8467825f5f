//! Errors say which step failed, and leave nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use runtime::{CreateOptions, Errno, Error, Io, Phase, Plan};

use crate::support::{bench, fresh_id, shell, spec};

#[test]
fn a_missing_program_is_127() {
    let Some(bench) = bench() else { return };
    let error = bench.run(spec(&["no-such-program"])).unwrap_err();
    assert!(error.is_not_found() && !error.is_not_executable(), "{error:?}");
    assert_eq!(error.exit_code(), Some(127));
    assert!(
        error.to_string().contains("tried /usr/local/bin/no-such-program, /usr/bin/no-such-program"),
        "{error}"
    );
    assert!(bench.runtime.list().unwrap().is_empty());
}

#[test]
fn a_file_that_cannot_be_executed_is_126() {
    let Some(bench) = bench() else { return };
    fs::write(bench.root().join("bin/plain"), "text").unwrap();
    let error = bench.run(spec(&["/bin/plain"])).unwrap_err();
    assert_eq!(error.exit_code(), Some(126), "{error:?}");
    let error = bench.run(spec(&["/etc"])).unwrap_err();
    assert_eq!(error.exit_code(), Some(126), "{error:?}");
}

#[test]
fn a_missing_interpreter_is_named() {
    let Some(bench) = bench() else { return };
    let script = bench.root().join("bin/script");
    fs::write(&script, "#!/no/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let error = bench.run(spec(&["script"])).unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    assert!(error.hint().unwrap().fact().contains("interpreter"), "{error:?}");
}

#[test]
fn what_is_not_done_is_refused_before_anything_is_made() {
    let Some(bench) = bench() else { return };
    let mut spec = shell("true").build().unwrap();
    spec.linux_mut().as_mut().unwrap().set_intel_rdt(Some(Default::default()));
    let error = bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), Io::null()).unwrap_err();
    assert!(error.is_unsupported() && error.to_string().contains("linux.intelRdt"), "{error}");
}

#[test]
fn a_zero_byte_cuts_nothing_short() {
    let Some(bench) = bench() else { return };
    for spec in [shell("true\0; false"), shell("true").env(["A=1\0b"]), shell("true").cwd("/tmp\0/x")] {
        let error = bench.run(spec).unwrap_err();
        assert!(matches!(error, Error::Spec { .. }), "{error:?}");
    }
}

/// What of this process could have been changed or left behind by a container.
pub(crate) fn host_state() -> Vec<String> {
    let mut state = Vec::new();
    // Others on the machine may mount elsewhere meanwhile.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let kept = ["/proc", "/sys", "/dev"];
    let of_host = |line: &&str| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        point == "/" || kept.iter().any(|name| point.starts_with(name))
    };
    state.extend(mounts.lines().filter(of_host).map(str::to_owned));
    for file in ["oom_score_adj", "limits", "cgroup"] {
        state.push(fs::read_to_string(format!("/proc/self/{file}")).unwrap());
    }
    for link in ["cwd", "root", "ns/mnt", "ns/user", "ns/pid", "ns/net"] {
        state.push(fs::read_link(format!("/proc/self/{link}")).unwrap().display().to_string());
    }
    // Of the thread that starts the containers: the main one is the test runner's, which blocks signals while it starts
    // another test.
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let kept = ["Umask", "SigBlk", "SigIgn", "SigCgt", "Cap", "Uid", "Gid", "NoNewPrivs"];
    state.extend(
        status.lines().filter(|line| kept.iter().any(|name| line.starts_with(name))).map(str::to_owned),
    );
    state.push(format!("{:?}", rustix::process::dumpable_behavior()));
    state
}

#[test]
fn steps_can_fail_and_leave_nothing() {
    fail_at_every(3);
}

#[test]
#[ignore = "takes a minute: .ci/run runs it by --ignored"]
fn every_step_can_fail_and_leaves_nothing() {
    println!("injected failures that name phase, step, syscall, target, errno: {}", fail_at_every(1));
}

/// Makes steps fail, each in a container of its own; how many there were.
fn fail_at_every(stride: usize) -> usize {
    let Some(bench) = bench() else { return 0 };
    let spec = shell("true").build().unwrap();
    let plan = Plan::compile(&spec, bench.rootfs()).unwrap();
    let before = host_state();
    let mut named = 0;
    for step in (0..u32::try_from(plan.len()).unwrap()).step_by(stride) {
        let options = CreateOptions::default().fail_at(step, Errno::from_raw(28));
        let created = bench.runtime.create_with(&fresh_id(), &spec, bench.rootfs(), Io::null(), &options);
        match created.and_then(|created| created.start()) {
            Err(Error::Step { step: Some(at), errno, syscall, target, .. }) => {
                assert_eq!((at, errno.raw()), (step, 28), "{syscall} {target}");
                named += 1;
            }
            // A step on a branch that is not taken here.
            Ok(running) => running.delete().unwrap(),
            Err(other) => panic!("step {step}: {other:?}"),
        }
        assert!(bench.runtime.list().unwrap().is_empty(), "step {step}");
    }
    assert!(named > 60, "{named}");
    assert_eq!(host_state(), before);
    named
}

#[test]
fn phases_are_in_order() {
    let Some(bench) = bench() else { return };
    let error = bench.run(shell("true").mount_bind("/no/such/file", "/x", true)).unwrap_err();
    assert_eq!(error.phase(), Some(Phase::Mounts), "{error:?}");
    assert_eq!(error.errno().unwrap().raw(), 2);
}

#[test]
fn a_mount_over_the_other_kind_says_so() {
    let Some(bench) = bench() else { return };
    let file = bench.root().join("etc/plain");
    fs::write(&file, "").unwrap();
    let mounts = [
        shell("true").mount_bind(bench.dir.path(), "/etc/plain", true),
        shell("true").mount_bind(&file, "/tmp", true),
        shell("true").mount_tmpfs("/etc/plain", ["mode=755"]),
    ];
    for spec in mounts {
        let error = bench.run(spec).unwrap_err();
        assert!(
            error.hint().unwrap().fact().contains("a directory cannot be mounted over a file"),
            "{error:?}"
        );
    }
}
