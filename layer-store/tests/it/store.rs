//! Images, names, leases and garbage collection.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use image_core::{DiffId, Digest, Document, ImageConfig, MediaType, Platform, Reference, Timestamp};
use layer_store::{
    CachePolicy, CacheRecord, Component, Disk, Entry, Error, ImageRecord, Kind, Layer, Preimage, Reason,
    Store, StoreOptions, View,
};

use crate::loops::{self, Format};
use crate::peers;
use crate::tarball::{Member, archive, dir, file};

fn layer(store: &Store, text: &str) -> Layer {
    let work = store.begin().unwrap();
    let mut layer = work.compose(View::default()).unwrap();
    layer.file(b"f", &mut text.as_bytes(), Entry::new(Kind::Fifo, 0o644, 0, 0, (0, 0))).unwrap();
    let layer = layer.finish(None).unwrap();
    work.commit().unwrap();
    layer
}

fn image(store: &Store, name: &str, text: &str) -> ImageRecord {
    let layer = layer(store, text);
    let work = store.begin().unwrap();
    let mut config = ImageConfig::empty(&Platform::new("linux", "amd64"));
    config.rootfs.diff_ids = vec![layer.diff_id()];
    let document = Document::from_value(config).unwrap();
    let config = work.put_blob(MediaType::OciConfig, document.bytes()).unwrap();
    work.commit().unwrap();
    let record = ImageRecord::new(config, &[layer]);
    store.put_image(&record).unwrap();
    store.tag(&Reference::parse(name).unwrap(), &record.id(), None).unwrap();
    record
}

#[test]
fn gc_keeps_what_is_needed_and_removes_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (kept, gone) = (image(&store, "kept", "1"), image(&store, "gone", "2"));
    let held = layer(&store, "3");
    let work = store.begin().unwrap();
    assert!(work.layer(held.key()).unwrap().is_some(), "a lease protects what was asked for under it");
    store.remove_image(&gone.id()).unwrap();
    let collected = store.gc().unwrap();
    assert_eq!(collected.layers, [gone.layers[0].key.to_string()]);
    assert!(store.image_layers(&kept).is_ok() && store.layer(held.key()).is_ok());
    drop(work);
    assert_eq!(store.gc().unwrap().layers, [held.key().to_string()]);
    assert!(store.find_tag(&Reference::parse("gone").unwrap()).unwrap().is_none());
    assert!(store.config(&kept).is_ok());
}

#[test]
fn names_and_short_ids_find_images() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let record = image(&store, "org/app:v1", "1");
    let hex = record.config.digest.hex();
    for name in ["org/app:v1", "docker.io/org/app:v1", &hex, &hex[..6], &record.id().to_string()] {
        assert_eq!(store.resolve_image(name).unwrap(), record, "{name}");
    }
    for name in ["org/app", "nosuch", "zz", ""] {
        assert!(store.resolve_image(name).unwrap_err().is_not_found(), "{name}");
    }
}

#[test]
fn a_failure_at_any_change_leaves_a_store_that_works() {
    for limit in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let fault =
            move |number: u64| if number == limit { Err(std::io::Error::other("injected")) } else { Ok(()) };
        let mut options = StoreOptions::default();
        options.disk = std::sync::Arc::new(Disk::with_fault(Box::new(fault)));
        let broken = Store::open_with(dir.path(), options);
        let attempt = broken.and_then(|store| {
            let work = store.begin()?;
            let mut layer = work.compose(View::default())?;
            layer.file(b"f", &mut "x".as_bytes(), Entry::new(Kind::Fifo, 0o644, 0, 0, (0, 0)))?;
            let layer = layer.finish(None)?;
            work.commit()?;
            Ok::<_, Error>(layer)
        });
        let store = Store::open(dir.path()).unwrap();
        store.gc().unwrap();
        let again = image(&store, "x", "x");
        assert_eq!(
            store.image_layers(&again).unwrap()[0].index().size(),
            1,
            "failed at {limit}: {attempt:?}"
        );
    }
}

#[test]
fn a_newer_store_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    std::fs::write(dir.path().join("VERSION"), r#"{"format":1,"incompatible":["warp"]}"#).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Error::Incompatible { feature, .. }) if feature == "warp"));
}

#[test]
fn save_and_load_give_the_same_image() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (Store::open(from.path()).unwrap(), Store::open(to.path()).unwrap());
    let record = image(&from, "org/app:v1", "hello");
    let name = Reference::parse("org/app:v1").unwrap();
    let mut archive = Vec::new();
    layer_store::save(&from, &[(record.clone(), vec![name.clone()])], &mut archive).unwrap();
    let mut again = Vec::new();
    layer_store::save(&from, &[(record.clone(), vec![name.clone()])], &mut again).unwrap();
    assert_eq!(Digest::sha256(&archive), Digest::sha256(&again));
    let loaded = layer_store::load(&to, &mut archive.as_slice(), None).unwrap();
    assert_eq!((loaded[0].image, &loaded[0].names), (record.id(), &vec![name]));
    assert_eq!(to.image_layers(&to.image(&record.id()).unwrap()).unwrap()[0].index().size(), 5);
}

#[test]
fn the_cache_is_pruned_by_age_and_size() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let time = Timestamp::from_seconds;
    let mut preimages = Vec::new();
    for n in 0..6_i64 {
        let work = store.begin().unwrap();
        let mut layer = work.compose(View::default()).unwrap();
        let text = format!("{n}").repeat(100_000);
        layer.file(b"f", &mut text.as_bytes(), Entry::new(Kind::Fifo, 0o644, 0, 0, (0, 0))).unwrap();
        let layer = layer.finish(None).unwrap();
        let preimage = Preimage(vec![Component::new("n", n.to_string())]);
        let step = format!("step {n}");
        let record = CacheRecord::new(preimage.clone(), layer.key().clone(), step, Some(time(1_000 + n)));
        work.record_step(&n.to_string(), &record).unwrap();
        work.commit().unwrap();
        preimages.push(preimage);
    }
    // The oldest is used again: it is the newest now.
    store.note_cache_hit(&preimages[0], time(5_000)).unwrap();
    let each = store.usage().unwrap().cache_size / 6;
    let steps = |policy: &CachePolicy, dry_run: bool| {
        let pruned = store.prune_cache(policy, time(5_001), &|_| true, dry_run).unwrap();
        pruned.iter().map(|record| (record.step.clone(), record.reason)).collect::<Vec<_>>()
    };
    let mut policy = CachePolicy::default();
    policy.max_used = Some(each * 4);
    let expected = [("step 1".to_owned(), Reason::MaxUsed), ("step 2".to_owned(), Reason::MaxUsed)];
    assert_eq!(steps(&policy, true), expected);
    assert_eq!(store.cache_records().unwrap().len(), 6, "a dry run removes nothing");
    assert_eq!(steps(&policy, false), expected);
    assert_eq!(store.gc().unwrap().layers.len(), 2);
    let mut policy = CachePolicy::default();
    policy.keep_duration = Some(std::time::Duration::from_secs(3_997));
    assert_eq!(
        steps(&policy, false),
        [("step 3".to_owned(), Reason::Unused), ("step 4".to_owned(), Reason::Unused)]
    );
    let mut policy = CachePolicy::default();
    policy.reserved = each * 9;
    assert_eq!(steps(&policy, false), []);
    let mut policy = CachePolicy::default();
    policy.min_free = Some(u64::MAX);
    let only_five = |record: &CacheRecord| record.step == "step 5";
    let pruned = store.prune_cache(&policy, time(5_001), &only_five, false).unwrap();
    assert_eq!((pruned.len(), pruned[0].reason, pruned[0].bytes), (1, Reason::MinFree, each));
    let record = &store.cache_records().unwrap()[0].1;
    assert_eq!((record.step.as_str(), record.hits, record.used), ("step 0", 1, Some(time(5_000))));
}

/// Beside what was removed ext4 makes files slowly: what is unpacked begins elsewhere. Others do not know of that.
#[test]
fn what_comes_in_is_spread_over_the_disk_where_that_can_be() {
    loops::on(&[Format::Ext4, Format::Btrfs], |format, disk| {
        let store = Store::open(&disk.mount.join("store")).unwrap();
        let ingest = std::fs::File::open(store.path().join("ingest")).unwrap();
        let flags = rustix::fs::ioctl_getflags(&ingest).unwrap();
        assert_eq!(flags.contains(rustix::fs::IFlags::TOPDIR), format == Format::Ext4, "{format:?}");
        layer(&store, "it works all the same");
    });
}

/// Where the tree of a layer of `members` is.
fn tree(store: &Store, members: &[Member]) -> PathBuf {
    let bytes = archive(members);
    let work = store.begin().unwrap();
    let id = DiffId::new(Digest::sha256(&bytes));
    let layer = work.unpack_stream(bytes.as_slice(), &id, &View::default()).unwrap().layer;
    work.commit().unwrap();
    store.path().join("layers").join(layer.key().to_string()).join("diff")
}

/// Owners that are the maker's own are not set on each file: but there the maker does not have his way.
#[test]
fn files_have_their_group_where_a_directory_gives_its_own() {
    loops::on(&[Format::Ext4], |_, disk| {
        let mount = disk.mount.to_str().unwrap();
        let remounted = std::process::Command::new("mount").args(["-o", "remount,grpid", mount]).status();
        assert!(remounted.unwrap().success());
        std::os::unix::fs::chown(&disk.mount, None, Some(1234)).unwrap();
        let store = Store::open(&disk.mount.join("store")).unwrap();
        let tree = tree(&store, &[dir("d"), file("d/f", "text"), file("top", "text").owner(0, 7)]);
        assert_eq!(
            ["d", "d/f", "top"].map(|path| tree.join(path).symlink_metadata().unwrap().gid()),
            [0, 0, 7]
        );
    });
}

/// An access control list that a directory hands on to what is made in it changes modes, which are not set again.
#[test]
fn modes_are_the_images_where_a_directory_hands_on_a_list() {
    let place = tempfile::tempdir().unwrap();
    // Version 2, then tag, permissions and id of each: the owner all, a user of his own all, group, mask and others none.
    let entries =
        [(1_u16, 7_u16, u32::MAX), (2, 7, 1234), (4, 0, u32::MAX), (16, 0, u32::MAX), (32, 0, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    let name = "system.posix_acl_default";
    if let Err(error) = rustix::fs::setxattr(place.path(), name, &list, rustix::fs::XattrFlags::empty()) {
        peers::skip(&format!("there are no access control lists here: {error}"));
        return;
    }
    let store = Store::open(&place.path().join("store")).unwrap();
    let tree = tree(&store, &[dir("d").mode(0o755), file("d/f", "text").mode(0o664)]);
    let mode = |path: &str| tree.join(path).symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!(["d", "d/f"].map(mode), [0o755, 0o664]);
}
