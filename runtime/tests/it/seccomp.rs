//! Filters in the kernel: what they block fails as the profile says.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscallBuilder,
};
use runtime::{ExitStatus, oci_spec};

use crate::agent;
use crate::support::{bench, shell, spec};

fn profile(action: LinuxSeccompAction, errno: Option<u32>, names: &[&str]) -> LinuxSeccomp {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut entry = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        entry = entry.errno_ret(errno);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActAllow)
        .set_syscalls(Some(vec![entry.build().unwrap()]));
    profile
}

#[test]
fn a_blocked_call_gets_its_error_number() {
    let Some(bench) = bench() else { return };
    let deny = profile(LinuxSeccompAction::ScmpActErrno, Some(15), &["mkdir", "mkdirat"]);
    let (exit, output) = bench.run(shell("mkdir /tmp/x; echo $?").seccomp(Some(deny.clone()))).unwrap();
    assert!(exit.success() && output.contains("Block device required"), "{output}");
    // The same when the process can gain no privileges, which is another way to load it.
    let (_, output) = bench.run(shell("mkdir /tmp/x").seccomp(Some(deny)).no_new_privileges(true)).unwrap();
    assert!(output.contains("Block device required"), "{output}");
    let (_, output) = bench.run(shell("mkdir /tmp/y && echo made").seccomp(None)).unwrap();
    assert_eq!(output, "made\n");
}

#[test]
fn a_call_can_end_the_process() {
    let Some(bench) = bench() else { return };
    let kill = profile(LinuxSeccompAction::ScmpActKillProcess, None, &["mkdir", "mkdirat"]);
    // Directly, as a shell would only see its child go.
    let (exit, _) = bench.run(spec(&["/bin/mkdir", "/tmp/x"]).seccomp(Some(kill))).unwrap();
    assert!(
        matches!(exit.status, ExitStatus::Signal { signal, .. } if signal.raw() == libc::SIGSYS),
        "{exit:?}"
    );
}

#[test]
fn arguments_are_looked_at() {
    let Some(bench) = bench() else { return };
    let arg = LinuxSeccompArgBuilder::default()
        .index(0usize)
        .value(0o77u64)
        .op(LinuxSeccompOperator::ScmpCmpEq)
        .build()
        .unwrap();
    let entry = LinuxSyscallBuilder::default()
        .names(["umask".to_owned()])
        .action(LinuxSeccompAction::ScmpActKillProcess)
        .args([arg]);
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActAllow)
        .set_syscalls(Some(vec![entry.build().unwrap()]));
    let run = |script| bench.run(shell(script).seccomp(Some(profile.clone()))).unwrap().0.code();
    assert_eq!(run("umask 022"), 0);
    assert_eq!(run("umask 077"), 128 + libc::SIGSYS);
}

#[test]
fn the_default_filter_is_dockers() {
    let Some(bench) = bench() else { return };
    let script = "unshare -U true; echo $?; while read k v; do case $k in Seccomp*) echo $k $v;; esac; done < /proc/self/status";
    let (_, output) = bench.run(shell(script)).unwrap();
    assert!(output.contains("Operation not permitted"), "{output}");
    assert!(output.contains("Seccomp: 2") && output.contains("Seccomp_filters: 1"), "{output}");
}

#[test]
fn processes_beside_the_first_have_it_too() {
    use crate::support::fresh_id;
    use std::io::Read;
    let Some(bench) = bench() else { return };
    let deny = profile(LinuxSeccompAction::ScmpActErrno, Some(15), &["mkdir", "mkdirat"]);
    let spec = spec(&["/bin/sleep", "1000"]).seccomp(Some(deny)).build().unwrap();
    let running = bench
        .runtime
        .create(&fresh_id(), &spec, bench.rootfs(), runtime::Io::null())
        .unwrap()
        .start()
        .unwrap();
    let mut process = spec.process().clone().unwrap();
    process.set_args(Some(vec!["/bin/mkdir".to_owned(), "/tmp/z".to_owned()]));
    let (mut reader, writer) = std::io::pipe().unwrap();
    let exec = running.exec(&process, runtime::Io::null().stderr(writer)).unwrap();
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert!(!exec.wait().unwrap().success() && output.contains("Block device required"), "{output}");
    running.delete().unwrap();
}

#[test]
fn an_agent_answers_in_the_kernels_place() {
    let Some(bench) = bench() else { return };
    let path = bench.dir.path().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let agent = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let (text, fd): (String, OwnedFd) = agent::receive(&socket);
        agent::answer_once(&fd, 42);
        text
    });
    let mut notify = profile(LinuxSeccompAction::ScmpActNotify, None, &["mkdir", "mkdirat"]);
    notify.set_listener_path(Some(path)).set_listener_metadata(Some("for the agent".to_owned()));
    let (exit, output) = bench.run(shell("mkdir /tmp/x").seccomp(Some(notify))).unwrap();
    let text = agent.join().unwrap();
    assert!(!exit.success() && output.contains("No message of desired type"), "{output}");
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(state["fds"], serde_json::json!(["seccompFd"]));
    assert_eq!(state["metadata"], "for the agent");
    assert!(state["pid"].as_i64().unwrap() > 1 && state["state"]["status"] == "creating", "{state}");
}
