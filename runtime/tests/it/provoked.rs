//! Failures that the kernel itself gives, none injected: what each names, and that nothing of the container is left.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use oci_spec::runtime::{
    LinuxDeviceBuilder, LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, LinuxTimeOffset,
    PosixRlimitType, SchedulerBuilder, Spec,
};
use runtime::oci_spec::runtime::{
    LinuxCpuBuilder, LinuxIdMappingBuilder, LinuxMemoryPolicyBuilder, LinuxResourcesBuilder,
    LinuxSchedulerPolicy, MemoryPolicyModeType,
};
use runtime::{
    ContainerId, CreateOptions, Errno, Error, IdRange, Io, Phase, Rootfs, SpecBuilder, UserMapping, oci_spec,
};

use crate::failure::host_state;
use crate::support::{Bench, bench, directory, fresh_id, is_root, mount, shell, skipped, spec};

/// What a case runs: a Spec over a root filesystem.
type Make = fn(&Bench) -> (Spec, Rootfs);

/// What an error has to say.
struct Case {
    what: &'static str,
    make: Make,
    phase: Phase,
    syscall: &'static str,
    /// A part of the target, which is a text.
    target: &'static str,
    errno: i32,
    /// Whether it is a step of the plan, or something the host does itself.
    in_plan: bool,
}

/// A case whose failure is a step of the plan.
const fn step(
    what: &'static str,
    (phase, syscall, target, errno): (Phase, &'static str, &'static str, i32),
    make: Make,
) -> Case {
    Case { what, make, phase, syscall, target, errno, in_plan: true }
}

/// A case that fails in the host.
const fn host(
    what: &'static str,
    (phase, syscall, target, errno): (Phase, &'static str, &'static str, i32),
    make: Make,
) -> Case {
    Case { what, make, phase, syscall, target, errno, in_plan: false }
}

fn built(bench: &Bench, spec: SpecBuilder) -> (Spec, Rootfs) {
    (spec.build().unwrap(), bench.rootfs())
}

/// A Spec of the shell that is changed.
fn changed(bench: &Bench, change: impl FnOnce(&mut Spec)) -> (Spec, Rootfs) {
    let mut spec = shell("true").build().unwrap();
    change(&mut spec);
    (spec, bench.rootfs())
}

fn mounted(bench: &Bench, dest: &str, typ: &str, source: &Path, options: &[&str]) -> (Spec, Rootfs) {
    built(bench, shell("true").mount(mount(dest, typ, source, options)))
}

/// A file of the host.
fn file(bench: &Bench) -> std::path::PathBuf {
    let path = bench.dir.path().join("file");
    fs::write(&path, "content").unwrap();
    path
}

fn program(bench: &Bench, content: &[u8], mode: u32) -> (Spec, Rootfs) {
    let path = bench.root().join("bin/program");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    built(bench, spec(&["/bin/program"]))
}

/// Joins a namespace by the path of a file.
fn joined(bench: &Bench, kind: LinuxNamespaceType, path: &Path) -> (Spec, Rootfs) {
    changed(bench, |spec| {
        let namespaces = spec.linux_mut().as_mut().unwrap().namespaces_mut().as_mut().unwrap();
        namespaces.retain(|namespace| namespace.typ() != kind);
        let mut one = LinuxNamespace::default();
        one.set_typ(kind).set_path(Some(path.to_path_buf()));
        namespaces.push(one);
    })
}

fn sysctl(bench: &Bench, key: &str, value: &str) -> (Spec, Rootfs) {
    changed(bench, |spec| {
        spec.linux_mut().as_mut().unwrap().set_sysctl(Some([(key.to_owned(), value.to_owned())].into()));
    })
}

fn device(bench: &Bench, path: &str) -> (Spec, Rootfs) {
    changed(bench, |spec| {
        let device = LinuxDeviceBuilder::default().path(path).typ(LinuxDeviceType::C).major(1i64).minor(3i64);
        spec.linux_mut().as_mut().unwrap().set_devices(Some(vec![device.build().unwrap()]));
    })
}

fn group(bench: &Bench, path: &str) -> (Spec, Rootfs) {
    changed(bench, |spec| {
        spec.linux_mut().as_mut().unwrap().set_cgroups_path(Some(path.into()));
    })
}

const LONG: &str = "a-name-that-is-longer-than-sixty-four-bytes-which-is-all-that-the-kernel-takes";

/// Every failure, in the order of phases.
const CASES: [Case; 44] = [
    host("root filesystem that is not there", (Phase::Rootfs, "stat", "/nowhere", libc::ENOENT), |bench| {
        (shell("true").build().unwrap(), Rootfs::Path(bench.dir.path().join("nowhere")))
    }),
    host("root filesystem below a file", (Phase::Rootfs, "stat", "/file/root", libc::ENOTDIR), |bench| {
        (shell("true").build().unwrap(), Rootfs::Path(file(bench).join("root")))
    }),
    step(
        "detached root that is no mount",
        (Phase::Rootfs, "move_mount", "root filesystem", libc::EINVAL),
        |bench| {
            let fd: OwnedFd = fs::File::open(bench.root()).unwrap().into();
            (shell("true").build().unwrap(), Rootfs::Detached(fd))
        },
    ),
    step(
        "overlay whose work directory lies in its upper one",
        (Phase::Rootfs, "fsconfig", "overlay: make the filesystem", libc::EINVAL),
        |bench| {
            let at = |name: &str| {
                let path = bench.dir.path().join(name);
                fs::create_dir_all(&path).unwrap();
                directory(&path)
            };
            let (upper, work) = (at("upper"), at("upper/work"));
            let lower = vec![directory(&bench.root())];
            let rootfs = Rootfs::Overlay { lower, upper: Some(upper), work: Some(work) };
            (shell("true").build().unwrap(), rootfs)
        },
    ),
    host("cgroup below a control file", (Phase::Cgroup, "mkdir", "cgroup.procs/x", libc::ENOTDIR), |bench| {
        group(bench, "/cgroup.procs/x")
    }),
    host("processors that there are not", (Phase::Cgroup, "write", "cpuset.cpus", libc::ERANGE), |bench| {
        let cpu = LinuxCpuBuilder::default().cpus("4000").build().unwrap();
        let resources = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
        built(bench, shell("true").resources(resources))
    }),
    host("processor quota below the least", (Phase::Cgroup, "write", "cpu", libc::EINVAL), |bench| {
        let cpu = LinuxCpuBuilder::default().quota(1i64).period(100_000u64).build().unwrap();
        let resources = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
        built(bench, shell("true").resources(resources))
    }),
    step(
        "kill priority that there is not",
        (Phase::Launch, "write", "5000 to /proc/self/oom_score_adj", libc::EINVAL),
        |bench| {
            changed(bench, |spec| {
                spec.process_mut().as_mut().unwrap().set_oom_score_adj(Some(5000));
            })
        },
    ),
    host("namespace that is not there", (Phase::Namespaces, "open", "/nowhere", libc::ENOENT), |bench| {
        joined(bench, LinuxNamespaceType::Ipc, &bench.dir.path().join("nowhere"))
    }),
    step("namespace that is a file", (Phase::Namespaces, "setns", "ipc namespace", libc::EINVAL), |bench| {
        joined(bench, LinuxNamespaceType::Ipc, &file(bench))
    }),
    step(
        "namespace of another kind",
        (Phase::Namespaces, "setns", "uts namespace /proc/self/ns/ipc", libc::EINVAL),
        |bench| joined(bench, LinuxNamespaceType::Uts, Path::new("/proc/self/ns/ipc")),
    ),
    step(
        "user namespace one is in",
        (Phase::Namespaces, "setns", "user namespace /proc/self/ns/user", libc::EINVAL),
        |bench| joined(bench, LinuxNamespaceType::User, Path::new("/proc/self/ns/user")),
    ),
    host("ids that overlap", (Phase::Namespaces, "write", "uid_map", libc::EINVAL), |bench| {
        let one = IdRange { inside: 0, outside: 100_000, count: 10 };
        let two = IdRange { inside: 20, outside: 100_005, count: 10 };
        built(bench, shell("true").user_mapping(UserMapping::ranges([one, two], [one])))
    }),
    step(
        "clock before the beginning",
        (Phase::Namespaces, "write", "boottime -9000000000 0", libc::ERANGE),
        |bench| {
            changed(bench, |spec| {
                let linux = spec.linux_mut().as_mut().unwrap();
                let mut time = LinuxNamespace::default();
                time.set_typ(LinuxNamespaceType::Time).set_path(None);
                linux.namespaces_mut().as_mut().unwrap().push(time);
                let mut offset = LinuxTimeOffset::default();
                offset.set_secs(Some(-9_000_000_000));
                linux.set_time_offsets(Some([("boottime".to_owned(), offset)].into()));
            })
        },
    ),
    step(
        "kernel parameter that there is not",
        (Phase::Settings, "openat2", "/proc/sys/net/ipv4/nosuch", libc::ENOENT),
        |bench| sysctl(bench, "net.ipv4.nosuch", "1"),
    ),
    step(
        "kernel parameter that is no number",
        (Phase::Settings, "write", "\"many\" to /proc/sys/net/ipv4/ip_forward", libc::EINVAL),
        |bench| sysctl(bench, "net.ipv4.ip_forward", "many"),
    ),
    step(
        "kernel parameter that is a directory",
        (Phase::Settings, "openat2", "/proc/sys/net/ipv4", libc::EISDIR),
        |bench| sysctl(bench, "net.ipv4", "1"),
    ),
    host("source that is not there", (Phase::Mounts, "stat", "source", libc::ENOENT), |bench| {
        built(bench, shell("true").mount_bind(bench.dir.path().join("nowhere"), "/in", true))
    }),
    step(
        "directory bound over a file",
        (Phase::Mounts, "move_mount", "/etc/plain from", libc::EINVAL),
        |bench| {
            fs::write(bench.root().join("etc/plain"), "").unwrap();
            built(bench, shell("true").mount_bind(bench.dir.path(), "/etc/plain", true))
        },
    ),
    step("file bound over a directory", (Phase::Mounts, "move_mount", "/tmp from", libc::EINVAL), |bench| {
        built(bench, shell("true").mount_bind(file(bench), "/tmp", true))
    }),
    step(
        "mount point below a file",
        (Phase::Mounts, "mkdirat", "/etc/plain/deep in the root filesystem", libc::ENOTDIR),
        |bench| {
            fs::write(bench.root().join("etc/plain"), "").unwrap();
            built(bench, shell("true").mount_bind(bench.dir.path(), "/etc/plain/deep/er", true))
        },
    ),
    step(
        "mount point in a circle of links",
        (Phase::Mounts, "openat2", "/round/and in the root filesystem", libc::ELOOP),
        |bench| {
            symlink("/round", bench.root().join("round")).unwrap();
            built(bench, shell("true").mount_tmpfs("/round/and", [""; 0]))
        },
    ),
    step(
        "mount point of too long a name",
        (Phase::Mounts, "openat2", "in the root filesystem", libc::ENAMETOOLONG),
        |bench| built(bench, shell("true").mount_tmpfs(format!("/{}", "x".repeat(300)), [""; 0])),
    ),
    step(
        "mount point to be made in a root that cannot be written",
        (Phase::Mounts, "mkdirat", "/missing in the root filesystem", libc::EROFS),
        |bench| {
            let lower = vec![directory(&bench.root())];
            let rootfs = Rootfs::Overlay { lower, upper: None, work: None };
            (shell("true").mount_tmpfs("/missing", [""; 0]).build().unwrap(), rootfs)
        },
    ),
    step(
        "procfs over a link",
        (Phase::Mounts, "openat2", "/proc in the root filesystem", libc::ELOOP),
        |bench| {
            fs::remove_dir(bench.root().join("proc")).unwrap();
            symlink("/tmp", bench.root().join("proc")).unwrap();
            built(bench, shell("true"))
        },
    ),
    step(
        "filesystem that there is not",
        (Phase::Mounts, "fsopen", "/in of type nosuchfs", libc::ENODEV),
        |bench| mounted(bench, "/in", "nosuchfs", "none".as_ref(), &[]),
    ),
    step(
        "option that a filesystem does not have",
        (Phase::Mounts, "fsconfig", "/in of type tmpfs: color=blue", libc::EINVAL),
        |bench| mounted(bench, "/in", "tmpfs", "tmpfs".as_ref(), &["color=blue"]),
    ),
    step(
        "value that an option does not take",
        (Phase::Mounts, "fsconfig", "/in of type tmpfs: size=much", libc::EINVAL),
        |bench| mounted(bench, "/in", "tmpfs", "tmpfs".as_ref(), &["size=much"]),
    ),
    step(
        "filesystem without its device",
        (Phase::Mounts, "fsconfig", "/in of type ext4", libc::ENOENT),
        |bench| mounted(bench, "/in", "ext4", &bench.dir.path().join("nowhere"), &[]),
    ),
    step(
        "filesystem whose device is a file",
        (Phase::Mounts, "fsconfig", "/in of type ext4", libc::ENOTBLK),
        |bench| mounted(bench, "/in", "ext4", &file(bench), &[]),
    ),
    host(
        "ids mapped on a filesystem that takes none",
        (Phase::Mounts, "mount_setattr", "the ids of /proc", libc::EINVAL),
        |bench| {
            let map = LinuxIdMappingBuilder::default().container_id(0u32).host_id(5000u32).size(10u32);
            let map = vec![map.build().unwrap()];
            let mut mount = mount("/in", "bind", "/proc".as_ref(), &["bind"]);
            mount.set_uid_mappings(Some(map.clone())).set_gid_mappings(Some(map));
            built(bench, shell("true").mount(mount))
        },
    ),
    step(
        "device where a directory is",
        (Phase::Devices, "(check)", "/dev/shm: it is that device", libc::ENODEV),
        |bench| device(bench, "/dev/shm"),
    ),
    step(
        "device below a file",
        (Phase::Devices, "mkdirat", "/etc/plain/deep in the root filesystem", libc::ENOTDIR),
        |bench| {
            fs::write(bench.root().join("etc/plain"), "").unwrap();
            device(bench, "/etc/plain/deep/null")
        },
    ),
    step(
        "working directory that is a file",
        (Phase::Process, "chdir", "/etc/plain", libc::ENOTDIR),
        |bench| {
            fs::write(bench.root().join("etc/plain"), "").unwrap();
            built(bench, shell("true").cwd("/etc/plain"))
        },
    ),
    step(
        "working directory that leads to a descriptor",
        (Phase::Process, "openat2", "/work in the root filesystem", libc::ELOOP),
        |bench| {
            symlink("/proc/self/fd/3", bench.root().join("work")).unwrap();
            built(bench, shell("true").cwd("/work"))
        },
    ),
    step("host name that is too long", (Phase::Settings, "sethostname", LONG, libc::EINVAL), |bench| {
        built(bench, shell("true").hostname(LONG))
    }),
    step("domain name that is too long", (Phase::Settings, "setdomainname", LONG, libc::EINVAL), |bench| {
        changed(bench, |spec| {
            spec.set_domainname(Some(LONG.to_owned()));
        })
    }),
    step(
        "more files than the kernel has for anybody",
        (Phase::Settings, "prlimit64", "RLIMIT_NOFILE", libc::EPERM),
        |bench| built(bench, shell("true").rlimit(PosixRlimitType::RlimitNofile, 1 << 40, 1 << 40)),
    ),
    step(
        "deadline that is shorter than its work",
        (Phase::Process, "sched_setattr", "SchedDeadline", libc::EINVAL),
        |bench| {
            changed(bench, |spec| {
                let scheduler = SchedulerBuilder::default()
                    .policy(LinuxSchedulerPolicy::SchedDeadline)
                    .runtime(2_000_000u64)
                    .deadline(1_000_000u64)
                    .period(1_000_000u64);
                spec.process_mut().as_mut().unwrap().set_scheduler(Some(scheduler.build().unwrap()));
            })
        },
    ),
    step(
        "memory of a node that there is not",
        (Phase::Process, "set_mempolicy", "MpolBind", libc::EINVAL),
        |bench| {
            changed(bench, |spec| {
                let policy = LinuxMemoryPolicyBuilder::default().mode(MemoryPolicyModeType::MpolBind);
                let policy = policy.nodes("60").flags(vec![]).build().unwrap();
                spec.linux_mut().as_mut().unwrap().set_memory_policy(Some(policy));
            })
        },
    ),
    step("group that there cannot be", (Phase::Process, "setgroups", "4294967295", libc::EINVAL), |bench| {
        built(bench, shell("true").user(0, 0, &[u32::MAX]))
    }),
    step("program that is a directory", (Phase::Exec, "execve", "/etc", libc::EACCES), |bench| {
        built(bench, spec(&["/etc"]))
    }),
    step("program of no known format", (Phase::Exec, "execve", "/bin/program", libc::ENOEXEC), |bench| {
        program(bench, b"\x00\x01\x02 no program", 0o755)
    }),
    step("argument that is too long", (Phase::Exec, "execve", "/bin/sh", libc::E2BIG), |bench| {
        built(bench, spec(&["/bin/sh", "-c", &"x".repeat(200_000)]))
    }),
];

/// Another bench over the same programs: making those anew takes longer than all else.
fn another(first: &Bench) -> Bench {
    fn link(from: &Path, to: &Path) {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap().flatten() {
            let (from, to) = (entry.path(), to.join(entry.file_name()));
            if entry.file_type().unwrap().is_dir() {
                link(&from, &to);
            } else {
                fs::hard_link(from, to).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    link(&first.root(), &dir.path().join("root"));
    let runtime = runtime::Runtime::builder().state_dir(dir.path().join("state")).build().unwrap();
    Bench { dir, runtime }
}

fn attempt(bench: &Bench, id: &ContainerId, make: Make, options: &CreateOptions) -> Result<(), Error> {
    let (spec, rootfs) = make(bench);
    let created = bench.runtime.create_with(id, &spec, rootfs, Io::null(), options)?;
    created.start()?.delete()
}

/// What of a container could still be there.
fn remains(bench: &Bench, id: &ContainerId) -> Vec<String> {
    let mut found = crate::recover::processes(bench.dir.path());
    found.extend(crate::recover::groups().into_iter().filter(|group| group.ends_with(id.as_str())));
    let state = fs::read_dir(bench.dir.path().join("state")).unwrap().flatten();
    found.extend(state.map(|entry| entry.path().display().to_string()));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = bench.dir.path().to_str().unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(ours)).map(str::to_owned));
    found
}

#[test]
fn what_the_kernel_refuses_is_named_and_leaves_nothing() {
    if !is_root() {
        return skipped("most of these need root to get as far");
    }
    let Some(first) = bench() else { return };
    let before = host_state();
    let mut wrong = Vec::new();
    for case in CASES {
        let bench = another(&first);
        let id = fresh_id();
        let Err(error) = attempt(&bench, &id, case.make, &CreateOptions::default()) else {
            wrong.push(format!("{}: it works", case.what));
            continue;
        };
        let Error::Step { phase, step, syscall, target, errno, .. } = &error else {
            wrong.push(format!("{}: {error:?}", case.what));
            continue;
        };
        let as_said = *phase == case.phase
            && *syscall == case.syscall
            && target.contains(case.target)
            && errno.raw() == case.errno
            && step.is_some() == case.in_plan;
        if !as_said {
            wrong.push(format!("{}: {error:?}", case.what));
        }
        if let Some(step) = step {
            // It is that step: one that is made to fail there says the same.
            let again = another(&first);
            let options = CreateOptions::default().fail_at(*step, Errno::from_raw(libc::EDOM));
            match attempt(&again, &fresh_id(), case.make, &options) {
                Err(Error::Step { phase: also, step: at, syscall: call, errno, .. }) => {
                    assert_eq!((also, at, &call, errno.raw()), (*phase, Some(*step), syscall, libc::EDOM));
                }
                other => wrong.push(format!("{}, injected: {other:?}", case.what)),
            }
        }
        assert_eq!(remains(&bench, &id), Vec::<String>::new(), "{}", case.what);
    }
    assert_eq!(wrong, Vec::<String>::new(), "{} of {}", wrong.len(), CASES.len());
    assert_eq!(host_state(), before);
    println!("provoked failures that name phase, step, syscall, target, errno: {}", CASES.len());
}
