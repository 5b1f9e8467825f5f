//! Root filesystems of which a part is swapped for a link to the outside, over and over, while containers are created
//! and started.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use runtime::oci_spec::runtime::{Linux, LinuxDeviceBuilder, LinuxDeviceType, Spec};
use runtime::{Error, Io};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};

use crate::support::{Bench, bench, fresh_id, is_root, shell, skipped, spec};

/// What is swapped while what is started.
struct Target {
    what: &'static str,
    /// The part that is swapped, below the bench's directory.
    part: &'static str,
    /// Where the link leads, below the directory outside.
    to: &'static str,
    /// Prepares the root filesystem and says what runs.
    make: fn(&Bench, &str) -> Spec,
}

const fn target(
    what: &'static str,
    part: &'static str,
    to: &'static str,
    make: fn(&Bench, &str) -> Spec,
) -> Target {
    Target { what, part, to, make }
}

/// Makes a directory of the bench.
fn directory(bench: &Bench, name: &str) -> PathBuf {
    let path = bench.dir.path().join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

/// Makes a file of the bench, with its directory.
fn file(bench: &Bench, name: &str) -> PathBuf {
    let path = bench.dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "of the bench\n").unwrap();
    path
}

fn bound(bench: &Bench, probe: &str, dest: &str) -> Spec {
    shell(probe).mount_bind(directory(bench, "source"), dest, false).build().unwrap()
}

fn hosts(bench: &Bench, probe: &str) -> Spec {
    shell(probe).mount_bind(file(bench, "hosts"), "/etc/hosts", true).build().unwrap()
}

fn tmpfs(probe: &str, dest: &str) -> Spec {
    shell(probe).mount_tmpfs(dest, ["mode=755"]).build().unwrap()
}

/// Without the mount of `/dev`, so that the nodes are made in the root filesystem itself.
fn own_dev(probe: &str) -> Spec {
    let mut spec = shell(probe).build().unwrap();
    let mut mounts = spec.mounts().clone().unwrap();
    mounts.retain(|mount| !mount.destination().starts_with("/dev"));
    spec.set_mounts(Some(mounts));
    spec
}

/// With a change of the part that is Linux's.
fn linux(probe: &str, change: impl FnOnce(&mut Linux)) -> Spec {
    let mut spec = shell(probe).build().unwrap();
    change(spec.linux_mut().as_mut().unwrap());
    spec
}

const TARGETS: [Target; 19] = [
    target("target of a bind mount", "root/data", "in", |bench, probe| {
        directory(bench, "root/data");
        bound(bench, probe, "/data")
    }),
    target("parent of a bind mount's target", "root/data", "", |bench, probe| {
        directory(bench, "root/data/in");
        bound(bench, probe, "/data/in")
    }),
    target("parent of a bind mount's target that is not there", "root/data", "", |bench, probe| {
        directory(bench, "root/data");
        bound(bench, probe, "/data/new/deep")
    }),
    target("target of a bound file", "root/etc/hosts", "hosts", |bench, probe| {
        file(bench, "root/etc/hosts");
        hosts(bench, probe)
    }),
    target("target of a tmpfs", "root/data", "in", |bench, probe| {
        directory(bench, "root/data");
        tmpfs(probe, "/data")
    }),
    target("parent of a tmpfs's target", "root/data", "", |bench, probe| {
        directory(bench, "root/data/in");
        tmpfs(probe, "/data/in")
    }),
    target("target in a volume that another one has too", "volume/in", "in", |bench, probe| {
        directory(bench, "volume/in");
        let volume = bench.dir.path().join("volume");
        shell(probe)
            .mount_bind(volume, "/volume", false)
            .mount_tmpfs("/volume/in", ["mode=755"])
            .build()
            .unwrap()
    }),
    target("/etc", "root/etc", "", hosts),
    target("/proc", "root/proc", "", |_, probe| shell(probe).build().unwrap()),
    target("/sys", "root/sys", "", |_, probe| shell(probe).build().unwrap()),
    target("/dev", "root/dev", "", |_, probe| shell(probe).build().unwrap()),
    target("/dev of the image's own", "root/dev", "", |_, probe| own_dev(probe)),
    target("/dev/null of the image's own", "root/dev/null", "null", |bench, probe| {
        let node = bench.root().join("dev/null");
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, &node, FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
        own_dev(probe)
    }),
    target("parent of a device node", "root/nodes", "", |bench, probe| {
        directory(bench, "root/nodes");
        linux(probe, |linux| {
            let node = LinuxDeviceBuilder::default().path("/nodes/zero").typ(LinuxDeviceType::C);
            linux.set_devices(Some(vec![node.major(1i64).minor(5i64).build().unwrap()]));
        })
    }),
    target("working directory", "root/place/dir", "dir", |bench, probe| {
        directory(bench, "root/place/dir");
        shell(probe).cwd("/place/dir").build().unwrap()
    }),
    target("parent of the working directory", "root/place", "", |bench, probe| {
        directory(bench, "root/place");
        shell(probe).cwd("/place/dir").build().unwrap()
    }),
    target("directory of the program", "root/opt", "", |bench, probe| {
        directory(bench, "root/opt");
        fs::copy(bench.root().join("bin/sh"), bench.root().join("opt/sh")).unwrap();
        spec(&["/opt/sh", "-c", probe]).build().unwrap()
    }),
    target("parent of a masked path", "root/secret", "", |bench, probe| {
        file(bench, "root/secret/file");
        linux(probe, |linux| {
            linux.set_masked_paths(Some(vec!["/secret/file".to_owned()]));
        })
    }),
    target("parent of a read-only path", "root/secret", "", |bench, probe| {
        file(bench, "root/secret/file");
        linux(probe, |linux| {
            linux.set_readonly_paths(Some(vec!["/secret/file".to_owned()]));
        })
    }),
];

/// The directory outside, with what the runtime looks for or would make in each of the targets.
fn outside(bench: &Bench) -> PathBuf {
    let outside = directory(bench, "outside");
    for name in ["in", "dir", "pts", "shm", "self", "fs"] {
        directory(bench, &format!("outside/{name}"));
    }
    for name in ["marker", "in/marker", "dir/marker", "hosts", "null", "zero", "file", "console"] {
        let path = file(bench, &format!("outside/{name}"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap();
    }
    fs::write(outside.join("sh"), "#!/bin/sh\necho VISIBLE: the program outside\n").unwrap();
    fs::set_permissions(outside.join("sh"), fs::Permissions::from_mode(0o755)).unwrap();
    outside
}

/// All that a tree has: kinds and modes, owners, times, identities, contents. What is not there has nothing.
fn everything(tree: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![tree.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let Ok(data) = fs::symlink_metadata(&path) else { continue };
        let content = if data.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        let said = format!(
            "{:o} {}:{} {} {} {}.{} {}.{} {} {content:?}",
            data.mode(),
            data.uid(),
            data.gid(),
            data.ino(),
            data.nlink(),
            data.mtime(),
            data.mtime_nsec(),
            // Also a change to what was there before.
            data.ctime(),
            data.ctime_nsec(),
            data.rdev()
        );
        if data.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.insert(path, said);
    }
    all
}

/// A thread that swaps a part of the bench and a link, as fast as it can.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Swapper {
    fn start(part: &Path, link: &Path) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (part, link, stopped) = (part.to_path_buf(), link.to_path_buf(), Arc::clone(&stop));
        let (ready, swapping) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let swap = || renameat_with(CWD, &part, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                swap();
                count += 1;
                if count == 2 {
                    ready.send(()).unwrap();
                }
            }
            if count % 2 == 1 {
                swap();
            }
            count
        });
        swapping.recv().unwrap();
        Self { stop, thread }
    }

    /// Ends with the part back in its place; how often they were swapped.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What a container that runs says of where its mounts and its working directory are, once all stand still.
const PROBE: &str = "read line; [ -e marker ] && echo VISIBLE: in the working directory; \
    for at in /data /data/in /volume/in /etc /proc /sys /dev /nodes /place /opt /secret OUTSIDE OUTSIDE/in; do \
    [ -e $at/marker ] && echo VISIBLE: $at; done; pwd -P; cat /proc/self/mountinfo";

/// Creates and starts one; `swapped` is over once it runs. What it said, or how it failed.
fn start(bench: &Bench, spec: &Spec, swapped: impl FnOnce()) -> Result<String, Error> {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (input, mut go) = std::io::pipe().unwrap();
    let io = Io::null().stdin(input).stdout(writer.try_clone().unwrap()).stderr(writer);
    let started =
        bench.runtime.create(&fresh_id(), spec, bench.rootfs(), io).and_then(|created| created.start());
    swapped();
    let running = started?;
    go.write_all(b"go\n").unwrap();
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    let exit = running.wait()?;
    assert!(exit.success(), "{exit:?}: {said}");
    running.delete()?;
    Ok(said)
}

/// The mount points and the working directory, of what a container said. Nothing in it may be from the outside.
fn places(bench: &Bench, said: &str) -> Vec<String> {
    assert!(!said.contains("VISIBLE"), "{said}");
    let name = bench.dir.path().file_name().unwrap().to_str().unwrap();
    let mut places = Vec::new();
    for line in said.lines() {
        let mut fields = line.split(' ').skip(3);
        let (Some(source), Some(point)) = (fields.next(), fields.next()) else {
            places.push(line.to_owned());
            continue;
        };
        let from_outside =
            source.contains(&format!("/{name}/outside")) && !source.contains(&format!("/{name}/root"));
        assert!(!from_outside, "{line}");
        places.push(point.to_owned());
    }
    places.sort();
    places
}

/// What came of the starts of one target.
#[derive(Default)]
struct Count {
    starts: u32,
    succeeded: u32,
    /// That failed, or ran with something elsewhere than where it is without swaps.
    met: u32,
    swaps: u64,
    errors: BTreeMap<String, u32>,
}

/// Starts containers over one target that is swapped.
fn attack(target: &Target, rounds: u32) -> Count {
    let bench = bench().unwrap();
    let outside = outside(&bench);
    let spec = (target.make)(&bench, &PROBE.replace("OUTSIDE", outside.to_str().unwrap()));
    let part = bench.dir.path().join(target.part);
    let link = part.with_file_name("swapped-for");
    let mirror = bench.root().join(outside.strip_prefix("/").unwrap());
    let there = everything(&outside);
    let still = places(&bench, &start(&bench, &spec, || ()).unwrap());
    let leads = outside.join(target.to);
    let mut count = Count::default();
    // A few more when no start met a swap, so that it never hangs on luck.
    for round in 0..rounds * 4 {
        if round >= rounds && count.met > 0 {
            break;
        }
        // Where the link leads beneath the root: in every other round that is there.
        drop(fs::remove_dir_all(&mirror));
        if round % 2 == 1 {
            for name in ["in", "dir"] {
                fs::create_dir_all(mirror.join(name)).unwrap();
            }
            for name in ["hosts", "file"] {
                fs::write(mirror.join(name), "of the image\n").unwrap();
            }
        }
        let before = everything(&mirror);
        drop(fs::remove_file(&link));
        let climb = match round % 3 {
            0 => String::new(),
            1 => "../".repeat(20),
            _ => "/proc/self/root".to_owned(),
        };
        symlink(format!("{climb}{}", leads.display()), &link).unwrap();
        let swapper = Swapper::start(&part, &link);
        let outcome = start(&bench, &spec, || count.swaps += swapper.stop());
        count.starts += 1;
        let elsewhere = match outcome {
            Ok(said) => {
                count.succeeded += 1;
                places(&bench, &said) != still
            }
            Err(Error::Step { phase, syscall, target, errno, .. }) => {
                assert_ne!(
                    errno.raw(),
                    libc::EAGAIN,
                    "{phase}: {syscall}: {target}: the lookup is made again"
                );
                *count.errors.entry(format!("{phase}: {syscall}: {target}: {errno}")).or_default() += 1;
                true
            }
            Err(other) => panic!("{}: {other:?}", target.what),
        };
        count.met += u32::from(elsewhere || everything(&mirror) != before);
        assert_eq!(everything(&outside), there, "{}, round {round}", target.what);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(bench.dir.path().to_str().unwrap()), "{}: {mounts}", target.what);
        assert!(bench.runtime.list().unwrap().is_empty(), "{}", target.what);
    }
    count
}

#[test]
fn what_is_swapped_while_starting_leads_nowhere_else() {
    if !is_root() {
        return skipped("device nodes are made by root alone");
    }
    let rounds = std::env::var("COOPERAGE_SWAP_ROUNDS").map_or(10, |text| text.parse().unwrap());
    let (mut starts, mut succeeded, mut swaps) = (0, 0, 0);
    let (tell, told) = mpsc::channel();
    // In a thread of its own, so that one that hangs is seen.
    let attacker = std::thread::spawn(move || {
        for target in &TARGETS {
            tell.send((target.what, attack(target, rounds))).unwrap();
        }
    });
    for target in &TARGETS {
        // None in working order takes a tenth of it.
        let wait = Duration::from_secs(60 + u64::from(rounds) * 2);
        let (what, count) = match told.recv_timeout(wait) {
            Ok(told) => told,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{}: it hangs", target.what),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        };
        println!("{what}: {} starts, {} succeeded, {} met a swap", count.starts, count.succeeded, count.met);
        for (error, times) in &count.errors {
            println!("    {times} times {error}");
        }
        assert!(count.met > 0, "{what}: no start met any of {} swaps", count.swaps);
        (starts, succeeded, swaps) =
            (starts + count.starts, succeeded + count.succeeded, swaps + count.swaps);
    }
    if let Err(panic) = attacker.join() {
        std::panic::resume_unwind(panic);
    }
    println!("{swaps} swaps");
    println!("swapped while starting: {starts} starts, {succeeded} succeeded, 0 writes outside");
}

#[test]
fn what_others_rename_fails_no_start() {
    let Some(bench) = bench() else { return };
    // The lookup of such a link has to be made again when anything at all was renamed meanwhile.
    symlink(format!("{}data", "../".repeat(40)), bench.root().join("run")).unwrap();
    directory(&bench, "root/data");
    let spec = bound(&bench, "read line; pwd -P", "/run/deep");
    let (one, other) = (directory(&bench, "one"), directory(&bench, "other"));
    for round in 0..40 {
        let swapper = Swapper::start(&one, &other);
        let outcome = start(&bench, &spec, || {
            swapper.stop();
        });
        assert!(outcome.is_ok(), "{round}: {outcome:?}");
    }
}
