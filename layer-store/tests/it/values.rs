//! Images as values, whole trees, containers as layers, volumes and cache mounts.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use image_core::{History, ImageConfig, Platform, Reference, Timestamp};
use layer_store::{Entry, Error, ImageRecord, Kind, Layer, NewContainer, Sharing, Store, View};

use crate::crowd::Random;
use crate::tarball::{Member, archive, dir, file, hardlink, symlink};

fn now() -> Timestamp {
    Timestamp::from_seconds(1_700_000_000)
}

fn store() -> (tempfile::TempDir, Store) {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(&place.path().join("store")).unwrap();
    (place, store)
}

fn stack(store: &Store, tars: &[Vec<u8>]) -> (layer_store::Transaction, Vec<Layer>) {
    let work = store.begin().unwrap();
    let mut layers: Vec<Layer> = Vec::new();
    for tar in tars {
        let layer = work.import(tar.as_slice(), &View::of(&layers)).unwrap().layer;
        layers.push(layer);
    }
    (work, layers)
}

/// What a stack shows: path to kind, mode, owner, time and content, whatever name of a file has the content.
fn shown(layers: &[Layer]) -> BTreeMap<String, String> {
    let view = View::of(layers);
    view.below(b"")
        .into_iter()
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, (entry, layer))| {
            let entry = match &entry.kind {
                Kind::Hardlink { target } => &layer.index().entries[target],
                _ => entry,
            };
            let kind = match &entry.kind {
                Kind::Directory { .. } => "dir".to_owned(),
                other => format!("{other:?}"),
            };
            let text = format!("{kind} {:o} {} {} {:?}", entry.mode, entry.uid, entry.gid, entry.mtime);
            (String::from_utf8_lossy(&path).into_owned(), text)
        })
        .collect()
}

/// Members of a layer that does odd things to what may be below.
fn changes(random: &mut Random) -> Vec<Member> {
    let mut members = Vec::new();
    let mut files: Vec<String> = Vec::new();
    for _ in 0..1 + random.below(8) {
        let parent = ["a", "b", "a/c"][random.below(3)];
        let path = format!("{parent}/{}", ["x", "y", "z", "c"][random.below(4)]);
        let member = match random.below(8) {
            0 => dir(&path),
            1 | 2 => {
                files.push(path.clone());
                file(&path, &"t".repeat(random.below(50)))
            }
            3 => symlink(&path, "x"),
            4 => match files.last() {
                Some(target) if *target != path => hardlink(&path, &target.clone()),
                _ => continue,
            },
            5 => file(&format!("{parent}/.wh..wh..opq"), ""),
            _ => file(&format!("{parent}/.wh.{}", ["x", "y", "z", "c"][random.below(4)]), ""),
        };
        members.push(member);
    }
    members
}

#[test]
fn squashed_layers_show_what_the_stack_showed() {
    let (mut tried, mut made) = (0, 0);
    for seed in 0..40 {
        let mut random = Random(seed);
        let (_place, store) = store();
        let work = store.begin().unwrap();
        let mut layers: Vec<Layer> = Vec::new();
        for _ in 0..4 {
            let tar = archive(&changes(&mut random));
            // Some of these are no layers (a file as a parent); they are left out.
            if let Ok(unpacked) = work.import(tar.as_slice(), &View::of(&layers)) {
                layers.push(unpacked.layer);
            }
        }
        let mut config = ImageConfig::empty(&Platform::new("linux", "amd64"));
        config.history = layers.iter().map(|_| History::default()).collect();
        let image = work.image_of(config, &layers).unwrap();
        work.commit().unwrap();
        for keep in 0..layers.len() {
            tried += 1;
            let squashed = work.squash(&image, keep, None).unwrap();
            work.commit().unwrap();
            let after = store.image_layers(&squashed).unwrap();
            assert!(after.len() <= keep + 1);
            made += usize::from(after.len() < layers.len());
            assert_eq!(shown(&after), shown(&layers), "seed {seed}, {keep} layers kept");
            let config = store.config(&squashed).unwrap();
            let with_layers = config.value().history.iter().filter(|entry| !entry.empty_layer).count();
            assert_eq!(with_layers, after.len(), "history pairs with layers");
        }
        // The whole tree as a tar: unpacked, it shows the same.
        let mut tar = Vec::new();
        store.export_tar(&View::of(&layers), &mut tar).unwrap();
        let one = work.import(tar.as_slice(), &View::default()).unwrap().layer;
        assert_eq!(shown(&[one]), shown(&layers), "seed {seed}, exported");
        work.commit().unwrap();
        assert_eq!(store.check().unwrap().findings, []);
    }
    assert!(made > 60, "{made} of {tried}");
}

fn image(store: &Store, name: &str, tars: &[Vec<u8>]) -> ImageRecord {
    let (work, layers) = stack(store, tars);
    let mut config = ImageConfig::empty(&Platform::new("linux", "amd64"));
    config.history = layers
        .iter()
        .map(|_| {
            let mut entry = History::default();
            entry.created_by = name.to_owned();
            entry
        })
        .collect();
    config.config.env = vec![format!("FROM={name}")];
    let record = work.image_of(config, &layers).unwrap();
    work.commit().unwrap();
    store.put_image(&record).unwrap();
    record
}

#[test]
fn append_rebase_relabel_annotate() {
    let (_place, store) = store();
    let old_base = archive(&[dir("etc"), file("etc/release", "old")]);
    let new_base = archive(&[dir("etc"), file("etc/release", "new"), file("etc/more", "x")]);
    let old = image(&store, "old", std::slice::from_ref(&old_base));
    let new = image(&store, "new", std::slice::from_ref(&new_base));
    let work = store.begin().unwrap();
    let mut composed = work.compose(View::default()).unwrap();
    composed.file(b"app", &mut "app".as_bytes(), Entry::new(Kind::Fifo, 0o755, 0, 0, (1, 0))).unwrap();
    let layer = composed.finish(None).unwrap();
    let mut step = History::default();
    step.created_by = "COPY app".to_owned();
    let app = work.append(&old, &layer, step).unwrap();
    work.commit().unwrap();
    store.put_image(&app).unwrap();
    assert_eq!(store.config(&app).unwrap().value().history.len(), 2);

    let rebased = work.rebase(&app, &old, &new).unwrap();
    work.commit().unwrap();
    let config = store.config(&rebased).unwrap();
    let by: Vec<_> = config.value().history.iter().map(|entry| entry.created_by.as_str()).collect();
    assert_eq!(by, ["new", "COPY app"]);
    assert_eq!(config.value().config.env, ["FROM=old"], "what the image set itself stays");
    let view = View::of(&store.image_layers(&rebased).unwrap());
    let mut text = String::new();
    store.open_file(&view, b"/etc/release").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "new");
    assert!(
        store.open_file(&view, b"app").is_ok() && store.open_file(&view, b"etc").unwrap_err().is_not_found()
    );
    assert!(matches!(work.rebase(&app, &new, &old), Err(Error::Unsupported { .. })));

    let labels = BTreeMap::from([("a".to_owned(), Some("1".to_owned())), ("b".to_owned(), None)]);
    let labelled = work.relabel(&app, &labels).unwrap();
    let notes = BTreeMap::from([("org.example.note".to_owned(), "n".to_owned())]);
    let noted = work.annotate(&app, &notes).unwrap();
    work.commit().unwrap();
    assert_eq!(store.config(&labelled).unwrap().value().config.labels["a"], "1");
    assert_ne!(labelled.id(), app.id());
    assert_eq!(noted.id(), app.id(), "annotations are the manifest's affair");
    let manifest = store.read_blob(&noted.manifest.as_ref().unwrap().digest).unwrap();
    assert!(String::from_utf8(manifest).unwrap().contains("org.example.note"));
    let again = work.annotate(&noted, &notes).unwrap();
    assert_eq!(again.manifest, noted.manifest, "the same annotations, the same manifest");
}

#[test]
fn directories_in_and_out() {
    let (place, store) = store();
    let from = place.path().join("from");
    std::fs::create_dir_all(from.join("d")).unwrap();
    std::fs::write(from.join("d/f"), "content").unwrap();
    std::fs::hard_link(from.join("d/f"), from.join("h")).unwrap();
    std::os::unix::fs::symlink("d/f", from.join("l")).unwrap();
    std::fs::set_permissions(from.join("d/f"), PermissionsExt::from_mode(0o4711)).unwrap();
    std::fs::set_permissions(from.join("d"), PermissionsExt::from_mode(0o2775)).unwrap();
    let work = store.begin().unwrap();
    let layer = work.layer_from_directory(&from, Some(now())).unwrap();
    let again = work.layer_from_directory(&from, Some(now())).unwrap();
    work.commit().unwrap();
    assert_eq!(layer.diff_id(), again.diff_id());
    assert_eq!(store.check().unwrap().findings, []);
    let to = place.path().join("to");
    store.export_directory(&View::of(std::slice::from_ref(&layer)), &to).unwrap();
    assert_eq!(std::fs::read_to_string(to.join("d/f")).unwrap(), "content");
    assert_eq!(std::fs::metadata(to.join("d/f")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(std::fs::metadata(to.join("d")).unwrap().mode() & 0o7777, 0o2775);
    assert_eq!(
        std::fs::metadata(to.join("h")).unwrap().ino(),
        std::fs::metadata(to.join("d/f")).unwrap().ino()
    );
    assert_eq!(std::fs::metadata(to.join("d/f")).unwrap().mtime(), 1_700_000_000);
    assert!(store.export_directory(&View::default(), &to).is_err(), "it must not be there yet");
}

#[test]
fn a_container_becomes_a_layer_and_stays() {
    let (_place, store) = store();
    let base = image(&store, "base", &[archive(&[dir("etc"), file("etc/a", "a"), file("etc/b", "b")])]);
    let mut container =
        store.create_container(&base, NewContainer::new("base", vec!["sh".to_owned()], now())).unwrap();
    let id = container.record().id.clone();
    let upper = store.path().join("containers").join(&id).join("snapshot/diff");
    std::fs::create_dir(upper.join("etc")).unwrap();
    std::fs::write(upper.join("etc/a"), "changed").unwrap();
    let whiteout = rustix::fs::mknodat(
        rustix::fs::CWD,
        upper.join("etc/b"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    );
    whiteout.unwrap();
    let work = store.begin().unwrap();
    let layer = work.layer_of_container(&id, Some(now())).unwrap();
    let layers = store.image_layers(&base).unwrap();
    let committed = work.append(&base, &layer, History::default()).unwrap();
    work.commit().unwrap();
    store.put_image(&committed).unwrap();
    let all: Vec<Layer> = layers.into_iter().chain([layer]).collect();
    let view = View::of(&all);
    let mut text = String::new();
    store.open_file(&view, b"etc/a").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "changed");
    assert!(view.find(b"etc/b").is_none());
    assert_eq!(std::fs::read_to_string(upper.join("etc/a")).unwrap(), "changed", "the container stays");
    container.release();
    store.remove_container(&id).unwrap();
    assert_eq!(store.check().unwrap().findings, []);
}

#[test]
fn volumes_stay_until_they_are_removed() {
    let (_place, store) = store();
    let labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let volume = store.volume("data", &labels, now()).unwrap();
    std::fs::write(volume.path().join("f"), "kept").unwrap();
    assert!(!volume.is_empty().unwrap() && volume.record().labels == labels);
    assert!(matches!(store.remove_volume("data"), Err(Error::InUse { .. })), "held");
    drop(volume);
    let anonymous = store.anonymous_volume(now()).unwrap().record().name.clone();
    store.gc().unwrap();
    assert_eq!(store.volumes().unwrap().len(), 2);
    assert!(store.usage().unwrap().volumes_size > 4_096);
    let base = image(&store, "base", &[archive(&[dir("x")])]);
    let mut container = store.create_container(&base, NewContainer::new("base", Vec::new(), now())).unwrap();
    container.update(|record| record.volumes = vec!["data".to_owned()]).unwrap();
    container.release();
    assert!(matches!(store.remove_volume("data"), Err(Error::InUse { .. })), "a container names it");
    let id = container.record().id.clone();
    drop(container);
    store.remove_container(&id).unwrap();
    assert!(store.remove_volume("data").unwrap() > 4_096);
    store.remove_volume(&anonymous).unwrap();
    assert!(store.remove_volume("data").unwrap_err().is_not_found());
    for name in ["", "..", ".x", "a/b", "a b", &"x".repeat(200)] {
        assert!(matches!(store.volume(name, &labels, now()), Err(Error::Unsupported { .. })), "{name}");
        assert!(store.remove_volume(name).unwrap_err().is_not_found());
    }
}

#[test]
fn cache_mounts_are_shared_private_or_locked() {
    let (_place, store) = store();
    let other = Store::open(store.path()).unwrap();
    let shared = store.try_cache_mount("pip", Sharing::Shared, now()).unwrap().unwrap();
    assert!(shared.is_new());
    std::fs::write(shared.path().join("wheel"), "w").unwrap();
    let second = other.try_cache_mount("pip", Sharing::Shared, now()).unwrap().unwrap();
    assert_eq!(second.path(), shared.path());
    assert!(!second.is_new());
    assert!(other.try_cache_mount("pip", Sharing::Locked, now()).unwrap().is_none(), "somebody has it");
    assert!(matches!(store.remove_cache_mount("pip"), Err(Error::InUse { .. })));
    drop((shared, second));
    let locked = store.try_cache_mount("pip", Sharing::Locked, now()).unwrap().unwrap();
    assert!(locked.path().join("wheel").exists());
    assert!(other.try_cache_mount("pip", Sharing::Shared, now()).unwrap().is_none());
    drop(locked);
    let one = store.try_cache_mount("apt", Sharing::Private, now()).unwrap().unwrap();
    let two = other.try_cache_mount("apt", Sharing::Private, now()).unwrap().unwrap();
    assert_ne!(one.path(), two.path());
    let first = one.path();
    drop(one);
    assert_eq!(other.try_cache_mount("apt", Sharing::Private, now()).unwrap().unwrap().path(), first);
    drop(two);
    store.gc().unwrap();
    let all = store.cache_mounts().unwrap();
    assert_eq!(
        all.iter().map(|(record, _)| (record.id.as_str(), record.uses)).collect::<BTreeMap<_, _>>()["pip"],
        3
    );
    assert!(store.remove_cache_mount("pip").unwrap() > 0 && store.remove_cache_mount("apt").unwrap() > 0);
    assert!(store.cache_mounts().unwrap().is_empty());
}

#[test]
fn an_archive_moves_only_names_that_the_caller_allows() {
    let (_from_place, from) = store();
    let (_to_place, to) = store();
    let evil = image(&from, "evil", &[archive(&[file("x", "evil")])]);
    let names: Vec<Reference> =
        ["mine/app:v1", "library/debian:latest"].map(|name| Reference::parse(name).unwrap()).into();
    for name in &names {
        from.tag(name, &evil.id(), None).unwrap();
    }
    let good = image(&to, "good", &[archive(&[file("x", "good")])]);
    to.tag(&names[1], &good.id(), None).unwrap();
    let mut bytes = Vec::new();
    layer_store::save(&from, &[(evil.clone(), names.clone())], &mut bytes).unwrap();
    let allowed = |name: &Reference| name.familiar().starts_with("mine/");
    let loaded = layer_store::load_allowing(&to, &mut bytes.as_slice(), None, &allowed).unwrap();
    assert_eq!(loaded[0].names, names[..1]);
    assert_eq!(to.find_tag(&names[1]).unwrap().unwrap().image, good.id());
    assert_eq!(to.find_tag(&names[0]).unwrap().unwrap().image, evil.id());
    // What a name pointed to before is known.
    layer_store::load(&to, &mut bytes.as_slice(), Some(now())).unwrap();
    let past: Vec<_> = to.tag_history(&names[1]).unwrap().into_iter().map(|past| past.image).collect();
    assert_eq!(past, [good.id(), evil.id()]);
}
