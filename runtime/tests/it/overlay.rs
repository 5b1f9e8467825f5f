//! Root filesystems assembled from layers.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use runtime::{CreateOptions, Rootfs};

use crate::support::{Bench, bench, directory, shell, skipped};

fn layers(bench: &Bench, count: usize) -> Vec<OwnedFd> {
    let mut lower = Vec::new();
    for number in (0..count).rev() {
        let dir = bench.dir.path().join(format!("layer{number}"));
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::write(dir.join(format!("etc/l{number}")), "").unwrap();
        fs::write(dir.join("etc/top"), number.to_string()).unwrap();
        lower.push(directory(&dir));
    }
    lower.push(directory(&bench.root()));
    lower
}

fn changes(at: &Path) -> (OwnedFd, OwnedFd) {
    for name in ["upper", "work"] {
        fs::create_dir(at.join(name)).unwrap();
    }
    (directory(&at.join("upper")), directory(&at.join("work")))
}

fn can_overlay() -> bool {
    match runtime::Host::probe().overlay {
        Ok(()) => true,
        Err(hint) => {
            skipped(&hint.to_string());
            false
        }
    }
}

#[test]
fn changes_go_to_the_upper_directory_alone() {
    let Some(bench) = bench() else { return };
    if !can_overlay() {
        return;
    }
    let lower = layers(&bench, 3);
    let (upper, work) = changes(bench.dir.path());
    let rootfs = Rootfs::Overlay { lower, upper: Some(upper), work: Some(work) };
    let script = "cat /etc/top; echo new > /etc/new; rm /etc/l1; ls /etc";
    let (exit, output) = bench.run_in(shell(script), rootfs).unwrap();
    assert!(exit.success(), "{output}");
    assert_eq!(output, "2l0\nl2\nnew\ntop\n");
    assert_eq!(fs::read_to_string(bench.dir.path().join("upper/etc/new")).unwrap(), "new\n");
    assert!(bench.dir.path().join("layer1/etc/l1").exists());
    assert!(fs::symlink_metadata(bench.dir.path().join("upper/etc/l1")).is_ok(), "a whiteout");
}

#[test]
fn mount_points_leave_no_stubs() {
    let Some(bench) = bench() else { return };
    if !can_overlay() {
        return;
    }
    for name in ["dev", "proc", "sys"] {
        fs::remove_dir(bench.root().join(name)).unwrap();
    }
    let resolv = bench.dir.path().join("resolv");
    fs::write(&resolv, "nameserver").unwrap();
    let (upper, work) = changes(bench.dir.path());
    let rootfs = Rootfs::Overlay { lower: layers(&bench, 1), upper: Some(upper), work: Some(work) };
    let spec = shell("cat /etc/resolv.conf; cat /etc/top").mount_bind(&resolv, "/etc/resolv.conf", true);
    let (exit, output) = bench.run_in(spec, rootfs).unwrap();
    assert!(exit.success() && output == "nameserver0", "{output}");
    let left: Vec<_> =
        fs::read_dir(bench.dir.path().join("upper")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_hundred_and_thirty_layers() {
    let Some(bench) = bench() else { return };
    if !can_overlay() {
        return;
    }
    let lower = layers(&bench, 130);
    let (upper, work) = changes(bench.dir.path());
    let rootfs = Rootfs::Overlay { lower, upper: Some(upper), work: Some(work) };
    let (exit, output) = bench.run_in(shell("cat /etc/top; set -- /etc/l*; echo \" $#\""), rootfs).unwrap();
    assert!(exit.success(), "{output}");
    assert_eq!(output, "129 130\n");
}

#[test]
fn without_an_upper_directory_it_is_read_only() {
    let Some(bench) = bench() else { return };
    if !can_overlay() {
        return;
    }
    for name in ["dev", "proc", "sys"] {
        assert!(bench.root().join(name).exists());
    }
    for count in [0, 2] {
        let rootfs = Rootfs::Overlay { lower: layers(&bench, count), upper: None, work: None };
        let (exit, output) = bench.run_in(shell("cat /proc/self/comm; touch /x"), rootfs).unwrap();
        assert!(!exit.success() && output.starts_with("cat\n"), "{count}: {output}");
    }
}

#[test]
fn a_layer_that_was_replaced_is_noticed() {
    let Some(bench) = bench() else { return };
    let lower = layers(&bench, 1);
    fs::rename(bench.dir.path().join("layer0"), bench.dir.path().join("moved")).unwrap();
    fs::create_dir(bench.dir.path().join("layer0")).unwrap();
    // The descriptor still leads to the directory, under its new name.
    let rootfs = Rootfs::Overlay { lower, upper: None, work: None };
    if can_overlay() {
        let (_, output) = bench.run_in(shell("cat /etc/top"), rootfs).unwrap();
        assert_eq!(output, "0");
    }
}

#[test]
fn trees_below_the_root_with_mounts_inside() {
    let Some(bench) = bench() else { return };
    if !can_overlay() {
        return;
    }
    let (upper, work) = changes(bench.dir.path());
    let rootfs =
        Rootfs::Overlay { lower: vec![directory(&bench.root())], upper: Some(upper), work: Some(work) };
    let written = bench.dir.path().join("written");
    fs::create_dir(&written).unwrap();
    let (tree_upper, tree_work) = changes(&written);
    let tree = |upper: Option<(OwnedFd, OwnedFd)>| {
        let mut lower = layers(&bench, 2);
        lower.pop();
        let (upper, work) = upper.unzip();
        Rootfs::Overlay { lower, upper, work }
    };
    let options = CreateOptions::default().tree("/opt/src", tree(None), true).tree(
        "/opt/rw",
        tree(Some((tree_upper, tree_work))),
        false,
    );
    let script = "cat /opt/src/etc/top; touch /opt/src/x 2>/dev/null && echo writable; \
                  echo a > /opt/src/etc/tmp/a && cat /opt/src/etc/tmp/a; echo b > /opt/rw/b; ls /opt/rw";
    let spec = shell(script).mount_tmpfs("/opt/src/etc/tmp", ["mode=1777"]);
    let (exit, output) = bench.run_with(spec, rootfs, &options).unwrap();
    assert!(exit.success(), "{output}");
    assert_eq!(output, "1a\nb\netc\n");
    assert_eq!(fs::read_to_string(written.join("upper/b")).unwrap(), "b\n");
    let left: Vec<_> =
        fs::read_dir(bench.dir.path().join("upper")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!bench.dir.path().join("layer1/etc/tmp").exists());
}

/// The skeleton of an overlay stayed attached over the host's root, so that after the pivot it was let go of in place of
/// the host's root, and `/usr/..` was the host.
#[test]
fn regression_dotdot_led_to_the_host() {
    let Some(bench) = bench() else { return };
    let script = "stat -c %d:%i / /usr/.. /usr/bin/../.. /tmp/../usr/../etc/.. | while read id; do \
                  [ \"$id\" = \"$(stat -c %d:%i /)\" ] || echo \"outside: $id\"; done; \
                  cd /usr && cd .. && ls -d usr >/dev/null || echo \"not here\"; \
                  while read a b c d place rest; do [ \"$place\" = / ] && echo root; done < /proc/self/mountinfo; true";
    let (upper, work) = changes(bench.dir.path());
    let mut kinds = vec![("a path", bench.rootfs(), CreateOptions::default())];
    if can_overlay() {
        let lower = layers(&bench, 2);
        kinds.push((
            "a read-only overlay",
            Rootfs::Overlay { lower, upper: None, work: None },
            CreateOptions::default(),
        ));
        let lower = layers(&bench, 2);
        let tree = Rootfs::Overlay { lower: layers(&bench, 2), upper: None, work: None };
        kinds.push((
            "an overlay with a tree",
            Rootfs::Overlay { lower, upper: Some(upper), work: Some(work) },
            CreateOptions::default().tree("/usr/tree", tree, true),
        ));
    }
    for (kind, rootfs, options) in kinds {
        let spec = shell(script).mount_tmpfs("/usr/bin/inner", ["mode=1777"]);
        let (exit, output) = bench.run_with(spec, rootfs, &options).unwrap();
        assert!(exit.success(), "{kind}: {output}");
        // One mount is the root, and nothing is stacked upon it.
        assert_eq!(output, "root\n", "{kind}");
    }
}
