//! The SDK as a program uses it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

use cooperage::image::Reference;
use cooperage::registry::server::Registry;
use cooperage::store::{Entry, Kind, View};
use cooperage::{Cause, Context, Engine, EngineOptions, Error, EventSink};

mod attest;
mod base;
mod buildah;
mod conformance;
mod coop;
mod copy;
mod export;
mod govern;
mod indexes;
mod mount;
mod mutation;
mod pull;
mod resume;
mod run;
mod share;
mod snapshots;
mod source;
mod transcript;
mod verify;

fn quiet() -> EventSink {
    std::sync::Arc::new(|_| ())
}

async fn engine(dir: &tempfile::TempDir) -> Engine {
    Engine::open(EngineOptions::rooted_at(dir.path())).await.unwrap()
}

fn context(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

const COPY: &str = "FROM scratch AS a\nCOPY src /src/\nFROM scratch\nCOPY --from=a --chown=5:6 /src/x /y\nWORKDIR /w\nENV A=b\nCMD [\"/y\"]\n";

#[tokio::test]
async fn the_same_inputs_give_the_same_image_and_manifest_anywhere() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let mut results = Vec::new();
    for (number, seconds) in [(1, 1_000_000_000), (2, 1_700_000_000)] {
        let (store, files) = (
            tempfile::tempdir().unwrap(),
            context(&[("Dockerfile", COPY), ("src/x", "x"), ("src/sub/z", "z")]),
        );
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        std::fs::File::open(files.path().join("src/x")).unwrap().set_modified(time).unwrap();
        let engine = engine(&store).await;
        let built = engine.build(Context::directory(files.path())).run().await.unwrap();
        let name: Reference = format!("{}/org/app:v{number}", registry.addr()).parse().unwrap();
        let pushed = engine.push(&built.image, &name, &quiet()).await.unwrap();
        let pulled = engine.pull(&name, &quiet()).await.unwrap();
        assert!(!pulled.up_to_date || pulled.digest == pushed.digest);
        results.push((built.image.id(), pushed.digest));
    }
    assert_eq!(results[0], results[1]);
    registry.shutdown().await;
}

#[tokio::test]
async fn a_rebuild_is_cached_and_a_change_is_named() {
    let (store, files) =
        (tempfile::tempdir().unwrap(), context(&[("Dockerfile", COPY), ("src/x", "x"), ("src/z", "z")]));
    let engine = engine(&store).await;
    let build = || engine.build(Context::directory(files.path()));
    let first = build().run().await.unwrap();
    assert!(first.steps.iter().all(|step| step.cause == Some(Cause::NotBuiltBefore)), "{:?}", first.steps);
    let second = build().run().await.unwrap();
    assert!(second.steps.iter().all(|step| step.cached));
    assert_eq!(second.image.id(), first.image.id());
    // A file that the second stage does not read: its steps stay cached, by content.
    std::fs::write(files.path().join("src/z"), "changed").unwrap();
    let third = build().run().await.unwrap();
    assert_eq!(third.steps[0].cause.as_ref().unwrap().to_string(), "file src/z changed");
    assert!(third.steps[1..].iter().all(|step| step.cached), "{:?}", third.steps);
    // It can be asked for later.
    let remembered = engine.explain("").unwrap();
    assert_eq!((remembered.image, &remembered.steps), (Some(third.image.id()), &third.steps));
    assert_eq!(engine.builds().unwrap().len(), 3);
    // A new time alone changes nothing.
    std::fs::File::open(files.path().join("src/x")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(build().run().await.unwrap().steps.iter().all(|step| step.cached));
}

#[tokio::test]
async fn owners_and_paths_are_as_the_file_says() {
    let (store, files) = (tempfile::tempdir().unwrap(), context(&[("Dockerfile", COPY), ("src/x", "x")]));
    let engine = engine(&store).await;
    let built = engine.build(Context::directory(files.path())).run().await.unwrap();
    let view: View = engine.view(&built.image).unwrap();
    let (entry, _) = view.find(b"y").unwrap();
    assert_eq!((entry.uid, entry.gid), (5, 6));
    assert!(matches!(entry.kind, Kind::File { size: 1, .. }));
    assert!(
        view.find(b"w").is_some_and(|(entry, _)| Entry::is_directory(entry)) && view.find(b"src").is_none()
    );
    let history: Vec<_> =
        built.image.config().history.iter().map(|entry| entry.created_by.as_str()).collect();
    assert_eq!(history, ["COPY --chown=5:6 /src/x /y # buildkit", "WORKDIR /w", "ENV A=b", "CMD [\"/y\"]"]);
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    for (text, expected) in [
        ("FROM scratch\nCOPY nosuch /x\n", "not found"),
        ("FROM scratch\nCOPY --parents src/nosuch /x\n", "not found"),
        ("FROM scratch\nFOO\n", "unknown instruction: FOO"),
    ] {
        let files = context(&[("Dockerfile", text), ("src/x", "x")]);
        let error = engine.build(Context::directory(files.path())).run().await.unwrap_err();
        assert!(error.to_string().contains(expected), "{text}: {error}");
    }
    assert!(matches!(engine.container(&empty(&engine).await).run().await, Err(Error::NoCommand)));
}

async fn empty(engine: &Engine) -> cooperage::Image {
    let files = context(&[("Dockerfile", "FROM scratch\nENV A=b\n")]);
    engine.build(Context::directory(files.path())).run().await.unwrap().image
}
