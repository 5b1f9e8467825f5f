//! What the store says it costs is what the file system says.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use image_core::{
    Compression, DiffId, Digest, Document, ImageConfig, MediaType, Platform, Reference, Timestamp,
};
use layer_store::{
    CacheRecord, Component, Encoder, Entry, ImageRecord, Kind, Layer, NewContainer, Preimage, Store, View,
};

use crate::crowd::Random;
use crate::loops::{self, Format};
use crate::tarball::{archive, dir, file};

/// As `du` counts: blocks, each inode once.
pub(crate) fn du(root: &Path) -> u64 {
    let mut seen = std::collections::BTreeSet::new();
    let mut left = vec![root.to_owned()];
    let mut bytes = 0;
    while let Some(path) = left.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if seen.insert(meta.ino()) {
            bytes += meta.blocks() * 512;
        }
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    bytes
}

fn tar(random: &mut Random, seed: usize) -> Vec<u8> {
    let mut members = vec![dir("d")];
    for n in 0..1 + random.below(30) {
        let size = match random.below(4) {
            0 => random.below(60),
            1 => random.below(5_000),
            2 => random.below(50_000),
            _ => random.below(400_000),
        };
        members.push(file(&format!("d/f{seed}-{n}"), &"y".repeat(size)));
    }
    archive(&members)
}

fn image(store: &Store, name: &str, layers: &[Layer], blobs: Vec<image_core::Descriptor>) -> ImageRecord {
    let work = store.begin().unwrap();
    let mut config = ImageConfig::empty(&Platform::new("linux", "amd64"));
    config.rootfs.diff_ids = layers.iter().map(Layer::diff_id).collect();
    let config = work.put_blob(MediaType::OciConfig, Document::from_value(config).unwrap().bytes()).unwrap();
    work.commit().unwrap();
    let mut record = ImageRecord::new(config, layers);
    record.blobs = blobs;
    store.put_image(&record).unwrap();
    store.tag(&Reference::parse(name).unwrap(), &record.id(), None).unwrap();
    record
}

fn close(a: u64, b: u64) -> bool {
    a.abs_diff(b) * 100 <= a.max(b)
}

#[test]
fn df_is_what_du_says_before_and_after_prune() {
    let mut worst = 0.0_f64;
    for set in 0..50_usize {
        let mut random = Random(set as u64);
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("store");
        let store = Store::open(&root).unwrap();
        // Some layers, shared by some images at different heights; some with kept blobs, some composed.
        let work = store.begin().unwrap();
        let mut pool = Vec::new();
        for n in 0..3 + random.below(5) {
            if random.below(3) == 0 {
                let mut composed = work.compose(View::default()).unwrap();
                for f in 0..1 + random.below(10) {
                    let entry = Entry::new(Kind::Fifo, 0o644, 0, 0, (0, 0));
                    let text = format!("{n}").repeat(random.below(40_000));
                    composed.file(format!("c{n}/f{f}").as_bytes(), &mut text.as_bytes(), entry).unwrap();
                }
                let layer = composed.finish(None).unwrap();
                if random.below(2) == 0 {
                    let preimage = Preimage(vec![Component::new("n", n.to_string())]);
                    let record = CacheRecord::new(preimage, layer.key().clone(), "COPY".to_owned(), None);
                    work.record_step(&n.to_string(), &record).unwrap();
                }
                let blob = work.encoded_as(&layer, Encoder::Plain).unwrap();
                pool.push((layer, blob));
            } else {
                let bytes = tar(&mut random, n);
                let blob = work.put_blob(Encoder::Plain.media_type(), &bytes).unwrap();
                let diff_id = DiffId::new(Digest::sha256(&bytes));
                pool.push((work.unpack(&blob, &diff_id, &View::default()).unwrap().layer, blob));
            }
        }
        work.commit().unwrap();
        drop(work);
        let mut images = Vec::new();
        for n in 0..1 + random.below(5) {
            let (layers, blobs): (Vec<_>, Vec<_>) =
                (0..1 + random.below(4)).map(|_| pool[random.below(pool.len())].clone()).unzip();
            images.push(image(&store, &format!("set/{n}:v1"), &layers, blobs));
        }
        let used = &images[random.below(images.len())];
        let new = NewContainer::new("x", Vec::new(), Timestamp::from_seconds(1));
        let mut container = store.create_container(used, new).unwrap();
        std::fs::write(
            root.join("containers").join(&container.record().id).join("snapshot/diff/wrote"),
            "z".repeat(random.below(300_000)),
        )
        .unwrap();
        container.release();
        drop(container);
        let before = store.usage().unwrap();
        let real = du(&root);
        let mut check = |when: &str, said: u64, real: u64| {
            worst = worst.max(said.abs_diff(real) as f64 / real as f64);
            assert!(close(said, real), "set {set}, {when}: said {said}, du {real}");
        };
        check("before", before.total(), real);
        // What gc frees now.
        let freed = store.gc().unwrap();
        let after_gc = store.usage().unwrap();
        check("after gc", after_gc.total(), du(&root));
        assert_eq!(after_gc.unreferenced, 0);
        assert!(
            close(freed.bytes, before.unreferenced),
            "gc freed {} of {}",
            freed.bytes,
            before.unreferenced
        );
        // Prune every image without a container: what was promised is freed.
        for image in store.images().unwrap() {
            if store.containers().unwrap().iter().all(|container| container.image != image.id()) {
                store.remove_image(&image.id()).unwrap();
            }
        }
        store.gc().unwrap();
        let pruned = store.usage().unwrap();
        let real_after = du(&root);
        check("after prune", pruned.total(), real_after);
        let promised = after_gc.images_reclaimable;
        let got = after_gc.total() - pruned.total();
        // Records of the images go as well, a block or two each.
        let slack = 6 * 4_096 * images.len() as u64;
        assert!(got >= promised && got <= promised + slack, "set {set}: promised {promised}, got {got}");
    }
    eprintln!("df and du of 50 random image sets: at most {:.3} % apart", worst * 100.0);
}

#[test]
fn what_xfs_has_in_store_behind_a_file_is_not_counted() {
    loops::on(&[Format::RoomyXfs], |_, disk| {
        let root = disk.mount.join("store");
        let store = Store::open(&root).unwrap();
        let large = "large ".repeat(500_000);
        let bytes = archive(&[dir("d"), file("d/large", &large), file("d/small", &large[..100_000])]);
        let work = store.begin().unwrap();
        let blob = work.put_blob(MediaType::OciLayer(Compression::None), &bytes).unwrap();
        work.unpack(&blob, &DiffId::new(Digest::sha256(&bytes)), &View::default()).unwrap();
        work.commit().unwrap();
        drop((work, store));
        // Then nothing is in store any more.
        disk.unmount();
        assert!(disk.mount());
        let store = Store::open(&root).unwrap();
        assert_eq!(store.usage().unwrap().total(), du(&root));
    });
}

#[test]
fn one_copy_under_two_parents_and_a_cheap_df() {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(&place.path().join("store")).unwrap();
    let work = store.begin().unwrap();
    let unpack = |bytes: &[u8], below: &[Layer]| {
        let diff_id = DiffId::new(Digest::sha256(bytes));
        match work.find(&diff_id, &View::of(below)).unwrap() {
            Some(layer) => layer,
            None => work.unpack_stream(bytes, &diff_id, &View::of(below)).unwrap().layer,
        }
    };
    let (one, two) = (archive(&[dir("a"), file("a/1", "1")]), archive(&[dir("a"), file("a/2", "2")]));
    let shared = archive(&[dir("s"), file("s/big", &"s".repeat(2_000_000))]);
    let (one, two) = (unpack(&one, &[]), unpack(&two, &[]));
    let over_one = unpack(&shared, std::slice::from_ref(&one));
    let over_two = unpack(&shared, std::slice::from_ref(&two));
    work.commit().unwrap();
    image(&store, "one:v1", &[one, over_one], Vec::new());
    image(&store, "two:v1", &[two, over_two], Vec::new());
    let layers = std::fs::read_dir(store.path().join("layers")).unwrap().count();
    let disk = du(&store.path().join("layers"));
    assert_eq!(layers, 3);
    let sum: u64 = store.usage().unwrap().images.iter().map(|image| image.size).sum();
    assert!(disk < sum * 6 / 10, "{disk} of {sum}");
    eprintln!("one layer under two parents: {layers} layers, du {disk} against a sum of {sum}");
}

/// What sharing by file would save is told, also where it cannot be done; `sharing` does it where it can.
#[test]
fn what_is_the_same_in_two_layers_is_counted() {
    let sum_and_disk = |second: &dyn Fn(usize, &mut crate::tarball::Member)| {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(&place.path().join("store")).unwrap();
        let mut disks = Vec::new();
        let work = store.begin().unwrap();
        for build in 0..2 {
            let mut members = vec![dir("d")];
            for n in 0..50 {
                let mut member = file(&format!("d/{n}"), &format!("{n} ").repeat(4_000));
                if build == 1 {
                    second(n, &mut member);
                }
                members.push(member);
            }
            let bytes = archive(&members);
            let layer =
                work.unpack_stream(bytes.as_slice(), &DiffId::new(Digest::sha256(&bytes)), &View::default());
            disks.push(layer.unwrap().layer.index().allocated);
        }
        work.commit().unwrap();
        (disks.iter().sum::<u64>(), du(&store.path().join("layers")), store.duplicates().unwrap())
    };
    let (sum, disk, times) = sum_and_disk(&|_, member| member.mtime += 1);
    assert_eq!((times.files, times.copies, times.linkable), (100, 50, 0));
    assert_eq!(times.copied * 2, times.bytes);
    eprintln!(
        "two images that differ in times: du {disk} of a sum of {sum}, {} in the same content",
        times.copied
    );
    let (sum, disk, one) = sum_and_disk(&|n, member| {
        if n == 7 {
            member.content.push(b'x');
        }
    });
    assert_eq!((one.copies, one.linkable), (49, one.copied));
    eprintln!(
        "two images that differ in one file: du {disk} of a sum of {sum}, {} in the same content",
        one.copied
    );
}
