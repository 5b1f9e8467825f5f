//! Images, names, leases and garbage collection.

use image_core::{Digest, Document, ImageConfig, MediaType, Platform, Reference};
use layer_store::{Disk, Entry, Error, ImageRecord, Kind, Layer, Store, StoreOptions, View};

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
