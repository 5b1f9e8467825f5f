//! Small builds, one for each behaviour (`conformance.txt`): the tree, the config and the history that each must give.
//!
//! A case is `== name`, options (`! args K=V`, `! target T`, `! fails`, `! buildah REASON`), a Dockerfile, perhaps
//! `-- ignore` with an ignore file, and `-- expect` with what is found over the base image. With COOPERAGE_BLESS=1 the
//! expectations are written anew, to be read by a person before they are kept.
//!
//! The same cases are built by Debian's buildah in the same run, where it takes the Dockerfile, and compared: tree,
//! modes, owners, links, contents, config. Where it is known to differ from BuildKit, the case says so and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use cooperage::store::{Kind, View};
use cooperage::{Context, Engine, Image};

use crate::base::{base, skipped};
use crate::engine;

const CASES: &str = include_str!("conformance.txt");

#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) args: Vec<(String, String)>,
    pub(crate) target: Option<String>,
    pub(crate) fails: bool,
    /// Why buildah's result is another one.
    pub(crate) buildah: Option<String>,
    pub(crate) dockerfile: String,
    pub(crate) ignore: Option<String>,
    pub(crate) expect: Vec<String>,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut part = "file";
    for line in CASES.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(Case { name: name.to_owned(), ..Case::default() });
            part = "file";
            continue;
        }
        let case = cases.last_mut().unwrap();
        match (part, line) {
            (_, "-- ignore") => (part, case.ignore) = ("ignore", Some(String::new())),
            (_, "-- expect") => part = "expect",
            ("file", line) if case.dockerfile.is_empty() && line.starts_with("! ") => {
                let (word, rest) = line[2..].split_once(' ').unwrap_or((&line[2..], ""));
                match word {
                    "args" => {
                        let (name, value) = rest.split_once('=').unwrap();
                        case.args.push((name.to_owned(), value.to_owned()));
                    }
                    "target" => case.target = Some(rest.to_owned()),
                    "fails" => case.fails = true,
                    "buildah" => case.buildah = Some(rest.to_owned()),
                    other => panic!("{other}"),
                }
            }
            ("file", line) => writeln!(case.dockerfile, "{line}").unwrap(),
            ("ignore", line) => writeln!(case.ignore.as_mut().unwrap(), "{line}").unwrap(),
            (_, line) => case.expect.push(line.to_owned()),
        }
    }
    cases
}

fn text(cases: &[Case]) -> String {
    let mut out = String::new();
    for case in cases {
        writeln!(out, "== {}", case.name).unwrap();
        for (name, value) in &case.args {
            writeln!(out, "! args {name}={value}").unwrap();
        }
        if let Some(target) = &case.target {
            writeln!(out, "! target {target}").unwrap();
        }
        if case.fails {
            writeln!(out, "! fails").unwrap();
        }
        if let Some(reason) = &case.buildah {
            writeln!(out, "! buildah {reason}").unwrap();
        }
        out.push_str(&case.dockerfile);
        if let Some(ignore) = &case.ignore {
            write!(out, "-- ignore\n{ignore}").unwrap();
        }
        writeln!(out, "-- expect").unwrap();
        for line in &case.expect {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

/// The context that all cases share.
fn files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for name in ["dir/sub", "deep/1/2/3", "links", "hard", "empty"] {
        std::fs::create_dir_all(at.join(name)).unwrap();
    }
    for (name, content) in [
        ("a", "A"),
        ("b", "B"),
        ("sp ace", "S"),
        ("dir/x", "X"),
        ("dir/sub/y", "Y"),
        ("dir/sub/z.md", "Z"),
        ("dir/.hidden", "H"),
        ("w1.txt", "1"),
        ("w2.txt", "2"),
        ("w[3].txt", "3"),
        ("deep/1/2/3/f", "F"),
        ("exec", "E"),
        ("private", "P"),
        ("hard/one", "h"),
        ("fake.tar.gz", "no archive"),
    ] {
        std::fs::write(at.join(name), content).unwrap();
    }
    std::fs::hard_link(at.join("hard/one"), at.join("hard/two")).unwrap();
    for (name, target) in [
        ("link", "a"),
        ("dlink", "dir"),
        ("links/up", "../a"),
        ("links/abs", "/etc/passwd"),
        ("links/gone", "nowhere"),
    ] {
        std::os::unix::fs::symlink(target, at.join(name)).unwrap();
    }
    let mut modes = vec![(".".to_owned(), 0o755)];
    for name in
        ["dir", "dir/sub", "deep", "deep/1", "deep/1/2", "deep/1/2/3", "links", "hard", "empty", "exec"]
    {
        modes.push((name.to_owned(), 0o755));
    }
    modes.push(("private".to_owned(), 0o600));
    for name in [
        "a",
        "b",
        "sp ace",
        "dir/x",
        "dir/sub/y",
        "dir/sub/z.md",
        "dir/.hidden",
        "w1.txt",
        "w2.txt",
        "w[3].txt",
        "deep/1/2/3/f",
        "hard/one",
        "fake.tar.gz",
    ] {
        modes.push((name.to_owned(), 0o644));
    }
    for (name, mode) in modes {
        std::fs::set_permissions(at.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let plain = archive();
    std::fs::write(at.join("t.tar"), &plain).unwrap();
    let mut gzip = cooperage::store::GzipWriter::new(Vec::new()).unwrap();
    gzip.write_all(&plain).unwrap();
    std::fs::write(at.join("t.tgz"), gzip.finish().unwrap()).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    bzip2.write_all(&plain).unwrap();
    std::fs::write(at.join("t.tbz"), bzip2.finish().unwrap()).unwrap();
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    xz.write_all(&plain).unwrap();
    std::fs::write(at.join("t.txz"), xz.finish().unwrap()).unwrap();
    for name in ["t.tar", "t.tgz", "t.tbz", "t.txz"] {
        std::fs::set_permissions(at.join(name), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    dir
}

fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(100);
        header.set_size(size);
        header
    };
    builder.append_data(&mut header(tar::EntryType::Directory, 0o750, 0), "td/", std::io::empty()).unwrap();
    builder.append_data(&mut header(tar::EntryType::Regular, 0o640, 4), "td/f", &b"data"[..]).unwrap();
    builder.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), "td/l", "f").unwrap();
    builder.append_link(&mut header(tar::EntryType::Link, 0o640, 0), "td/h", "td/f").unwrap();
    builder.append_data(&mut header(tar::EntryType::Regular, 0o4755, 1), "top", &b"T"[..]).unwrap();
    builder.into_inner().unwrap()
}

/// What may be seen of a file by both builders: everything but times.
fn entry(kind: char, mode: u32, owner: (u32, u32), rest: &str) -> String {
    format!("{kind} {mode:04o} {}:{}{rest}", owner.0, owner.1)
}

fn content(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= 60 => format!(" {text:?}"),
        _ => format!(" {}", cooperage::image::Digest::sha256(bytes).short()),
    }
}

/// The tree of an image, by path.
pub(crate) fn tree(engine: &Engine, view: &View) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    let mut names: BTreeMap<(String, Vec<u8>), Vec<String>> = BTreeMap::new();
    for (path, (found, layer)) in view.below(b"") {
        let shown = format!("/{}", String::from_utf8_lossy(&path));
        if path.is_empty() || is_noise(&shown) {
            continue;
        }
        let (real, at) = match &found.kind {
            Kind::Hardlink { target } => (layer.index().entries.get(target).unwrap(), target.clone()),
            _ => (found, path.clone()),
        };
        let owner = (real.uid, real.gid);
        let line = match &real.kind {
            Kind::Directory { .. } => entry('d', real.mode, owner, ""),
            Kind::File { .. } => {
                names.entry((layer.key().to_string(), at.clone())).or_default().push(shown.clone());
                let mut bytes = Vec::new();
                layer.open_file(engine.store().authority(), &at).unwrap().read_to_end(&mut bytes).unwrap();
                entry('f', real.mode, owner, &content(&bytes))
            }
            Kind::Symlink { target } => {
                entry('l', 0o777, owner, &format!(" -> {}", String::from_utf8_lossy(target)))
            }
            Kind::Fifo => entry('p', real.mode, owner, ""),
            other => format!("{other:?}"),
        };
        tree.insert(shown, line);
    }
    link(&mut tree, names.into_values());
    tree
}

/// Names of one file name one another.
fn link(tree: &mut BTreeMap<String, String>, groups: impl Iterator<Item = Vec<String>>) {
    for mut group in groups.filter(|group| group.len() > 1) {
        group.sort();
        for name in &group {
            let first = group.first().unwrap();
            tree.get_mut(name).unwrap().push_str(&format!(" ={first}"));
        }
    }
}

/// Places that a builder provides at run time.
fn is_noise(path: &str) -> bool {
    let at_or_below = |place: &str| path == place || path.starts_with(&format!("{place}/"));
    ["/proc", "/sys", "/dev", "/run"].iter().any(|place| at_or_below(place))
        || matches!(path, "/etc/hosts" | "/etc/resolv.conf" | "/etc/hostname" | "/etc/mtab")
}

pub(crate) fn walk(root: &Path) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    let mut names: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(at) = open.pop() {
        for found in std::fs::read_dir(root.join(&at)).unwrap() {
            let path = at.join(found.unwrap().file_name());
            let shown = format!("/{}", path.to_string_lossy());
            if is_noise(&shown) {
                continue;
            }
            let full = root.join(&path);
            let stat = std::fs::symlink_metadata(&full).unwrap();
            let (mode, owner) = (stat.mode() & 0o7777, (stat.uid(), stat.gid()));
            let kind = stat.file_type();
            let line = if kind.is_dir() {
                open.push(path);
                entry('d', mode, owner, "")
            } else if kind.is_symlink() {
                entry(
                    'l',
                    0o777,
                    owner,
                    &format!(" -> {}", std::fs::read_link(&full).unwrap().to_string_lossy()),
                )
            } else if kind.is_file() {
                if stat.nlink() > 1 {
                    names.entry(stat.ino()).or_default().push(shown.clone());
                }
                entry('f', mode, owner, &content(&std::fs::read(&full).unwrap()))
            } else {
                entry('p', mode, owner, "")
            };
            tree.insert(shown, line);
        }
    }
    link(&mut tree, names.into_values());
    tree
}

/// What `new` has, lacks or has otherwise than `old`.
pub(crate) fn difference(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (path, line) in new {
        if old.get(path) != Some(line) {
            lines.push(format!("{path}  {line}"));
        }
    }
    lines.extend(old.keys().filter(|path| !new.contains_key(*path)).map(|path| format!("{path}  gone")));
    lines.sort();
    lines
}

/// Docker's config, key by key, without what is empty.
pub(crate) fn config(json: &serde_json::Value) -> Vec<String> {
    let mut lines = Vec::new();
    for key in [
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "StopSignal",
        "OnBuild",
        "Shell",
        "Healthcheck",
    ] {
        let mut value = json.get(key).cloned().unwrap_or_default();
        if let (Some(map), "Labels") = (value.as_object_mut(), key) {
            map.remove("io.buildah.version");
        }
        let is_empty = match &value {
            serde_json::Value::Null => true,
            serde_json::Value::String(text) => text.is_empty(),
            serde_json::Value::Array(list) => list.is_empty(),
            serde_json::Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if !is_empty {
            lines.push(format!("{key} {value}"));
        }
    }
    lines
}

pub(crate) fn our_config(engine: &Engine, image: &Image) -> Vec<String> {
    let bytes = engine.store().read_blob(&image.record().config.digest).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    config(&json["config"])
}

/// Everything that a case must give, over the base.
fn report(engine: &Engine, image: &Image, base: &Image) -> Vec<String> {
    let is_on_base = image.record().layers.first() == base.record().layers.first();
    let empty = View::default();
    let below = if is_on_base { engine.view(base).unwrap() } else { empty };
    let mut lines = difference(&tree(engine, &below), &tree(engine, &engine.view(image).unwrap()));
    lines.extend(our_config(engine, image));
    let known = if is_on_base { base.config().history.len() } else { 0 };
    for entry in image.config().history.iter().skip(known) {
        let mark = if entry.empty_layer { "-" } else { "+" };
        lines.push(format!("{mark} {}", entry.created_by.replace('\n', "\\n")));
    }
    lines
}

async fn build(engine: &Engine, case: &Case, files: &Path, nth: usize) -> Result<Image, cooperage::Error> {
    // Beside the context, so that an ignore file of its own name belongs to it.
    let dockerfile = files.join(format!("Dockerfile.{nth}"));
    let ignore = case.ignore.clone().unwrap_or_default() + "Dockerfile.*\n";
    std::fs::write(&dockerfile, &case.dockerfile).unwrap();
    std::fs::write(files.join(format!("Dockerfile.{nth}.dockerignore")), ignore).unwrap();
    let mut build = engine.build(Context::directory(files)).dockerfile(&dockerfile);
    for (name, value) in &case.args {
        build = build.arg(name, value);
    }
    if let Some(target) = &case.target {
        build = build.target(target);
    }
    build.run().await.map(|built| built.image)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_gives_what_it_must() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let Some(base) = base(&engine).await else { return };
    if engine.store().authority().owners() == cooperage::store::authority::Owners::Single {
        skipped("with a single id, files of other owners cannot be made by RUN");
        return;
    }
    let files = files();
    let mut all = cases();
    let (mut wrong, bless) = (Vec::new(), std::env::var_os("COOPERAGE_BLESS").is_some());
    let mut images = Vec::new();
    for (nth, case) in all.iter_mut().enumerate() {
        let made = build(&engine, case, files.path(), nth).await;
        let lines = match (&made, case.fails) {
            (Ok(image), false) => report(&engine, image, &base),
            (Err(error), true) => vec![error.to_string().lines().next().unwrap_or_default().to_owned()],
            (Ok(_), true) => vec!["it did not fail".to_owned()],
            (Err(error), false) => vec![format!("it failed: {error}")],
        };
        if bless {
            case.expect = lines;
        } else if case.expect != lines {
            wrong.push(format!(
                "{}\n  expected\n    {}\n  found\n    {}",
                case.name,
                case.expect.join("\n    "),
                lines.join("\n    ")
            ));
        }
        images.push(made.ok());
    }
    println!("conformance: {} of {} cases", all.len() - wrong.len(), all.len());
    if bless {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/conformance.txt");
        std::fs::write(path, text(&all)).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Some minutes: for the gate, which asks for the peers.
    if std::env::var_os("COOPERAGE_REQUIRE_PEERS").is_none() {
        println!("skipped: buildah is compared with when COOPERAGE_REQUIRE_PEERS is set");
        return;
    }
    if std::fs::metadata("/proc/self").is_ok_and(|found| found.uid() != 0) {
        println!("skipped: buildah is compared with as root");
        return;
    }
    if Command::new("buildah").arg("--version").output().is_err() {
        skipped("buildah is not installed");
        return;
    }
    let compared = crate::buildah::compare(&engine, &base, &all, &images, files.path()).await;
    assert!(compared.is_empty(), "{}", compared.join("\n"));
}
