//! Hostile layers: every way out of the root that unpackers have had, with a tree outside that must stay as it is.
//!
//! The cases are our own; the classes are those that containerd, containers/storage, umoci and the tar crates had.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use image_core::{DiffId, Digest};
use layer_store::{Error, Kind, Layer};

use crate::bombs::{gz, unpack_blob};
use crate::tarball::{Member, archive, dir, file, hardlink, pax, record, symlink};
use crate::yard::{Yard, snapshot};

/// What a case must come to.
enum Outcome {
    /// The layer is refused.
    Refused,
    /// These paths, each with content, `-> target`, `dir` or `gone`.
    Tree(Vec<(&'static str, String)>),
}

fn tree(entries: &[(&'static str, &str)]) -> Outcome {
    Outcome::Tree(entries.iter().map(|(path, text)| (*path, (*text).to_owned())).collect())
}

fn shown(layer: &Layer) -> BTreeMap<String, String> {
    let entries = &layer.index().entries;
    let entries = entries.iter().filter(|(path, _)| !path.is_empty());
    entries
        .map(|(path, entry)| {
            let path = String::from_utf8_lossy(path).into_owned();
            let text = match &entry.kind {
                Kind::File { .. } | Kind::Hardlink { .. } => {
                    let mut text = String::new();
                    let direct = layer_store::authority::Direct::detect();
                    let mut file = layer.open_file(&direct, path.as_bytes()).unwrap();
                    file.read_to_string(&mut text).unwrap();
                    text
                }
                Kind::Symlink { target } => format!("-> {}", String::from_utf8_lossy(target)),
                Kind::Directory { opaque: false } => "dir".to_owned(),
                Kind::Directory { opaque: true } => "opaque".to_owned(),
                Kind::Whiteout => "gone".to_owned(),
                other => format!("{other:?}"),
            };
            (path, text)
        })
        .collect()
}

#[test]
fn breakouts() {
    let yard = Yard::new();
    let out = yard.outside();
    let up = format!("../../../../../..{out}");
    let secret = format!("{out}/secret");
    let deep = format!("{}/x", vec!["d"; 600].join("/"));
    let cases: Vec<(&str, Vec<Member>, Outcome)> = vec![
        // Plain names.
        ("dot-dot", vec![file("../x", "x")], Outcome::Refused),
        ("dot-dot inside", vec![dir("a"), file("a/../../x", "x")], Outcome::Refused),
        ("dot-dot to inside", vec![dir("a"), file("a/../b", "x")], Outcome::Refused),
        ("only dot-dot", vec![dir("..")], Outcome::Refused),
        (
            "absolute name stays inside",
            vec![file("/etc/passwd", "x")],
            tree(&[("etc", "dir"), ("etc/passwd", "x")]),
        ),
        ("doubled slashes and dots", vec![file(".//a/./b", "x")], tree(&[("a", "dir"), ("a/b", "x")])),
        ("empty name", vec![file("", "x")], Outcome::Refused),
        ("root as a file", vec![file("/", "x")], Outcome::Refused),
        ("root as a link", vec![symlink("/", &out)], Outcome::Refused),
        ("root as a link by dots", vec![symlink("./.", &out), file("x", "x")], Outcome::Refused),
        ("root as a hard link", vec![hardlink(".", "a")], Outcome::Refused),
        ("root again", vec![dir("/").mode(0o700), dir("./").mode(0o755)], tree(&[])),
        (
            "too deep",
            vec![
                file(&deep[..99], "x"),
                Member { name: deep.clone().into(), ..pax(&record("path", deep.as_bytes())) },
                file("y", ""),
            ],
            Outcome::Refused,
        ),
        // Symbolic links in parents.
        (
            "absolute link, then through it",
            vec![symlink("l", &out), file("l/secret", "bad")],
            Outcome::Tree(through(&out, &[("secret", "bad")], &[("l", &format!("-> {out}"))])),
        ),
        (
            "relative link up and out",
            vec![symlink("l", &up), file("l/secret", "bad")],
            Outcome::Tree(through(&out, &[("secret", "bad")], &[("l", &format!("-> {up}"))])),
        ),
        (
            "link in a directory up and out",
            vec![dir("d"), symlink("d/l", "../../.."), file("d/l/x", "x")],
            tree(&[("d", "dir"), ("d/l", "-> ../../.."), ("x", "x")]),
        ),
        (
            "a chain of links",
            vec![symlink("a", "/b"), symlink("b", "/c"), symlink("c", "/d"), dir("d"), file("a/f", "x")],
            tree(&[("a", "-> /b"), ("b", "-> /c"), ("c", "-> /d"), ("d", "dir"), ("d/f", "x")]),
        ),
        (
            "links that turn in a circle",
            vec![symlink("a", "b"), symlink("b", "a"), file("a/f", "x")],
            Outcome::Refused,
        ),
        ("a link to itself", vec![symlink("a", "a"), file("a/f", "x")], Outcome::Refused),
        (
            "dangling link as a parent",
            vec![symlink("l", "nothing"), file("l/f", "x")],
            tree(&[("l", "-> nothing"), ("nothing", "dir"), ("nothing/f", "x")]),
        ),
        (
            "link to a file as a parent",
            vec![file("f", "x"), symlink("l", "f"), file("l/g", "y")],
            Outcome::Refused,
        ),
        (
            "link to the root as a parent",
            vec![symlink("l", "/"), file("l/f", "x")],
            tree(&[("l", "-> /"), ("f", "x")]),
        ),
        (
            "link to dot-dot as a parent",
            vec![symlink("l", ".."), file("l/f", "x")],
            tree(&[("l", "-> .."), ("f", "x")]),
        ),
        (
            "link whose target ends in a slash",
            vec![dir("d"), symlink("l", "d/"), file("l/f", "x")],
            tree(&[("d", "dir"), ("l", "-> d/"), ("d/f", "x")]),
        ),
        ("empty link", vec![symlink("l", "")], Outcome::Refused),
        (
            "proc as a link",
            vec![symlink("l", "/proc/self/root"), file("l/x", "x")],
            tree(&[
                ("l", "-> /proc/self/root"),
                ("proc", "dir"),
                ("proc/self", "dir"),
                ("proc/self/root", "dir"),
                ("proc/self/root/x", "x"),
            ]),
        ),
        // The last component.
        ("file over a link", vec![symlink("l", &secret), file("l", "bad")], tree(&[("l", "bad")])),
        (
            "directory over a link",
            vec![symlink("l", &out), dir("l"), file("l/secret", "bad")],
            tree(&[("l", "dir"), ("l/secret", "bad")]),
        ),
        (
            "directory over a relative link",
            vec![symlink("l", &up), dir("l"), file("l/x", "bad")],
            tree(&[("l", "dir"), ("l/x", "bad")]),
        ),
        (
            "link over a directory",
            vec![dir("d"), file("d/f", "x"), symlink("d", &out), file("d/secret", "bad")],
            Outcome::Tree(through(&out, &[("secret", "bad")], &[("d", &format!("-> {out}"))])),
        ),
        (
            "link over a file over a link",
            vec![symlink("l", &secret), file("l", "x"), symlink("l", "/x")],
            tree(&[("l", "-> /x")]),
        ),
        ("fifo over a link", vec![symlink("l", &secret), Member::new("l", b'6')], tree(&[("l", "Fifo")])),
        (
            "mode of a link",
            vec![symlink("l", &secret).mode(0o4777)],
            Outcome::Tree(vec![("l", format!("-> {secret}"))]),
        ),
        (
            "owner of a link",
            vec![symlink("l", &secret).owner(0, 0)],
            Outcome::Tree(vec![("l", format!("-> {secret}"))]),
        ),
        (
            "attribute of a link",
            vec![symlink("l", &secret).xattr("user.x", b"1")],
            Outcome::Tree(vec![("l", format!("-> {secret}"))]),
        ),
        (
            "directory's mode through a link",
            vec![symlink("l", &out), dir("l/etc").mode(0o777)],
            Outcome::Tree(through(&out, &[("etc", "dir")], &[("l", &format!("-> {out}"))])),
        ),
        // Hard links.
        ("hard link up and out", vec![hardlink("h", "../outside/secret")], Outcome::Refused),
        ("hard link, absolute, to outside", vec![hardlink("h", &secret)], Outcome::Refused),
        (
            "hard link through a link to outside",
            vec![symlink("l", &out), hardlink("h", "l/secret")],
            Outcome::Refused,
        ),
        (
            "hard link to a link, then written",
            vec![symlink("l", &secret), hardlink("h", "l"), file("h", "bad")],
            Outcome::Tree(vec![("l", format!("-> {secret}")), ("h", "bad".to_owned())]),
        ),
        (
            "hard link to a link",
            vec![symlink("l", &secret), hardlink("h", "l")],
            Outcome::Tree(vec![("l", format!("-> {secret}")), ("h", format!("-> {secret}"))]),
        ),
        ("hard link to a directory", vec![dir("d"), hardlink("h", "d")], Outcome::Refused),
        ("hard link to the root", vec![hardlink("h", "/")], Outcome::Refused),
        ("hard link to itself", vec![file("h", "x"), hardlink("h", "h")], Outcome::Refused),
        ("hard link to nothing", vec![hardlink("h", "nosuch")], Outcome::Refused),
        ("hard link to something later", vec![hardlink("h", "f"), file("f", "x")], Outcome::Refused),
        (
            "hard link, absolute, inside",
            vec![file("f", "x"), hardlink("h", "/f")],
            tree(&[("f", "x"), ("h", "x")]),
        ),
        ("hard link by dots", vec![dir("a"), file("f", "x"), hardlink("h", "./a/.././f")], Outcome::Refused),
        (
            "file after its other name",
            vec![file("f", "x"), hardlink("h", "f"), file("f", "new")],
            tree(&[("f", "new"), ("h", "x")]),
        ),
        (
            "three names, the first goes",
            vec![file("f", "x"), hardlink("g", "f"), hardlink("h", "g"), dir("f")],
            tree(&[("f", "dir"), ("g", "x"), ("h", "x")]),
        ),
        ("hard link under a file", vec![file("f", "x"), hardlink("f/h", "f")], Outcome::Refused),
        (
            "link with a body",
            vec![Member { content: b"body".to_vec(), ..symlink("l", "x") }],
            Outcome::Refused,
        ),
        // Whiteouts.
        ("whiteout of dot", vec![file(".wh..", "")], Outcome::Refused),
        ("whiteout of dot-dot", vec![file(".wh...", "")], Outcome::Refused),
        ("whiteout of nothing", vec![file(".wh.", "")], Outcome::Refused),
        ("whiteout of nothing below", vec![file("a/.wh.", "")], Outcome::Refused),
        ("whiteout of aufs's own", vec![file(".wh..wh.plnk", "")], Outcome::Refused),
        ("whiteout through dot-dot", vec![file("../.wh.outside", "")], Outcome::Refused),
        (
            "whiteout through a link",
            vec![symlink("l", &out), file("l/.wh.secret", "")],
            // In the root it leads nowhere.
            Outcome::Tree(vec![("l", format!("-> {out}"))]),
        ),
        (
            "opaque through a link",
            vec![symlink("l", &out), file("l/.wh..wh..opq", "")],
            Outcome::Tree(opaque(&out)),
        ),
        (
            "whiteout of a link",
            vec![symlink("l", &out), file(".wh.l", "")],
            Outcome::Tree(vec![("l", format!("-> {out}"))]),
        ),
        ("whiteout of an absolute name", vec![file("/.wh.x", "")], tree(&[("x", "gone")])),
        (
            "whiteout with a slash in its name",
            vec![file(".wh.a/b", "")],
            tree(&[(".wh.a", "dir"), (".wh.a/b", "")]),
        ),
        // Things that are not what they seem.
        ("file as a parent", vec![file("f", "x"), file("f/g", "x")], Outcome::Refused),
        (
            "device as a parent",
            vec![Member { device: (1, 3), ..Member::new("n", b'3') }, file("n/g", "x")],
            Outcome::Refused,
        ),
        ("unknown type", vec![Member::new("u", b'Z')], Outcome::Refused),
        ("volume label", vec![Member::new("u", b'V')], Outcome::Refused),
        (
            "huge device number",
            vec![Member { device: (0o10_000, 0), ..Member::new("n", b'3') }],
            Outcome::Refused,
        ),
        (
            "setuid outside by a link",
            vec![symlink("l", &secret), file("l", "x").mode(0o6755)],
            tree(&[("l", "x")]),
        ),
    ];
    for (case, members, outcome) in cases {
        let result = yard.unpack_over(&[], &members);
        yard.check(case);
        match (outcome, result) {
            (Outcome::Refused, Err(Error::Layer { .. } | Error::Budget { .. })) => {}
            (Outcome::Refused, other) => panic!("{case}: {other:?}"),
            (Outcome::Tree(expected), Ok(layer)) => {
                let expected: BTreeMap<String, String> =
                    expected.into_iter().map(|(path, text)| (path.to_owned(), text)).collect();
                assert_eq!(shown(&layer), expected, "{case}");
            }
            (Outcome::Tree(_), Err(error)) => panic!("{case}: {error}"),
        }
    }
}

/// The tree that comes of writing through a link to `target`: its whole path, made inside.
fn through(
    target: &str,
    below: &[(&str, &str)],
    links: &[(&'static str, &str)],
) -> Vec<(&'static str, String)> {
    let mut found: Vec<(&'static str, String)> =
        links.iter().map(|(path, text)| (*path, (*text).to_owned())).collect();
    let mut path = String::new();
    for name in target.split('/').filter(|name| !name.is_empty()) {
        path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        found.push((path.clone().leak(), "dir".to_owned()));
    }
    for (name, text) in below {
        found.push((format!("{path}/{name}").leak(), (*text).to_owned()));
    }
    found
}

fn opaque(target: &str) -> Vec<(&'static str, String)> {
    let mut found = through(target, &[], &[("l", &format!("-> {target}"))]);
    found.last_mut().unwrap().1 = "opaque".to_owned();
    found
}

#[test]
fn what_is_below_is_no_way_out_either() {
    let yard = Yard::new();
    let out = yard.outside();
    let below = yard
        .unpack_over(&[], &[symlink("l", &out), file("f", "below"), dir("d"), symlink("d/up", "../../..")])
        .unwrap();
    let below = std::slice::from_ref(&below);
    // Through a link of the layer below: the path is made inside.
    let layer = yard.unpack_over(below, &[file("l/secret", "bad")]).unwrap();
    assert!(shown(&layer).keys().any(|path| path.ends_with("outside/secret")));
    let layer = yard.unpack_over(below, &[file("d/up/x", "x")]).unwrap();
    assert_eq!(shown(&layer).get("x").map(String::as_str), Some("x"));
    // A hard link to a file below is a copy: writing to it later leaves the lower layer alone.
    let layer = yard.unpack_over(below, &[hardlink("h", "f")]).unwrap();
    assert_eq!(shown(&layer).get("h").map(String::as_str), Some("below"));
    assert!(matches!(yard.unpack_over(below, &[hardlink("h", "l/secret")]), Err(Error::Layer { .. })));
    assert!(matches!(yard.unpack_over(below, &[hardlink("h", "l")]), Err(Error::Layer { .. })));
    yard.check("layers below");
}

#[test]
fn an_attacker_beside_us_gains_nothing() {
    // Swaps a directory of the staging area for a link to the outside as fast as it can, while layers are unpacked.
    let yard = Yard::new();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let ingest = yard.dir.path().join("store/ingest");
    let target = yard.outside();
    let swapped = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            let mut swapped = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for lease in std::fs::read_dir(&ingest).into_iter().flatten().flatten() {
                    for work in std::fs::read_dir(lease.path()).into_iter().flatten().flatten() {
                        let victim = work.path().join("diff/etc");
                        let aside = work.path().join("diff/aside");
                        if std::fs::rename(&victim, &aside).is_ok() {
                            swapped += u32::from(std::os::unix::fs::symlink(&target, &victim).is_ok());
                        }
                    }
                }
            }
            swapped
        });
        for round in 0..60 {
            let mut members = vec![dir("etc")];
            for n in 0..200 {
                members.push(file(&format!("etc/f{n}"), &format!("{round}")));
                members
                    .push(file(&format!("etc/big{n}"), &"x".repeat(if n % 50 == 0 { 300_000 } else { 10 })));
            }
            // It may fail, and it may not; outside stays as it is.
            drop(yard.unpack_over(&[], &members));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        attacker.join().unwrap()
    });
    assert!(swapped > 0, "the attacker never got a chance, so this shows nothing");
    assert_eq!(snapshot(&yard.dir.path().join("outside")), yard.before);
}

#[test]
fn no_program_is_run_for_data() {
    if std::env::var_os("COOPERAGE_TEST_TRAP").is_some() {
        let yard = Yard::new();
        let bytes = archive(&[file("f", "x"), file("g", &"y".repeat(100_000))]);
        let diff_id = DiffId::new(Digest::sha256(&bytes));
        for blob in [gz(&bytes), zstd::encode_all(bytes.as_slice(), 3).unwrap(), bytes.clone()] {
            unpack_blob(&yard.store, &blob, &diff_id).unwrap();
        }
        return;
    }
    // Every decoder's name on the path is a program that leaves a mark.
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    for name in ["gzip", "gunzip", "unpigz", "pigz", "igzip", "zstd", "unzstd", "xz", "bzip2", "tar"] {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho {name} >> '{}'\n", mark.display())).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["attacks::no_program_is_run_for_data", "--exact"])
        .env("PATH", dir.path())
        .env("COOPERAGE_TEST_TRAP", "1")
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert!(!mark.exists(), "ran {}", std::fs::read_to_string(&mark).unwrap());
}

#[test]
fn nobody_else_looks_into_a_store() {
    let yard = Yard::new();
    let layer = yard.unpack_over(&[], &[file("su", "x").mode(0o4755), dir("open").mode(0o777)]).unwrap();
    assert_eq!(layer.index().entries[b"su".as_slice()].mode, 0o4755);
    let root = std::fs::metadata(yard.dir.path().join("store")).unwrap();
    assert_eq!(root.mode() & 0o777, 0o700, "setuid programs of images must be out of everybody's reach");
}

#[test]
fn owners_that_the_kernel_would_misread_are_refused() {
    let yard = Yard::new();
    let with = |name: &str, value: &str| vec![pax(&record(name, value.as_bytes())), file("f", "x")];
    for value in ["4294967295", "4294967296", "-1", "18446744073709551616", "+5", " 5", "0x5", "1_000", "5.0"]
    {
        for name in ["uid", "gid"] {
            let result = yard.unpack_over(&[], &with(name, value));
            assert!(matches!(result, Err(Error::Layer { .. })), "{name} {value}: {result:?}");
        }
    }
    let layer = yard.unpack_over(&[], &with("uid", "4294967294"));
    if crate::peers::is_root() {
        assert_eq!(layer.unwrap().index().entries[b"f".as_slice()].uid, u32::MAX - 1);
    }
}

#[test]
fn what_overlayfs_reads_is_no_images_to_set() {
    let yard = Yard::new();
    let names = [
        "user.overlay.opaque",
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "user.overlay.metacopy",
    ];
    let members: Vec<Member> = names
        .iter()
        .enumerate()
        .map(|(n, name)| dir(&format!("d{n}")).xattr(name, b"y"))
        .chain([file("f", "x").xattr("user.mine", b"kept")])
        .collect();
    let layer = yard.unpack_over(&[], &members).unwrap();
    let found = {
        use layer_store::authority::FileAuthority;
        layer_store::authority::Direct::detect().walk(layer.tree()).unwrap()
    };
    for entry in found {
        let names: Vec<_> =
            entry.xattrs.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        if entry.path == b"f" {
            assert_eq!(names, ["user.mine"]);
        } else {
            assert!(!names.iter().any(|name| name.contains("overlay")), "{names:?}");
        }
    }
    assert!(layer.index().entries[b"d0".as_slice()].xattrs.contains_key(b"user.overlay.opaque".as_slice()));
}
