//! Equal files share their blocks where the file system can, and nothing else about them changes.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use image_core::{DiffId, Digest};
use layer_store::authority::{Direct, FileAuthority};
use layer_store::{Damage, DedupOptions, Error, FileSharing, Layer, Store, StoreOptions, Unshared, View};

use crate::crowd::Random;
use crate::loops::{Format, Loop, on};
use crate::tarball::{Member, archive, dir, file};
use crate::usage::du;

mod power;
mod user;

const CAN: [Format; 2] = [Format::Xfs, Format::Btrfs];
const FILES: usize = 60;

/// Files of many sizes, modes and owners, of bytes that no file system makes smaller.
fn members(seed: u64) -> Vec<Member> {
    let mut random = Random(seed);
    let noise: Vec<u8> = (0..400_000).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
    let mut all = vec![dir("d"), dir("d/deep")];
    for n in 0..FILES {
        let size = match n {
            // Larger than what the kernel takes in one call, and not a multiple of anything.
            0 => (17 << 20) + 13,
            1..20 => 4_096 * (1 + random.below(4)),
            _ => 4_096 + random.below(300_000),
        };
        let mut member = file(&format!("d/{}{n}", if n % 3 == 0 { "deep/" } else { "" }), "");
        let from = random.below(50_000);
        while member.content.len() < size {
            let part = &noise[from..(from + size - member.content.len()).min(noise.len())];
            member.content.extend_from_slice(part);
        }
        member = match n % 7 {
            0 => member.mode(0o4755),
            1 => member.mode(0o000),
            2 => member.owner(7, 70_000),
            3 => member.xattr("user.note", b"kept"),
            _ => member.mode(0o444),
        };
        all.push(member);
    }
    all
}

fn unpack(store: &Store, members: &[Member]) -> Layer {
    let bytes = archive(members);
    let work = store.begin().unwrap();
    let diff_id = DiffId::new(Digest::sha256(&bytes));
    let layer = work.unpack_stream(bytes.as_slice(), &diff_id, &View::default()).unwrap().layer;
    work.commit().unwrap();
    layer
}

fn later(mut members: Vec<Member>) -> Vec<Member> {
    for member in &mut members {
        member.mtime += 1;
    }
    members
}

fn place(store: &Store, layer: &Layer, path: &str) -> PathBuf {
    store.path().join("layers").join(layer.key().to_string()).join("diff").join(path)
}

/// Everything that can be seen of a layer's files but their bytes and when they were read.
fn metadata(store: &Store, layer: &Layer) -> Vec<String> {
    let tree = place(store, layer, "");
    let dir = std::fs::File::open(&tree).unwrap();
    let told = |found: layer_store::authority::Found| {
        let path = tree.join(String::from_utf8(found.path.clone()).unwrap());
        let meta = std::fs::symlink_metadata(path).unwrap();
        format!("{found:?} changed {}.{}", meta.ctime(), meta.ctime_nsec())
    };
    Direct::detect().walk(dir.as_fd()).unwrap().into_iter().map(told).collect()
}

fn sound(store: &Store) {
    assert_eq!(store.check().unwrap().findings, []);
}

/// Store, disk and what `statfs` says before there is anything.
fn empty(disk: &Loop) -> (Store, u64) {
    let store = Store::open(&disk.mount.join("store")).unwrap();
    let used = disk.used();
    (store, used)
}

#[test]
fn what_is_the_same_in_two_layers_is_kept_once() {
    on(&CAN, |format, disk| {
        for what in ["in times", "in one file"] {
            let (store, before) = empty(disk);
            let mut others = members(1);
            if what == "in times" {
                others = later(others);
            } else {
                others[9].content.push(b'x');
            }
            let layers = [unpack(&store, &members(1)), unpack(&store, &others)];
            let both = disk.used() - before;
            let seen = layers.each_ref().map(|layer| metadata(&store, layer));
            // Each file has its blocks, shared or not: neither df nor du changes.
            let costs = |store: &Store| (store.usage().unwrap().total(), du(store.path()));
            let cost = costs(&store);
            assert_eq!(cost.0, cost.1);
            let done = store.deduplicate(&DedupOptions::default()).unwrap();
            let copies = if what == "in times" { FILES } else { FILES - 1 } as u64;
            let bytes =
                members(1).iter().chain(&others).map(|member| member.content.len() as u64).sum::<u64>();
            assert_eq!((done.copies, done.shared, done.already), (copies, copies, 0), "{done:?}");
            assert!(done.shared_bytes == done.compared && done.shared_bytes > bytes * 4 / 10, "{done:?}");
            assert!(done.skipped.is_empty() && done.damaged.is_empty(), "{done:?}");
            let once = disk.used() - before;
            assert!(once * 100 < both * 60, "{format:?}, {what}: {once} of {both}");
            assert_eq!(layers.each_ref().map(|layer| metadata(&store, layer)), seen);
            sound(&store);
            assert_eq!(costs(&store), cost);
            // Nothing is read again.
            let again = store.deduplicate(&DedupOptions::default()).unwrap();
            assert_eq!((again.copies, again.already, again.shared), (copies, copies, 0));
            assert_eq!((again.compared, again.already_bytes), (0, done.shared_bytes));
            eprintln!(
                "two images that differ {what} on {format:?}: statfs {once} of a sum of {both}, {} shared",
                done.shared_bytes
            );
            drop((layers, store));
            std::fs::remove_dir_all(disk.mount.join("store")).unwrap();
        }
    });
}

#[test]
fn a_damaged_file_shares_nothing_and_is_told() {
    on(&CAN, |_, disk| {
        let (store, _) = empty(disk);
        let mut layers: Vec<Layer> = (0..4)
            .map(|n| {
                let mut all = members(1);
                all[0].mtime += n;
                unpack(&store, &all)
            })
            .collect();
        // The order of the store: the first one is who others share with.
        layers.sort_by_key(|layer| layer.key().clone());
        let flip = |layer: usize, path: &str, at: u64| {
            let path = place(&store, &layers[layer], path);
            let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            std::fs::read(path).unwrap()
        };
        // In the second piece of the largest, in the first of all, in a middle one, and in two of four.
        let wrong =
            [(2, "d/deep/0", 17 << 20), (0, "d/4", 0), (1, "d/5", 4_095), (0, "d/7", 1), (1, "d/7", 2)];
        let now = wrong.map(|(layer, path, at)| flip(layer, path, at));
        let short = place(&store, &layers[3], "d/8");
        std::fs::File::options().write(true).open(&short).unwrap().set_len(100).unwrap();
        let done = store.deduplicate(&DedupOptions::default()).unwrap();
        let mut told: Vec<(PathBuf, Damage)> =
            done.damaged.iter().map(|found| (found.path.clone(), found.damage.clone())).collect();
        let damaged = |layer: usize, path: &str, damage| {
            let path = place(&store, &layers[layer], path);
            (path.strip_prefix(store.path()).unwrap().to_owned(), damage)
        };
        let mut expected: Vec<_> =
            wrong.iter().map(|(layer, path, _)| damaged(*layer, path, Damage::Content)).collect();
        expected.push(damaged(3, "d/8", Damage::Attribute("size".to_owned())));
        told.sort_by(|one, other| one.0.cmp(&other.0));
        expected.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(told, expected);
        // The damage is where it was, and nowhere else.
        for ((layer, path, _), now) in wrong.iter().zip(now) {
            assert!(std::fs::read(place(&store, &layers[*layer], path)).unwrap() == now, "{path}");
        }
        let mut found: Vec<PathBuf> = store
            .check()
            .unwrap()
            .findings
            .into_iter()
            .filter(|found| matches!(&found.damage, Damage::Content) || found.path.ends_with("d/8"))
            .map(|found| found.path)
            .collect();
        found.sort();
        found.dedup();
        assert_eq!(found, expected.into_iter().map(|(path, _)| path).collect::<Vec<_>>());
        // Of four equal files 3 follow the first; of those with a damaged one 2, of those with two 1, which leaves another
        // one as the first.
        assert_eq!(done.copies, 3 * FILES as u64 - 1);
        assert_eq!(done.shared, 3 * (FILES as u64 - 5) + 4 * 2 + 1);
    });
}

#[test]
fn a_file_system_that_cannot_says_so() {
    on(&[Format::Ext4, Format::PlainXfs, Format::Xfs], |format, disk| {
        let mut options = StoreOptions::default();
        options.dedup = Some(DedupOptions::default());
        let store = Store::open_with(&disk.mount.join("store"), options).unwrap();
        // A commit does not fail by it.
        unpack(&store, &members(1)[..10]);
        let probe = store.probe().unwrap();
        match (format, store.deduplicate(&DedupOptions::default())) {
            (Format::Xfs, Ok(_)) => {
                assert_eq!(probe.sharing, FileSharing::Extents);
                assert!(probe.to_string().contains("sharing  extents"), "{probe}");
            }
            (Format::Xfs, Err(error)) => panic!("{error}"),
            (_, Err(Error::NoFileSharing { path, reason })) => {
                assert_eq!(path, store.path());
                assert!(reason.contains("not supported"), "{reason}");
                assert_eq!(probe.sharing, FileSharing::None(reason));
                assert!(probe.to_string().contains("sharing  none: "), "{probe}");
            }
            (_, other) => panic!("{other:?}"),
        }
        sound(&store);
    });
}

#[test]
fn here_too_the_probe_and_the_run_agree() {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(place.path()).unwrap();
    unpack(&store, &[dir("d"), file("d/a", &"a".repeat(9_000)), file("d/b", &"a".repeat(9_000))]);
    let result = store.deduplicate(&DedupOptions::default());
    match store.probe().unwrap().sharing {
        FileSharing::Extents => assert_eq!(result.unwrap().shared, 1),
        FileSharing::None(_) => assert!(matches!(result, Err(Error::NoFileSharing { .. }))),
        _ => panic!("another way of sharing"),
    }
    sound(&store);
}

#[test]
fn a_commit_shares_its_layers_when_that_is_wanted() {
    on(&CAN, |format, disk| {
        let mut options = StoreOptions::default();
        options.dedup = Some(DedupOptions::default());
        let store = Store::open_with(&disk.mount.join("store"), options).unwrap();
        let before = disk.used();
        unpack(&store, &members(1));
        let one = disk.used() - before;
        for n in 1..4 {
            let mut all = members(1);
            for member in &mut all {
                member.mtime += n;
            }
            unpack(&store, &all);
        }
        let four = disk.used() - before;
        assert!(four * 10 < one * 14, "{format:?}: {four} of four times {one}");
        // Each followed what was there, so that nothing is left to do.
        let done = store.deduplicate(&DedupOptions::default()).unwrap();
        assert_eq!((done.already, done.compared), (3 * FILES as u64, 0), "{done:?}");
        sound(&store);
    });
}

#[test]
fn with_little_memory_the_same_is_shared_in_more_passes() {
    on(&[Format::Xfs], |_, disk| {
        let (store, _) = empty(disk);
        unpack(&store, &members(1));
        unpack(&store, &later(members(1)));
        let done = store.deduplicate(&DedupOptions::default().memory(4_096)).unwrap();
        assert!(done.passes > 3, "{}", done.passes);
        assert_eq!((done.copies, done.shared), (FILES as u64, FILES as u64));
        sound(&store);
    });
}

#[test]
fn small_files_are_left_alone_unless_asked_for() {
    on(&CAN, |format, disk| {
        let (store, _) = empty(disk);
        let small: Vec<Member> =
            [100, 3_000, 4_095, 4_096].map(|size| file(&format!("{size}"), &"s".repeat(size))).to_vec();
        unpack(&store, &small);
        unpack(&store, &later(small));
        assert_eq!(store.deduplicate(&DedupOptions::default()).unwrap().shared, 1);
        let all = store.deduplicate(&DedupOptions::default().min_size(1)).unwrap();
        // Btrfs keeps the smallest beside their metadata.
        let inline = all.skipped.get(&Unshared::Inline).copied().unwrap_or_default();
        assert_eq!((all.copies, all.shared + inline, all.already), (4, 3, 1), "{all:?}");
        assert!(inline == 0 || format == Format::Btrfs);
        let again = store.deduplicate(&DedupOptions::default().min_size(1)).unwrap();
        assert_eq!((again.compared, again.already + inline), (0, 4));
        sound(&store);
    });
}

/// A file with holes takes fewer blocks than the same bytes written out: sharing would make `df` untrue.
#[test]
fn files_in_other_blocks_stay_as_they_are() {
    on(&[Format::Xfs], |_, disk| {
        let (store, _) = empty(disk);
        let zeros = |mtime| {
            let mut member = file("zeros", "");
            (member.content, member.mtime) = (vec![0; 1 << 20], mtime);
            member
        };
        let layers = [1, 2].map(|mtime| unpack(&store, &[zeros(mtime)]));
        let path = place(&store, &layers[0], "zeros");
        let time = std::fs::metadata(&path).unwrap().modified().unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(0).unwrap();
        file.set_len(1 << 20).unwrap();
        file.set_modified(time).unwrap();
        drop(file);
        let done = store.deduplicate(&DedupOptions::default()).unwrap();
        assert_eq!((done.copies, done.shared, done.compared), (1, 0, 0));
        assert_eq!(done.skipped.get(&Unshared::OtherBlocks), Some(&1));
        sound(&store);
    });
}

#[test]
fn sharing_beside_collections_and_unpacks_loses_nothing() {
    on(&CAN, |_, disk| {
        let (store, _) = empty(disk);
        let layer = |n: u64| {
            let mut all = members(1)[..30].to_vec();
            all.remove(2);
            for member in &mut all {
                member.mtime = 1_000 + n;
            }
            archive(&all)
        };
        let (ended, rounds, shared) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (store, ended) = (store.clone(), &ended);
                scope.spawn(move || {
                    for round in 0..12 {
                        let bytes = layer(worker * 100 + round);
                        let diff_id = DiffId::new(Digest::sha256(&bytes));
                        let work = store.begin().unwrap();
                        let made =
                            work.unpack_stream(bytes.as_slice(), &diff_id, &View::default()).unwrap().layer;
                        work.commit().unwrap();
                        // The lease holds it until here; the next collection takes it.
                        assert_eq!(store.layer(made.key()).unwrap().diff_id(), diff_id);
                        drop(work);
                        if round % 2 == 1 {
                            store.gc().unwrap();
                        }
                    }
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }
            let (store, ended, rounds, shared) = (store.clone(), &ended, &rounds, &shared);
            scope.spawn(move || {
                while ended.load(Ordering::Relaxed) < 2 {
                    let done = store.deduplicate(&DedupOptions::default()).unwrap();
                    assert_eq!(done.damaged, []);
                    if done.copies == 0 {
                        std::thread::yield_now();
                        continue;
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                    shared.fetch_add(done.shared, Ordering::Relaxed);
                }
            });
        });
        sound(&store);
        store.gc().unwrap();
        assert_eq!(std::fs::read_dir(store.path().join("layers")).unwrap().count(), 0);
        let (rounds, shared) = (rounds.into_inner(), shared.into_inner());
        assert!(rounds > 0 && shared > 0, "{rounds} rounds, {shared} files");
        eprintln!("{rounds} rounds of sharing, {shared} files, beside unpacks and collections: nothing lost");
    });
}

/// More equal files than are looked at together, in one layer; the first or a middle one is damaged.
#[test]
fn equal_files_of_one_layer_share_too() {
    on(&[Format::Xfs], |_, disk| {
        for wrong in ["", "f00", "f31"] {
            let (store, _) = empty(disk);
            let all: Vec<Member> =
                (0..50).map(|n| file(&format!("f{n:02}"), &"same".repeat(3_000))).collect();
            let layer = unpack(&store, &all);
            if !wrong.is_empty() {
                let path = place(&store, &layer, wrong);
                std::fs::write(&path, "some".repeat(3_000)).unwrap();
                disk.used();
            }
            let done = store.deduplicate(&DedupOptions::default()).unwrap();
            let told: Vec<_> = done.damaged.iter().map(|found| found.path.file_name().unwrap()).collect();
            assert_eq!(told, if wrong.is_empty() { vec![] } else { vec![wrong] });
            assert_eq!((done.copies, done.shared), (49, 49 - told.len() as u64), "{wrong}");
            let again = store.deduplicate(&DedupOptions::default()).unwrap();
            assert_eq!(again.already, done.shared, "{wrong}");
            drop(store);
            std::fs::remove_dir_all(disk.mount.join("store")).unwrap();
        }
    });
}
