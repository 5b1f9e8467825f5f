//! What a build stands on: for which platform, at which digest, and whether it may.

use std::sync::Arc;

use cooperage::image::{Platform, Reference};
use cooperage::registry::server::Registry;
use cooperage::{
    Context, Decision, Error, EventSink, LayoutImage, Lock, NamedContext, Output, Source, SourcePolicy,
};

use crate::base::{NAME, base};
use crate::{context, engine};

fn quiet() -> EventSink {
    Arc::new(|_| ())
}

const PLATFORMS: [&str; 3] = ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"];

fn platforms() -> Vec<Platform> {
    PLATFORMS.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_for_several_platforms_is_built_pushed_and_stood_on() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let name: Reference = format!("{}/org/cross:v1", registry.addr()).parse().unwrap();
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (engine(&here).await, engine(&there).await);
    let text = "FROM scratch\nARG TARGETARCH\nARG TARGETVARIANT\nLABEL arch=$TARGETARCH$TARGETVARIANT\nCOPY ${TARGETARCH} /program\n";
    let files = context(&[("Dockerfile", text), ("amd64", "A"), ("arm64", "B"), ("arm", "C")]);
    let build = || first.build(Context::directory(files.path())).tag("cross:v1".parse().unwrap());
    let built = build().run_all(&platforms()).await.unwrap();
    let again = build().run_all(&platforms()).await.unwrap();
    assert_eq!(built.index.bytes(), again.index.bytes(), "one index");
    assert!(again.images.iter().all(|(_, built)| built.steps.iter().all(|step| step.cached)));
    // The name is that of the engine's own platform.
    assert_eq!(first.image("cross:v1").unwrap().id(), built.images[0].1.image.id());
    let pushed = first.push_index(&built, &name, &quiet()).await.unwrap();
    assert_eq!(pushed.digest, built.descriptor().digest);

    // Another host builds upon it, for each of them.
    let text = format!("FROM {}\nCOPY f /f\n", name.canonical());
    let files = context(&[("Dockerfile", &text), ("f", "f")]);
    let upon = second.build(Context::directory(files.path())).run_all(&platforms()).await.unwrap();
    for ((platform, image), arch) in upon.images.iter().zip(["amd64", "arm64", "armv7"]) {
        let config = image.image.config();
        assert_eq!(config.config.labels.get("arch").map(String::as_str), Some(arch));
        assert_eq!(config.platform().to_string(), platform.to_string());
        assert_eq!(image.bases.len(), 1);
        assert_eq!(image.bases[0].digest, Some(pushed.digest), "what the name means is the index");
    }
    // From the store alone, the name still means the index.
    let here = second.build(Context::directory(files.path())).run().await.unwrap();
    assert_eq!(here.bases[0].digest, Some(pushed.digest));
    // Another image under the name is one that was made here.
    second.tag(&here.image, &name).unwrap();
    let upon = second.build(Context::directory(files.path())).run().await.unwrap();
    assert_eq!((upon.bases[0].id, upon.bases[0].digest), (here.image.id(), None));
    // A name of the store stays that of the engine's platform.
    assert_eq!(second.image(&name.familiar()).unwrap().config().platform().architecture, "amd64");
    registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_for_a_foreign_processor_says_what_is_missing() {
    if std::path::Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists() {
        crate::base::skipped("this host runs s390x programs");
        return;
    }
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let text = "FROM scratch\nCOPY f /f\nRUN [\"/f\"]\n";
    let files = context(&[("Dockerfile", text), ("f", "f")]);
    let failed = engine
        .build(Context::directory(files.path()))
        .platform("linux/s390x".parse().unwrap())
        .run()
        .await
        .unwrap_err();
    assert!(
        matches!(&failed, Error::ForeignPlatform { platform, .. } if platform == "linux/s390x"),
        "{failed:?}"
    );
    assert!(failed.hint().unwrap().contains("binfmt_misc"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_a_device_is_refused_by_name_and_line() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let text = "# syntax=docker/dockerfile:1-labs\nFROM scratch\nCOPY f /f\nRUN --device=vendor.com/gpu=0 [\"/f\"]\n";
    let files = context(&[("Dockerfile", text), ("f", "f")]);
    let refused = engine.build(Context::directory(files.path())).run().await.unwrap_err();
    let Error::Unsupported { what } = &refused else { panic!("{refused:?}") };
    assert_eq!(what, "RUN --device (line 4)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_holds_whatever_the_name_means_by_then() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let name: Reference = format!("{}/org/moving:latest", registry.addr()).parse().unwrap();
    let stores = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let publisher = engine(&stores[0]).await;
    let publish = async |content: &str| {
        let files = context(&[("Dockerfile", "FROM scratch\nCOPY f /base\n"), ("f", content)]);
        let built = publisher.build(Context::directory(files.path())).run().await.unwrap();
        publisher.push(&built.image, &name, &quiet()).await.unwrap().digest
    };
    let old = publish("old").await;
    let text = format!("FROM {}\nCOPY f /f\n", name.canonical());
    let files = context(&[("Dockerfile", &text), ("f", "f")]);
    let user = engine(&stores[1]).await;
    let first = user.build(Context::directory(files.path())).run().await.unwrap();
    let lock = first.lock();
    assert_eq!(lock.digest(&name), Some(old));
    let new = publish("new").await;
    assert_ne!(new, old);
    // Elsewhere, with nothing in the store, and with `--pull`: the locked one.
    let other = engine(&stores[2]).await;
    let lock = Lock::parse(lock.to_text().as_bytes()).unwrap();
    for pull in [false, true] {
        let build = other.build(Context::directory(files.path())).lock(lock.clone()).pull(pull);
        let built = build.run().await.unwrap();
        assert_eq!(built.image.id(), first.image.id());
        assert_eq!(built.lock(), lock);
    }
    let moved = other.build(Context::directory(files.path())).pull(true).run().await.unwrap();
    assert_eq!(moved.lock().digest(&name), Some(new));
    assert_ne!(moved.image.id(), first.image.id());
    // What it does not name is refused before anything is asked for.
    let refused =
        other.build(Context::directory(files.path())).lock(Lock::default()).run().await.unwrap_err();
    assert!(matches!(refused, Error::NotLocked { .. }), "{refused:?}");
    registry.shutdown().await;
}

#[derive(Debug)]
struct Only {
    allowed: &'static str,
    instead: Option<Reference>,
}

impl SourcePolicy for Only {
    fn decide(&self, source: &Source<'_>) -> Decision {
        match (source, &self.instead) {
            (Source::Image { .. }, Some(other)) => Decision::Replace(other.clone()),
            (source, _) if source.to_string().starts_with(self.allowed) => Decision::Allow,
            _ => Decision::Deny("not on the list".to_owned()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_denies_and_replaces_sources() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let small = context(&[("Dockerfile", "FROM scratch\nCOPY f /base\n"), ("f", "f")]);
    let tag = "example.com/allowed:v1".parse().unwrap();
    engine.build(Context::directory(small.path())).tag(tag).run().await.unwrap();
    let build = |text: &str, instead: Option<&str>| {
        let policy = Only { allowed: "example.com/", instead: instead.map(|name| name.parse().unwrap()) };
        let build = engine.build(Context::directory(small.path())).dockerfile_text(text);
        build.source_policy(Arc::new(policy)).run()
    };
    build("FROM example.com/allowed:v1\n", None).await.unwrap();
    // Nothing is asked for: there is no such host.
    for (text, what) in [
        ("FROM elsewhere.invalid/a:v1\n", "elsewhere.invalid/a:v1"),
        ("FROM scratch\nADD https://elsewhere.invalid/x /\n", "https://elsewhere.invalid/x"),
        (
            "FROM scratch\nADD https://elsewhere.invalid/x.git#main /\n",
            "https://elsewhere.invalid/x.git#main",
        ),
    ] {
        let error = build(text, None).await.unwrap_err();
        let Error::Denied { source_name, reason } = &error else { panic!("{text}: {error:?}") };
        assert_eq!((source_name.as_str(), reason.as_str()), (what, "not on the list"));
    }
    let built = build("FROM elsewhere.invalid/a:v1\n", Some("example.com/allowed:v1")).await.unwrap();
    assert_eq!(built.image.record().layers.len(), 1);
    // A lock is about the names in the Dockerfile, whatever is used instead.
    let mut lock = Lock::default();
    lock.set(&"elsewhere.invalid/a:v1".parse().unwrap(), cooperage::image::Digest::sha256(b"gone"));
    let policy = Only { allowed: "", instead: Some("127.0.0.1:1/allowed:v1".parse().unwrap()) };
    let build =
        engine.build(Context::directory(small.path())).dockerfile_text("FROM elsewhere.invalid/a:v1\n");
    let error = build.source_policy(Arc::new(policy)).lock(lock).run().await.unwrap_err();
    assert!(matches!(error, Error::Registry(_)), "it is asked for at its digest: {error:?}");
    let none = engine.build(Context::directory(small.path())).run_all(&[]).await.unwrap_err();
    assert!(matches!(none, Error::Unsupported { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_an_oci_layout_is_a_named_context() {
    let (store, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (engine(&store).await, engine(&empty).await);
    let small = context(&[("Dockerfile", "FROM scratch\nCOPY f /base\n"), ("f", "f")]);
    let built = first.build(Context::directory(small.path())).run().await.unwrap();
    let layout = store.path().join("layout");
    let names = ["example.com/a:v1".parse().unwrap()];
    first.export(&built.image, &names, &Output::Layout(layout.clone())).await.unwrap();
    let text = "FROM given AS one\nFROM scratch\nCOPY --from=given /base /copied\n";
    let build = |image: LayoutImage| {
        let build = second.build(Context::directory(small.path())).dockerfile_text(text);
        build.context("given", NamedContext::Layout(layout.clone(), image)).run()
    };
    let copied = build(LayoutImage::Only).await.unwrap();
    assert_eq!(copied.image.record().layers.len(), 1);
    let error = build(LayoutImage::Tag("nothing".to_owned())).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    assert!(matches!(NamedContext::layout("oci-layout:///a:v1"), Some(NamedContext::Layout(..))));
}

#[tokio::test(flavor = "multi_thread")]
async fn regression_of_several_images_in_a_layout_the_named_one_is_taken() {
    let (store, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (engine(&store).await, engine(&empty).await);
    let mut images = Vec::new();
    for name in ["one", "two"] {
        let files = context(&[("Dockerfile", "FROM scratch\nCOPY f /base\n"), ("f", name)]);
        let built = first.build(Context::directory(files.path())).run().await.unwrap();
        images.push((
            built.image.record().clone(),
            vec![format!("example.com/{name}:{name}").parse().unwrap()],
        ));
    }
    let mut archive = Vec::new();
    cooperage::store::save(first.store(), &images, &mut archive).unwrap();
    let layout = store.path().join("layout");
    tar::Archive::new(archive.as_slice()).unpack(&layout).unwrap();
    let files = context(&[("Dockerfile", "FROM given\n")]);
    for (place, name) in ["one", "two"].into_iter().enumerate() {
        let build = second.build(Context::directory(files.path()));
        let given = NamedContext::Layout(layout.clone(), LayoutImage::Tag(name.to_owned()));
        let built = build.context("given", given).run().await.unwrap();
        assert_eq!(built.image.record().layers[0].diff_id, images[place].0.layers[0].diff_id, "{name}");
        assert_eq!(built.bases[0].id, images[place].0.id());
    }
    // A blob that is not what its name says is no image.
    let given = NamedContext::Layout(layout.clone(), LayoutImage::Only);
    let error =
        second.build(Context::directory(files.path())).context("given", given).run().await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("a single image"), "{error}");
    for blob in std::fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten() {
        let mut bytes = std::fs::read(blob.path()).unwrap();
        bytes.push(b' ');
        std::fs::write(blob.path(), bytes).unwrap();
    }
    let given = NamedContext::Layout(layout, LayoutImage::Tag("one".to_owned()));
    let error =
        second.build(Context::directory(files.path())).context("given", given).run().await.unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("another digest"), "{error}: {cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insecure_run_is_for_those_who_allow_it() {
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    if base(&engine).await.is_none() {
        return;
    }
    let text = format!(
        "# syntax=docker/dockerfile:1-labs\nFROM {NAME}\nRUN grep CapEff /proc/self/status > /plain\nRUN --security=insecure grep CapEff /proc/self/status > /insecure\n"
    );
    let files = context(&[("Dockerfile", &text)]);
    let refused = engine.build(Context::directory(files.path())).run().await.unwrap_err();
    assert!(refused.to_string().contains("security.insecure is not allowed"), "{refused}");
    let built = engine.build(Context::directory(files.path())).allow_insecure(true).run().await.unwrap();
    let view = engine.view(&built.image).unwrap();
    let read = |path: &str| {
        let mut text = String::new();
        let mut file = engine.store().open_file(&view, path.as_bytes()).unwrap();
        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
        u64::from_str_radix(text.split_whitespace().last().unwrap(), 16).unwrap()
    };
    let (plain, insecure) = (read("plain"), read("insecure"));
    assert!(
        plain.count_ones() < insecure.count_ones() && insecure & (1 << 21) != 0,
        "{plain:x} {insecure:x}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_build_adds_is_one_layer_with_annotations() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let name: Reference = format!("{}/org/dressed:v1", registry.addr()).parse().unwrap();
    let store = tempfile::tempdir().unwrap();
    let engine = engine(&store).await;
    let small = context(&[("Dockerfile", "FROM scratch\nCOPY f /base\n"), ("f", "f")]);
    let base =
        engine.build(Context::directory(small.path())).tag("below:v1".parse().unwrap()).run().await.unwrap();
    let text = "FROM below:v1\nCOPY f /one\nCOPY f /two\nCOPY f /one\n";
    let build = || {
        let build = engine.build(Context::directory(small.path())).dockerfile_text(text);
        build.tag("dressed:v1".parse().unwrap()).squash(true).annotation("org.example.note", "yes")
    };
    let built = build().run().await.unwrap();
    let layers = &built.image.record().layers;
    assert_eq!(layers.len(), 2, "the base's and one");
    assert_eq!(layers[0].diff_id, base.image.record().layers[0].diff_id);
    assert_eq!(engine.image("dressed:v1").unwrap().id(), built.image.id());
    let again = build().run().await.unwrap();
    assert!(again.steps.iter().all(|step| step.cached));
    assert_eq!(again.image.id(), built.image.id());
    let pushed = engine.push(&built.image, &name, &quiet()).await.unwrap();
    let manifest = engine.client().manifest(&name).await.unwrap();
    assert_eq!(manifest.descriptor.digest, pushed.digest);
    let manifest: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
    assert_eq!(manifest["annotations"]["org.example.note"], "yes");
    registry.shutdown().await;
}
