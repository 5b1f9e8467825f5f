//! Layers that are unpacked while their blobs are still coming.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use image_core::{Compression, Descriptor, DiffId, Digest, MediaType};
use layer_store::{Error, Store};

use crate::tarball::{archive, file};

/// A layer of two files, larger than what is held back on its way.
fn layer() -> (Vec<u8>, Descriptor, DiffId) {
    let content = "cooperage ".repeat(200_000);
    let tar = archive(&[file("first", &content), file("second", &content)]);
    let blob = Descriptor::of(MediaType::OciLayer(Compression::None), &tar);
    let diff_id = DiffId::new(Digest::sha256(&tar));
    (tar, blob, diff_id)
}

fn finds(at: &Path, name: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(at) else { return false };
    entries.flatten().any(|entry| entry.file_name() == name || finds(&entry.path(), name))
}

fn leftovers(store: &Store) -> usize {
    ["ingest", "layers", "blobs", "partial"]
        .iter()
        .flat_map(|part| std::fs::read_dir(store.path().join(part)).into_iter().flatten().flatten())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "sha256")
        .count()
}

#[test]
fn a_layer_is_made_while_its_blob_comes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (tar, blob, diff_id) = layer();
    let work = store.begin().unwrap();
    let (arrivals, arriving) = work.expect([&blob]);
    let done = std::sync::atomic::AtomicUsize::new(0);
    let layers = std::thread::scope(|scope| {
        let unpacking = scope.spawn(|| {
            work.unpack_arriving(&[(blob.clone(), diff_id)], &arriving, &|_| {
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            })
        });
        let mut ingest = work.resume(&blob).unwrap();
        arrivals.begin(&mut ingest);
        let (begin, rest) = tar.split_at(tar.len() / 2);
        ingest.write_all(begin).unwrap();
        // Only what was read of half a blob can make it.
        for _ in 0..6_000 {
            if finds(dir.path(), "first") {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(finds(dir.path(), "first"), "nothing was unpacked of half a blob");
        ingest.write_all(rest).unwrap();
        ingest.finish().unwrap();
        assert_eq!(done.load(std::sync::atomic::Ordering::SeqCst), 0, "done before the blob was verified");
        arrivals.arrived(&blob.digest);
        unpacking.join().unwrap().unwrap()
    });
    assert_eq!(done.into_inner(), 1);
    work.commit().unwrap();
    assert_eq!(layers[0].layer.diff_id(), diff_id);
    assert_eq!(store.read_blob(&blob.digest).unwrap(), tar);
    assert!(store.check().unwrap().findings.is_empty());
}

#[test]
fn a_layer_whose_blob_is_another_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (tar, mut blob, diff_id) = layer();
    // The content is as the config says, so that unpacking alone finds nothing wrong.
    blob.digest = Digest::sha256(b"something else");
    let work = store.begin().unwrap();
    let (arrivals, arriving) = work.expect([&blob]);
    std::thread::scope(|scope| {
        let unpacking = scope.spawn(|| work.unpack_arriving(&[(blob.clone(), diff_id)], &arriving, &|_| ()));
        let mut ingest = work.resume(&blob).unwrap();
        arrivals.begin(&mut ingest);
        ingest.write_all(&tar).unwrap();
        assert!(matches!(ingest.finish(), Err(Error::DigestMismatch { .. })));
        let error = unpacking.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Stream { .. }), "{error}");
    });
    assert!(arriving.failed());
    drop(work);
    assert_eq!(leftovers(&store), 0);
}

#[test]
fn who_waits_for_a_blob_that_never_comes_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (tar, blob, diff_id) = layer();
    for begun in [false, true] {
        let work = store.begin().unwrap();
        let (arrivals, arriving) = work.expect([&blob]);
        std::thread::scope(|scope| {
            let unpacking =
                scope.spawn(|| work.unpack_arriving(&[(blob.clone(), diff_id)], &arriving, &|_| ()));
            let mut ingest = work.ingest(&blob).unwrap();
            if begun {
                arrivals.begin(&mut ingest);
                ingest.write_all(&tar[..100_000]).unwrap();
            }
            drop(ingest);
            drop(arrivals);
            assert!(matches!(unpacking.join().unwrap(), Err(Error::Stream { .. })), "begun: {begun}");
        });
        assert!(arriving.failed());
        drop(work);
        assert_eq!(leftovers(&store), 0);
    }
}

#[test]
fn a_blob_that_is_gone_on_with_is_read_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (tar, blob, diff_id) = layer();
    let half = tar.len() / 2;
    let work = store.begin().unwrap();
    work.resume(&blob).unwrap().write_all(&tar[..half]).unwrap();
    let (arrivals, arriving) = work.expect([&blob]);
    let layers = std::thread::scope(|scope| {
        let unpacking = scope.spawn(|| work.unpack_arriving(&[(blob.clone(), diff_id)], &arriving, &|_| ()));
        let mut ingest = work.resume(&blob).unwrap();
        assert_eq!(ingest.offset(), half as u64);
        arrivals.begin(&mut ingest);
        ingest.write_all(&tar[half..]).unwrap();
        ingest.finish().unwrap();
        assert!(!unpacking.is_finished());
        arrivals.arrived(&blob.digest);
        unpacking.join().unwrap().unwrap()
    });
    assert_eq!(layers[0].layer.diff_id(), diff_id);
    work.commit().unwrap();
}
