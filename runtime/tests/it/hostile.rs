//! Root filesystems that try to lead the runtime outside.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::{bench, shell};

/// Replaces directories of the root by links to a decoy outside, and runs.
fn decoyed(names: &[&str], target: &dyn Fn(&str) -> String) {
    let Some(bench) = bench() else { return };
    let decoy = bench.dir.path().join("decoy");
    fs::create_dir(&decoy).unwrap();
    for name in names {
        let path = bench.root().join(name);
        if path.exists() {
            fs::remove_dir(&path).unwrap();
        }
        symlink(target(decoy.to_str().unwrap()), path).unwrap();
    }
    // Refused or contained: both are right. What is outside must not change.
    let outcome = bench.run(shell("ls -A /dev; true").cwd("/work/dir"));
    if let Err(error) = &outcome {
        assert!(error.errno().is_some(), "{error:?}");
    }
    assert_eq!(fs::read_dir(&decoy).unwrap().count(), 0, "{names:?}: {outcome:?}");
}

#[test]
fn links_in_place_of_mount_points_lead_nowhere_else() {
    for name in ["dev", "proc", "sys", "work"] {
        decoyed(&[name], &|decoy| decoy.to_owned());
        decoyed(&[name], &|decoy| format!("../../../../../..{decoy}"));
        decoyed(&[name], &|_| format!("/{name}"));
    }
}

#[test]
fn a_link_in_place_of_a_bound_file_is_contained() {
    let Some(bench) = bench() else { return };
    let outside = bench.dir.path().join("outside");
    symlink(&outside, bench.root().join("etc/resolv.conf")).unwrap();
    let source = bench.dir.path().join("resolv");
    fs::write(&source, "nameserver").unwrap();
    let outcome = bench.run(shell("cat /etc/resolv.conf").mount_bind(&source, "/etc/resolv.conf", true));
    assert!(!outside.exists(), "{outcome:?}");
}

#[test]
fn a_working_directory_in_a_leaked_descriptor_is_refused() {
    let Some(bench) = bench() else { return };
    for number in 0..12 {
        let outcome = bench.run(shell("echo INSIDE").cwd(format!("/proc/self/fd/{number}")));
        assert!(outcome.is_err(), "{number}: {outcome:?}");
    }
}

#[test]
fn a_null_device_that_is_a_link_is_not_used() {
    let Some(bench) = bench() else { return };
    symlink("/etc/passwd", bench.root().join("dev/null")).unwrap();
    // /dev gets its own filesystem, so the image's is out of sight.
    let (exit, output) = bench.run(shell("stat -c %F /dev/null")).unwrap();
    assert!(exit.success() && output == "character special file\n", "{output}");
}

/// What a crafted image does to a root filesystem; the directory outside must not change.
type Craft = fn(root: &std::path::Path, outside: &str);

/// Replaces a path by a link.
fn link(root: &std::path::Path, name: &str, target: &str) {
    let path = root.join(name);
    drop(fs::remove_dir_all(&path));
    drop(fs::remove_file(&path));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
}

const CRAFTED: [(&str, Craft); 34] = [
    ("dev is a link outside", |root, out| link(root, "dev", out)),
    ("dev is a link up and outside", |root, out| link(root, "dev", &format!("../../../../../../..{out}"))),
    ("dev is a link to itself", |root, _| link(root, "dev", "dev")),
    ("dev is a link to proc", |root, _| link(root, "dev", "/proc")),
    ("dev is a file", |root, _| {
        fs::remove_dir_all(root.join("dev")).unwrap();
        fs::write(root.join("dev"), "").unwrap();
    }),
    ("dev/pts is a link", |root, out| link(root, "dev/pts", out)),
    ("dev/shm is a link", |root, out| link(root, "dev/shm", out)),
    ("dev/mqueue is a link", |root, out| link(root, "dev/mqueue", out)),
    ("dev/null is a link", |root, out| link(root, "dev/null", &format!("{out}/null"))),
    ("dev/console is a link", |root, out| link(root, "dev/console", &format!("{out}/console"))),
    ("dev/ptmx is a link", |root, out| link(root, "dev/ptmx", &format!("{out}/ptmx"))),
    ("dev/fd is a link", |root, out| link(root, "dev/fd", out)),
    ("proc is a link outside", |root, out| link(root, "proc", out)),
    ("proc is a link to itself", |root, _| link(root, "proc", "/proc")),
    ("proc is a file", |root, _| {
        fs::remove_dir_all(root.join("proc")).unwrap();
        fs::write(root.join("proc"), "").unwrap();
    }),
    ("proc/self is a link", |root, out| link(root, "proc/self", out)),
    ("proc/sys is a link", |root, out| link(root, "proc/sys", out)),
    ("sys is a link outside", |root, out| link(root, "sys", out)),
    ("sys is a link up and outside", |root, out| link(root, "sys", &format!("../../../../..{out}"))),
    ("sys is a link to proc", |root, _| link(root, "sys", "proc")),
    ("sys/fs is a link", |root, out| link(root, "sys/fs", out)),
    ("etc is a link outside", |root, out| link(root, "etc", out)),
    ("etc is a link up and outside", |root, out| link(root, "etc", &format!("../../../../..{out}"))),
    ("etc/hosts is a link to a new file outside", |root, out| {
        link(root, "etc/hosts", &format!("{out}/hosts"));
    }),
    ("etc/hosts is a link to a link outside", |root, out| {
        link(root, "etc/hosts", "/etc/second");
        link(root, "etc/second", &format!("{out}/hosts"));
    }),
    ("etc/hosts is a directory", |root, _| fs::create_dir_all(root.join("etc/hosts")).unwrap()),
    ("etc/hosts is a chain of 50 links", |root, _| {
        for at in 0..50 {
            link(root, &format!("etc/l{at}"), &format!("/etc/l{}", at + 1));
        }
        link(root, "etc/hosts", "/etc/l0");
    }),
    ("work is a link outside", |root, out| link(root, "work", out)),
    ("work/dir is a link outside", |root, out| link(root, "work/dir", out)),
    ("work/dir is a link to a descriptor", |root, _| link(root, "work/dir", "/proc/self/fd/4")),
    ("data is a link outside", |root, out| link(root, "data", out)),
    ("data/in is a link up and outside", |root, out| {
        link(root, "data/in", &format!("../../../../../..{out}"));
    }),
    ("bin/sh is a link to the running program", |root, _| link(root, "bin/sh", "/proc/self/exe")),
    ("bin/sh is a script of the running program", |root, _| {
        fs::remove_file(root.join("bin/sh")).unwrap();
        fs::write(root.join("bin/sh"), "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(root.join("bin/sh"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    }),
];

#[test]
fn crafted_images_write_nothing_outside() {
    let Some(first) = bench() else { return };
    let before = crate::failure::host_state();
    for (name, craft) in CRAFTED {
        for without_dev in [false, true] {
            let root = first.dir.path().join("crafted");
            let outside = first.dir.path().join("outside");
            for directory in [&root, &outside] {
                drop(fs::remove_dir_all(directory));
                fs::create_dir(directory).unwrap();
            }
            crate::support::fill(&root);
            craft(&root, outside.to_str().unwrap());
            let source = first.dir.path().join("hosts");
            fs::write(&source, "127.0.0.1 box\n").unwrap();
            let mut spec = shell("ls /proc/self/fd; :")
                .cwd("/work/dir")
                .mount_bind(&source, "/etc/hosts", true)
                .mount_tmpfs("/data/in", ["mode=755"])
                .build()
                .unwrap();
            if without_dev {
                // Then /dev is the image's own, and the nodes are made there.
                let mut mounts = spec.mounts().clone().unwrap();
                mounts.retain(|mount| !mount.destination().starts_with("/dev"));
                spec.set_mounts(Some(mounts));
            }
            let (mut reader, writer) = std::io::pipe().unwrap();
            let io = runtime::Io::null().stdout(writer);
            let rootfs = runtime::Rootfs::Path(root.clone());
            let created = first.runtime.create(&crate::support::fresh_id(), &spec, rootfs, io);
            let outcome = created.and_then(|created| {
                let running = created.start()?;
                let mut output = String::new();
                std::io::Read::read_to_string(&mut reader, &mut output).unwrap();
                running.wait()?;
                running.delete()?;
                Ok(output)
            });
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{name}, {without_dev}: {outcome:?}");
            if let Ok(output) = &outcome {
                // The list's own directory is the fourth.
                assert!(output.is_empty() || output == "0\n1\n2\n3\n", "{name}: {output}");
            }
        }
    }
    assert_eq!(crate::failure::host_state(), before);
    assert!(first.runtime.list().unwrap().is_empty());
}
