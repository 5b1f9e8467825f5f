//! The Linux part of a Spec, read from inside.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use oci_spec::runtime::{
    BoxBuilder, Hook, HookBuilder, Hooks, IOPriorityClass, LinuxIOPriorityBuilder, LinuxIdMappingBuilder,
    LinuxNamespace, LinuxNamespaceType, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerPolicy,
    LinuxTimeOffset, SchedulerBuilder, Spec,
};
use runtime::{CreateOptions, Error, Io, Status, oci_spec};

use crate::support::{Bench, bench, fresh_id, is_root, mount, shell, skipped};

/// Runs a Spec; what it wrote.
fn run(bench: &Bench, spec: &Spec) -> Result<String, Error> {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let io = Io::null().stdout(writer.try_clone().unwrap()).stderr(writer);
    let running = bench.runtime.create(&fresh_id(), spec, bench.rootfs(), io)?.start()?;
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    running.wait()?;
    running.delete()?;
    Ok(output)
}

fn hook(script: &str, timeout: Option<i64>) -> Vec<Hook> {
    let args = ["sh", "-c", script].map(str::to_owned).to_vec();
    let mut hook = HookBuilder::default().path("/bin/sh").args(args).env(vec!["WHO=hook".to_owned()]);
    if let Some(timeout) = timeout {
        hook = hook.timeout(timeout);
    }
    vec![hook.build().unwrap()]
}

#[test]
fn all_six_hooks_run_where_and_when_they_should() {
    let Some(bench) = bench() else { return };
    let log = bench.dir.path().join("log");
    std::fs::create_dir(&log).unwrap();
    let script = |name: &str| {
        // The state is on standard input. Inside, the directory is known by the mount; on the host by its path.
        let place = if name == "startContainer" { "/log".to_owned() } else { log.display().to_string() };
        format!(
            "cat > {place}/{name}; echo $WHO >> {place}/{name}; readlink /proc/self/ns/mnt >> {place}/{name}; echo {name} >> {place}/order"
        )
    };
    let mut hooks = Hooks::default();
    hooks
        .set_prestart(Some(hook(&script("prestart"), None)))
        .set_create_runtime(Some(hook(&script("createRuntime"), None)))
        .set_create_container(Some(hook(&script("createContainer"), None)))
        .set_start_container(Some(hook(&script("startContainer"), Some(10))))
        .set_poststart(Some(hook(&script("poststart"), None)))
        .set_poststop(Some(hook(&script("poststop"), None)));
    let mut spec = shell("readlink /proc/self/ns/mnt").mount_bind(&log, "/log", false).build().unwrap();
    spec.set_hooks(Some(hooks));
    let inside = run(&bench, &spec).unwrap();
    let read = |name: &str| std::fs::read_to_string(log.join(name)).unwrap();
    assert_eq!(
        read("order"),
        "prestart\ncreateRuntime\ncreateContainer\nstartContainer\npoststart\npoststop\n"
    );
    for (name, status, is_inside) in [
        ("createRuntime", "creating", false),
        ("createContainer", "creating", true),
        ("startContainer", "created", true),
        ("poststart", "running", false),
        ("poststop", "stopped", false),
    ] {
        let text = read(name);
        assert!(
            text.contains(&format!("\"status\":\"{status}\"")) && text.contains("hook\n"),
            "{name}: {text}"
        );
        assert_eq!(text.ends_with(&inside), is_inside, "{name}: {text} {inside}");
    }
}

#[test]
fn a_hook_that_fails_or_hangs_ends_it() {
    let Some(bench) = bench() else { return };
    let with = |hooks| {
        let mut spec = shell("true").build().unwrap();
        spec.set_hooks(Some(hooks));
        run(&bench, &spec).unwrap_err()
    };
    let mut hooks = Hooks::default();
    hooks.set_create_runtime(Some(hook("echo no good >&2; exit 3", None)));
    let error = with(hooks);
    assert!(
        matches!(&error, Error::Hook { point: "createRuntime", output, .. } if output == "no good"),
        "{error:?}"
    );
    assert!(error.to_string().contains("exit code 3"), "{error}");
    let mut hooks = Hooks::default();
    hooks.set_start_container(Some(hook("sleep 100", Some(1))));
    let error = with(hooks);
    assert!(error.to_string().contains("timeout of 1 s"), "{error}");
    let mut hooks = Hooks::default();
    hooks.set_create_container(Some(vec![HookBuilder::default().path("/no/such/hook").build().unwrap()]));
    assert!(matches!(with(hooks), Error::Hook { point: "createContainer", .. }));
    assert!(bench.runtime.list().unwrap().is_empty());
}

#[test]
fn a_poststop_hook_that_fails_keeps_no_other_from_running() {
    let Some(bench) = bench() else { return };
    let log = bench.dir.path().join("log");
    let script = |end: &str| hook(&format!("echo {end} >> {}; {end}", log.display()), None);
    let mut hooks = Hooks::default();
    hooks.set_poststop(Some([script("true"), script("exit 3"), script("true")].concat()));
    let mut spec = shell("true").build().unwrap();
    spec.set_hooks(Some(hooks));
    run(&bench, &spec).unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "true\nexit 3\ntrue\n");
}

#[test]
fn a_hook_of_start_that_fails_stops_a_detached_container() {
    let Some(bench) = bench() else { return };
    for point in ["startContainer", "poststart"] {
        let mut hooks = Hooks::default();
        match point {
            "poststart" => hooks.set_poststart(Some(hook("exit 3", None))),
            _ => hooks.set_start_container(Some(hook("exit 3", None))),
        };
        let mut spec = shell("sleep 1000").build().unwrap();
        spec.set_hooks(Some(hooks));
        let options = CreateOptions::default().detachable(true);
        let created = bench.runtime.create_with(&fresh_id(), &spec, bench.rootfs(), Io::null(), &options);
        let container = created.unwrap().detach().unwrap();
        let error = container.start().unwrap_err();
        assert!(matches!(&error, Error::Hook { point: failed, .. } if *failed == point), "{error:?}");
        assert_eq!(container.status(), Status::Stopped, "{point}");
        container.delete().unwrap();
    }
}

#[test]
fn a_terminal_of_its_own() {
    let Some(bench) = bench() else { return };
    let mut spec =
        shell("stty size; tty; test -t 0 && echo terminal; echo there > /dev/console").build().unwrap();
    let process = spec.process_mut().as_mut().unwrap();
    let size = BoxBuilder::default().height(33u64).width(99u64).build().unwrap();
    process.set_terminal(Some(true)).set_console_size(Some(size));
    let mut created = bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), Io::null()).unwrap();
    let terminal = created.take_terminal().unwrap();
    let running = created.start().unwrap();
    let mut output = Vec::new();
    let mut buffer = [0; 1024];
    // A terminal whose other side is gone answers EIO.
    while let Ok(count @ 1..) = rustix::io::read(&terminal, &mut buffer) {
        output.extend_from_slice(&buffer[..count]);
    }
    let output = String::from_utf8(output).unwrap();
    assert!(output.contains("33 99") && output.contains("terminal") && output.contains("there"), "{output}");
    running.delete().unwrap();
}

#[test]
fn further_descriptors_arrive_and_no_others() {
    let Some(bench) = bench() else { return };
    let spec = shell("cat <&4; echo three >&3; ls /proc/self/fd").build().unwrap();
    let (mut out, three) = std::io::pipe().unwrap();
    let (four, mut feed) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut feed, b"four\n").unwrap();
    drop(feed);
    let (mut reader, stdout) = std::io::pipe().unwrap();
    let io = Io::null().stdout(stdout).preserve(three.into()).preserve(four.into());
    let running = bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), io).unwrap().start().unwrap();
    let (mut text, mut through) = (String::new(), String::new());
    reader.read_to_string(&mut text).unwrap();
    out.read_to_string(&mut through).unwrap();
    // The list's own directory is the last one.
    assert_eq!((text.as_str(), through.as_str()), ("four\n0\n1\n2\n3\n4\n5\n", "three\n"));
    running.delete().unwrap();
}

#[test]
fn another_runtime_starts_what_was_detached() {
    let Some(bench) = bench() else { return };
    let id = fresh_id();
    let spec = shell("exit 4").build().unwrap();
    let options = CreateOptions::default().detachable(true);
    let created = bench.runtime.create_with(&id, &spec, bench.rootfs(), Io::null(), &options).unwrap();
    let kept = created.detach().unwrap();
    let other = runtime::Runtime::builder().state_dir(bench.dir.path().join("state")).build().unwrap();
    let loaded = other.load(&id).unwrap();
    assert_eq!((loaded.status(), other.recover().unwrap().len()), (Status::Created, 0));
    loaded.start().unwrap();
    assert_eq!(kept.wait().unwrap().code(), 4);
    assert!(loaded.start().is_err());
    loaded.delete().unwrap();
    // An error at the start names its step, in that other process too.
    let mut wrong = shell("true").build().unwrap();
    wrong.process_mut().as_mut().unwrap().set_args(Some(vec!["/etc/script".to_owned()]));
    let script = bench.root().join("etc/script");
    std::fs::write(&script, "#!/no/interpreter\n").unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let id = fresh_id();
    bench.runtime.create_with(&id, &wrong, bench.rootfs(), Io::null(), &options).unwrap().detach().unwrap();
    let error = other.load(&id).unwrap().start().unwrap_err();
    assert!(error.is_not_found() && error.hint().is_some(), "{error:?}");
    other.load(&id).unwrap().delete().unwrap();
}

#[test]
fn a_program_that_is_not_there_is_found_out_at_create() {
    let Some(bench) = bench() else { return };
    let spec = crate::support::spec(&["nosuch"]).build().unwrap();
    let error = bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), Io::null()).unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

#[test]
fn scheduling_and_personality() {
    let Some(bench) = bench() else { return };
    if !is_root() {
        return skipped("an ordinary user may not raise priorities");
    }
    let mut spec = shell("cat /proc/self/sched; uname -m").build().unwrap();
    let process = spec.process_mut().as_mut().unwrap();
    let scheduler =
        SchedulerBuilder::default().policy(LinuxSchedulerPolicy::SchedBatch).nice(7).build().unwrap();
    let priority = LinuxIOPriorityBuilder::default().class(IOPriorityClass::IoprioClassIdle).priority(0i64);
    process.set_scheduler(Some(scheduler)).set_io_priority(Some(priority.build().unwrap()));
    let mut personality = LinuxPersonality::default();
    personality.set_domain(LinuxPersonalityDomain::PerLinux32);
    spec.linux_mut().as_mut().unwrap().set_personality(Some(personality));
    let output = run(&bench, &spec).unwrap();
    let policy = output.lines().find(|line| line.starts_with("policy")).unwrap_or_default();
    assert!(policy.ends_with('3') && output.contains("i686"), "{output}");
}

#[test]
fn clocks_with_offsets() {
    let Some(bench) = bench() else { return };
    if !is_root() {
        return skipped("offsets in a user namespace are refused by name");
    }
    let mut spec = shell("cat /proc/uptime").build().unwrap();
    let linux = spec.linux_mut().as_mut().unwrap();
    let mut time = LinuxNamespace::default();
    time.set_typ(LinuxNamespaceType::Time).set_path(None);
    linux.namespaces_mut().as_mut().unwrap().push(time);
    let mut offset = LinuxTimeOffset::default();
    offset.set_secs(Some(1_000_000));
    linux.set_time_offsets(Some([("boottime".to_owned(), offset)].into()));
    let output = run(&bench, &spec).unwrap();
    let uptime: f64 = output.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 1_000_000.0, "{output}");
}

#[test]
fn ids_of_a_mount_can_be_mapped() {
    let Some(bench) = bench() else { return };
    if !is_root() {
        return skipped("only root maps the ids of a mount");
    }
    let shared = bench.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "x").unwrap();
    let map = vec![
        LinuxIdMappingBuilder::default().container_id(0u32).host_id(5000u32).size(10u32).build().unwrap(),
    ];
    let mut mapped = mount("/in", "bind", &shared, &["bind"]);
    mapped.set_uid_mappings(Some(map.clone())).set_gid_mappings(Some(map));
    let spec = shell("stat -c %u:%g /in/file").mount(mapped).build().unwrap();
    match run(&bench, &spec) {
        Ok(output) => assert_eq!(output, "5000:5000\n"),
        Err(error) if error.errno().is_some_and(|errno| errno.raw() == libc::EINVAL) => {
            skipped("the filesystem below the temporary directory takes no mapped ids");
        }
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn a_tmpfs_can_begin_with_a_copy() {
    let Some(bench) = bench() else { return };
    let data = bench.root().join("data/deep");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("file"), "content\n").unwrap();
    std::fs::set_permissions(data.join("file"), PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("deep/file", bench.root().join("data/link")).unwrap();
    let script = "cat /data/link; stat -c %a /data/deep/file; echo more >> /data/deep/file; cat /data/link";
    let spec = shell(script)
        .mount(mount("/data", "tmpfs", "tmpfs".as_ref(), &["tmpcopyup", "nosuid"]))
        .build()
        .unwrap();
    assert_eq!(run(&bench, &spec).unwrap(), "content\n640\ncontent\nmore\n");
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "content\n");
}

#[test]
fn its_own_cgroups_can_be_shown() {
    let Some(bench) = bench() else { return };
    if !is_root() || runtime::Host::probe().cgroups == runtime::CgroupSetup::None {
        return skipped("this user may not make cgroups");
    }
    let shown = mount("/sys/fs/cgroup", "cgroup", "cgroup".as_ref(), &["nosuid", "noexec", "nodev", "ro"]);
    let script = "cat /sys/fs/cgroup/pids/pids.max || cat /sys/fs/cgroup/pids.max; mkdir /sys/fs/cgroup/x; \
                  cat /proc/self/cgroup";
    let spec = shell(script).pids_limit(77).mount(shown).build().unwrap();
    let output = run(&bench, &spec).unwrap();
    assert!(output.contains("77\n") && output.contains("Read-only file system"), "{output}");
    assert!(
        output
            .lines()
            .filter(|line| line.contains("::") || line.contains(":pids:"))
            .all(|line| line.ends_with(":/"))
    );
}

#[test]
fn nothing_is_mounted_over_the_root() {
    // The filesystem that masked directories are made of once was.
    let Some(bench) = bench() else { return };
    let script = "while read a b c d e f; do case $e in /) echo $e;; esac; done < /proc/self/mountinfo";
    assert_eq!(run(&bench, &shell(script).build().unwrap()).unwrap(), "/\n");
}

#[test]
fn labels_need_their_modules() {
    let Some(bench) = bench() else { return };
    let mut spec = shell("true").build().unwrap();
    spec.process_mut().as_mut().unwrap().set_apparmor_profile(Some("nosuch".to_owned()));
    let error = run(&bench, &spec).unwrap_err();
    assert!(matches!(error, Error::Host { .. } | Error::Step { .. }), "{error:?}");
    assert!(bench.runtime.list().unwrap().is_empty());
}

#[test]
fn the_features_document_is_complete() {
    let features = serde_json::to_value(runtime::features()).unwrap();
    assert_eq!(features["hooks"].as_array().unwrap().len(), 6);
    assert_eq!(features["linux"]["namespaces"].as_array().unwrap().len(), 8);
    assert_eq!(features["linux"]["cgroup"]["v2"], true);
}

#[test]
fn the_resident_helper_is_small_and_replaceable() {
    let Some(bench) = bench() else { return };
    let children = || -> Vec<(u32, String)> {
        let own = std::fs::read_to_string("/proc/self/task").ok();
        drop(own);
        let me = std::process::id();
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter_map(|pid| {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                let rest = stat.rsplit_once(") ")?.1.to_owned();
                let parent: u32 = rest.split(' ').nth(1)?.parse().ok()?;
                (parent == me && stat.contains("(")).then_some((pid, stat))
            })
            .collect()
    };
    let own = runtime::Runtime::builder().state_dir(bench.dir.path().join("other")).build().unwrap();
    let before: Vec<u32> = children().into_iter().map(|(pid, _)| pid).collect();
    let spec = shell("true").build().unwrap();
    let go = || {
        let running = own.create(&fresh_id(), &spec, bench.rootfs(), Io::null()).unwrap().start().unwrap();
        assert!(running.wait().unwrap().success());
        running.delete().unwrap();
    };
    go();
    let exe = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let helper = |before: &[u32]| {
        children()
            .into_iter()
            .map(|(pid, _)| pid)
            .filter(|pid| !before.contains(pid))
            .find(|pid| exe(*pid).to_string_lossy().contains("container-helper"))
    };
    let first = helper(&before).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 1024, "{kib} KiB");
    // Whoever ends it costs a container nothing.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(first.cast_signed()).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    go();
    own.shutdown();
    go();
}

#[test]
fn a_tmpfs_has_the_mode_of_the_directory_that_it_covers() {
    let Some(bench) = bench() else { return };
    let given = bench.root().join("given");
    std::fs::create_dir(&given).unwrap();
    std::fs::set_permissions(&given, std::fs::Permissions::from_mode(0o710)).unwrap();
    // A sticky bit is a part of it; and remounting keeps what is an option of the filesystem.
    let sticky = bench.root().join("sticky");
    std::fs::create_dir(&sticky).unwrap();
    std::fs::set_permissions(&sticky, std::fs::Permissions::from_mode(0o1701)).unwrap();
    let mut wanted = shell(
        "stat -c %a /given /new /sticky; touch /given/x 2>/dev/null || echo read-only; \
         while read a b c d; do case $b,$d in /given,*mode=710*) echo option;; esac; done </proc/mounts",
    );
    for (dest, options) in [("/given", &["ro", "nosuid"][..]), ("/new", &["nosuid"])] {
        wanted = wanted.mount(mount(dest, "tmpfs", Path::new("tmpfs"), options));
    }
    wanted = wanted.mount(mount("/sticky", "tmpfs", Path::new("tmpfs"), &["nosuid"]));
    let output = run(&bench, &wanted.build().unwrap()).unwrap();
    assert_eq!(output.lines().collect::<Vec<_>>(), ["710", "1777", "1701", "read-only", "option"]);
}

#[test]
fn a_path_that_is_masked_twice_is_masked_once() {
    let Some(bench) = bench() else { return };
    let mut wanted = shell("cat /proc/self/mountinfo").build().unwrap();
    let twice = vec!["/etc".to_owned(), "/etc".to_owned()];
    wanted.linux_mut().as_mut().unwrap().set_masked_paths(Some(twice));
    let output = run(&bench, &wanted).unwrap();
    assert_eq!(output.lines().filter(|line| line.contains(" /etc ")).count(), 1, "{output}");
}

#[test]
fn versions_of_the_spec_that_do_not_exist_are_refused() {
    let Some(bench) = bench() else { return };
    for version in ["", "1", "0.9.0", "2.0.0", "latest"] {
        let mut wanted = shell("true").build().unwrap();
        wanted.set_version(version.to_owned());
        assert!(matches!(run(&bench, &wanted), Err(Error::Spec { .. })), "{version:?}");
    }
}

#[test]
fn a_hook_in_the_containers_place_has_the_programs_environment_unless_it_names_its_own() {
    let Some(bench) = bench() else { return };
    let mut bare = hook("test \"$WHO\" = program", None);
    bare[0].set_env(None);
    let mut hooks = Hooks::default();
    hooks.set_start_container(Some([bare, hook("test \"$WHO\" = hook", None)].concat()));
    let mut wanted = shell("echo $WHO").env(["WHO=program", "PATH=/usr/bin:/bin"]).build().unwrap();
    wanted.set_hooks(Some(hooks));
    assert_eq!(run(&bench, &wanted).unwrap(), "program\n");
}
