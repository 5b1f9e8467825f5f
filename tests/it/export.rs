//! Outputs besides the store, and contexts that are no directory.

use std::os::unix::fs::PermissionsExt;

use cooperage::{Context, Error, LayoutImage, NamedContext, Output};

use crate::{context, engine};

const FILE: &str = "FROM scratch\nCOPY dir /dir\nCOPY --chown=5:6 --chmod=0640 a /a\n";

#[tokio::test]
async fn an_image_leaves_in_every_form() {
    let files = context(&[("Dockerfile", FILE), ("a", "A"), ("dir/x", "X")]);
    std::os::unix::fs::symlink("../a", files.path().join("dir/l")).unwrap();
    std::fs::hard_link(files.path().join("dir/x"), files.path().join("dir/y")).unwrap();
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let name = "example.com/out:v1".parse().unwrap();
    let built = engine.build(Context::directory(files.path())).run().await.unwrap();
    let at = tempfile::tempdir().unwrap();
    let names = [name];

    let out = at.path().join("out");
    // Something in the way, and a link that must not be followed.
    std::fs::create_dir(&out).unwrap();
    std::fs::write(at.path().join("victim"), "safe").unwrap();
    std::os::unix::fs::symlink(at.path().join("victim"), out.join("a")).unwrap();
    std::os::unix::fs::symlink(at.path(), out.join("dir")).unwrap();
    engine.export(&built.image, &names, &Output::Directory(out.clone())).await.unwrap();
    assert_eq!(std::fs::read_to_string(out.join("a")).unwrap(), "A");
    assert_eq!(std::fs::read_to_string(at.path().join("victim")).unwrap(), "safe");
    assert!(!at.path().join("x").exists());
    assert_eq!(std::fs::metadata(out.join("a")).unwrap().permissions().mode() & 0o7777, 0o640);
    assert_eq!(std::fs::read_to_string(out.join("dir/y")).unwrap(), "X");
    assert_eq!(std::fs::read_link(out.join("dir/l")).unwrap().to_str(), Some("../a"));

    let tar_path = at.path().join("root.tar");
    engine.export(&built.image, &names, &Output::Tar(tar_path.clone())).await.unwrap();
    let mut archive = tar::Archive::new(std::fs::File::open(&tar_path).unwrap());
    let members: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|member| {
            let member = member.unwrap();
            let header = member.header();
            format!(
                "{} {:04o} {}:{} {:?}",
                member.path().unwrap().display(),
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.entry_type()
            )
        })
        .collect();
    assert_eq!(
        members,
        [
            "a 0640 5:6 Regular",
            "dir/ 0755 0:0 Directory",
            "dir/l 0777 0:0 Symlink",
            "dir/x 0644 0:0 Regular",
            "dir/y 0644 0:0 Link",
        ]
    );
    // What it wrote is a context, too: plain or compressed, the same tree.
    let again = engine
        .build(Context::tar(std::fs::File::open(&tar_path).unwrap()))
        .dockerfile_text("FROM scratch\nCOPY . /\n")
        .run()
        .await
        .unwrap();
    let view = engine.view(&again.image).unwrap();
    let (entry, _) = view.find(b"a").unwrap();
    assert_eq!((entry.mode, entry.uid, entry.gid), (0o640, 5, 6));

    for (output, is_directory) in
        [(Output::Layout(at.path().join("layout")), true), (Output::Archive(at.path().join("a.tar")), false)]
    {
        engine.export(&built.image, &names, &output).await.unwrap();
        if is_directory {
            let index = std::fs::read_to_string(at.path().join("layout/index.json")).unwrap();
            assert!(index.contains("example.com/out:v1"), "{index}");
            let blobs = std::fs::read_dir(at.path().join("layout/blobs/sha256")).unwrap();
            for blob in blobs {
                let blob = blob.unwrap();
                let digest = cooperage::image::Digest::sha256(&std::fs::read(blob.path()).unwrap());
                assert_eq!(digest.hex(), blob.file_name().to_str().unwrap());
            }
        } else {
            let mut file = std::fs::File::open(at.path().join("a.tar")).unwrap();
            let loaded = cooperage::store::load(engine.store(), &mut file, None).unwrap();
            assert_eq!(loaded[0].image, built.image.id());
        }
    }
}

#[tokio::test]
async fn a_context_may_be_in_memory_or_a_stream() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let memory = engine
        .build(Context::files([("Dockerfile", "FROM scratch\nCOPY src /src\n"), ("src/deep/x", "x")]))
        .run()
        .await
        .unwrap();
    let files = context(&[("Dockerfile", "FROM scratch\nCOPY src /src\n"), ("src/deep/x", "x")]);
    for dir in ["src", "src/deep"] {
        std::fs::set_permissions(files.path().join(dir), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let disk = engine.build(Context::directory(files.path())).run().await.unwrap();
    assert_eq!(memory.image.id(), disk.image.id());
    // A stream is read once; the second build that wants it says so.
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", files.path()).unwrap();
    let stream = Context::tar(std::io::Cursor::new(builder.into_inner().unwrap()));
    engine.build(stream.clone()).run().await.unwrap();
    let error = engine.build(stream).run().await.unwrap_err();
    assert!(format!("{error:?}").contains("read by an earlier build"), "{error:?}");
    let broken = Context::tar(std::io::Cursor::new(b"no archive at all".to_vec()));
    assert!(engine.build(broken).run().await.is_err());
    // Nothing of the streams stays.
    let left = std::fs::read_dir(store.path().join("state/scratch")).map_or(0, Iterator::count);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_named_context_may_be_in_memory() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let built = engine
        .build(Context::files([("Dockerfile", "FROM scratch\nCOPY --from=more /f /f\n")]))
        .context("more", NamedContext::Directory(Context::files([("f", "1")])))
        .run()
        .await
        .unwrap();
    assert!(engine.view(&built.image).unwrap().find(b"f").is_some());
}

const CROSS: &str =
    "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY ${TARGETARCH} /program\nCOPY both /both\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_index_of_several_platforms_leaves_as_a_layout() {
    let (store, empty, at) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (engine(&store).await, engine(&empty).await);
    let files = context(&[("Dockerfile", CROSS), ("amd64", "A"), ("arm64", "B"), ("both", "C")]);
    let platforms = ["linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap()];
    let built = first.build(Context::directory(files.path())).run_all(&platforms).await.unwrap();
    let names = ["example.com/cross:v1".parse().unwrap()];
    let layout = at.path().join("layout");
    first.export_index(&built, &names, &Output::Layout(layout.clone())).await.unwrap();
    let archive = at.path().join("cross.tar");
    first.export_index(&built, &names, &Output::Archive(archive.clone())).await.unwrap();

    // Every blob is what its name says; index, two manifests, two configs, and the layer that both share once.
    let hex = built.descriptor().digest.hex();
    let mut blobs = Vec::new();
    for blob in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        let digest = cooperage::image::Digest::sha256(&std::fs::read(blob.path()).unwrap());
        assert_eq!(digest.hex(), blob.file_name().to_str().unwrap());
        blobs.push(digest.hex());
    }
    assert!(blobs.contains(&hex));
    assert_eq!(blobs.len(), 1 + 2 + 2 + 3);
    let top = std::fs::read_to_string(layout.join("index.json")).unwrap();
    assert!(top.contains(&hex) && top.contains("\"org.opencontainers.image.ref.name\":\"v1\""), "{top}");
    // The archive is the same layout.
    let unpacked = at.path().join("unpacked");
    tar::Archive::new(std::fs::File::open(&archive).unwrap()).unpack(&unpacked).unwrap();
    for name in ["index.json", "oci-layout", &format!("blobs/sha256/{hex}")] {
        assert_eq!(
            std::fs::read(unpacked.join(name)).unwrap(),
            std::fs::read(layout.join(name)).unwrap(),
            "{name}"
        );
    }

    // Another store builds upon it, for each platform, and takes it as an archive.
    let text = "FROM given\nCOPY both /more\n";
    for (platform, arch) in platforms.iter().zip(["amd64", "arm64"]) {
        let upon = second.build(Context::directory(files.path())).dockerfile_text(text);
        let given = NamedContext::Layout(layout.clone(), LayoutImage::Tag("v1".to_owned()));
        let upon = upon.platform(platform.clone()).context("given", given).run().await.unwrap();
        assert_eq!(upon.image.config().config.labels.get("arch").map(String::as_str), Some(arch));
    }
    let mut file = std::fs::File::open(&archive).unwrap();
    let loaded = cooperage::store::load(second.store(), &mut file, None).unwrap();
    assert!(loaded.iter().any(|loaded| loaded.image == built.images[0].1.image.id()), "{loaded:?}");

    // Root file systems: a directory each; a tar file has no place for them.
    let out = at.path().join("out");
    first.export_index(&built, &[], &Output::Directory(out.clone())).await.unwrap();
    for (place, content) in [("linux_amd64", "A"), ("linux_arm64", "B")] {
        assert_eq!(std::fs::read_to_string(out.join(place).join("program")).unwrap(), content);
    }
    let refused = first.export_index(&built, &[], &Output::Tar(at.path().join("no.tar"))).await.unwrap_err();
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused:?}");

    // skopeo reads it, every platform of it.
    let copied = at.path().join("copied");
    let done = std::process::Command::new("skopeo")
        .args(["copy", "--all", "--quiet"])
        .arg(format!("oci-archive:{}", archive.display()))
        .arg(format!("dir:{}", copied.display()))
        .output();
    match done {
        Err(_) => crate::base::skipped("skopeo is not there"),
        Ok(done) => {
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let manifest = std::fs::read(copied.join("manifest.json")).unwrap();
            assert_eq!(manifest, built.index.bytes());
        }
    }
}

/// A server of one file, which says how it was asked.
pub(crate) async fn serve(body: Vec<u8>) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            let status = if asked.starts_with(b"GET /there") { "200 OK" } else { "404 Not Found" };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\nConnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&body).await.unwrap();
        }
    });
    (addr, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_context_is_what_its_text_says() {
    let (addr, _server) = serve(b"fetched".to_vec()).await;
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let build = |text: &str, context: NamedContext| {
        engine.build(Context::files([("Dockerfile", text)])).context("given", context).run()
    };
    let url = format!("http://{addr}/there");
    let copy = "FROM scratch\nCOPY --from=given context /file\n";
    let built = build(copy, NamedContext::parse(&url).unwrap()).await.unwrap();
    let view = engine.view(&built.image).unwrap();
    let (_, layer) = view.find(b"file").unwrap();
    let mut text = String::new();
    let mut file = layer.open_file(engine.store().authority(), b"file").unwrap();
    std::io::Read::read_to_string(&mut file, &mut text).unwrap();
    assert_eq!(text, "fetched");
    let empty = NamedContext::parse("docker-image://scratch").unwrap();
    assert_eq!(build("FROM given\nENV A=b\n", empty).await.unwrap().image.record().layers, []);
    assert!(matches!(NamedContext::parse("https://h/a.git#main").unwrap(), NamedContext::Git(_)));
    assert!(matches!(NamedContext::parse("git@h:a/b.git").unwrap(), NamedContext::Git(_)));
    assert!(matches!(NamedContext::parse("oci-layout://dir:v1").unwrap(), NamedContext::Layout(..)));
    assert!(matches!(NamedContext::parse("docker-image://a:1").unwrap(), NamedContext::Image(_)));
    assert!(matches!(NamedContext::parse("../dir").unwrap(), NamedContext::Directory(_)));
    for wrong in ["docker-image://A", "oci-layout:///a@sha256:1", "what://x"] {
        NamedContext::parse(wrong).unwrap_err();
    }
    // By the command line, too.
    let coop = crate::transcript::examples().join("coop");
    if !coop.exists() {
        crate::base::skipped("the example coop is not built: run `cargo build --examples`");
        return;
    }
    let files = context(&[("Dockerfile", copy)]);
    let done = tokio::process::Command::new(coop)
        .arg("--root")
        .arg(store.path())
        .args(["build", "-q", "--build-context", &format!("given={url}")])
        .arg(files.path())
        .output()
        .await
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), built.image.id().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_behind_a_url_is_an_archive_or_a_dockerfile() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    // An archive, as a stream of the same bytes would be.
    let files = context(&[("Dockerfile", "FROM scratch\nCOPY src /src\n"), ("src/x", "x")]);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_dir_all(".", files.path()).unwrap();
    let plain = builder.into_inner().unwrap();
    let mut zipped = cooperage::store::GzipWriter::new(Vec::new()).unwrap();
    std::io::Write::write_all(&mut zipped, &plain).unwrap();
    let (addr, server) = serve(zipped.finish().unwrap()).await;
    let url = |path: &str| Context::url(format!("http://{addr}/{path}"));
    let fetched = engine.build(url("there.tar.gz?token=secret")).run().await.unwrap();
    let streamed = engine.build(Context::tar(std::io::Cursor::new(plain))).run().await.unwrap();
    assert_eq!(fetched.image.id(), streamed.image.id());
    assert_eq!(engine.builds().unwrap()[1].name, format!("http://{addr}/there.tar.gz"), "no token in it");
    let missing = engine.build(url("gone")).run().await.unwrap_err();
    assert!(matches!(missing, Error::Registry(_)), "{missing:?}");
    server.abort();
    // Anything else is the Dockerfile, and alone in its context; a name for it does not count.
    let text = "FROM scratch\nCOPY . /all/\n";
    let (addr, server) = serve(text.as_bytes().to_vec()).await;
    let build = engine.build(Context::url(format!("http://{addr}/there"))).dockerfile("other");
    let built = build.run().await.unwrap();
    let view = engine.view(&built.image).unwrap();
    let (entry, layer) = view.find(b"all/context").unwrap();
    assert_eq!((entry.mode, entry.mtime.0.min(1_445_412_480)), (0o600, entry.mtime.0));
    let mut copied = String::new();
    let mut file = layer.open_file(engine.store().authority(), b"all/context").unwrap();
    std::io::Read::read_to_string(&mut file, &mut copied).unwrap();
    assert_eq!(copied, text);
    assert_eq!(view.below(b"all").len(), 2);
    server.abort();
    // A bomb: more than a layer of its size may hold.
    let mut bomb = cooperage::store::GzipWriter::new(Vec::new()).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(400 << 20);
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    std::io::Write::write_all(&mut bomb, header.as_bytes()).unwrap();
    for _ in 0..400 {
        std::io::Write::write_all(&mut bomb, &[0; 1 << 20]).unwrap();
    }
    let (addr, server) = serve(bomb.finish().unwrap()).await;
    let error = engine.build(Context::url(format!("http://{addr}/there.tgz"))).run().await.unwrap_err();
    assert!(format!("{error:?}").contains("larger than is allowed"), "{error:?}");
    server.abort();
    // Nothing of them stays.
    assert_eq!(std::fs::read_dir(store.path().join("state/scratch")).map_or(0, Iterator::count), 0);
}
