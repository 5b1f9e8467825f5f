//! Limits, and what else cgroups are for. As an ordinary user without delegation there are none.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxHugepageLimitBuilder, LinuxResources,
};
use runtime::{CgroupSetup, Container, ExecOptions, Io, Running, Signal, SpecBuilder, Status, oci_spec};

use crate::support::{Bench, bench, fresh_id, is_root, shell, skipped, spec};

/// A bench whose user may make cgroups.
fn limited() -> Option<Bench> {
    let bench = bench()?;
    if !is_root() || runtime::Host::probe().cgroups == CgroupSetup::None {
        skipped("this user may not make cgroups");
        return None;
    }
    Some(bench)
}

fn start(bench: &Bench, spec: SpecBuilder) -> Running {
    let spec = spec.build().unwrap();
    bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), Io::null()).unwrap().start().unwrap()
}

fn sleeping(bench: &Bench, change: impl FnOnce(SpecBuilder) -> SpecBuilder) -> Running {
    start(bench, change(spec(&["/bin/sleep", "1000"])))
}

/// The directory in the tree that has this file, and the file's content.
fn file(container: &Container, name: &str) -> Option<String> {
    let read = |directory: PathBuf| fs::read_to_string(directory.join(name)).ok();
    container.cgroups().into_iter().find_map(read).map(|text| text.trim().to_owned())
}

fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn limits_are_there_and_go_with_the_container() {
    let Some(bench) = limited() else { return };
    let running = sleeping(&bench, |spec| spec.memory_limit(64 << 20).cpu_limit(500).pids_limit(20));
    let v1 = file(&running, "memory.limit_in_bytes").is_some();
    if v1 {
        assert_eq!(file(&running, "memory.limit_in_bytes").unwrap(), (64 << 20).to_string());
        assert_eq!(file(&running, "cpu.cfs_quota_us").unwrap(), "50000");
    } else {
        assert_eq!(file(&running, "memory.max").unwrap(), (64 << 20).to_string());
        assert_eq!(file(&running, "cpu.max").unwrap(), "50000 100000");
    }
    assert_eq!(file(&running, "pids.max").unwrap(), "20");
    let stats = running.stats().unwrap();
    assert_eq!((stats.memory.limit, stats.pids.limit, stats.pids.current), (Some(64 << 20), Some(20), 1));
    assert_eq!(running.pids().unwrap(), [running.pid()]);
    // It is in every tree.
    let own = fs::read_to_string(format!("/proc/{}/cgroup", running.pid())).unwrap();
    let id = running.id().to_string();
    assert!(own.lines().all(|line| line.ends_with(&format!("/cooperage/{id}"))), "{own}");
    let directories = running.cgroups();
    running.delete().unwrap();
    assert!(directories.iter().all(|directory| !directory.exists()));
}

#[test]
fn the_kernel_keeps_the_limits() {
    let Some(bench) = limited() else { return };
    let (_, output) =
        bench.run(shell("for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; echo end").pids_limit(5)).unwrap();
    assert!(output.to_lowercase().contains("fork") && !output.contains("end"), "{output}");
    // One process that is too large for its limit.
    let script = "x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done";
    let (exit, _) = bench.run(shell(script).memory_limit(16 << 20)).unwrap();
    assert_eq!((exit.code(), exit.oom_killed), (137, true), "{exit:?}");
}

#[test]
fn one_process_is_enough_for_a_limit_of_one() {
    let Some(bench) = limited() else { return };
    let (exit, output) = bench.run(spec(&["/bin/ls", "/bin/ls"]).pids_limit(1)).unwrap();
    assert!(exit.success() && output == "/bin/ls\n", "{output}");
}

#[test]
fn devices_are_denied_unless_allowed() {
    let Some(bench) = limited() else { return };
    // A number that no driver has: what is allowed then fails otherwise than what is denied.
    let script =
        "mknod /tmp/null c 1 3 && echo x > /tmp/null && echo NULL; mknod /tmp/none c 1 99 && : < /tmp/none";
    let (_, output) = bench.run(shell(script)).unwrap();
    assert!(output.contains("NULL") && output.contains("Operation not permitted"), "{output}");
    let rule = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(LinuxDeviceType::C)
        .major(1)
        .minor(99)
        .access("r")
        .build()
        .unwrap();
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![rule]));
    let (_, output) = bench.run(shell(&script.replace("/tmp/", "/tmp/a")).resources(resources)).unwrap();
    assert!(output.contains("No such device or address"), "{output}");
}

#[test]
fn pausing_and_going_on() {
    let Some(bench) = limited() else { return };
    let running = start(&bench, shell("while true; do :; done"));
    running.pause().unwrap();
    assert_eq!(running.status(), Status::Paused);
    assert_eq!(bench.runtime.load(running.id()).unwrap().status(), Status::Paused);
    let process = spec(&["true"]).build().unwrap().process().clone().unwrap();
    assert!(running.exec(&process, Io::null()).is_err());
    let used = || running.stats().unwrap().cpu.usage;
    let before = used();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(used(), before);
    running.resume().unwrap();
    until("it uses time again", || used() > before);
    // What is paused can be deleted.
    running.pause().unwrap();
    running.delete().unwrap();
}

#[test]
fn updates_change_what_they_name() {
    let Some(bench) = limited() else { return };
    let running = sleeping(&bench, |spec| spec.memory_limit(32 << 20).pids_limit(10));
    let mut resources = LinuxResources::default();
    let mut memory = oci_spec::runtime::LinuxMemory::default();
    memory.set_limit(Some(128 << 20)).set_swap(Some(256 << 20));
    let mut cpu = LinuxCpu::default();
    cpu.set_cpus(Some("0".to_owned()));
    resources.set_memory(Some(memory)).set_cpu(Some(cpu)).set_devices(None);
    // From another handle, as another process would.
    bench.runtime.load(running.id()).unwrap().update(&resources).unwrap();
    let stats = running.stats().unwrap();
    assert_eq!((stats.memory.limit, stats.pids.limit), (Some(128 << 20), Some(10)));
    assert_eq!(file(&running, "cpuset.cpus").unwrap(), "0");
    // Lower again: the other order of the two limits.
    memory.set_limit(Some(16 << 20)).set_swap(Some(16 << 20));
    resources.set_memory(Some(memory));
    running.update(&resources).unwrap();
    assert_eq!(running.stats().unwrap().memory.limit, Some(16 << 20));
    running.delete().unwrap();
}

#[test]
fn groups_of_others_are_not_joined() {
    let Some(bench) = limited() else { return };
    let running = sleeping(&bench, |spec| spec);
    let pids = running.cgroups().into_iter().find(|directory| directory.join("pids.max").exists());
    let Some(taken) = pids else { return skipped("no controller pids") };
    let mut other = spec(&["/bin/true"]).build().unwrap();
    let name = std::path::Path::new("/").join(taken.iter().skip(5).collect::<PathBuf>());
    other.linux_mut().as_mut().unwrap().set_cgroups_path(Some(name));
    let error = bench.runtime.create(&fresh_id(), &other, bench.rootfs(), Io::null()).unwrap_err();
    assert!(error.to_string().contains("cgroup is not empty"), "{error}");
    // Nothing of the other one was harmed.
    assert_eq!(running.status(), Status::Running);
    running.delete().unwrap();
}

#[test]
fn another_process_joins_a_group_beneath() {
    let Some(bench) = limited() else { return };
    let running = sleeping(&bench, |spec| spec);
    let Some(pids) = running.cgroups().into_iter().find(|directory| directory.join("pids.max").exists())
    else {
        return skipped("no controller pids");
    };
    if !pids.join("tasks").exists() {
        return skipped("the controller pids is on cgroup version 2");
    }
    fs::create_dir(pids.join("inner")).unwrap();
    let process = spec(&["/bin/sleep", "1000"]).build().unwrap().process().clone().unwrap();
    let join = |controller: &str, path: &str| {
        running.exec_with(&process, Io::null(), &ExecOptions::default().cgroup([controller], path))
    };
    let exec = join("pids", "inner").unwrap();
    let inside = fs::read_to_string(pids.join("inner/cgroup.procs")).unwrap();
    assert_eq!(inside.trim(), exec.pid().to_string());
    for (controller, path) in [("pids", ".."), ("pids", "nosuch"), ("nosuch", "inner")] {
        assert!(join(controller, path).is_err(), "{controller}:{path}");
    }
    running.delete().unwrap();
}

#[test]
fn a_limit_of_no_process_is_one_of_one() {
    let Some(bench) = limited() else { return };
    let running = sleeping(&bench, |spec| spec.pids_limit(0));
    assert_eq!(file(&running, "pids.max").unwrap(), "1");
    running.delete().unwrap();
}

#[test]
fn every_process_is_ended_and_nested_groups_go() {
    let Some(bench) = limited() else { return };
    let mut wanted = shell("sleep 1000 & sleep 1000 & wait").build().unwrap();
    // Without a pid namespace of its own only the cgroup knows what belongs to it.
    let linux = wanted.linux_mut().as_mut().unwrap();
    linux
        .namespaces_mut()
        .as_mut()
        .unwrap()
        .retain(|one| one.typ() != oci_spec::runtime::LinuxNamespaceType::Pid);
    let created = bench.runtime.create(&fresh_id(), &wanted, bench.rootfs(), Io::null()).unwrap();
    let running = created.start().unwrap();
    until("three processes", || running.pids().unwrap().len() == 3);
    let pids = running.pids().unwrap();
    // Groups that the container could have made, with a process in them.
    for directory in running.cgroups() {
        fs::create_dir_all(directory.join("a/b")).unwrap();
        if !directory.join("cpuset.cpus").exists() {
            fs::write(directory.join("a/b/cgroup.procs"), pids[1].to_string()).unwrap();
        }
    }
    running.kill_all(Signal::TERM).unwrap();
    until("they are gone", || running.pids().unwrap().is_empty());
    assert_eq!(running.wait().unwrap().code(), 143);
    let directories = running.cgroups();
    running.delete().unwrap();
    assert!(directories.iter().all(|directory| !directory.exists()));
    assert!(pids.iter().all(|pid| !fs::exists(format!("/proc/{pid}/root/bin")).unwrap()));
}

#[test]
fn a_controller_of_either_tree_is_found() {
    let Some(bench) = limited() else { return };
    let Ok(sizes) = fs::read_dir("/sys/kernel/mm/hugepages") else { return skipped("no huge pages") };
    assert!(sizes.count() > 0);
    let limit = LinuxHugepageLimitBuilder::default().page_size("2MB").limit(4 << 20).build().unwrap();
    let mut resources = LinuxResources::default();
    resources.set_devices(None).set_hugepage_limits(Some(vec![limit]));
    let running = sleeping(&bench, |spec| spec.resources(resources));
    let value = file(&running, "hugetlb.2MB.max").or_else(|| file(&running, "hugetlb.2MB.limit_in_bytes"));
    assert_eq!(value.unwrap(), (4 << 20).to_string());
    running.delete().unwrap();
}

#[test]
fn a_limit_that_cannot_be_kept_is_refused() {
    let Some(bench) = limited() else { return };
    let mut resources = LinuxResources::default();
    resources.set_unified(Some([("nosuch.max".to_owned(), "1".to_owned())].into()));
    let error = bench.run(shell("true").resources(resources)).unwrap_err();
    assert!(
        matches!(error, runtime::Error::Host { .. }) && error.to_string().contains("nosuch.max"),
        "{error}"
    );
    let mut resources = LinuxResources::default();
    let mut cpu = LinuxCpu::default();
    cpu.set_cpus(Some("1000".to_owned()));
    resources.set_cpu(Some(cpu));
    let error = bench.run(shell("true").resources(resources)).unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
    assert!(bench.runtime.list().unwrap().is_empty());
}

#[test]
fn realtime_is_given_to_the_groups_that_are_made_and_taken_back() {
    const FILE: &str = "cpu.rt_runtime_us";
    let Some(bench) = limited() else { return };
    let running = sleeping(&bench, |spec| spec);
    let group = running.cgroups().into_iter().find(|directory| directory.join(FILE).exists());
    running.delete().unwrap();
    let Some(group) = group else { return skipped("the kernel does not share out realtime among groups") };
    let point = group.parent().and_then(|parent| parent.parent()).unwrap();
    let of = |directory: &std::path::Path| -> i64 {
        fs::read_to_string(directory.join(FILE)).unwrap().trim().parse().unwrap()
    };
    // They come and go.
    let others = fs::read_dir(point).unwrap().flatten();
    let runtime = |other: fs::DirEntry| -> Option<i64> {
        fs::read_to_string(other.path().join(FILE)).ok()?.trim().parse().ok()
    };
    let given = others.filter_map(runtime);
    if of(point) - given.sum::<i64>() < 5000 {
        return skipped("other groups have all the realtime that the host gives");
    }
    let top = format!("it-realtime-{}", std::process::id());
    let place = |name: &str| point.join(&top).join(name);
    let asking = |name: &str, runtime: i64| {
        let mut cpu = LinuxCpu::default();
        cpu.set_realtime_runtime(Some(runtime)).set_realtime_period(Some(1_000_000));
        let mut resources = LinuxResources::default();
        resources.set_devices(None).set_cpu(Some(cpu));
        let mut spec = spec(&["/bin/sleep", "1000"]).resources(resources).build().unwrap();
        let path = std::path::Path::new("/").join(&top).join(name);
        spec.linux_mut().as_mut().unwrap().set_cgroups_path(Some(path));
        bench.runtime.create(&fresh_id(), &spec, bench.rootfs(), Io::null())
    };
    let first = asking("above/first", 2000).unwrap().start().unwrap();
    for level in ["", "above", "above/first"] {
        assert_eq!(of(&place(level)), 2000, "{level:?}");
    }
    // Groups that were there are not given more.
    let error = asking("above/second", 1000).unwrap_err();
    assert!(error.hint().unwrap().remedy().contains(FILE), "{error:?}");
    assert!(!place("above/second").exists());
    assert_eq!(of(&place("above/first")), 2000);
    // What a group has for its own sake can grow.
    let mut cpu = LinuxCpu::default();
    cpu.set_realtime_runtime(Some(3000));
    let mut more = LinuxResources::default();
    more.set_devices(None).set_cpu(Some(cpu));
    bench.runtime.load(first.id()).unwrap().update(&more).unwrap();
    assert_eq!((of(&place("")), of(&place("above/first"))), (3000, 3000));
    // With another group beneath, what is above stays, and has nothing.
    fs::create_dir(place("other")).unwrap();
    first.delete().unwrap();
    assert_eq!((of(&place("")), place("above").exists()), (0, false));
    fs::remove_dir(place("other")).unwrap();
    fs::remove_dir(place("")).unwrap();
    // The next one finds nothing that were in its way.
    for _ in 0..3 {
        let again = asking("above/again", 1000).unwrap().start().unwrap();
        assert_eq!(of(&place("")), 1000);
        again.delete().unwrap();
        assert!(!place("").exists());
    }
    for tree in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        drop(fs::remove_dir(tree.path().join(&top).join("above")));
        drop(fs::remove_dir(tree.path().join(&top)));
    }
}

#[test]
fn an_ordinary_user_is_told() {
    let Some(bench) = bench() else { return };
    if is_root() {
        return;
    }
    let error = bench.run(shell("true").pids_limit(5)).unwrap_err();
    assert!(error.hint().is_some() && error.to_string().contains("cgroup"), "{error}");
}
