//! `coop build` and `coop system` as a program calls them: what they print, and the caches that a build is pointed to.

use std::path::Path;
use std::process::{Command, Output};

use crate::{base, context, transcript};

/// `coop build` in a store of its own below `place`.
fn build(place: &Path, store: &str, args: &[&str]) -> Option<Output> {
    let coop = transcript::examples().join("coop");
    if !coop.exists() {
        base::skipped("the example coop is not built: run `cargo build --examples`");
        return None;
    }
    let output =
        Command::new(coop).arg("build").args(args).env("COOP_ROOT", place.join(store)).output().unwrap();
    Some(output)
}

fn told(output: &Output) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(&output.stderr).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{text}"))).collect()
}

#[test]
fn progress_is_a_json_object_a_line_when_asked_for() {
    let files = context(&[("Dockerfile", "FROM scratch\nCOPY a /\nCOPY b /\n"), ("a", "1"), ("b", "2")]);
    let place = tempfile::tempdir().unwrap();
    let path = files.path().to_str().unwrap();
    let args = ["--progress", "json", "-t", "x", path];
    let Some(first) = build(place.path(), "store", &args) else { return };
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    std::fs::write(files.path().join("b"), "3").unwrap();
    let second = told(&build(place.path(), "store", &args).unwrap());
    let done: Vec<_> = second.iter().filter(|event| event["event"] == "step-done").collect();
    assert_eq!(done.iter().filter(|event| event["cached"] == true).count(), 1, "{second:?}");
    let causes: Vec<_> = done.iter().filter(|event| event["cause"]["cause"] == "file").collect();
    assert_eq!(causes.len(), 1, "{second:?}");
    assert_eq!(causes[0]["cause"]["path"], "b");
    let last = second.last().unwrap();
    assert_eq!((&last["event"], &last["names"][0]), (&"image".into(), &"docker.io/library/x:latest".into()));
    // A terminal's codes are for terminals.
    let plain = build(place.path(), "store", &[path]).unwrap();
    assert!(!plain.stderr.contains(&0x1b) && plain.stderr.starts_with(b"#"));
    let moving = build(place.path(), "store", &["--progress", "tty", path]).unwrap();
    assert!(String::from_utf8(moving.stderr).unwrap().contains("CACHED [2/2] COPY b /"));
}

#[test]
fn another_store_finds_what_a_cache_has() {
    let files = context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "1")]);
    let place = tempfile::tempdir().unwrap();
    let path = files.path().to_str().unwrap();
    let at = place.path().join("cache");
    let (to, from) =
        (format!("type=local,dest={}", at.display()), format!("type=local,src={}", at.display()));
    let Some(first) = build(place.path(), "one", &["--cache-to", &to, path]) else { return };
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let second = build(place.path(), "two", &["--progress", "json", "--cache-from", &from, path]).unwrap();
    let events = told(&second);
    let done: Vec<_> = events.iter().filter(|event| event["event"] == "step-done").collect();
    assert_eq!(done.iter().filter(|event| event["cached"] == true).count(), 1, "{events:?}");
    let wrong = build(place.path(), "two", &["--cache-from", "type=s3", path]).unwrap();
    assert!(String::from_utf8(wrong.stderr).unwrap().contains("unknown cache type \"s3\""));
}

#[test]
fn a_build_is_checked_for_being_reproducible() {
    let files = context(&[("Dockerfile", "FROM scratch\nCOPY a /\n"), ("a", "1")]);
    let place = tempfile::tempdir().unwrap();
    let path = files.path().to_str().unwrap();
    let Some(checked) = build(place.path(), "store", &["--check-reproducible", path]) else { return };
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    assert!(String::from_utf8(checked.stdout).unwrap().starts_with("sha256:"));
}

/// `coop system` in the store `store` below `place`.
fn system(place: &Path, store: &str, args: &[&str]) -> Output {
    let mut command = Command::new(transcript::examples().join("coop"));
    command.arg("system").args(args).env("COOP_ROOT", place.join(store)).output().unwrap()
}

/// Two images with the same file at other places.
fn two_images(place: &Path, store: &str) -> Option<()> {
    for to in ["one", "other"] {
        let text = format!("FROM scratch\nCOPY file /{to}\n");
        let files = context(&[("Dockerfile", &text), ("file", &"content ".repeat(10_000))]);
        let built = build(place, store, &[files.path().to_str().unwrap()])?;
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    Some(())
}

#[test]
fn equal_files_share_or_it_is_said_why_not() {
    let place = tempfile::tempdir().unwrap();
    let Some(()) = two_images(place.path(), "store") else { return };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let dry = text(system(place.path(), "store", &["dedup", "--dry-run"]).stdout);
    assert!(dry.starts_with("Files: 2 in 163.8kB\nEqual to another: 1 in 81.92kB\nSharing: "), "{dry}");
    let large = text(system(place.path(), "store", &["dedup", "--dry-run", "--min-size", "80001"]).stdout);
    assert!(large.starts_with("Files: 0 in 0B\n"), "{large}");
    let done = system(place.path(), "store", &["dedup"]);
    if dry.contains("Sharing: extents") {
        assert_eq!(text(done.stdout), "Shared: 1 files, 80kB\nShared before: 0 files, 0B\n");
    } else {
        assert!(!done.status.success());
        let told = text(done.stderr);
        assert!(told.contains("cannot share their blocks: the store's file system"), "{told}");
    }
}

/// On XFS, where it must work, in a mount namespace of its own.
#[test]
fn equal_files_share_on_xfs() {
    let place = tempfile::tempdir().unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || !Path::new("/usr/sbin/mkfs.xfs").exists() {
        base::skipped("mounting XFS takes root and mkfs.xfs");
        return;
    }
    let Some(()) = two_images(place.path(), "store") else { return };
    let script = "set -e; cd \"$0\"; truncate -s 320M disk; mkfs.xfs -q -m reflink=1 disk; mkdir mnt; \
                  mount -o loop disk mnt; cp -a store mnt/; export COOP_ROOT=$0/mnt/store; \
                  \"$1\" system dedup --dry-run; \"$1\" system dedup; \"$1\" system dedup; umount mnt";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).arg(place.path()).arg(transcript::examples().join("coop"));
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let told = String::from_utf8(out.stdout).unwrap();
    let lines: Vec<&str> = told.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "Equal to another: 1 in 81.92kB",
            "Sharing: extents: equal files can share their blocks",
            "Shared: 1 files, 80kB",
            "Shared before: 0 files, 0B",
            "Shared: 0 files, 0B",
            "Shared before: 1 files, 80kB",
        ]
    );
}
