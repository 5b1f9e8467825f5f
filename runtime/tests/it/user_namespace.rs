//! File operations as root of a user namespace.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use runtime::{FileBatch, IdRange, Runtime, UserMapping, UserNamespace};
use tempfile::TempDir;

use crate::support::{is_root, skipped};

const FIRST: u32 = 700_000;

/// A namespace with ids of nobody, and a directory that belongs to its root.
fn namespace() -> Option<(Runtime, UserNamespace, TempDir)> {
    if !is_root() {
        skipped("this user may not map ids that are not its own");
        return None;
    }
    let place = tempfile::tempdir().unwrap();
    let runtime = Runtime::builder().state_dir(place.path().join("state")).build().unwrap();
    let range = vec![IdRange { inside: 0, outside: FIRST, count: 65_536 }];
    let namespace = runtime.user_namespace(&UserMapping::ranges(range.clone(), range)).unwrap();
    let files = place.path().join("files");
    std::fs::create_dir(&files).unwrap();
    std::os::unix::fs::chown(&files, Some(FIRST), Some(FIRST)).unwrap();
    Some((runtime, namespace, place))
}

fn open(path: &std::path::Path) -> std::fs::File {
    std::fs::File::open(path).unwrap()
}

#[test]
fn files_of_other_ids_are_made_read_and_removed() {
    let Some((_runtime, namespace, place)) = namespace() else { return };
    let files = place.path().join("files");
    let root = open(&files);
    let mut batch = FileBatch::new();
    let dir = batch.give(root.as_fd());
    batch.make_directory(dir, b"home", 0o700);
    let (_, home) = batch.open(dir, b"home", libc::O_PATH | libc::O_DIRECTORY);
    let (made, file) = batch.create(home, b"note", 0o600);
    batch.hand_back(made);
    let written = batch.write(file, b"hello");
    batch.chown_file(file, 1000, 50);
    batch.chmod_file(file, 0o4640);
    batch.touch_file(file, (7, 9));
    batch.symlink(home, b"link", b"note");
    batch.link(home, b"other", file);
    batch.make_node(home, b"fifo", libc::S_IFIFO | 0o600, 0);
    let whiteout = batch.make_node(home, b"gone", libc::S_IFCHR | 0o600, 0);
    let device = batch.make_node(home, b"null", libc::S_IFCHR | 0o600, libc::makedev(1, 3));
    let device = batch.pass_over(device);
    batch.chown(dir, b"home", 1000, 1000);
    let stat = batch.stat(home, b"note");
    let link = batch.read_link(home, b"link");
    let mut outcome = namespace.perform(batch).unwrap();
    assert!(outcome.failure().is_none(), "{:?}", outcome.failure());
    assert_eq!(outcome.result(written).unwrap(), 5);
    assert_eq!(outcome.result(whiteout).unwrap(), 0);
    assert_eq!(
        outcome.result(device).unwrap_err().raw_os_error(),
        Some(libc::EPERM),
        "a device in a user namespace"
    );
    let stat = outcome.stat(stat).unwrap();
    assert_eq!((stat.uid, stat.gid, stat.mode & 0o7777, stat.size, stat.links), (1000, 50, 0o4640, 5, 2));
    assert_eq!(stat.mtime, (7, 9));
    assert_eq!(outcome.bytes(link).unwrap(), b"note");
    let handed = std::fs::File::from(outcome.take_fds().pop().unwrap());
    let seen = handed.metadata().unwrap();
    assert_eq!((seen.uid(), seen.gid()), (FIRST + 1000, FIRST + 50), "ids outside");

    let mut batch = FileBatch::new();
    let dir = batch.give(root.as_fd());
    let (_, home) = batch.open(dir, b"home", libc::O_DIRECTORY);
    let list = batch.list(home);
    let outcome = namespace.perform(batch).unwrap();
    let mut names: Vec<_> = outcome.names(list).into_iter().map(|found| found.name).collect();
    names.sort();
    assert_eq!(names, [&b"fifo"[..], b"gone", b"link", b"note", b"other"]);
}

#[test]
fn a_batch_stops_where_it_fails_and_says_there() {
    let Some((_runtime, namespace, place)) = namespace() else { return };
    let files = place.path().join("files");
    let root = open(&files);
    let mut batch = FileBatch::new();
    let dir = batch.give(root.as_fd());
    batch.make_directory(dir, b"one", 0o755);
    let second = batch.make_directory(dir, b"one", 0o755);
    let third = batch.make_directory(dir, b"two", 0o755);
    let outcome = namespace.perform(batch).unwrap();
    let (call, error) = outcome.failure().unwrap();
    assert_eq!((call, error.raw_os_error()), (second, Some(libc::EEXIST)));
    assert_eq!(outcome.result(third).unwrap_err().raw_os_error(), Some(libc::ECANCELED));
    assert!(files.join("one").exists() && !files.join("two").exists());
}

#[test]
fn nothing_is_followed_and_nothing_leads_out() {
    let Some((_runtime, namespace, place)) = namespace() else { return };
    let files = place.path().join("files");
    let root = open(&files);
    std::os::unix::fs::symlink("/etc", files.join("out")).unwrap();
    for path in [&b"out"[..], b"out/passwd", b"../etc", b"/etc"] {
        let mut batch = FileBatch::new();
        let dir = batch.give(root.as_fd());
        let (call, _) = batch.open(dir, path, libc::O_RDONLY);
        batch.hand_back(call);
        let mut outcome = namespace.perform(batch).unwrap();
        assert!(outcome.failure().is_some(), "{}", String::from_utf8_lossy(path));
        assert!(outcome.take_fds().is_empty());
    }
    for name in [&b"a\0b"[..], b"out/x", b"..", b".", b""] {
        let mut batch = FileBatch::new();
        let dir = batch.give(root.as_fd());
        batch.make_directory(dir, b"before", 0o755);
        batch.remove(dir, name, false);
        assert_eq!(namespace.perform(batch).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
        assert!(!files.join("before").exists(), "nothing of the batch is done");
    }
    // What belongs to nobody inside cannot be touched, whatever its root is.
    std::fs::write(files.join("foreign"), b"").unwrap();
    let mut batch = FileBatch::new();
    let dir = batch.give(root.as_fd());
    batch.chown(dir, b"foreign", 1, 1);
    let outcome = namespace.perform(batch).unwrap();
    assert_eq!(outcome.failure().unwrap().1.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn threads_have_helpers_of_their_own_and_a_killed_one_is_replaced() {
    let Some((_runtime, namespace, place)) = namespace() else { return };
    let files = place.path().join("files");
    let root = open(&files);
    let make = |name: String| {
        let mut batch = FileBatch::new();
        let dir = batch.give(root.as_fd());
        batch.make_directory(dir, name.as_bytes(), 0o755);
        namespace.perform(batch).map(|outcome| assert!(outcome.failure().is_none()))
    };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let make = &make;
            scope.spawn(move || (0..50).for_each(|number| make(format!("{thread}-{number}")).unwrap()));
        }
    });
    assert_eq!(std::fs::read_dir(&files).unwrap().count(), 400);
    // Those who serve are children of ours; the namespace's root is who they are outside.
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let has = |line: String| status.lines().any(|found| found.starts_with(&line));
        if has(format!("PPid:\t{}", std::process::id())) && has(format!("Uid:\t{FIRST}\t")) {
            let pid: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            killed += 1;
        }
    }
    assert!(killed >= 1, "no helper found");
    let mut failures = 0;
    while let Err(error) = make("after".to_owned()) {
        assert!(
            matches!(error.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset),
            "{error:?}"
        );
        failures += 1;
        assert!(failures <= killed, "a dead helper is asked again");
    }
    assert!(files.join("after").exists());
}
