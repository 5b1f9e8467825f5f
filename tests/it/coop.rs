//! `coop build` as a program calls it: what it prints, and the caches that it is pointed to.

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
