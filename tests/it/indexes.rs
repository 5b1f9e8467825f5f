//! A build for several platforms has one name in the store.

use std::path::Path;
use std::process::Command;

use cooperage::image::{Digest, Platform, Reference};
use cooperage::registry::server::Registry;
use cooperage::{Context, Engine};

use crate::base::skipped;
use crate::{context, engine, quiet, transcript};

const CROSS: &str = "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY ${TARGETARCH} /program\n";
const FILES: [(&str, &str); 3] = [("Dockerfile", CROSS), ("amd64", "A"), ("arm64", "B")];

fn platforms() -> [Platform; 2] {
    ["linux/amd64".parse().unwrap(), "linux/arm64".parse().unwrap()]
}

async fn bytes_of(engine: &Engine, name: &Reference) -> Vec<u8> {
    engine.client().manifest(name).await.unwrap().bytes.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_an_index_is_stood_on_pushed_and_kept() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let files = context(&FILES);
    let name: Reference = format!("{}/org/cross:v1", registry.addr()).parse().unwrap();
    let build = || engine.build(Context::directory(files.path())).tag(name.clone());
    let built = build().run_all(&platforms()).await.unwrap();
    let digest = built.descriptor().digest;

    // It stays, with the images that have no name of their own.
    assert_eq!(engine.prune_images(false).await.unwrap().images, []);
    let upon = || {
        let text = format!("FROM {}\nLABEL more=1\n", name.canonical());
        engine.build(Context::files([("Dockerfile", text)]))
    };
    for platform in platforms() {
        let upon = upon().platform(platform.clone()).run().await.unwrap();
        let labels = &upon.image.config().config.labels;
        assert_eq!(labels.get("arch"), Some(&platform.architecture));
        assert_eq!(upon.bases[0].digest, None, "it was never anywhere else");
    }
    assert_eq!(
        engine.image(&name.familiar()).unwrap().config().platform().architecture,
        engine.platform().architecture
    );

    // The whole of it is pushed by its name, and by another one.
    let pushed = engine.push_name(&name, &quiet()).await.unwrap();
    assert_eq!(pushed.digest, digest);
    assert_eq!(bytes_of(&engine, &name).await, built.index.bytes());
    assert_eq!(
        upon().run().await.unwrap().bases[0].digest,
        Some(digest),
        "what the name means there is known"
    );
    let other = format!("{}/org/other:v2", registry.addr()).parse().unwrap();
    engine.tag_name(&name.familiar(), &other).unwrap();
    engine.push_name(&other, &quiet()).await.unwrap();
    assert_eq!(bytes_of(&engine, &other).await, built.index.bytes());

    // The same build again writes no other name, and a build for one platform takes it.
    let tag = engine.store().find_tag(&name).unwrap();
    build().run_all(&platforms()).await.unwrap();
    assert_eq!(engine.store().find_tag(&name).unwrap(), tag);
    let single = build().run().await.unwrap();
    let tag = engine.store().find_tag(&name).unwrap().unwrap();
    assert_eq!((tag.image, tag.index), (single.image.id(), None));
    assert!(engine.store().find_index(&other).unwrap().is_some());
    assert!(engine.store().check().unwrap().is_sound());
    registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_for_one_platform_names_nothing() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let files = context(&FILES[..2]);
    let name: Reference = "cross:v1".parse().unwrap();
    engine.build(Context::directory(files.path())).tag(name.clone()).run_all(&platforms()).await.unwrap_err();
    assert_eq!(engine.store().find_tag(&name).unwrap(), None);
}

fn run(coop: &Path, root: &Path, args: &[&str]) -> String {
    let done = Command::new(coop).arg("--root").arg(root).args(args).output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_builds_tags_pushes_and_removes_an_index() {
    let coop = transcript::examples().join("coop");
    if !coop.exists() {
        skipped("the example coop is not built: run `cargo build --examples`");
        return;
    }
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let root = tempfile::tempdir().unwrap();
    let files = context(&FILES);
    let directory = files.path().to_str().unwrap();
    let printed = run(
        &coop,
        root.path(),
        &["build", "-q", "--platform", "linux/amd64,linux/arm64", "-t", "cross", directory],
    );
    let digest: Digest = printed.trim().parse().unwrap();
    // One row for the two images.
    assert_eq!(run(&coop, root.path(), &["images", "-q"]).lines().count(), 1);
    let name = format!("{}/org/cross:v1", registry.addr());
    run(&coop, root.path(), &["tag", "cross", &name]);
    let pushed = run(&coop, root.path(), &["push", &name]);
    assert!(pushed.contains(&format!("v1: digest: {digest} size: ")), "{pushed}");
    assert_eq!(run(&coop, root.path(), &["rmi", "cross"]), "Untagged: cross:latest\n");
    let removed = run(&coop, root.path(), &["rmi", &name]);
    assert_eq!(removed.lines().filter(|line| line.starts_with("Deleted: ")).count(), 2, "{removed}");
    assert_eq!(run(&coop, root.path(), &["images", "-q"]), "");
    let engine = Engine::open(cooperage::EngineOptions::rooted_at(root.path())).await.unwrap();
    assert_eq!((engine.store().images().unwrap(), engine.store().tags().unwrap()), (Vec::new(), Vec::new()));
    assert!(!engine.store().has_blob(&digest));
    registry.shutdown().await;
}
