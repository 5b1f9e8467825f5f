//! What goes by age and size, what a dry run says, and stores below a store.

use std::path::Path;
use std::time::Duration;

use image_core::{ImageConfig, Platform, Reference, Timestamp};
use layer_store::{
    Entry, Error, GcPolicy, ImagePolicy, ImageRecord, Kind, Layer, NewContainer, Object, Reason, Store,
    StoreOptions, Unneeded, View,
};

use crate::usage::du;

fn layer(store: &Store, name: &str, size: usize) -> Layer {
    let work = store.begin().unwrap();
    let mut layer = work.compose(View::default()).unwrap();
    let entry = Entry::new(Kind::Fifo, 0o644, 0, 0, (0, 0));
    layer.file(name.as_bytes(), &mut name.repeat(size / name.len()).as_bytes(), entry).unwrap();
    let layer = layer.finish(None).unwrap();
    work.commit().unwrap();
    layer
}

fn image(store: &Store, name: &str, layers: &[Layer], tagged: Option<i64>) -> ImageRecord {
    let work = store.begin().unwrap();
    let mut config = ImageConfig::empty(&Platform::new("linux", "amd64"));
    config.author = Some(name.to_owned());
    let record = work.image_of(config, layers).unwrap();
    work.commit().unwrap();
    store.put_image(&record).unwrap();
    if let Some(time) = tagged {
        let name = Reference::parse(name).unwrap();
        store.tag(&name, &record.id(), Some(Timestamp::from_seconds(time))).unwrap();
    }
    record
}

fn names(pruned: &[layer_store::PrunedImage]) -> Vec<String> {
    pruned.iter().map(|image| image.names.first().map_or("-".to_owned(), Reference::familiar)).collect()
}

#[test]
fn a_dry_run_says_what_goes_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (kept, lost) = (layer(&store, "kept", 50_000), layer(&store, "lost", 90_000));
    image(&store, "kept:v1", &[kept], Some(1));
    let gone = image(&store, "gone:v1", std::slice::from_ref(&lost), Some(1));
    assert!(store.gc_with(&GcPolicy::default().dry_run()).unwrap().objects.is_empty());
    store.remove_image(&gone.id()).unwrap();
    let before = du(store.path());
    let told = store.gc_with(&GcPolicy::default().dry_run()).unwrap();
    assert_eq!(du(store.path()), before, "a dry run changes something");
    assert_eq!(told.layers, [lost.key().to_string()]);
    assert_eq!(told.blobs, [gone.config.digest]);
    assert!(told.objects.iter().all(|object| object.reason == Unneeded::Unreferenced));
    assert!(told.objects.iter().any(|object| object.object == Object::Layer(lost.key().clone())));
    let done = store.gc().unwrap();
    assert_eq!(done, told);
    assert_eq!(before - du(store.path()), done.bytes);
}

#[test]
fn a_dry_run_makes_nothing_of_work_that_ends_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let dry = GcPolicy::default().dry_run();
    std::thread::scope(|scope| {
        let work = scope.spawn(|| (0..100).for_each(|_| drop(store.begin().unwrap())));
        while !work.is_finished() {
            store.gc_with(&dry).unwrap();
        }
    });
    assert_eq!(std::fs::read_dir(store.path().join("leases")).unwrap().count(), 0);
}

#[test]
fn images_go_oldest_first_until_the_policy_is_met() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let shared = layer(&store, "shared", 400_000);
    for (name, time) in [("a:v1", 100), ("b:v1", 200), ("c:v1", 300), ("d:v1", 400)] {
        let own = layer(&store, name, 100_000);
        image(&store, name, &[shared.clone(), own], Some(time));
    }
    let dangling = image(&store, "dangling", &[layer(&store, "dangling", 100_000)], None);
    let now = Timestamp::from_seconds(1_000);
    let prune = |policy: ImagePolicy| store.prune_images(&policy, now, &|_| true, true).unwrap();
    let policy = |change: &dyn Fn(&mut ImagePolicy)| {
        let mut policy = ImagePolicy::default();
        policy.all = true;
        change(&mut policy);
        policy
    };
    // By default only what has no name.
    let pruned = prune(ImagePolicy::default());
    assert_eq!(pruned.iter().map(|image| image.id).collect::<Vec<_>>(), [dangling.id()]);
    assert_eq!(names(&prune(policy(&|_| ()))), ["-", "a:v1", "b:v1", "c:v1", "d:v1"]);
    assert_eq!(names(&prune(policy(&|p| p.keep_newest = 3))), ["-", "a:v1"]);
    let young = policy(&|p| p.keep_duration = Some(Duration::from_secs(750)));
    assert_eq!(names(&prune(young)), ["-", "a:v1", "b:v1"]);
    let small = policy(&|p| p.max_used = Some(800_000));
    let pruned = prune(small);
    assert_eq!(names(&pruned), ["-", "a:v1"]);
    assert!(pruned.iter().all(|image| image.reason == Reason::MaxUsed));
    assert_eq!(names(&prune(policy(&|p| p.reserved = 700_000))), ["-", "a:v1", "b:v1"]);
    let nothing_free = policy(&|p| p.min_free = Some(u64::MAX / 2));
    assert_eq!(prune(nothing_free).len(), 5);
    assert!(prune(policy(&|p| p.min_free = Some(1))).is_empty());
    let labelled = store.prune_images(&policy(&|_| ()), now, &|record| record.id() == dangling.id(), true);
    assert_eq!(labelled.unwrap().len(), 1);
    // Nothing went so far. What a container uses stays; the bytes that were promised are freed.
    assert_eq!(store.images().unwrap().len(), 5);
    let used = store.resolve_image("b:v1").unwrap();
    let mut container = store.create_container(&used, NewContainer::new("b:v1", Vec::new(), now)).unwrap();
    container.release();
    let before = du(store.path());
    let pruned = store.prune_images(&policy(&|_| ()), now, &|_| true, false).unwrap();
    assert_eq!(names(&pruned), ["-", "a:v1", "c:v1", "d:v1"]);
    let promised: u64 = pruned.iter().map(|image| image.bytes).sum();
    let freed = store.gc().unwrap().bytes;
    assert_eq!(freed, promised);
    // Records and names go as well, a block each.
    let real = before - du(store.path());
    assert!(real >= promised && real < promised + 60_000, "{promised} promised, {real} freed");
    assert_eq!(store.images().unwrap().len(), 1);
}

fn over(root: &Path, lower: &[&Path]) -> Result<Store, Error> {
    let mut options = StoreOptions::default();
    options.additional = lower.iter().map(|path| path.to_path_buf()).collect();
    Store::open_with(root, options)
}

#[test]
fn a_store_below_is_used_in_place_and_never_written() {
    let dir = tempfile::tempdir().unwrap();
    let lower = dir.path().join("lower");
    let below = Store::open(&lower).unwrap();
    let base = layer(&below, "base", 300_000);
    let record = image(&below, "base:v1", std::slice::from_ref(&base), Some(1));
    drop(below);
    let listing = |path: &Path| {
        let out = std::process::Command::new("find")
            .arg(path)
            .args(["-printf", "%P %y %m %s %T@ %C@ %i\n"])
            .output()
            .unwrap();
        let mut lines: Vec<_> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = listing(&lower);
    let root = dir.path().join("store");
    let store = over(&root, &[&lower]).unwrap();
    // Found by name, by ID and in lists; read, and built upon.
    let found = store.resolve_image("base:v1").unwrap();
    assert_eq!(found, record);
    assert_eq!(store.images().unwrap(), std::slice::from_ref(&record));
    assert_eq!(store.tags().unwrap().len(), 1);
    assert_eq!(store.config(&found).unwrap().value().author.as_deref(), Some("base:v1"));
    let layers = store.image_layers(&found).unwrap();
    let mut text = String::new();
    let mut file = store.open_file(&View::of(&layers), b"base").unwrap();
    std::io::Read::read_to_string(&mut file, &mut text).unwrap();
    assert_eq!(text.len(), 300_000);
    let work = store.begin().unwrap();
    assert!(work.find(&base.diff_id(), &View::default()).unwrap().is_some(), "it would be pulled again");
    assert!(work.has_blob(&record.config).unwrap());
    drop(work);
    let own = layer(&store, "own", 50_000);
    let stack = [layers, vec![own]].concat();
    let derived = image(&store, "derived:v1", &stack, Some(2));
    let mine = Reference::parse("mine:v1").unwrap();
    store.tag(&mine, &found.id(), None).unwrap();
    let mut container =
        store.create_container(&derived, NewContainer::new("x", Vec::new(), Timestamp::from_seconds(1)));
    container.as_mut().unwrap().release();
    drop(container);
    // Nothing of it is collected, counted or removed; the store is sound and its df is its du.
    assert!(store.check().unwrap().is_sound(), "{:?}", store.check().unwrap().findings);
    let collected = store.gc().unwrap();
    assert!(collected.layers.is_empty() && collected.blobs.is_empty(), "{collected:?}");
    let (usage, real) = (store.usage().unwrap(), du(&root));
    assert!(usage.total().abs_diff(real) * 100 <= real, "df {} and du {real}", usage.total());
    assert!(matches!(store.remove_image(&found.id()), Err(Error::InUse { .. })));
    let policy = {
        let mut policy = ImagePolicy::default();
        policy.all = true;
        policy
    };
    let pruned = store.prune_images(&policy, Timestamp::from_seconds(10), &|_| true, true).unwrap();
    assert!(pruned.is_empty(), "the only image of its own has a container: {pruned:?}");
    assert_eq!(listing(&lower), before, "something was written in the store below");
    // Without it, what stands on it is told.
    let alone = Store::open(&root).unwrap();
    assert!(alone.resolve_image("base:v1").is_err());
    assert!(!alone.check().unwrap().is_sound());
    // No store, no opening; a store of another time neither.
    assert!(matches!(over(&root, &[&dir.path().join("nowhere")]), Err(Error::Io { .. })));
    assert!(matches!(over(&root, &[dir.path()]), Err(Error::NotFound { kind: "store", .. })));
}

#[test]
fn features_say_who_may_open_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let lower = dir.path().join("lower");
    drop(Store::open(&lower).unwrap());
    let version = |field: &str| {
        let mut lists = [("compatible", ""), ("read_only_compatible", ""), ("incompatible", "")];
        lists.iter_mut().find(|(name, _)| *name == field).unwrap().1 = "\"news\"";
        let text = lists.map(|(name, list)| format!("\"{name}\":[{list}]")).join(",");
        std::fs::write(lower.join("VERSION"), format!("{{\"format\":1,{text}}}\n")).unwrap();
    };
    let root = dir.path().join("store");
    version("compatible");
    assert!(Store::open(&lower).is_ok() && over(&root, &[&lower]).is_ok());
    version("read_only_compatible");
    assert!(matches!(Store::open(&lower), Err(Error::Incompatible { .. })));
    assert!(over(&root, &[&lower]).is_ok(), "it may be read");
    version("incompatible");
    assert!(matches!(over(&root, &[&lower]), Err(Error::Incompatible { .. })));
}
