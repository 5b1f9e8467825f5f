//! COPY and ADD: which files, where, with which owners and modes.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use cooperage::registry::server::Registry;
use cooperage::store::Kind;
use cooperage::{Context, Error, NamedContext};

use crate::{context, engine};

/// One line an entry: type, mode, owner, path, and what a link or file holds.
async fn tree(files: &tempfile::TempDir) -> Result<Vec<String>, Error> {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let built = engine.build(Context::directory(files.path())).run().await?;
    lines(&engine, &built.image)
}

fn lines(engine: &cooperage::Engine, image: &cooperage::Image) -> Result<Vec<String>, Error> {
    let view = engine.view(image)?;
    let authority = engine.store().authority();
    let mut lines = Vec::new();
    for (path, (entry, layer)) in view.below(b"") {
        let path = String::from_utf8_lossy(&path).into_owned();
        let read = |path: &[u8]| {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut layer.open_file(authority, path).unwrap(), &mut text).unwrap();
            text
        };
        let (kind, rest) = match &entry.kind {
            Kind::Directory { .. } => ('d', String::new()),
            Kind::File { .. } => ('f', format!(" = {}", read(path.as_bytes()))),
            Kind::Symlink { target } => ('l', format!(" -> {}", String::from_utf8_lossy(target))),
            Kind::Hardlink { target } => ('h', format!(" => {}", String::from_utf8_lossy(target))),
            other => ('?', format!(" {other:?}")),
        };
        lines.push(format!("{kind} {:04o} {}:{} /{path}{rest}", entry.mode, entry.uid, entry.gid));
    }
    Ok(lines)
}

#[tokio::test]
async fn shapes_of_copy() {
    let sources = [
        ("a", "1"),
        ("b", "2"),
        ("d/x", "3"),
        ("d/e/y.txt", "4"),
        ("d/e/z.md", "5"),
        ("w1", "6"),
        ("w2", "7"),
    ];
    for (instructions, expected) in [
        ("COPY a /x", vec!["f 0644 0:0 /x = 1"]),
        ("COPY a /x/", vec!["d 0755 0:0 /x", "f 0644 0:0 /x/a = 1"]),
        ("COPY a b /x/", vec!["d 0755 0:0 /x", "f 0644 0:0 /x/a = 1", "f 0644 0:0 /x/b = 2"]),
        (
            "COPY d /x",
            vec![
                "d 0755 0:0 /x",
                "d 0755 0:0 /x/e",
                "f 0644 0:0 /x/e/y.txt = 4",
                "f 0644 0:0 /x/e/z.md = 5",
                "f 0644 0:0 /x/x = 3",
            ],
        ),
        ("COPY w* /x/", vec!["d 0755 0:0 /x", "f 0644 0:0 /x/w1 = 6", "f 0644 0:0 /x/w2 = 7"]),
        ("COPY d/*/*.txt /x/", vec!["d 0755 0:0 /x", "f 0644 0:0 /x/y.txt = 4"]),
        ("COPY ../a /x", vec!["f 0644 0:0 /x = 1"]),
        ("COPY --chown=5:6 a /p/q/x", vec!["d 0755 5:6 /p", "d 0755 5:6 /p/q", "f 0644 5:6 /p/q/x = 1"]),
        (
            "COPY --chmod=0750 d/e /x",
            vec!["d 0750 0:0 /x", "f 0750 0:0 /x/y.txt = 4", "f 0750 0:0 /x/z.md = 5"],
        ),
        (
            "COPY --chmod=u=rwX,go= d/e /x",
            vec!["d 0700 0:0 /x", "f 0600 0:0 /x/y.txt = 4", "f 0600 0:0 /x/z.md = 5"],
        ),
        (
            "COPY --exclude=**/*.md d /x",
            vec!["d 0755 0:0 /x", "d 0755 0:0 /x/e", "f 0644 0:0 /x/e/y.txt = 4", "f 0644 0:0 /x/x = 3"],
        ),
        (
            "COPY --parents d/e/y.txt /x/",
            vec!["d 0755 0:0 /x", "d 0755 0:0 /x/d", "d 0755 0:0 /x/d/e", "f 0644 0:0 /x/d/e/y.txt = 4"],
        ),
        (
            "COPY --parents d/./e /x/",
            vec!["d 0755 0:0 /x", "d 0755 0:0 /x/e", "f 0644 0:0 /x/e/y.txt = 4", "f 0644 0:0 /x/e/z.md = 5"],
        ),
        (
            "COPY --parents **/*.txt /x/",
            vec!["d 0755 0:0 /x", "d 0755 0:0 /x/d", "d 0755 0:0 /x/d/e", "f 0644 0:0 /x/d/e/y.txt = 4"],
        ),
        ("COPY nosuch* a /x/", vec!["d 0755 0:0 /x", "f 0644 0:0 /x/a = 1"]),
        ("COPY <<F /x\nhello\nF", vec!["f 0644 0:0 /x = hello\n"]),
        ("WORKDIR /w/v\nCOPY a .", vec!["d 0755 0:0 /w", "d 0755 0:0 /w/v", "f 0644 0:0 /w/v/a = 1"]),
        ("COPY link /x", vec!["f 0644 0:0 /x = 1"]),
        ("COPY links /x", vec!["d 0755 0:0 /x", "l 0777 0:0 /x/l -> ../a"]),
        ("COPY hard /x", vec!["d 0755 0:0 /x", "f 0644 0:0 /x/one = h", "h 0644 0:0 /x/two = h"]),
    ] {
        let files = context(&sources);
        let at = files.path();
        std::os::unix::fs::symlink("a", at.join("link")).unwrap();
        std::fs::create_dir(at.join("links")).unwrap();
        std::os::unix::fs::symlink("../a", at.join("links/l")).unwrap();
        std::fs::create_dir(at.join("hard")).unwrap();
        std::fs::write(at.join("hard/one"), "h").unwrap();
        std::fs::hard_link(at.join("hard/one"), at.join("hard/two")).unwrap();
        for name in ["d", "d/e", "links", "hard"] {
            std::fs::set_permissions(at.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::write(at.join("Dockerfile"), format!("FROM scratch\n{instructions}\n")).unwrap();
        let found = tree(&files).await.unwrap_or_else(|error| panic!("{instructions}: {error}"));
        let found: Vec<String> = found
            .into_iter()
            .map(|line| line.replace("h 0644 0:0 /x/two => x/one", "h 0644 0:0 /x/two = h"))
            .collect();
        assert_eq!(found, expected, "{instructions}");
    }
}

#[tokio::test]
async fn what_cannot_be_copied_says_so() {
    for (instructions, expected) in [
        ("COPY nosuch /x", "\"/nosuch\": not found"),
        ("COPY d /a\nCOPY a /a", "cannot replace"),
        ("COPY a /f\nCOPY d /f", "cannot copy to non-directory: /f"),
        ("COPY a /f\nCOPY a /f/x", "cannot copy to non-directory: /f"),
        ("COPY --chown=nobody a /f", "no matching entries in passwd file"),
        ("ADD http://127.0.0.1:1/x /x", "127.0.0.1:1"),
        ("RUN --security=insecure true", "security.insecure is not allowed"),
    ] {
        let files = context(&[
            ("a", "1"),
            ("d/a/x", "2"),
            ("Dockerfile", &format!("FROM scratch\n{instructions}\n")),
        ]);
        let error = tree(&files).await.unwrap_err();
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        assert!(text.contains(expected), "{instructions}: {text}");
    }
}

#[tokio::test]
async fn an_ignored_file_is_not_copied_and_one_brought_back_is() {
    let files = context(&[
        ("Dockerfile", "FROM scratch\nCOPY . /x\n"),
        (".dockerignore", "*\n!keep\n!deep/er/file\nkeep/not\n"),
        ("gone", "1"),
        ("keep/a", "2"),
        ("keep/not", "3"),
        ("deep/other", "4"),
        ("deep/er/file", "5"),
    ]);
    let found = tree(&files).await.unwrap();
    let names: Vec<&str> = found.iter().map(|line| line.split(' ').nth(3).unwrap()).collect();
    assert_eq!(names, ["/x", "/x/deep", "/x/deep/er", "/x/deep/er/file", "/x/keep", "/x/keep/a"]);
}

#[tokio::test]
async fn a_malformed_ignore_pattern_is_an_error() {
    let files = context(&[("Dockerfile", "FROM scratch\nCOPY . /x\n"), (".dockerignore", "[\n")]);
    let error = tree(&files).await.unwrap_err();
    assert!(format!("{error:?}").contains("ignore pattern"), "{error:?}");
}

fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(if *kind == tar::EntryType::Directory { 0o750 } else { 0o640 });
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(100);
        let bytes = &mut header.as_old_mut().name;
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        match kind {
            tar::EntryType::Regular => {
                header.set_size(content.len() as u64);
                header.set_cksum();
                builder.append(&header, content.as_bytes()).unwrap();
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                header.set_size(0);
                header.set_link_name_literal(content).unwrap();
                header.set_cksum();
                builder.append(&header, std::io::empty()).unwrap();
            }
            _ => {
                header.set_size(0);
                header.set_cksum();
                builder.append(&header, std::io::empty()).unwrap();
            }
        }
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn archives_are_unpacked_whatever_compressed_them() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let plain = archive(&[
        ("./", Directory, ""),
        ("dir/", Directory, ""),
        ("dir/f", Regular, "data"),
        ("dir/l", Symlink, "f"),
        ("dir/h", Link, "dir/f"),
        ("../up", Regular, "never"),
    ]);
    let inside = archive(&[
        ("dir/", Directory, ""),
        ("dir/f", Regular, "data"),
        ("dir/l", Symlink, "f"),
        ("dir/h", Link, "dir/f"),
    ]);
    let gzip = {
        let mut writer = cooperage::store::GzipWriter::new(Vec::new()).unwrap();
        writer.write_all(&inside).unwrap();
        writer.finish().unwrap()
    };
    let bzip2 = {
        let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        writer.write_all(&inside).unwrap();
        writer.finish().unwrap()
    };
    for (name, bytes) in [("a.tar", &inside), ("a.tar.gz", &gzip), ("a.tbz", &bzip2), ("nameless", &gzip)] {
        let files = context(&[(
            "Dockerfile",
            &format!("FROM scratch\nADD {name} /to\nADD --unpack=false {name} /kept\n"),
        )]);
        std::fs::write(files.path().join(name), bytes).unwrap();
        let store = tempfile::tempdir().unwrap();
        let engine = engine(&store).await;
        let built = engine.build(Context::directory(files.path())).run().await.unwrap();
        let view = engine.view(&built.image).unwrap();
        let (file, _) = view.find(b"to/dir/f").unwrap();
        assert_eq!((file.mode, file.uid, file.gid, file.mtime.0), (0o640, 7, 8, 100), "{name}");
        assert!(
            matches!(&view.find(b"to/dir/h").unwrap().0.kind, Kind::Hardlink { target } if target == b"to/dir/f")
        );
        assert!(
            matches!(&view.find(b"kept").unwrap().0.kind, Kind::File { size, .. } if *size == bytes.len() as u64)
        );
    }
    let files = context(&[("Dockerfile", "FROM scratch\nADD evil.tar /to\n")]);
    std::fs::write(files.path().join("evil.tar"), plain).unwrap();
    let error = tree(&files).await.unwrap_err();
    assert!(error.to_string().contains("leads out of the archive"), "{error}");
}

#[tokio::test]
async fn a_link_in_an_archive_stays_inside_the_image() {
    use tar::EntryType::{Regular, Symlink};
    let bytes = archive(&[
        ("out", Symlink, "/../../outside"),
        ("out/f", Regular, "x"),
        ("abs", Symlink, "/deep"),
        ("abs/g", Regular, "y"),
    ]);
    let files = context(&[("Dockerfile", "FROM scratch\nADD a.tar /to\n")]);
    std::fs::write(files.path().join("a.tar"), bytes).unwrap();
    let found = tree(&files).await.unwrap();
    let names: Vec<&str> = found.iter().map(|line| line.split(' ').nth(3).unwrap()).collect();
    assert_eq!(names, ["/deep", "/deep/g", "/outside", "/outside/f", "/to", "/to/abs", "/to/out"]);
}

#[tokio::test]
async fn a_url_is_fetched_with_its_checksum_and_time() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (store, files) = (tempfile::tempdir().unwrap(), context(&[]));
    let engine = engine(&store).await;
    let url = format!("http://{}/v2/", registry.addr());
    let digest = {
        let text =
            engine.client().download(&url).await.unwrap().into_sink(Vec::new(), 1 << 20).await.unwrap();
        cooperage::image::Digest::sha256(&text)
    };
    let write = |sum: &str| {
        let text =
            format!("FROM scratch\nADD --checksum={sum} {url} /got/\nADD --chmod=0644 {url} /as/this\n");
        std::fs::write(files.path().join("Dockerfile"), text).unwrap();
    };
    write(&digest.to_string());
    let built = engine.build(Context::directory(files.path())).run().await.unwrap();
    let view = engine.view(&built.image).unwrap();
    let kinds: Vec<_> =
        [&b"got/v2"[..], b"as/this"].iter().map(|path| view.find(path).unwrap().0.clone()).collect();
    assert!(matches!(kinds[0].kind, Kind::File { digest: found, .. } if found == digest));
    assert_eq!((kinds[0].mode, kinds[1].mode), (0o600, 0o644));
    write(&cooperage::image::Digest::sha256(b"other").to_string());
    let error = engine.build(Context::directory(files.path())).run().await.unwrap_err();
    assert!(error.to_string().contains("digest mismatch"), "{error}");
    registry.shutdown().await;
}

#[tokio::test]
async fn a_git_repository_is_checked_out() {
    let files = context(&[]);
    let repository = files.path().join("repository");
    let git = |args: &[&str]| {
        let done = std::process::Command::new("git")
            .args(["-C", repository.to_str().unwrap(), "-c", "user.name=a", "-c", "user.email=a@b"])
            .args(args)
            .env("GIT_COMMITTER_DATE", "1600000000 +0000")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output();
        match done {
            Ok(done) => assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr)),
            Err(error) => panic!("git: {error}"),
        }
    };
    if std::process::Command::new("git").arg("--version").output().is_err() {
        crate::base::skipped("there is no git");
        return;
    }
    std::fs::create_dir_all(repository.join("sub")).unwrap();
    std::fs::write(repository.join("sub/file"), "one").unwrap();
    std::fs::write(repository.join("top"), "two").unwrap();
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "first"]);
    git(&["tag", "v1"]);
    std::fs::write(repository.join("top"), "three").unwrap();
    git(&["commit", "-q", "-a", "-m", "second"]);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon = std::process::Command::new("git")
        .args(["daemon", "--listen=127.0.0.1", "--export-all", "--reuseaddr"])
        .args([format!("--port={port}"), format!("--base-path={}", files.path().display())])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let _daemon = Daemon(daemon);
    for _ in 0..100 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let url = format!("git://127.0.0.1:{port}/repository/.git");
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let only = context(&[("Dockerfile", "FROM scratch\nCOPY --from=src / /all/\n")]);
    for (fragment, name, expected) in
        [("", &b"all/top"[..], "three"), ("#v1", b"all/top", "two"), ("#v1:sub", b"all/file", "one")]
    {
        let built = engine
            .build(Context::directory(only.path()))
            .context("src", NamedContext::Git(format!("{url}{fragment}")))
            .attest(cooperage::Attestation::Provenance)
            .run()
            .await
            .unwrap();
        // The commit is a material.
        let manifest = built.image.record().manifest.as_ref().unwrap().digest;
        let statement = engine.store().referrers(&manifest).unwrap()[0].blobs[0].digest;
        let statement: serde_json::Value =
            serde_json::from_slice(&engine.store().read_blob(&statement).unwrap()).unwrap();
        let source = &statement["predicate"]["buildDefinition"]["resolvedDependencies"][0];
        assert!(source["uri"].as_str().unwrap().starts_with(&format!("git+{url}")), "{source}");
        assert_eq!(source["digest"]["gitCommit"].as_str().unwrap().len(), 40, "{source}");
        let view = engine.view(&built.image).unwrap();
        let (entry, layer) = view.find(name).unwrap();
        let mut text = String::new();
        let mut file = layer.open_file(engine.store().authority(), name).unwrap();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, expected, "{fragment}");
        assert_eq!(entry.mode, 0o644);
        assert!(view.find(b"all/.git").is_none());
    }
}

/// A process that ends with the test, also when that fails.
pub(crate) struct Daemon(pub(crate) std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_named_context_is_a_directory_or_an_image() {
    let (store, files, other) = (
        tempfile::tempdir().unwrap(),
        context(&[("Dockerfile", "FROM base\nCOPY --from=more a /more/\n")]),
        context(&[("a", "1"), ("b", "2"), (".dockerignore", "b\n")]),
    );
    let engine = engine(&store).await;
    let name = "example.com/named:v1".parse().unwrap();
    let first = context(&[("Dockerfile", "FROM scratch\nCOPY x /x\n"), ("x", "x")]);
    engine.build(Context::directory(first.path())).tag(name).run().await.unwrap();
    let built = engine
        .build(Context::directory(files.path()))
        .context("base", NamedContext::Image("example.com/named:v1".parse().unwrap()))
        .context("more", NamedContext::Directory(Context::directory(other.path())))
        .run()
        .await
        .unwrap();
    assert_eq!(
        lines(&engine, &built.image).unwrap(),
        ["d 0755 0:0 /more", "f 0644 0:0 /more/a = 1", "f 0644 0:0 /x = x"]
    );
}
