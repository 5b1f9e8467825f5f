//! A blob of which only some has come is gone on with: in the same process, after its death, beside another.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use image_core::{Algorithm, Descriptor, Digest, MediaType, Timestamp};
use layer_store::{Error, GcPolicy, Object, Store, Unneeded};

use crate::crowd::Random;

fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..count).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
}

fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::of(MediaType::Other("application/octet-stream".to_owned()), bytes)
}

fn partials(store: &Store) -> usize {
    std::fs::read_dir(store.path().join("partial")).unwrap().count()
}

#[test]
fn a_cut_ingest_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let all = bytes(1, 100_000);
        let mut wanted = blob(&all);
        wanted.digest = Digest::of(algorithm, &all);
        let mut have = 0;
        for cut in [1, 40_000, 70_001] {
            let work = store.begin().unwrap();
            let mut ingest = work.resume(&wanted).unwrap();
            assert_eq!(ingest.offset(), have, "{algorithm:?}");
            ingest.write_all(&all[usize::try_from(have).unwrap()..cut]).unwrap();
            have = cut as u64;
        }
        let work = store.begin().unwrap();
        let mut ingest = work.resume(&wanted).unwrap();
        assert_eq!(ingest.offset(), 70_001);
        ingest.write_all(&all[70_001..]).unwrap();
        ingest.finish().unwrap();
        work.commit().unwrap();
        assert_eq!(store.read_blob(&wanted.digest).unwrap(), all);
        assert_eq!(partials(&store), 0);
    }
}

#[test]
fn size_and_digest_are_enforced_over_all_parts() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let all = bytes(2, 10_000);
    let wanted = blob(&all);
    let work = store.begin().unwrap();
    // Too few: an error, and still there to go on with.
    let mut ingest = work.resume(&wanted).unwrap();
    ingest.write_all(&all[..5_000]).unwrap();
    assert!(matches!(ingest.finish(), Err(Error::SizeMismatch { expected: 10_000, actual: 5_000, .. })));
    assert_eq!(work.resume(&wanted).unwrap().offset(), 5_000);
    // Too many are refused at once.
    let mut ingest = work.resume(&wanted).unwrap();
    assert!(ingest.write_all(&bytes(3, 5_001)).is_err());
    drop(ingest);
    // Other bytes: an error, and nothing to go on with.
    let mut ingest = work.resume(&wanted).unwrap();
    ingest.write_all(&bytes(3, 5_000)).unwrap();
    assert!(matches!(ingest.finish(), Err(Error::DigestMismatch { .. })));
    assert_eq!(work.resume(&wanted).unwrap().offset(), 0);
    // What was damaged on disk while it lay there is found at the end, and the next attempt begins anew.
    let mut ingest = work.resume(&wanted).unwrap();
    ingest.write_all(&all[..5_000]).unwrap();
    drop(ingest);
    let file = std::fs::read_dir(dir.path().join("partial")).unwrap().next().unwrap().unwrap().path();
    let mut damaged = std::fs::read(&file).unwrap();
    damaged[77] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    let mut ingest = work.resume(&wanted).unwrap();
    ingest.write_all(&all[5_000..]).unwrap();
    drop(ingest);
    let ingest = work.resume(&wanted).unwrap();
    assert_eq!(ingest.offset(), 0, "something that has all bytes and is wrong is gone on with");
    drop(ingest);
    assert_eq!(partials(&store), 0);
}

#[test]
fn two_at_the_same_blob_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let all = bytes(4, 10_000);
    let work = store.begin().unwrap();
    let mut one = work.resume(&blob(&all)).unwrap();
    one.write_all(&all[..6_000]).unwrap();
    let mut other = work.resume(&blob(&all)).unwrap();
    assert_eq!(other.offset(), 0);
    other.write_all(&all).unwrap();
    one.write_all(&all[6_000..]).unwrap();
    other.finish().unwrap();
    one.finish().unwrap();
    work.commit().unwrap();
    assert!(store.check().unwrap().is_sound());
}

/// Whoever waits for the first to end and then goes on must not go on with what the first took away.
#[test]
fn many_at_the_same_blob_one_after_the_other_and_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let all = bytes(6, 3_000);
    let wanted = blob(&all);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let work = store.begin().unwrap();
                for _ in 0..500 {
                    let mut ingest = work.resume(&wanted).unwrap();
                    let from = usize::try_from(ingest.offset()).unwrap();
                    ingest.write_all(&all[from..]).unwrap();
                    ingest.finish().unwrap();
                }
            });
        }
    });
    assert_eq!(partials(&store), 0);
}

/// Run by the test below in a process that dies.
#[test]
fn victim() {
    let Some(root) = std::env::var_os("COOPERAGE_RESUME_VICTIM") else { return };
    let store = Store::open(std::path::Path::new(&root)).unwrap();
    let all = bytes(5, 300_000);
    let work = store.begin().unwrap();
    let mut ingest = work.resume(&blob(&all)).unwrap();
    let from = usize::try_from(ingest.offset()).unwrap();
    ingest.write_all(&all[from..from + 90_000]).unwrap();
    println!("written");
    std::io::stdout().flush().unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_killed_process_leaves_what_came_and_gc_leaves_what_is_young() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let all = bytes(5, 300_000);
    let wanted = blob(&all);
    for round in 1..=3_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "resume::victim", "--nocapture"])
            .env("COOPERAGE_RESUME_VICTIM", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("written") {
            line.clear();
            assert!(std::io::BufRead::read_line(&mut told, &mut line).unwrap() > 0, "it ended too early");
        }
        // Whoever asks meanwhile begins beside it, and gc does not touch what it holds.
        assert_eq!(store.begin().unwrap().resume(&wanted).unwrap().offset(), 0);
        store.gc().unwrap();
        assert_eq!(partials(&store), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(store.begin().unwrap().resume(&wanted).unwrap().offset(), 90_000 * round);
    }
    let modified = |store: &Store| {
        let file = std::fs::read_dir(store.path().join("partial")).unwrap().next().unwrap().unwrap();
        Timestamp::from_system(file.metadata().unwrap().modified().unwrap())
    };
    let written = modified(&store);
    let day = Duration::from_secs(86_400);
    let young = GcPolicy::default().keep_partials(written.plus_seconds(86_399), day);
    let collected = store.gc_with(&young).unwrap();
    assert!(collected.objects.iter().all(|object| object.reason == Unneeded::Abandoned), "{collected:?}");
    assert_eq!(collected.abandoned, 1, "staging of the last that died");
    assert_eq!(partials(&store), 1);
    let old = GcPolicy::default().keep_partials(written.plus_seconds(86_401), day);
    let told = store.gc_with(&old.dry_run()).unwrap();
    assert_eq!(partials(&store), 1, "a dry run removes nothing");
    let collected = store.gc_with(&old).unwrap();
    assert_eq!(collected, told);
    let gone = &collected.objects[0];
    assert_eq!((&gone.object, gone.reason), (&Object::Blob(wanted.digest), Unneeded::Expired));
    assert_eq!(partials(&store), 0);
    assert!(store.check().unwrap().is_sound());
}
