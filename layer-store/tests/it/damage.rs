//! Whatever is broken in a store is found, and mended or told.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use layer_store::{Damage, Encoder, Store};

use crate::sample::{Sample, sample};

fn flip(path: &Path, at: u64) {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let at = at % file.metadata().unwrap().len();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    // The time stays, so that only the content tells.
    let times = file.metadata().unwrap();
    file.write_all(&[byte[0] ^ 0x20]).unwrap();
    // An ordinary user who writes to a setuid file takes the bit away.
    file.set_permissions(times.permissions()).unwrap();
    file.set_times(std::fs::FileTimes::new().set_modified(times.modified().unwrap())).unwrap();
}

fn truncate(path: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length / 2).unwrap();
}

/// How a case must end.
enum End {
    /// Everything is as it was.
    Mended,
    /// It says what to fetch.
    Fetch,
    /// It says that it is lost.
    Lost,
}

type Case = (&'static str, fn(&Sample), End);

fn cases() -> Vec<Case> {
    vec![
        ("nothing at all", |_| (), End::Mended),
        (
            "a flipped byte in a file of a pulled layer",
            |s| flip(&s.layer(&s.pulled, 0).join("diff/etc/passwd"), 3),
            End::Mended,
        ),
        (
            "a truncated file of a pulled layer",
            |s| truncate(&s.layer(&s.pulled, 0).join("diff/bin")),
            End::Mended,
        ),
        (
            "a missing file of a pulled layer",
            |s| std::fs::remove_file(s.layer(&s.pulled, 0).join("diff/bin")).unwrap(),
            End::Mended,
        ),
        (
            "a missing directory",
            |s| std::fs::remove_dir_all(s.layer(&s.pulled, 0).join("diff/etc")).unwrap(),
            End::Mended,
        ),
        (
            "an extra file",
            |s| std::fs::write(s.layer(&s.pulled, 0).join("diff/etc/extra"), "x").unwrap(),
            End::Mended,
        ),
        (
            "a wrong mode",
            |s| {
                std::fs::set_permissions(
                    s.layer(&s.pulled, 0).join("diff/bin"),
                    PermissionsExt::from_mode(0o755),
                )
                .unwrap()
            },
            End::Mended,
        ),
        (
            "a wrong mode of a directory",
            |s| {
                std::fs::set_permissions(
                    s.layer(&s.pulled, 0).join("diff/tmp"),
                    PermissionsExt::from_mode(0o755),
                )
                .unwrap()
            },
            End::Mended,
        ),
        (
            "a lost attribute",
            |s| rustix::fs::removexattr(s.layer(&s.pulled, 0).join("diff/bin"), "user.note").unwrap(),
            End::Mended,
        ),
        (
            "an attribute too many",
            |s| {
                rustix::fs::setxattr(
                    s.layer(&s.pulled, 0).join("diff/bin"),
                    "user.more",
                    b"x",
                    rustix::fs::XattrFlags::empty(),
                )
                .unwrap()
            },
            End::Mended,
        ),
        (
            "an opaque directory that was none",
            |s| {
                rustix::fs::setxattr(
                    s.layer(&s.pulled, 0).join("diff/etc"),
                    "user.overlay.opaque",
                    b"y",
                    rustix::fs::XattrFlags::empty(),
                )
                .unwrap()
            },
            End::Mended,
        ),
        (
            "a wrong time",
            |s| {
                let file = std::fs::File::options()
                    .write(true)
                    .open(s.layer(&s.pulled, 0).join("diff/bin"))
                    .unwrap();
                file.set_times(std::fs::FileTimes::new().set_modified(std::time::SystemTime::now())).unwrap();
            },
            End::Mended,
        ),
        (
            "a wrong owner",
            |s| {
                let at = s.layer(&s.pulled, 0).join("diff/bin");
                if std::os::unix::fs::chown(&at, Some(12), Some(34)).is_err() {
                    std::fs::remove_file(at).unwrap();
                }
            },
            End::Mended,
        ),
        (
            "a link that leads elsewhere",
            |s| {
                let at = s.layer(&s.pulled, 0).join("diff/link");
                std::fs::remove_file(&at).unwrap();
                std::os::unix::fs::symlink("/etc/shadow", at).unwrap();
            },
            End::Mended,
        ),
        (
            "a hard link that is a copy",
            |s| {
                let at = s.layer(&s.pulled, 0).join("diff/other");
                let content = std::fs::read(&at).unwrap();
                std::fs::remove_file(&at).unwrap();
                std::fs::write(at, content).unwrap();
            },
            End::Mended,
        ),
        (
            "a whiteout that is gone",
            |s| std::fs::remove_file(s.layer(&s.pulled, 1).join("diff/etc/passwd")).unwrap(),
            End::Mended,
        ),
        (
            "a file that became a directory",
            |s| {
                let at = s.layer(&s.pulled, 0).join("diff/bin");
                std::fs::remove_file(&at).unwrap();
                std::fs::create_dir(at).unwrap();
            },
            End::Mended,
        ),
        ("a flipped byte in an index", |s| flip(&s.layer(&s.pulled, 0).join("index"), 100), End::Mended),
        (
            "a missing index of a borrowing layer",
            |s| std::fs::remove_file(s.layer(&s.pulled, 1).join("index")).unwrap(),
            End::Mended,
        ),
        (
            "a missing tree",
            |s| std::fs::remove_dir_all(s.layer(&s.pulled, 0).join("diff")).unwrap(),
            End::Mended,
        ),
        ("a missing layer", |s| std::fs::remove_dir_all(s.layer(&s.pulled, 0)).unwrap(), End::Mended),
        (
            "a missing layer that borrows",
            |s| std::fs::remove_dir_all(s.layer(&s.pulled, 1)).unwrap(),
            End::Mended,
        ),
        (
            "both layers of an image",
            |s| {
                std::fs::remove_dir_all(s.layer(&s.pulled, 0)).unwrap();
                flip(&s.layer(&s.pulled, 1).join("diff/etc/motd"), 0);
            },
            End::Mended,
        ),
        (
            "a file of a built layer, of which another layer has the like, without its blob",
            |s| {
                flip(&s.layer(&s.built, 0).join("diff/common"), 1);
                std::fs::remove_file(s.blob(&s.built.blobs[0].digest)).unwrap();
            },
            End::Mended,
        ),
        (
            "the index of a built layer, without its blob",
            |s| {
                truncate(&s.layer(&s.built, 0).join("index"));
                std::fs::remove_file(s.blob(&s.built.blobs[0].digest)).unwrap();
            },
            End::Mended,
        ),
        (
            "a flipped byte in the blob of a built layer",
            |s| flip(&s.blob(&s.built.blobs[0].digest), 40),
            End::Mended,
        ),
        (
            "a missing manifest of our own",
            |s| std::fs::remove_file(s.blob(&s.built.manifest.as_ref().unwrap().digest)).unwrap(),
            End::Mended,
        ),
        (
            "a wrong mode of a blob",
            |s| {
                std::fs::set_permissions(s.blob(&s.pulled.config.digest), PermissionsExt::from_mode(0o666))
                    .unwrap()
            },
            End::Mended,
        ),
        (
            "a flipped byte in the record of an image",
            |s| flip(&s.record("images", &s.pulled), 20),
            End::Mended,
        ),
        (
            "an empty record of an image",
            |s| std::fs::write(s.record("images", &s.built), "").unwrap(),
            End::Mended,
        ),
        ("a flipped byte in a name", |s| flip(&s.only("refs"), 15), End::Mended),
        ("a flipped byte in a cache record", |s| flip(&s.only("cache/records"), 15), End::Mended),
        ("a flipped byte in a slot", |s| flip(&s.only("cache/slots"), 15), End::Mended),
        ("a flipped byte in what is known of encodings", |s| flip(&s.only("encodings"), 30), End::Mended),
        ("a flipped byte in what is known of borrowing", |s| flip(&s.only("borrows"), 3), End::Mended),
        ("a flipped byte in a history", |s| flip(&s.only("history"), 15), End::Mended),
        (
            "a store that everybody reads",
            |s| std::fs::set_permissions(s.at(""), PermissionsExt::from_mode(0o755)).unwrap(),
            End::Mended,
        ),
        (
            "a wrong mode of a place",
            |s| std::fs::set_permissions(s.at("layers"), PermissionsExt::from_mode(0o777)).unwrap(),
            End::Mended,
        ),
        ("a version with a flipped byte in a name", |s| flip(&s.at("VERSION"), 20), End::Mended),
        ("a file that is no blob", |s| std::fs::write(s.at("blobs/junk"), "x").unwrap(), End::Mended),
        (
            "a flipped byte in the blob of a pulled layer",
            |s| flip(&s.blob(&s.pulled.blobs[0].digest), 40),
            End::Fetch,
        ),
        ("a truncated config", |s| truncate(&s.blob(&s.pulled.config.digest)), End::Fetch),
        (
            "a pulled layer and its blob",
            |s| {
                flip(&s.layer(&s.pulled, 0).join("diff/etc/passwd"), 3);
                std::fs::remove_file(s.blob(&s.pulled.blobs[0].digest)).unwrap();
            },
            End::Fetch,
        ),
        ("the record of a container", |s| flip(&s.only("containers").join("record.json"), 9), End::Lost),
        (
            "a name and its history",
            |s| {
                flip(&s.only("refs"), 15);
                flip(&s.only("history"), 15);
            },
            End::Lost,
        ),
    ]
}

#[test]
fn every_damage_is_found_and_mended_or_told() {
    let (mut mended, mut told) = (0, 0);
    for (case, damage, end) in cases() {
        let sample = sample();
        assert_eq!(sample.store.check().unwrap().findings, [], "{case}: sound before");
        damage(&sample);
        // A fresh store, as another process would have it. One whose version is broken is still open here.
        let store = match Store::open(&sample.at("")) {
            Ok(store) => store,
            Err(_) => sample.store.clone(),
        };
        let found = store.check().unwrap();
        assert_eq!(found.is_sound(), case == "nothing at all", "{case}: {:?}", found.findings);
        let repaired = store.repair().unwrap_or_else(|error| panic!("{case}: {error}"));
        let again = store.check().unwrap();
        match end {
            End::Mended => {
                assert!(repaired.lost.is_empty() && repaired.fetch.is_empty(), "{case}: {repaired:?}");
                assert_eq!(again.findings, [], "{case}: after the repair");
                let records =
                    [&sample.pulled, &sample.built].map(|record| store.image(&record.id()).unwrap());
                for record in &records {
                    assert!(store.image_layers(record).is_ok() && store.config(record).is_ok(), "{case}");
                }
                assert_eq!(records[0].layers, sample.pulled.layers, "{case}");
                assert_eq!(records[0].blobs, sample.pulled.blobs, "{case}");
                assert_eq!(records[0].manifest, sample.pulled.manifest, "{case}");
                mended += 1;
            }
            End::Fetch => {
                let missing = [&sample.pulled.blobs[0].digest, &sample.pulled.config.digest];
                assert!(missing.iter().any(|digest| repaired.fetch.contains(digest)), "{case}: {repaired:?}");
                assert!(
                    again
                        .findings
                        .iter()
                        .all(|finding| { matches!(finding.damage, Damage::Missing | Damage::Dangling(_)) }),
                    "{case}: what is broken is out of the way: {:?}",
                    again.findings
                );
                told += 1;
            }
            End::Lost => {
                assert!(!repaired.lost.is_empty(), "{case}: {repaired:?}");
                told += 1;
            }
        }
    }
    eprintln!("{} kinds of damage: all found, {} mended, {told} told", mended + told - 1, mended - 1);
}

#[test]
fn every_byte_of_every_small_file_counts() {
    // One store, many flips: each is found, and undone by flipping back.
    let sample = sample();
    let mut files = Vec::new();
    let mut left = vec![sample.at("")];
    while let Some(path) = left.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() && entry.metadata().unwrap().len() > 0 {
                files.push(entry.path());
            }
        }
    }
    files.retain(|path| !path.ends_with("gc.lock") && !path.to_string_lossy().contains("/leases/"));
    files.sort();
    let mut flips = 0;
    for path in &files {
        let length = std::fs::metadata(path).unwrap().len();
        for step in 0..4 {
            let at = length * step / 4;
            flip(path, at);
            let found = sample.store.check().unwrap();
            assert!(!found.is_sound(), "{} byte {at}", path.display());
            flip(path, at);
            flips += 1;
        }
    }
    assert_eq!(sample.store.check().unwrap().findings, []);
    eprintln!("{flips} flipped bytes in {} files, all found", files.len());
}

#[test]
fn a_pull_heals_what_was_told() {
    let sample = sample();
    let blob = std::fs::read(sample.blob(&sample.pulled.blobs[0].digest)).unwrap();
    flip(&sample.layer(&sample.pulled, 0).join("diff/etc/passwd"), 3);
    std::fs::remove_file(sample.blob(&sample.pulled.blobs[0].digest)).unwrap();
    let repaired = sample.store.repair().unwrap();
    assert!(repaired.fetch.contains(&sample.pulled.blobs[0].digest));
    // What a pull does: fetch what is not there, unpack what is not there.
    let work = sample.store.begin().unwrap();
    work.put_blob(Encoder::Gzip.media_type(), &blob).unwrap();
    let pairs: Vec<_> = sample
        .pulled
        .blobs
        .iter()
        .cloned()
        .zip(sample.pulled.layers.iter().map(|layer| layer.diff_id))
        .collect();
    work.unpack_all(&pairs, &|_| ()).unwrap();
    work.commit().unwrap();
    drop(work);
    assert_eq!(sample.store.check().unwrap().findings, []);
}
