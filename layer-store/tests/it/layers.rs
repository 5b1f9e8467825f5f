//! Layers from foreign tar streams and from our own hands.

use std::io::Write;

use image_core::{DiffId, Digest, MediaType};
use layer_store::{Entry, Error, GzipWriter, Kind, Layer, Store, View};

/// A tar stream of `entries`: path, type, content or link target, mode.
fn tar(entries: &[(&str, u8, &str, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, kind, text, mode) in entries {
        let mut header = tar::Header::new_ustar();
        let name = path.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000);
        let is_link = matches!(kind, b'1' | b'2');
        if is_link {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
        }
        let body = if is_link { &[][..] } else { text.as_bytes() };
        header.set_size(body.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn unpack(store: &Store, below: &[Layer], entries: &[(&str, u8, &str, u32)]) -> Result<Layer, Error> {
    let bytes = tar(entries);
    let work = store.begin()?;
    let layer =
        work.unpack_stream(bytes.as_slice(), &DiffId::new(Digest::sha256(&bytes)), &View::of(below))?.layer;
    work.commit()?;
    Ok(layer)
}

#[test]
fn whiteouts_hide_what_is_below_wherever_they_stand() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let lower = unpack(
        &store,
        &[],
        &[
            ("d", b'5', "", 0o755),
            ("d/a", b'0', "1", 0o644),
            ("d/b", b'0', "2", 0o644),
            ("e", b'0', "3", 0o644),
        ],
    )
    .unwrap();
    let upper = unpack(
        &store,
        std::slice::from_ref(&lower),
        &[
            ("d/.wh.a", b'0', "", 0),
            ("d/.wh..wh..opq", b'0', "", 0),
            ("d/a", b'0', "new", 0o600),
            (".wh.e", b'0', "", 0),
        ],
    )
    .unwrap();
    let view = View::of(&[lower, upper]);
    assert!(view.find(b"d/b").is_none() && view.find(b"e").is_none());
    assert!(matches!(view.find(b"d/a").unwrap().0.kind, Kind::File { size: 3, .. }));
    assert_eq!(
        view.below(b"").keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect::<Vec<_>>(),
        ["d", "d/a"]
    );
}

#[test]
fn a_whiteout_where_no_directory_is_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let lower = unpack(&store, &[], &[("d", b'5', "", 0o755), ("d/a", b'0', "1", 0o644)]).unwrap();
    // As umoci writes them of names with a newline, and of a directory that became a link.
    let entries = [
        ("link", b'2', "/etc/passwd", 0o777),
        ("link/.wh.a", b'0', "", 0),
        ("line/.wh.b", b'0', "", 0),
        ("d/e/.wh.c", b'0', "", 0),
        ("d/.wh.a", b'0', "", 0),
    ];
    let upper = unpack(&store, std::slice::from_ref(&lower), &entries).unwrap();
    let names = |layer: &Layer| -> Vec<String> {
        layer.index().entries.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    };
    assert_eq!(names(&upper), ["d", "d/a", "link"]);
    assert!(View::of(&[lower, upper]).find(b"d/a").is_none());
}

#[test]
fn nothing_leads_out_of_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let sentinel = dir.path().join("sentinel");
    std::fs::write(&sentinel, "safe").unwrap();
    let outside = dir.path().to_str().unwrap().to_owned();
    for entries in [
        vec![("../x", b'0', "x", 0o644)],
        vec![("a/../../x", b'0', "x", 0o644)],
        vec![("a/.wh...", b'0', "", 0)],
        vec![(".wh.", b'0', "", 0)],
        vec![("h", b'1', "../sentinel", 0)],
        vec![("h", b'1', "nosuch", 0)],
        vec![("f", b'0', "x", 0o644), ("f/g", b'0', "x", 0o644)],
        vec![("u", b'Z', "", 0)],
    ] {
        assert!(matches!(unpack(&store, &[], &entries), Err(Error::Layer { .. })), "{entries:?}");
    }
    // Links that point out are kept as links; what goes through them stays inside.
    let layer =
        unpack(&store, &[], &[("l", b'2', &outside, 0o777), ("l/sentinel", b'0', "gone", 0o644)]).unwrap();
    assert!(layer.index().entries.keys().any(|path| path.ends_with(b"sentinel")));
    assert_eq!(std::fs::read_to_string(&sentinel).unwrap(), "safe");
}

#[test]
fn a_layer_with_the_wrong_digest_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let work = store.begin().unwrap();
    let bytes = tar(&[("a", b'0', "1", 0o644)]);
    let wrong = DiffId::new(Digest::sha256(b"other"));
    assert!(matches!(
        work.unpack_stream(bytes.as_slice(), &wrong, &View::default()),
        Err(Error::DigestMismatch { .. })
    ));
    let cut = DiffId::new(Digest::sha256(&bytes[..600]));
    assert!(matches!(work.unpack_stream(&bytes[..600], &cut, &View::default()), Err(Error::Stream { .. })));
    drop(work);
    assert_eq!(std::fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path().join("layers")).unwrap().count(), 0);
}

#[test]
fn the_same_layer_over_two_parents_is_kept_once_unless_it_borrows() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let one = unpack(&store, &[], &[("t", b'5', "", 0o1777)]).unwrap();
    let two = unpack(&store, &[], &[("t", b'5', "", 0o755)]).unwrap();
    let own = [("t", b'5', "", 0o700), ("t/f", b'0', "x", 0o644)];
    assert_eq!(
        unpack(&store, std::slice::from_ref(&one), &own).unwrap().key(),
        unpack(&store, std::slice::from_ref(&two), &own).unwrap().key()
    );
    let borrowing = [("t/f", b'0', "x", 0o644)];
    let [over_one, over_two] =
        [&one, &two].map(|below| unpack(&store, std::slice::from_ref(below), &borrowing).unwrap());
    assert_ne!(over_one.key(), over_two.key());
    assert_eq!(
        over_one.index().entries[b"t".as_slice()].mode,
        0o1777,
        "an implicit parent keeps the mode from below"
    );
}

#[test]
fn what_we_pack_unpacks_to_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let work = store.begin().unwrap();
    let entry = |mode| Entry::new(Kind::Fifo, mode, 0, 0, (1_700_000_000, 5));
    let mut layer = work.compose(View::default()).unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(150));
    layer.file(long.as_bytes(), &mut "content".as_bytes(), entry(0o4755)).unwrap();
    layer.file(b"z", &mut "z".as_bytes(), entry(0o600)).unwrap();
    layer.hardlink(b"zz", b"z").unwrap();
    layer.symlink(b"s", "t".repeat(200).as_bytes(), entry(0o777)).unwrap();
    let made = layer.finish(None).unwrap();
    let blob = work.encoded(&made).unwrap();
    work.commit().unwrap();
    assert_eq!(blob.media_type, MediaType::parse("application/vnd.oci.image.layer.v1.tar+gzip"));
    let other = tempfile::tempdir().unwrap();
    let other = Store::open(other.path()).unwrap();
    let work = other.begin().unwrap();
    let mut ingest = work.ingest(&blob).unwrap();
    std::io::copy(&mut std::io::Read::take(work_blob(&store, &blob), u64::MAX), &mut ingest).unwrap();
    ingest.finish().unwrap();
    let read = work.unpack(&blob, &made.diff_id(), &View::default()).unwrap();
    assert_eq!(read.layer.index().entries, made.index().entries);
    assert!(read.degraded.is_empty());
}

fn work_blob(store: &Store, blob: &image_core::Descriptor) -> impl std::io::Read + use<> {
    store.blob(blob).unwrap().verified().unwrap()
}

/// Files are written from the buffers that the stream was read into, which are filled again as they come free.
#[test]
fn every_file_has_its_own_bytes_wherever_it_lies_in_the_stream() {
    let mut entries: Vec<(String, u8, String)> = Vec::new();
    for number in 0..3_000_usize {
        let directory = number / 70;
        if number % 70 == 0 {
            entries.push((format!("d{directory}"), b'5', String::new()));
        }
        // Empty ones, small ones, some over a chunk's border, and now and then one that is written in pieces.
        let length = if number % 500 == 499 { 700_000 } else { number * 7_919 % 16_384 * (number % 5) };
        let text: String = format!("{number:08} ").chars().cycle().take(length).collect();
        entries.push((format!("d{directory}/f{number}"), b'0', text));
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let plain: Vec<_> =
        entries.iter().map(|(path, kind, text)| (path.as_str(), *kind, text.as_str(), 0o644)).collect();
    let layer = unpack(&store, &[], &plain).unwrap();
    for (path, kind, text) in &entries {
        let mut found = String::new();
        if *kind == b'0' {
            let mut file = layer.open_file(store.authority(), path.as_bytes()).unwrap();
            std::io::Read::read_to_string(&mut file, &mut found).unwrap();
            let Kind::File { size, digest } = &layer.index().entries[path.as_bytes()].kind else {
                panic!("{path}")
            };
            assert_eq!((*size, *digest), (text.len() as u64, Digest::sha256(text.as_bytes())), "{path}");
        }
        assert!(found == *text, "{path}");
    }
}

#[test]
fn gzip_of_several_members_is_read_whole() {
    let bytes = tar(&[("a", b'0', "1", 0o644)]);
    let mut gz = Vec::new();
    for part in bytes.chunks(700) {
        let mut writer = GzipWriter::new(&mut gz).unwrap();
        writer.write_all(part).unwrap();
        writer.finish().unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let work = store.begin().unwrap();
    let blob =
        work.put_blob(MediaType::parse("application/vnd.docker.image.rootfs.diff.tar.gzip"), &gz).unwrap();
    let layer = work.unpack(&blob, &DiffId::new(Digest::sha256(&bytes)), &View::default()).unwrap().layer;
    assert_eq!(layer.index().size(), 1);
}

#[test]
fn layers_in_bzip2_and_xz_are_read_and_written_again() {
    let bytes = tar(&[("a", b'0', &"text ".repeat(50), 0o644)]);
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&bytes).unwrap();
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    xz.write_all(&bytes).unwrap();
    for blob in [bzip2.finish().unwrap(), xz.finish().unwrap()] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let work = store.begin().unwrap();
        let blob = work.put_blob(MediaType::parse("application/vnd.oci.image.layer.v1.tar"), &blob).unwrap();
        let layer = work.unpack(&blob, &DiffId::new(Digest::sha256(&bytes)), &View::default()).unwrap().layer;
        work.commit().unwrap();
        assert_eq!(layer.index().size(), 250);
        let mut back = Vec::new();
        store.write_tar(&layer, &mut back).unwrap();
        assert!(back == bytes);
    }
}
