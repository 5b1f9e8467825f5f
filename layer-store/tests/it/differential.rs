//! The same trees by other programs: what we write, GNU tar and umoci read; what they write, we read.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use image_core::{DiffId, Digest, ImageConfig, Platform, Reference};
use layer_store::authority::{Direct, FileAuthority, Owners};
use layer_store::{ImageRecord, Kind, Layer, Store, View};

use crate::crowd::Random;
use crate::peers;

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn trees() -> u64 {
    std::env::var("COOPERAGE_TREES").ok().and_then(|text| text.parse().ok()).unwrap_or(8)
}

const NAMES: [&[u8]; 12] = [
    b"a", b"b", b"c", b"with space", b"-dash", b".hidden", b"\xc3\xa4\xc3\xb6", b"new\nline", b"quote'\"",
    b"back\\slash", b"*glob?", b"a-name-that-is-longer-than-one-hundred-bytes-so-that-no-old-header-field-of-any-archive-can-hold-it-whole",
];

/// Makes a random tree at `root`; devices, owners and capabilities only where that is allowed.
fn plant(root: &Path, random: &mut Random, privileged: bool) {
    std::fs::create_dir(root).unwrap();
    let mut dirs = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    let mut all: Vec<(PathBuf, bool)> = Vec::new();
    for n in 0..5 + random.below(25) {
        let parent = dirs[random.below(dirs.len())].clone();
        let name = NAMES[random.below(NAMES.len())];
        let path = parent.join(std::ffi::OsStr::from_bytes(name));
        if std::fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        let mut is_link = false;
        match random.below(10) {
            0..3 => {
                std::fs::create_dir(&path).unwrap();
                dirs.push(path.clone());
            }
            3..6 => {
                std::fs::write(&path, format!("{n}").repeat(random.below(3_000))).unwrap();
                files.push(path.clone());
            }
            6 if !files.is_empty() => {
                std::fs::hard_link(&files[random.below(files.len())], &path).unwrap();
                continue;
            }
            7 => {
                std::os::unix::fs::symlink(
                    ["a", "/etc/passwd", "../../up", "with space"][random.below(4)],
                    &path,
                )
                .unwrap();
                is_link = true;
            }
            8 if privileged => {
                let kind = [rustix::fs::FileType::CharacterDevice, rustix::fs::FileType::BlockDevice]
                    [random.below(2)];
                let device = rustix::fs::makedev(1 + u32::try_from(random.below(200)).unwrap(), 3);
                rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::empty(), device).unwrap();
            }
            _ => {
                let fifo = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, &path, fifo, rustix::fs::Mode::empty(), 0).unwrap();
            }
        }
        all.push((path, is_link));
    }
    for (path, is_link) in all.iter().rev() {
        if privileged {
            let ids = [0, 1, 1000, 65_534, 3_000_000];
            let (uid, gid) = (ids[random.below(5)], ids[random.below(5)]);
            std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
        }
        if !is_link {
            let modes = [0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1777, 0o444, 0o711];
            std::fs::set_permissions(path, PermissionsExt::from_mode(modes[random.below(8)])).unwrap();
            if random.below(4) == 0 && (path.is_file() || path.is_dir()) {
                // No empty value: Go's readers, and so umoci, take an empty PAX record for none at all.
                let value = [&b"plain"[..], b"\0\xff=", b"="][random.below(3)];
                rustix::fs::setxattr(path, "user.note", value, rustix::fs::XattrFlags::empty()).unwrap();
            }
            if privileged && random.below(5) == 0 && path.is_file() {
                let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                let name = "security.capability";
                rustix::fs::setxattr(path, name, &capability, rustix::fs::XattrFlags::empty()).unwrap();
            }
        }
    }
    for (path, _) in all.iter().rev() {
        let seconds = 1_000_000 + i64::try_from(random.below(1_600_000_000)).unwrap();
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
    }
}

/// Everything about a tree that a layer carries.
fn shown(root: &Path) -> BTreeMap<String, String> {
    let dir = std::fs::File::open(root).unwrap();
    let found = Direct::detect().walk(std::os::fd::AsFd::as_fd(&dir)).unwrap();
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    found
        .into_iter()
        .map(|found| {
            let path = String::from_utf8_lossy(&found.path).into_owned();
            let is_file = found.mode & 0o170_000 == 0o100_000;
            let same = first.entry(found.inode.0).or_insert_with(|| path.clone()).clone();
            let content = if is_file {
                let at = root.join(std::ffi::OsStr::from_bytes(&found.path));
                Digest::sha256(&std::fs::read(at).unwrap()).short()
            } else {
                String::new()
            };
            let mode = if found.mode & 0o170_000 == 0o120_000 { 0o120_777 } else { found.mode };
            let xattrs: Vec<_> = found
                .xattrs
                .iter()
                .filter(|(name, _)| name.starts_with(b"user.") || name == b"security.capability")
                .collect();
            let text = format!(
                "{mode:o} {}:{} {} {:?} {:?} {xattrs:?} same as {same} {content}",
                found.uid,
                found.gid,
                found.rdev,
                found.mtime,
                String::from_utf8_lossy(&found.target)
            );
            (path, text)
        })
        .collect()
}

/// Both trees are the same, but for what the first argument of a difference says.
fn same(got: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>, case: &str) {
    let paths: std::collections::BTreeSet<_> = got.keys().chain(wanted.keys()).collect();
    let other: Vec<_> = paths
        .into_iter()
        .filter(|path| got.get(*path) != wanted.get(*path))
        .map(|path| format!("{path:?}:\n  got    {:?}\n  wanted {:?}", got.get(path), wanted.get(path)))
        .collect();
    assert!(
        other.is_empty(),
        "{case}: {} entries differ\n{}",
        other.len(),
        other[..other.len().min(4)].join("\n")
    );
}

fn put(store: &Store, layers: &[Layer]) -> ImageRecord {
    let work = store.begin().unwrap();
    let record = work.image_of(ImageConfig::empty(&Platform::new("linux", "amd64")), layers).unwrap();
    work.commit().unwrap();
    store.put_image(&record).unwrap();
    store.tag(&Reference::parse("tree:v1").unwrap(), &record.id(), None).unwrap();
    record
}

fn export(store: &Store, layers: &[Layer], to: &Path) -> BTreeMap<String, String> {
    store.export_directory(&View::of(layers), to).unwrap();
    shown(to)
}

#[test]
fn trees_go_both_ways_through_gnu_tar_and_umoci() {
    let Some(()) = peers::need(&["tar", "umoci"]) else { return };
    let fact = "an ordinary user cannot read its own trees back; root of a user namespace can, and does in the Shows";
    let Some(()) = peers::is_root().then_some(()).or_else(|| peers::skip(fact)) else { return };
    let privileged = Direct::detect().owners() == Owners::True;
    let mut compared = 0;
    for seed in 0..trees() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let text = |name: &str| at(name).to_str().unwrap().to_owned();
        plant(&at("tree"), &mut Random(seed), privileged);
        let expected = shown(&at("tree"));
        let store = Store::open(&at("store")).unwrap();

        // Committed by us, unpacked by GNU tar.
        let work = store.begin().unwrap();
        let layer = work.layer_from_directory(&at("tree"), None).unwrap();
        work.commit().unwrap();
        let mut tar = Vec::new();
        store.write_tar(&layer, &mut tar).unwrap();
        std::fs::write(at("ours.tar"), &tar).unwrap();
        std::fs::create_dir(at("by-tar")).unwrap();
        let flags = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-p"];
        run("tar", &[&flags[..], &["-C", &text("by-tar"), "-xf", &text("ours.tar")]].concat());
        same(&shown(&at("by-tar")), &expected, &format!("tree {seed}: ours, by GNU tar"));

        // Committed by us, unpacked by umoci.
        let record = put(&store, std::slice::from_ref(&layer));
        let mut archive = Vec::new();
        layer_store::save(&store, &[(record, vec![Reference::parse("tree:v1").unwrap()])], &mut archive)
            .unwrap();
        std::fs::write(at("saved.tar"), &archive).unwrap();
        std::fs::create_dir(at("layout")).unwrap();
        run("tar", &["-C", &text("layout"), "-xf", &text("saved.tar")]);
        let rootless: &[&str] = if privileged { &[] } else { &["--rootless"] };
        let image = format!("{}:v1", text("layout"));
        run("umoci", &[&["unpack"], rootless, &["--image", &image, &text("by-umoci")]].concat());
        same(&shown(&at("by-umoci/rootfs")), &expected, &format!("tree {seed}: ours, by umoci"));

        // Committed by GNU tar, unpacked by us.
        for format in ["posix", "gnu"] {
            let flags = if format == "gnu" { &flags[..1] } else { &flags[..] };
            let args = [flags, &["--format", format, "-C", &text("tree"), "-cf", &text("theirs.tar"), "."]];
            run("tar", &args.concat());
            let bytes = std::fs::read(at("theirs.tar")).unwrap();
            let work = store.begin().unwrap();
            let diff_id = DiffId::new(Digest::sha256(&bytes));
            let layer = work.unpack_stream(bytes.as_slice(), &diff_id, &View::default()).unwrap().layer;
            work.commit().unwrap();
            let mut got = export(&store, &[layer], &at(&format!("ours-of-{format}")));
            let mut wanted = expected.clone();
            if format == "gnu" {
                // That format has no attributes.
                for text in got.values_mut().chain(wanted.values_mut()) {
                    let (head, tail) = (text.find(" [").unwrap(), text.find("] same").unwrap());
                    text.replace_range(head..tail, "");
                }
            }
            same(&got, &wanted, &format!("tree {seed}: GNU tar's {format}, by us"));
        }

        // Committed by umoci, unpacked by us.
        let other = format!("{}:v1", text("other"));
        run("umoci", &["init", "--layout", &text("other")]);
        run("umoci", &["new", "--image", &other]);
        run("umoci", &[&["unpack"], rootless, &["--image", &other, &text("bundle")]].concat());
        std::fs::remove_dir(at("bundle/rootfs")).unwrap();
        let args = [&flags[..], &["-C", &text("tree"), "-cf", &text("copy.tar"), "."]];
        run("tar", &args.concat());
        std::fs::create_dir(at("bundle/rootfs")).unwrap();
        run("tar", &[&flags[..], &["-C", &text("bundle/rootfs"), "-xf", &text("copy.tar")]].concat());
        run("umoci", &["repack", "--image", &other, &text("bundle")]);
        run("tar", &["-C", &text("other"), "-cf", &text("other.tar"), "."]);
        let mut file = std::fs::File::open(at("other.tar")).unwrap();
        let loaded = layer_store::load(&store, &mut file, None).unwrap();
        let layers = store.image_layers(&store.image(&loaded[0].image).unwrap()).unwrap();
        same(
            &export(&store, &layers, &at("ours-of-umoci")),
            &expected,
            &format!("tree {seed}: umoci's, by us"),
        );
        assert_eq!(store.check().unwrap().findings, []);
        compared += 5;
    }
    std::io::stderr().flush().unwrap();
    let who = if privileged { "root" } else { "an ordinary user" };
    eprintln!("{} trees as {who}: {compared} comparisons with GNU tar and umoci, all the same", trees());
}

/// Makes `root` a copy of `tree`, whatever was there.
fn replace(root: &Path, tree: &Path, flags: &[&str], through: &str) {
    std::fs::remove_dir_all(root).unwrap();
    std::fs::create_dir(root).unwrap();
    let (tree, root) = (tree.to_str().unwrap(), root.to_str().unwrap());
    run("tar", &[flags, &["-C", tree, "-cf", through, "."]].concat());
    run("tar", &[flags, &["-C", root, "-xf", through]].concat());
}

/// One tree becomes another, with the same names as other things: what is gone is a whiteout in the second layer.
#[test]
fn whiteouts_go_both_ways_through_umoci() {
    let Some(()) = peers::need(&["tar", "umoci"]) else { return };
    let fact = "an ordinary user cannot read its own trees back; root of a user namespace can, and does in the Shows";
    let Some(()) = peers::is_root().then_some(()).or_else(|| peers::skip(fact)) else { return };
    let privileged = Direct::detect().owners() == Owners::True;
    let (mut compared, mut whiteouts) = (0, 0);
    for seed in 0..trees() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let text = |name: &str| at(name).to_str().unwrap().to_owned();
        plant(&at("before"), &mut Random(seed), privileged);
        plant(&at("after"), &mut Random(seed + 10_000), privileged);
        let expected = shown(&at("after"));
        let store = Store::open(&at("store")).unwrap();

        // Committed by us, unpacked by umoci.
        let work = store.begin().unwrap();
        let lower = work.layer_from_directory(&at("before"), None).unwrap();
        let below = View::of(std::slice::from_ref(&lower));
        let upper = work.layer_of_difference(&below, &at("after"), None).unwrap();
        work.commit().unwrap();
        whiteouts += upper.index().entries.values().filter(|entry| entry.kind == Kind::Whiteout).count();
        let layers = [lower, upper];
        same(&export(&store, &layers, &at("by-us")), &expected, &format!("tree {seed}: ours, by us"));
        let record = put(&store, &layers);
        let mut archive = Vec::new();
        layer_store::save(&store, &[(record, vec![Reference::parse("tree:v1").unwrap()])], &mut archive)
            .unwrap();
        std::fs::write(at("saved.tar"), &archive).unwrap();
        std::fs::create_dir(at("layout")).unwrap();
        run("tar", &["-C", &text("layout"), "-xf", &text("saved.tar")]);
        let rootless: &[&str] = if privileged { &[] } else { &["--rootless"] };
        let image = format!("{}:v1", text("layout"));
        run("umoci", &[&["unpack"], rootless, &["--image", &image, &text("by-umoci")]].concat());
        same(&shown(&at("by-umoci/rootfs")), &expected, &format!("tree {seed}: ours, by umoci"));

        // Committed by umoci, unpacked by us.
        let other = format!("{}:v1", text("other"));
        run("umoci", &["init", "--layout", &text("other")]);
        run("umoci", &["new", "--image", &other]);
        run("umoci", &[&["unpack"], rootless, &["--image", &other, &text("bundle")]].concat());
        let flags = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-p"];
        replace(&at("bundle/rootfs"), &at("before"), &flags, &text("copy.tar"));
        run("umoci", &["repack", "--refresh-bundle", "--image", &other, &text("bundle")]);
        replace(&at("bundle/rootfs"), &at("after"), &flags, &text("copy.tar"));
        run("umoci", &["repack", "--image", &other, &text("bundle")]);
        run("tar", &["-C", &text("other"), "-cf", &text("other.tar"), "."]);
        let mut file = std::fs::File::open(at("other.tar")).unwrap();
        let loaded = layer_store::load(&store, &mut file, None).unwrap();
        let layers = store.image_layers(&store.image(&loaded[0].image).unwrap()).unwrap();
        assert_eq!(layers.len(), 2);
        let got = export(&store, &layers, &at("ours-of-umoci"));
        same(&got, &expected, &format!("tree {seed}: umoci's, by us"));
        assert_eq!(store.check().unwrap().findings, []);
        compared += 3;
    }
    assert!(whiteouts > 0, "no whiteout in any of them");
    let who = if privileged { "root" } else { "an ordinary user" };
    eprintln!(
        "{} pairs of trees as {who}: {compared} whiteout comparisons, {whiteouts} whiteouts, all the same",
        trees()
    );
}
