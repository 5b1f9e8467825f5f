//! Streams that are more, or less, than they claim to be: an error within the budget, never waiting.

use std::io::Write;

use image_core::{DiffId, Digest, MediaType};
use layer_store::{Budget, Error, GzipWriter, Layer, Store, StoreOptions, View};

use crate::tarball::{Member, archive, dir, file, pax, record, symlink};
use crate::yard::Yard;

pub(crate) fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut writer = GzipWriter::new(Vec::new()).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

pub(crate) fn unpack_blob(store: &Store, blob: &[u8], diff_id: &DiffId) -> Result<Layer, Error> {
    let work = store.begin()?;
    let blob = work.put_blob(MediaType::Other("application/octet-stream".to_owned()), blob)?;
    Ok(work.unpack(&blob, diff_id, &View::default())?.layer)
}

#[test]
fn a_bomb_is_refused_within_its_budget() {
    let yard = Yard::new();
    // 1 GiB of zeros in one file: gzip makes 1:1000 of it, zstd 1:30000.
    let size = 1_u64 << 30;
    let mut header = file("zeros", "").header();
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    crate::tarball::seal(&mut header);
    let zeros = vec![0; 1 << 20];
    let mut gzip = GzipWriter::new(Vec::new()).unwrap();
    gzip.write_all(&header).unwrap();
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.write_all(&header).unwrap();
    for _ in 0..1024 {
        gzip.write_all(&zeros).unwrap();
        zstd.write_all(&zeros).unwrap();
    }
    let (gzip, zstd) = (gzip.finish().unwrap(), zstd.finish().unwrap());
    assert!(size / gzip.len() as u64 > 900 && size / zstd.len() as u64 > 10_000);
    for bomb in [gzip, zstd] {
        let error = unpack_blob(&yard.store, &bomb, &DiffId::new(Digest::sha256(b""))).unwrap_err();
        assert!(matches!(error, Error::Budget { limit: 200, .. }), "{error}");
    }
    // Limits of every other kind.
    let tiny = |change: fn(&mut Budget)| {
        let mut options = StoreOptions::default();
        change(&mut options.budget);
        Store::open_with(&yard.dir.path().join("store"), options).unwrap()
    };
    let holes =
        [&record("GNU.sparse.size", b"99999999999")[..], &record("GNU.sparse.numblocks", b"0")].concat();
    let map = (0..600).map(|n| format!("{},1", n * 10)).collect::<Vec<_>>().join(",");
    let map = [
        &record("GNU.sparse.size", b"9999")[..],
        &record("GNU.sparse.numblocks", b"600"),
        &record("GNU.sparse.map", map.as_bytes()),
    ]
    .concat();
    let long = "n".repeat(200);
    let cases: Vec<(Store, Vec<Member>)> = vec![
        (tiny(|budget| budget.bytes = 4_096), vec![file("f", &"x".repeat(10_000))]),
        (tiny(|budget| budget.entries = 3), (0..4).map(|n| dir(&format!("d{n}"))).collect()),
        (tiny(|budget| budget.depth = 3), vec![dir("a/b/c/d")]),
        (tiny(|budget| budget.path = 100), vec![pax(&record("path", long.as_bytes())), file("f", "")]),
        (
            tiny(|budget| budget.path = 100),
            vec![pax(&record("linkpath", long.as_bytes())), symlink("f", "x")],
        ),
        (tiny(|budget| budget.pax = 100), vec![file("f", "").xattr("user.x", &[7; 100])]),
        (tiny(|budget| budget.xattrs = 1), vec![file("f", "").xattr("user.x", b"1").xattr("user.y", b"2")]),
        (tiny(|budget| budget.holes = 1 << 30), vec![pax(&holes), file("f", "")]),
        (tiny(|budget| budget.segments = 100), vec![pax(&map), file("f", &"x".repeat(600))]),
    ];
    for (store, members) in cases {
        let bytes = archive(&members);
        let work = store.begin().unwrap();
        let result =
            work.unpack_stream(bytes.as_slice(), &DiffId::new(Digest::sha256(&bytes)), &View::default());
        assert!(matches!(result, Err(Error::Budget { .. })), "{members:?}: {result:?}");
    }
    let used = std::fs::read_dir(yard.dir.path().join("store/layers")).unwrap().count();
    assert_eq!(used, 0, "nothing of a refused layer stays");
    yard.check("bombs");
}

/// An archive of images is as foreign as a layer: its names are bounded before they are read, all of it while it is.
#[test]
fn an_archive_that_is_a_bomb_is_refused_within_its_budget() {
    let yard = Yard::new();
    let megabyte = vec![0; 1 << 20];
    let bomb = |kind: u8, mebibytes: usize| {
        let mut header = Member::new("manifest.json", kind).header();
        header[124..136].copy_from_slice(format!("{:011o}\0", mebibytes << 20).as_bytes());
        crate::tarball::seal(&mut header);
        let mut gzip = GzipWriter::new(Vec::new()).unwrap();
        gzip.write_all(&header).unwrap();
        for _ in 0..mebibytes {
            gzip.write_all(&megabyte).unwrap();
        }
        gzip.finish().unwrap()
    };
    let load = |store: &Store, bytes: &[u8]| layer_store::load(store, &mut &*bytes, None);
    let limit = |result: Result<_, Error>| match result {
        Err(Error::Budget { limit, .. }) => limit,
        other => panic!("{other:?}"),
    };
    assert_eq!(limit(load(&yard.store, &bomb(b'0', 200))), 200, "times its compressed size");
    assert_eq!(limit(load(&yard.store, &bomb(b'L', 16))), 1 << 20, "bytes of a name");
    assert_eq!(limit(load(&yard.store, &bomb(b'x', 16))), 1 << 20, "bytes of a PAX header");
    let mut options = StoreOptions::default();
    options.budget.bytes = 10_000;
    let tiny = Store::open_with(&yard.dir.path().join("store"), options).unwrap();
    let some = [file("a", &"x".repeat(6_000)), file("b", &"x".repeat(6_000))];
    assert_eq!(limit(load(&tiny, &archive(&some))), 10_000, "bytes of all members");
    let left = std::fs::read_dir(yard.dir.path().join("store/ingest")).unwrap().count();
    assert_eq!(left, 0, "nothing of a refused archive stays");
    yard.check("bombs in archives");
}

#[test]
fn a_damaged_stream_ends_in_an_error_never_in_waiting() {
    let yard = Yard::new();
    let bytes = archive(&(0..50).map(|n| file(&format!("f{n}"), &"abc".repeat(n * 7))).collect::<Vec<_>>());
    let diff_id = DiffId::new(Digest::sha256(&bytes));
    let gzip = gz(&bytes);
    let zstd = zstd::encode_all(bytes.as_slice(), 3).unwrap();
    let mut seed = 1_u64;
    let mut random = |limit: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % limit
    };
    for whole in [&gzip, &zstd, &bytes] {
        unpack_blob(&yard.store, whole, &diff_id).unwrap();
        for _ in 0..60 {
            let mut bad = whole.clone();
            if random(2) == 0 {
                bad.truncate(random(whole.len()));
            } else {
                for _ in 0..=random(3) {
                    let at = random(bad.len());
                    bad[at] ^= 1 << random(8);
                }
            }
            // A flip may hit a part that carries nothing (gzip's time): then the content is right.
            if let Ok(layer) = unpack_blob(&yard.store, &bad, &diff_id) {
                assert_eq!(layer.diff_id(), diff_id);
            }
        }
    }
    yard.check("damaged streams");
}
