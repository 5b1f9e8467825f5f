//! Names of several images.

use image_core::{
    Document, ImageConfig, ImageId, Index, Manifest, MediaType, Platform, Reference, Timestamp,
};
use layer_store::{
    Damage, Entry, Error, GcPolicy, ImagePolicy, ImageRecord, IndexRecord, IndexedImage, Kind, NewContainer,
    Object, Referrer, Store, View,
};

const START: Timestamp = Timestamp::from_seconds(0);
const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

/// An image without a name, whose manifest is fixed.
fn image(store: &Store, platform: &Platform, text: &str) -> ImageRecord {
    let work = store.begin().unwrap();
    let mut layer = work.compose(View::default()).unwrap();
    layer.file(b"f", &mut text.as_bytes(), Entry::new(Kind::Fifo, 0o644, 0, 0, (0, 0))).unwrap();
    let layer = layer.finish(None).unwrap();
    let mut config = ImageConfig::empty(platform);
    config.rootfs.diff_ids = vec![layer.diff_id()];
    let config = work.put_blob(MediaType::OciConfig, Document::from_value(config).unwrap().bytes()).unwrap();
    let blobs = vec![work.encoded(&layer).unwrap()];
    let manifest = Document::from_value(Manifest::oci(config.clone(), blobs.clone())).unwrap();
    let manifest = work.put_blob(MediaType::OciManifest, manifest.bytes()).unwrap();
    work.commit().unwrap();
    let mut record = ImageRecord::new(config, &[layer]);
    (record.manifest, record.blobs) = (Some(manifest), blobs);
    store.put_image(&record).unwrap();
    record
}

/// An index of two images, named `text`.
fn index(store: &Store, text: &str, salt: &str) -> IndexRecord {
    let images = PLATFORMS.map(|platform| {
        let platform: Platform = Platform::parse(platform).unwrap();
        let record = image(store, &platform, &format!("{salt} {platform}"));
        IndexedImage::new(record.manifest.clone().unwrap().with_platform(platform), record.id())
    });
    let entries = images.iter().map(|entry| entry.manifest.clone()).collect();
    let work = store.begin().unwrap();
    let index = Document::from_value(Index::oci(entries)).unwrap();
    let index = work.put_blob(MediaType::OciIndex, index.bytes()).unwrap();
    work.commit().unwrap();
    let record = IndexRecord::new(index, images.to_vec());
    let own = Platform::parse("linux/arm64").unwrap();
    assert_eq!(store.tag_index(&name(text), &record, &own, None, None).unwrap(), None);
    record
}

fn opened() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn ids(record: &IndexRecord) -> Vec<ImageId> {
    let mut ids: Vec<ImageId> = record.images.iter().map(|entry| entry.image).collect();
    ids.sort();
    ids
}

#[test]
fn a_name_keeps_the_whole_index() {
    let (_dir, store) = opened();
    let record = index(&store, "app:v1", "1");
    // Who knows nothing of indexes finds the image for the host that gave the name.
    assert_eq!(store.resolve_image("app:v1").unwrap().id(), record.images[1].image);
    assert_eq!(store.find_index(&name("app:v1")).unwrap().as_ref(), Some(&record));
    let chosen = |platform: &str| record.select(&Platform::parse(platform).unwrap()).map(|entry| entry.image);
    assert_eq!(chosen("linux/amd64"), Some(record.images[0].image));
    assert_eq!(chosen("linux/s390x"), None);
    assert_eq!(store.prune_images(&ImagePolicy::default(), START, &|_| true, false).unwrap(), []);
    assert_eq!(store.gc_with(&GcPolicy::default()).unwrap().objects, []);
    assert!(store.has_blob(&record.index.digest) && store.check().unwrap().is_sound());
    // Another meaning of the name, and nothing keeps it any more.
    let other = image(&store, &Platform::parse(PLATFORMS[0]).unwrap(), "other");
    store.tag(&name("app:v1"), &other.id(), None).unwrap();
    assert_eq!(store.find_index(&name("app:v1")).unwrap(), None);
    let pruned = store.prune_images(&ImagePolicy::default(), START, &|_| true, false).unwrap();
    let mut gone: Vec<ImageId> = pruned.iter().map(|image| image.id).collect();
    gone.sort();
    assert_eq!(gone, ids(&record));
    assert!(store.gc().unwrap().blobs.contains(&record.index.digest));
    assert!(store.check().unwrap().is_sound());
}

#[test]
fn a_container_of_one_image_keeps_all_of_them() {
    let (_dir, store) = opened();
    let (used, unused) = (index(&store, "used", "1"), index(&store, "unused", "2"));
    let record = store.image(&used.images[0].image).unwrap();
    let container = store.create_container(&record, NewContainer::new("used", Vec::new(), START)).unwrap();
    let mut policy = ImagePolicy::default();
    policy.all = true;
    let pruned = store.prune_images(&policy, START, &|_| true, false).unwrap();
    let mut gone: Vec<ImageId> = pruned.iter().map(|image| image.id).collect();
    gone.sort();
    assert_eq!(gone, ids(&unused));
    // The name goes once.
    let names: Vec<&Reference> = pruned.iter().flat_map(|image| &image.names).collect();
    assert_eq!(names, [&name("unused").with_default_tag()]);
    assert!(store.find_index(&name("used")).unwrap().is_some());
    let id = container.record().id.clone();
    drop(container);
    store.remove_container(&id).unwrap();
    // Without one of its images there is no index, and so no name.
    store.remove_image(&used.images[0].image).unwrap();
    assert_eq!(store.tags().unwrap(), []);
    assert!(store.check().unwrap().is_sound());
}

#[test]
fn what_an_index_lacks_is_found_and_mended() {
    let (dir, store) = opened();
    let record = index(&store, "app", "1");
    let blob = dir.path().join("blobs").join(format!("sha256-{}", record.index.digest.hex()));
    std::fs::remove_file(&blob).unwrap();
    let findings = store.check().unwrap().findings;
    assert!(
        findings.iter().any(|finding| matches!((&finding.object, &finding.damage), (Object::Blob(digest), Damage::Missing) if *digest == record.index.digest)),
        "{findings:?}"
    );
    assert!(findings.iter().any(|finding| matches!(finding.object, Object::Tag(_))), "{findings:?}");
    let repaired = store.repair().unwrap();
    assert_eq!((repaired.lost, repaired.fetch.len()), (Vec::new(), 0));
    assert!(blob.exists() && store.check().unwrap().is_sound());
    // An image that is not there is told.
    let image = record.images[0].image;
    std::fs::remove_file(dir.path().join("images").join(format!("sha256-{}", image.digest().hex()))).unwrap();
    let findings = store.check().unwrap().findings;
    assert!(
        findings.iter().any(|finding| finding.damage == Damage::Dangling(image.to_string())),
        "{findings:?}"
    );
    let gone = store.tag_index(&name("new"), &record, &Platform::host(), None, None).unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
}

#[test]
fn a_version_without_indexes_does_not_write_to_a_store_that_has_one() {
    let (dir, store) = opened();
    let version = || std::fs::read_to_string(dir.path().join("VERSION")).unwrap();
    let (plain, read_only) = (version(), "\"read_only_compatible\":[\"indexes\"]");
    assert!(!plain.contains("indexes"));
    index(&store, "app", "1");
    index(&store, "again", "2");
    assert!(version().contains(read_only), "{}", version());
    Store::open(dir.path()).unwrap();
    // What a repair writes says it too.
    std::fs::remove_file(dir.path().join("VERSION")).unwrap();
    store.repair().unwrap();
    assert!(version().contains(read_only), "{}", version());
    assert_eq!(store.usage().unwrap().unreferenced, 0);
}

#[test]
fn what_refers_to_a_manifest_stays_as_long_as_that() {
    let (dir, store) = opened();
    let record = index(&store, "app", "1");
    let (own, theirs) = (record.images[0].manifest.digest, record.index.digest);
    let put = |text: &str| {
        let work = store.begin().unwrap();
        let blob = work.put_blob(MediaType::parse("text/plain"), text.as_bytes()).unwrap();
        let manifest = work.put_blob(MediaType::OciManifest, format!("{{\"{text}\":1}}").as_bytes()).unwrap();
        work.commit().unwrap();
        Referrer::new(manifest, vec![blob])
    };
    // Of an image, of an index, and of a referrer itself.
    for (subject, text) in [(own, "one"), (theirs, "two"), (put("one").manifest.digest, "three")] {
        store.set_referrers(&subject, vec![put(text)]).unwrap();
    }
    assert_eq!(store.gc().unwrap().objects, []);
    assert_eq!(store.referrers(&own).unwrap(), [put("one")]);
    assert!(store.check().unwrap().is_sound());
    assert_eq!(store.usage().unwrap().unreferenced, 0);
    assert!(std::fs::read_to_string(dir.path().join("VERSION")).unwrap().contains("\"referrers\""));
    // One that lacks a blob is not kept, and one that lost it is told and dropped.
    let mut broken = put("four");
    broken.blobs[0].digest = image_core::Digest::sha256(b"nothing");
    assert!(matches!(store.set_referrers(&own, vec![broken]), Err(Error::NotFound { .. })));
    let lost = put("two").blobs[0].digest;
    std::fs::remove_file(dir.path().join("blobs").join(format!("sha256-{}", lost.hex()))).unwrap();
    let findings = store.check().unwrap().findings;
    assert!(
        matches!(&findings[..], [found] if matches!(found.object, Object::Referrers(_)) && found.damage == Damage::Dangling(lost.to_string())),
        "{findings:?}"
    );
    assert_eq!(store.repair().unwrap().lost, findings);
    assert!(store.check().unwrap().is_sound());
    // With its subject goes what refers to it.
    for image in &record.images {
        store.remove_image(&image.image).unwrap();
    }
    store.gc().unwrap();
    assert_eq!(store.referrers(&own).unwrap(), []);
    assert_eq!(std::fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("referrers")).unwrap().count(), 0);
}
