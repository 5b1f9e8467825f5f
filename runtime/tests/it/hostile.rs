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
