//! A push mounts what the registry has under another name.

use cooperage::Context;
use cooperage::image::Reference;
use cooperage::registry::server::Registry;

use crate::{COPY, context, engine, quiet};

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_a_pulled_base_are_mounted() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let name = |rest: &str| -> Reference { format!("{}/{rest}", registry.addr()).parse().unwrap() };
    let (first, files) = (tempfile::tempdir().unwrap(), context(&[("Dockerfile", COPY), ("src/x", "x")]));
    let builder = engine(&first).await;
    let base = builder.build(Context::directory(files.path())).run().await.unwrap();
    builder.push(&base.image, &name("org/base:v1"), &quiet()).await.unwrap();

    // Another machine builds on it and pushes under another name.
    let second = tempfile::tempdir().unwrap();
    let other = engine(&second).await;
    let text = format!("FROM {}\nCOPY y /y\n", name("org/base:v1"));
    let files = context(&[("Dockerfile", text.as_str()), ("y", "y")]);
    let built = other.build(Context::directory(files.path())).run().await.unwrap();
    registry.journal().clear();
    other.push(&built.image, &name("org/app:v1"), &quiet()).await.unwrap();
    let entries = registry.journal().entries();
    let mounted = entries.iter().filter(|entry| {
        entry.query.as_deref().is_some_and(|query| query.contains("mount=")) && entry.status == 201
    });
    assert_eq!(mounted.count(), base.image.record().layers.len(), "all layers of the base");
    let sent = entries.iter().filter(|entry| entry.method == "PUT" && entry.path.contains("/blobs/")).count();
    assert_eq!(sent, 2, "the new layer and the config");
    registry.shutdown().await;
}
