//! Snapshot drivers: the suite, for each of them, as root and in a user namespace; and how one is chosen.

use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;

use layer_store::authority::{Direct, FileAuthority};
use layer_store::conformance::{self, Factory};
use layer_store::{
    CopyDriver, Cost, Damage, Entry, Kind, Mount, OverlayDriver, Snapshotter, Store, StoreOptions, Verdict,
    View,
};

use crate::peers;

fn passes(name: &str, factory: Factory<'_>) {
    let place = tempfile::tempdir().unwrap();
    let outcomes = conformance::snapshotter(factory, place.path());
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.result.is_err()).collect();
    assert!(failed.is_empty(), "{name}: {failed:#?}");
    eprintln!("snapshots by {name}: {} cases", outcomes.len());
}

/// `None`, said aloud, when this process may not mount.
fn mounts() -> Option<()> {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(&place.path().join("store")).unwrap();
    let works = store.probe().unwrap().candidates[0].verdict == Verdict::Works;
    works.then_some(()).or_else(|| peers::skip("this process may not mount an overlay"))
}

fn over(driver: Arc<dyn Snapshotter>, place: &tempfile::TempDir) -> Store {
    let mut options = StoreOptions::default();
    options.snapshotter = Some(driver);
    Store::open_with(&place.path().join("store"), options).unwrap()
}

#[test]
fn the_copy_driver_conforms() {
    passes("copy", &|| Arc::new(CopyDriver));
}

#[test]
fn the_overlay_driver_conforms() {
    let Some(()) = mounts() else { return };
    passes("overlay", &|| Arc::new(OverlayDriver));
}

#[test]
fn what_overlayfs_notes_for_itself_is_sound_and_what_steers_it_is_not() {
    let Some(()) = mounts() else { return };
    let place = tempfile::tempdir().unwrap();
    let store = over(Arc::new(OverlayDriver), &place);
    let work = store.begin().unwrap();
    let mut base = work.compose(View::default()).unwrap();
    base.file(b"d/one", &mut "one".as_bytes(), Entry::new(Kind::Fifo, 0o644, 0, 0, (1, 0))).unwrap();
    let base = base.finish(None).unwrap();
    let snapshot = work.snapshot(std::slice::from_ref(&base)).unwrap();
    let mounted = snapshot.upper().unwrap().mount().unwrap().detached().unwrap();
    let root = std::path::PathBuf::from(format!("/proc/self/fd/{}", mounted.as_raw_fd()));
    std::fs::write(root.join("d/one"), "other").unwrap();
    std::fs::write(root.join("d/new"), "new").unwrap();
    drop(mounted);
    let layer = snapshot.commit(None).unwrap();
    work.commit().unwrap();
    let found = Direct::detect().walk(layer.tree()).unwrap();
    let mut noted: Vec<_> = found.iter().flat_map(|found| &found.xattrs).map(|(name, _)| name).collect();
    noted.sort();
    noted.dedup();
    let noted: Vec<_> = noted.into_iter().map(|name| String::from_utf8_lossy(name)).collect();
    assert!(noted.iter().any(|name| name.starts_with("user.overlay.")), "nothing is noted here: {noted:?}");
    eprintln!("an upper directory keeps {noted:?}");
    assert_eq!(store.check().unwrap().findings, []);
    let directory = store.path().join("layers").join(layer.key().to_string()).join("diff/d");
    for name in ["user.overlay.redirect", "user.overlay.metacopy", "user.overlay.opaque"] {
        rustix::fs::setxattr(&directory, name, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        let findings = store.check().unwrap().findings;
        let [finding] = findings.as_slice() else { panic!("{name}: {findings:?}") };
        assert!(directory.ends_with(&finding.path), "{finding}");
        assert_eq!(finding.damage, Damage::Attribute(name.to_owned()));
        rustix::fs::removexattr(&directory, name).unwrap();
    }
    assert_eq!(store.check().unwrap().findings, []);
}

/// The same program again, as root of a user namespace with a single id.
#[test]
fn all_of_it_holds_in_a_user_namespace() {
    let Some(()) = mounts() else { return };
    let Some(()) = peers::need(&["unshare"]) else { return };
    let program = std::env::current_exe().unwrap();
    let out = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .arg(program)
        .args(["--exact", "snapshots::the_copy_driver_conforms", "snapshots::the_overlay_driver_conforms"])
        .arg("snapshots::what_overlayfs_notes_for_itself_is_sound_and_what_steers_it_is_not")
        .arg("--nocapture")
        .output()
        .unwrap();
    let told = [out.stdout, out.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(out.status.success() && told.contains("3 passed") && !told.contains("skipped"), "{told}");
    for line in told.lines().filter(|line| line.contains("cases") || line.contains("keeps")) {
        eprintln!("in a user namespace, {line}");
    }
}

#[test]
fn a_host_without_overlayfs_gets_copies_and_is_told_why() {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(&place.path().join("store")).unwrap();
    let none = |_: &Mount| Err(io::Error::from_raw_os_error(rustix::io::Errno::NODEV.raw_os_error()));
    let probe = store.probe_with(&none).unwrap();
    assert_eq!(probe.chosen, "copy");
    let Verdict::Refused(reason) = &probe.candidates[0].verdict else { panic!("{probe}") };
    assert_eq!(reason, "the kernel has no overlayfs");
    assert!(matches!(probe.candidates[1].cost, Cost::Inodes | Cost::Bytes));
    let invalid = |_: &Mount| Err(io::Error::from_raw_os_error(rustix::io::Errno::INVAL.raw_os_error()));
    assert_eq!(store.probe_with(&invalid).unwrap().chosen, "copy");
    // One that may not mount still has overlayfs for those who may.
    let denied = |_: &Mount| Err(io::ErrorKind::PermissionDenied.into());
    let probe = store.probe_with(&denied).unwrap();
    assert_eq!((probe.chosen, &probe.candidates[0].verdict), ("overlay", &Verdict::Untried));
    assert!(probe.to_string().contains("* overlay  not tried"), "{probe}");
    assert_eq!(
        std::fs::read_dir(store.path().join("ingest")).unwrap().count(),
        0,
        "a probe leaves something"
    );
}

/// Tmpfs learnt attributes of users late (Linux 6.6): whatever it is, the probe and the kernel must agree.
#[test]
fn what_the_probe_says_of_tmpfs_is_what_the_kernel_does() {
    let Ok(place) = tempfile::tempdir_in("/dev/shm") else {
        peers::skip("no tmpfs at /dev/shm");
        return;
    };
    let Some(()) = mounts() else { return };
    let store = Store::open(&place.path().join("store")).unwrap();
    let probe = store.probe().unwrap();
    let driver = store.snapshotter().unwrap();
    assert_eq!(driver.name(), probe.chosen);
    let work = store.begin().unwrap();
    let snapshot = work.snapshot(&[]).unwrap();
    match snapshot.upper().unwrap().mount().unwrap() {
        Mount::Overlay { .. } => assert_eq!(probe.chosen, "overlay"),
        _ => assert_eq!(probe.chosen, "copy"),
    }
    passes("what was chosen on tmpfs", &|| driver.clone());
}

/// A driver of somebody else's: what it is asked is what the store does.
#[derive(Debug)]
struct Counting(std::sync::Mutex<Vec<&'static str>>);

impl Counting {
    fn asked(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }
}

type Place<'a> = layer_store::Workspace<'a>;
type Layers<'a> = &'a [layer_store::Layer];

impl Snapshotter for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn prepare(&self, place: &Place<'_>, layers: Layers<'_>) -> layer_store::Result<()> {
        self.asked("prepare");
        OverlayDriver.prepare(place, layers)
    }

    fn view(&self, place: &Place<'_>, layers: Layers<'_>) -> layer_store::Result<()> {
        self.asked("view");
        OverlayDriver.view(place, layers)
    }

    fn mount(&self, place: &Place<'_>, layers: Layers<'_>) -> layer_store::Result<Mount> {
        self.asked("mount");
        OverlayDriver.mount(place, layers)
    }

    fn changes(&self, place: &Place<'_>, layers: Layers<'_>) -> layer_store::Result<layer_store::Changes> {
        self.asked("changes");
        OverlayDriver.changes(place, layers)
    }

    fn open(&self, place: &Place<'_>, path: &[u8]) -> layer_store::Result<std::fs::File> {
        self.asked("open");
        OverlayDriver.open(place, path)
    }

    fn commit(&self, place: &Place<'_>, layers: Layers<'_>) -> layer_store::Result<layer_store::Changes> {
        self.asked("commit");
        OverlayDriver.commit(place, layers)
    }
}

#[test]
fn the_store_does_all_of_it_through_the_driver() {
    let place = tempfile::tempdir().unwrap();
    let driver = Arc::new(Counting(std::sync::Mutex::default()));
    let store = over(driver.clone(), &place);
    let work = store.begin().unwrap();
    let snapshot = work.snapshot(&[]).unwrap();
    snapshot.upper().unwrap().mount().unwrap();
    let layer = snapshot.commit(None).unwrap();
    drop(work.view(std::slice::from_ref(&layer)).unwrap());
    assert_eq!(*driver.0.lock().unwrap(), ["prepare", "mount", "commit", "view"]);
    // Another process, which has no such driver, does not take its snapshots for another's.
    let config = image_core::ImageConfig::empty(&image_core::Platform::new("linux", "amd64"));
    let image = work.image_of(config, &[layer]).unwrap();
    work.commit().unwrap();
    store.put_image(&image).unwrap();
    let new = layer_store::NewContainer::new("x", Vec::new(), image_core::Timestamp::from_seconds(1));
    let mut container = store.create_container(&image, new).unwrap();
    let id = container.record().id.clone();
    container.release();
    let other = Store::open(store.path()).unwrap();
    let error = other.container_upper(&id).unwrap_err();
    assert!(error.to_string().contains("counting"), "{error}");
}
