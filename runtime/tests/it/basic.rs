//! The life of a container, and what it sees.

use std::io::{Read, Write};

use runtime::{CreateOptions, Error, ExitStatus, Io, Network, Signal, SpecBuilder, Status};

use crate::support::{bench, fresh_id, is_root, shell, skipped, spec};

#[test]
fn exit_codes_and_output_come_back() {
    let Some(bench) = bench() else { return };
    let (exit, output) = bench.run(shell("echo hello; exit 7")).unwrap();
    assert_eq!((exit.status, output.as_str()), (ExitStatus::Code(7), "hello\n"));
    assert!(exit.usage.is_some());
}

#[test]
fn the_process_gets_what_the_spec_says() {
    let Some(bench) = bench() else { return };
    let script = "echo $$ $A $(id -u) $(id -g) $(umask); hostname; readlink /proc/self/cwd; ls /proc/self/fd; \
                  cat /proc/self/status | while read k v; do case $k in Cap*|NoNew*) echo $k $v;; esac; done; \
                  ls -A /dev; test -w /proc/sys/kernel/hostname && echo WRITABLE; cat /proc/kcore | cat";
    let spec =
        shell(script).env(["A=1", "PATH=/bin:/usr/bin"]).cwd("/new/place").hostname("box").umask(0o027);
    let (exit, output) = bench.run(spec).unwrap();
    assert!(exit.success(), "{output}");
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(&lines[..3], ["1 1 0 0 0027", "box", "/new/place"]);
    // The list's own directory is the fourth.
    assert_eq!(&lines[3..7], ["0", "1", "2", "3"]);
    assert!(output.contains("CapEff: 00000000a80425fb"), "{output}");
    assert!(output.contains("CapBnd: 00000000a80425fb"), "{output}");
    assert!(output.contains("CapInh: 0000000000000000"), "{output}");
    for node in ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "shm", "mqueue", "pts"] {
        assert!(lines.contains(&node), "{node} in {output}");
    }
    assert!(!output.contains("WRITABLE"), "{output}");
}

#[test]
fn streams_lead_where_they_should() {
    let Some(bench) = bench() else { return };
    let (stdin, mut feed) = std::io::pipe().unwrap();
    let (mut out, stdout) = std::io::pipe().unwrap();
    let (mut err, stderr) = std::io::pipe().unwrap();
    let io = Io::null().stdin(stdin).stdout(stdout).stderr(stderr);
    let spec = shell("cat; echo bad >&2").build().unwrap();
    let running = bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), io).unwrap().start().unwrap();
    feed.write_all(b"fed").unwrap();
    drop(feed);
    let (mut output, mut errors) = (String::new(), String::new());
    out.read_to_string(&mut output).unwrap();
    err.read_to_string(&mut errors).unwrap();
    assert_eq!((output.as_str(), errors.as_str()), ("fed", "bad\n"));
    running.delete().unwrap();
}

#[test]
fn signals_states_and_deletion() {
    let Some(bench) = bench() else { return };
    let id = fresh_id();
    let spec = spec(&["/bin/sleep", "1000"]).build().unwrap();
    let created = bench.runtime.create(&id, &spec, bench.rootfs(), Io::null()).unwrap();
    assert_eq!(bench.runtime.load(&id).unwrap().status(), Status::Created);
    let again = bench.runtime.create(&id, &spec, bench.rootfs(), Io::null());
    assert!(matches!(again, Err(Error::Exists { .. })), "{again:?}");
    let running = created.start().unwrap();
    assert_eq!(running.try_wait().unwrap(), None);
    let loaded = bench.runtime.load(&id).unwrap();
    assert_eq!((loaded.status(), loaded.pid()), (Status::Running, running.pid()));
    running.kill(Signal::KILL).unwrap();
    let exit = running.wait().unwrap();
    assert!(matches!(exit.status, ExitStatus::Signal { signal: Signal::KILL, .. }), "{exit:?}");
    assert_eq!(exit.code(), 137);
    assert_eq!(loaded.status(), Status::Stopped);
    assert!(loaded.kill(Signal::TERM).is_err());
    running.delete().unwrap();
    assert!(bench.runtime.list().unwrap().is_empty());
}

#[test]
fn handles_clean_up_as_they_promise() {
    let Some(bench) = bench() else { return };
    let spec = spec(&["/bin/sleep", "1000"]).build().unwrap();
    drop(bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), Io::null()).unwrap());
    assert!(bench.runtime.list().unwrap().is_empty());
    let options = CreateOptions::default().kill_on_drop(true);
    let create =
        || bench.runtime.create_with(&fresh_id(), &spec, bench.rootfs(), Io::null(), &options).unwrap();
    drop(create().start().unwrap());
    assert!(bench.runtime.list().unwrap().is_empty());
    let id = fresh_id();
    drop(bench.runtime.create(&id, &spec, bench.rootfs(), Io::null()).unwrap().start().unwrap());
    let left = bench.runtime.load(&id).unwrap();
    assert_eq!(left.status(), Status::Running);
    left.delete().unwrap();
    assert!(bench.runtime.list().unwrap().is_empty());
}

#[test]
fn binds_and_read_only_roots() {
    let Some(bench) = bench() else { return };
    let shared = bench.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "content").unwrap();
    let script = "cat /in/a/file; echo x > /in/a/file && echo WRITTEN; echo y > /out/new; echo z > /etc/z && echo ROOT";
    let spec = shell(script)
        .mount_bind(&shared, "/in/a", true)
        .mount_bind(&shared, "/out", false)
        .mount_bind(shared.join("file"), "/etc/one", true)
        .read_only(true);
    let (_, output) = bench.run(spec).unwrap();
    assert!(
        output.starts_with("content") && !output.contains("WRITTEN") && !output.contains("ROOT"),
        "{output}"
    );
    assert_eq!(std::fs::read_to_string(shared.join("new")).unwrap(), "y\n");
}

#[test]
fn users_and_unmapped_ids() {
    let Some(bench) = bench() else { return };
    let spec = shell("id -u; id -g; id -G").user(12, 34, &[56]);
    match bench.run(spec) {
        Ok((_, output)) => assert_eq!(output, "12\n34\n34 56\n"),
        Err(error) => assert!(!is_root() && error.needs_second_id() && error.hint().is_some(), "{error:?}"),
    }
}

#[test]
fn the_number_that_is_no_id_is_nobodys() {
    // The kernel takes it for "no change": the process would stay root.
    let Some(bench) = bench() else { return };
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        let error = bench.run(shell("id -u").user(uid, gid, &[])).unwrap_err();
        assert!(matches!(error, Error::Spec { .. }), "{error:?}");
    }
}

#[test]
fn the_hosts_network_can_be_kept() {
    let Some(bench) = bench() else { return };
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    let (exit, output) =
        bench.run(shell("readlink /proc/self/ns/net; ls /sys").network(Network::Host)).unwrap();
    assert!(exit.success(), "{output}");
    assert_eq!(output.lines().next().unwrap(), host.to_str().unwrap());
    let (_, output) = bench.run(shell("readlink /proc/self/ns/net")).unwrap();
    assert_ne!(output.trim(), host.to_str().unwrap());
}

#[test]
fn ranges_of_ids_as_root() {
    use runtime::{IdRange, UserMapping};
    let Some(bench) = bench() else { return };
    if !is_root() {
        return skipped("only root maps ranges without newuidmap");
    }
    let range = vec![IdRange { inside: 0, outside: 100_000, count: 1000 }];
    std::os::unix::fs::chown(bench.root(), Some(100_000), Some(100_000)).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bench.dir.path(), open).unwrap();
    let spec =
        shell("id -u; touch /mine; stat -c %u /mine").user_mapping(UserMapping::ranges(range.clone(), range));
    let (_, output) = bench.run(spec).unwrap();
    assert_eq!(output, "0\n0\n");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(bench.root().join("mine")).unwrap());
    assert_eq!(owner, 100_000);
}

#[test]
fn waiting_without_a_thread() {
    let Some(bench) = bench() else { return };
    let spec = shell("exit 3").build().unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let running =
        bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), Io::null()).unwrap().start().unwrap();
    let exit = tokio.block_on(running.wait_async()).unwrap();
    assert_eq!(exit.status, ExitStatus::Code(3));
    running.delete().unwrap();
}

#[test]
fn a_plan_can_be_read() {
    let spec = SpecBuilder::new().args(["true"]).user_mapping(runtime::UserMapping::single(
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    ));
    let plan = runtime::Plan::compile(&spec.build().unwrap(), runtime::Rootfs::Path("/".into())).unwrap();
    let text = plan.explain();
    assert_eq!(text.lines().count(), plan.len());
    assert!(text.contains("pivot_root") && text.lines().last().unwrap().contains("execve"), "{text}");
}

#[test]
fn executors_can_be_exchanged() {
    use runtime::{Executor, FakeExecutor, Rootfs};
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let spec = shell("exit 3").build().unwrap();
    let go = |executor: &dyn Executor, rootfs| {
        tokio.block_on(executor.run(&fresh_id(), &spec, rootfs, Io::null())).unwrap().code()
    };
    let fake = FakeExecutor::with_codes([5]);
    assert_eq!((go(&fake, Rootfs::Path("/".into())), go(&fake, Rootfs::Path("/".into()))), (5, 0));
    assert_eq!(fake.asked().len(), 2);
    let Some(bench) = bench() else { return };
    assert_eq!(go(&bench.runtime, bench.rootfs()), 3);
    assert!(bench.runtime.list().unwrap().is_empty());
}

#[test]
fn ranges_of_ids_as_an_ordinary_user() {
    use runtime::{IdRange, UserMapping};
    let Some(bench) = bench() else { return };
    if is_root() {
        // Run as a user by the gate.
        return;
    }
    let host = runtime::Host::probe();
    let (Some(uids), Some(gids), true) = (host.subuid.first(), host.subgid.first(), host.newuidmap) else {
        return skipped("no newuidmap, or no range in /etc/subuid for this user");
    };
    let own = |outside| IdRange { inside: 0, outside, count: 1 };
    let more = |(first, count): (u32, u32)| IdRange { inside: 1, outside: first, count: count.min(60_000) };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mapping = UserMapping::ranges([own(uid), more(*uids)], [own(gid), more(*gids)]);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bench.dir.path(), open).unwrap();
    // Another user, who writes a file of its own.
    let spec = shell("id -u; id -G; touch /tmp/mine; stat -c %u:%g /tmp/mine")
        .user(12, 34, &[56])
        .mount_tmpfs("/tmp", ["mode=1777"])
        .user_mapping(mapping);
    let (exit, output) = bench.run(spec).unwrap();
    assert!(exit.success(), "{output}");
    assert_eq!(output, "12\n34 56\n12:34\n");
}

#[test]
fn what_waits_to_be_started_ends_when_it_is_asked_to() {
    let Some(bench) = bench() else { return };
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let spec = shell("sleep 1000").build().unwrap();
        let options = CreateOptions::default().detachable(true);
        let created = bench.runtime.create_with(&fresh_id(), &spec, bench.rootfs(), Io::null(), &options);
        let container = created.unwrap().detach().unwrap();
        assert_eq!(container.status(), Status::Created);
        container.kill(signal).unwrap();
        assert_eq!(container.wait().unwrap().code(), 128 + signal.raw());
        assert_eq!(container.status(), Status::Stopped);
        container.delete().unwrap();
    }
    // The program has no such handler.
    let spec = shell("kill -TERM $$; echo lives").build().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let io = Io::null().stdout(writer);
    let running = bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), io).unwrap().start().unwrap();
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    running.delete().unwrap();
    assert_eq!(output, "lives\n");
}
