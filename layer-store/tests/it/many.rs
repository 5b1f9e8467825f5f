//! Images of many small layers, which are unpacked by one thread each, and records that two write at once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use image_core::{Compression, Descriptor, DiffId, Digest, MediaType};
use layer_store::{Disk, Error, Layer, Store, StoreOptions, Transaction, View};

use crate::bombs::gz;
use crate::tarball::{Member, archive, dir, file, hardlink, symlink};
use crate::yard::snapshot;

/// More than twice as many layers as are ever unpacked at the same time.
fn tars() -> Vec<Vec<u8>> {
    let large = "large ".repeat(100_000);
    let mut tars: Vec<Vec<u8>> = (0..10)
        .map(|n| {
            let at = format!("usr/part{n}");
            archive(&[
                dir("usr"),
                dir(&at).owner(1, 2),
                file(&format!("{at}/small"), &format!("number {n}")).mode(0o4755).xattr("user.note", b"kept"),
                file(&format!("{at}/large"), &large),
                hardlink(&format!("{at}/other"), &format!("{at}/small")),
                symlink(&format!("{at}/link"), "small"),
            ])
        })
        .collect();
    // One that looks at what is below, and one that hides some of it.
    tars.push(archive(&[file("usr/part0/added", "over the first")]));
    tars.push(archive(&[file("usr/part1/.wh..wh..opq", ""), file("usr/.wh.part2", "")]));
    tars
}

fn put(work: &Transaction, tars: &[Vec<u8>]) -> Vec<(Descriptor, DiffId)> {
    let media_type = MediaType::OciLayer(Compression::Gzip);
    let blob = |tar: &Vec<u8>| work.put_blob(media_type.clone(), &gz(tar)).unwrap();
    tars.iter().map(|tar| (blob(tar), DiffId::new(Digest::sha256(tar)))).collect()
}

/// Every file of the layers' trees with what is said of it, but its inode.
fn trees(store: &Store, layers: &[Layer]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for layer in layers {
        let root = store.path().join("layers").join(layer.key().to_string()).join("diff");
        for (path, text) in snapshot(&root) {
            let mut words: Vec<&str> = text.splitn(6, ' ').collect();
            let rest = words.pop().unwrap().trim_start_matches(char::is_numeric);
            if path == root || text.ends_with("device 0") {
                // The time of its making: nothing says what that of a root or of a whiteout should be.
                words.pop();
            }
            let path = path.strip_prefix(&root).unwrap().display();
            found.insert(format!("{} {path}", layer.key()), format!("{} {rest}", words.join(" ")));
        }
    }
    found
}

#[test]
fn many_small_layers_are_what_each_of_them_is_alone() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (together, apart) = (Store::open(one.path()).unwrap(), Store::open(other.path()).unwrap());
    let tars = tars();
    let work = together.begin().unwrap();
    let pairs = put(&work, &tars);
    let unpacked: Vec<Layer> =
        work.unpack_all(&pairs, &|_| ()).unwrap().into_iter().map(|unpacked| unpacked.layer).collect();
    work.commit().unwrap();
    let work = apart.begin().unwrap();
    let pairs = put(&work, &tars);
    let mut layers: Vec<Layer> = Vec::new();
    for (blob, diff_id) in &pairs {
        layers.push(work.unpack(blob, diff_id, &View::of(&layers)).unwrap().layer);
    }
    work.commit().unwrap();
    assert_eq!(unpacked.len(), layers.len());
    for (one, other) in unpacked.iter().zip(&layers) {
        assert_eq!(one.key(), other.key());
        assert_eq!(one.index(), other.index());
    }
    let (together_trees, apart_trees) = (trees(&together, &unpacked), trees(&apart, &layers));
    assert!(together_trees.len() > 60);
    let short = |text: Option<&String>| text.map(|text| text.chars().take(80).collect::<String>());
    for path in together_trees.keys().chain(apart_trees.keys()) {
        let (one, other) = (together_trees.get(path), apart_trees.get(path));
        assert!(one == other, "{path}: {:?} and {:?}", short(one), short(other));
    }
    assert!(together.check().unwrap().findings.is_empty());
}

#[test]
fn one_wrong_layer_among_many_leaves_none() {
    let mut bomb = file("bomb", "").header();
    bomb[124..136].copy_from_slice(format!("{:011o}\0", 256 << 20).as_bytes());
    crate::tarball::seal(&mut bomb);
    let bomb = [&bomb[..], &vec![0; 256 << 20], &[0; 1024]].concat();
    let half = archive(&[file("half", &"half a file ".repeat(1_000))])[..6_000].to_vec();
    let out = archive(&[Member::new("../out", b'0')]);
    let named = |what: &str, error: &Error| match what {
        "bomb" => matches!(error, Error::Budget { limit: 200, .. }),
        "digest" => matches!(error, Error::DigestMismatch { .. }),
        _ => matches!(error, Error::Layer { .. } | Error::Stream { .. }),
    };
    for (what, tar) in [("bomb", bomb), ("half", half), ("out", out), ("digest", tars()[4].clone())] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let work = store.begin().unwrap();
        let mut tars = tars();
        tars[4] = tar;
        let mut pairs = put(&work, &tars);
        if what == "digest" {
            pairs[4].1 = DiffId::new(Digest::sha256(b"another"));
        }
        let error = work.unpack_all(&pairs, &|_| ()).unwrap_err();
        assert!(named(what, &error), "{what}: {error}");
        drop(work);
        for place in ["layers", "ingest"] {
            let left = std::fs::read_dir(store.path().join(place)).unwrap().count();
            assert_eq!(left, 0, "{what} left something in {place}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{what} made something outside");
    }
}

/// Unpacks `blob`, which so is known as an encoding of the layer.
fn pull(store: &Store, blob: &[u8], diff_id: &DiffId) {
    let work = store.begin().unwrap();
    let blob = work.put_blob(MediaType::OciLayer(Compression::None), blob).unwrap();
    work.unpack(&blob, diff_id, &View::default()).unwrap();
    work.commit().unwrap();
}

#[test]
fn an_encoding_that_another_records_meanwhile_stays() {
    let tar = archive(&[file("file", "content")]);
    let zipped = gz(&tar);
    let diff_id = DiffId::new(Digest::sha256(&tar));
    let mut step = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        drop(Store::open(&path).unwrap());
        let done = Arc::new(AtomicBool::new(false));
        let other: Arc<Mutex<Option<JoinHandle<()>>>> = Arc::default();
        let fault = {
            let (other, path, zipped) = (other.clone(), path.clone(), zipped.clone());
            move |number| {
                if number == step {
                    let (told, path, zipped) = (done.clone(), path.clone(), zipped.clone());
                    let meanwhile = std::thread::spawn(move || {
                        pull(&Store::open(&path).unwrap(), &zipped, &diff_id);
                        told.store(true, Ordering::SeqCst);
                    });
                    *other.lock().unwrap() = Some(meanwhile);
                    // It may have to wait for us.
                    for _ in 0..20 {
                        if done.load(Ordering::SeqCst) {
                            break;
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
                Ok(())
            }
        };
        let mut options = StoreOptions::default();
        options.disk = Arc::new(Disk::with_fault(Box::new(fault)));
        let store = Store::open_with(&path, options).unwrap();
        pull(&store, &tar, &diff_id);
        let Some(meanwhile) = other.lock().unwrap().take() else { break };
        meanwhile.join().unwrap();
        let mut known: Vec<Digest> =
            store.encodings(&diff_id).unwrap().into_iter().map(|known| known.blob.digest).collect();
        let mut blobs = [Digest::sha256(&tar), Digest::sha256(&zipped)];
        known.sort();
        blobs.sort();
        assert_eq!(known, blobs, "another came at step {step}");
        step += 1;
    }
    assert!(step > 8, "only {step} steps");
}
