//! Graphs from registry to registry.

use bytes::Bytes;
use image_core::{BlobSource, Descriptor, Digest, Index, Manifest, MediaType, Platform, Reference};
use registry_client::server::fault::{Action, Fault};
use registry_client::server::{Registry, RunningRegistry};
use registry_client::{BlobPush, Client, CopyOptions, PushOptions};

use crate::{Image, anonymous, blob, reference};

async fn memory() -> RunningRegistry {
    Registry::in_memory().listen("127.0.0.1:0").await.unwrap()
}

/// Bytes of blobs that a registry gave and took.
fn blob_bytes(registry: &RunningRegistry) -> u64 {
    let entries = registry.journal().entries();
    entries
        .iter()
        .filter(|entry| entry.path.contains("/blobs/"))
        .map(|entry| entry.sent + entry.received)
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_layers_within_a_registry_move_no_bytes() {
    let (registry, client, image) = (memory().await, anonymous(), Image::new(10, 1000));
    let (from, to) = (reference(&registry, "a:1"), reference(&registry, "b/c:2"));
    image.push(&client, &from).await;
    registry.journal().clear();
    let report = client.copy(&from, &to, CopyOptions::new()).await.unwrap();
    let (cold, bytes) = (registry.journal().len(), blob_bytes(&registry));
    assert_eq!(report.descriptor.digest, image.digest);
    let mounted = BlobPush::Mounted { from: "a".to_owned() };
    assert!(report.blobs.len() == 11 && report.blobs.iter().all(|(_, outcome)| *outcome == mounted));
    registry.journal().clear();
    let again = client.copy(&from, &to, CopyOptions::new()).await.unwrap();
    let warm = registry.journal().len();
    assert!(again.blobs.is_empty() && again.existing == [image.digest]);
    registry.journal().clear();
    client.copy(&from, &reference(&registry, "a:other"), CopyOptions::new()).await.unwrap();
    let retag = registry.journal().len();
    println!("requests: copy {cold}, again {warm}, another tag {retag}; {bytes} bytes of blobs");
    assert!(cold <= 15 && warm <= 3 && retag <= 3 && bytes == 0);
    image.check(&client, &to).await;
}

async fn artifact(client: &Client, at: &Reference, kind: &str, subject: &Descriptor) -> Descriptor {
    let config = blob(MediaType::OciEmpty, b"{}".to_vec());
    let layer = blob(MediaType::Other("text/plain".to_owned()), kind.as_bytes().to_vec());
    let mut manifest = Manifest::oci(config.descriptor().clone(), vec![layer.descriptor().clone()]);
    manifest.artifact_type = Some(format!("application/vnd.example.{kind}"));
    manifest.subject = Some(subject.clone());
    for data in [config, layer] {
        client.push_blob(at, Box::new(data), PushOptions::new()).await.unwrap();
    }
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let at = at.at_digest(Digest::sha256(&bytes));
    client.push_manifest(&at, &MediaType::OciManifest, bytes.into()).await.unwrap()
}

async fn index(client: &Client, at: &Reference, entries: Vec<Descriptor>) -> Descriptor {
    let bytes = Bytes::from(serde_json::to_vec(&Index::oci(entries)).unwrap());
    client.push_manifest(at, &MediaType::OciIndex, bytes).await.unwrap()
}

/// `x:1`: an index of an image and of an index of another, signed, and the signature signed.
async fn graph(client: &Client, registry: &RunningRegistry) -> (Reference, Descriptor, [Descriptor; 2]) {
    let name = reference(registry, "x:1");
    let mut images = Vec::new();
    for (seed, platform) in [(3, "linux/amd64"), (4, "linux/arm64")] {
        let image = Image::new(seed, 5000);
        image.push(client, &name.at_tag("part").unwrap()).await;
        let size = image.manifest.len() as u64;
        let mut entry = Descriptor::new(MediaType::OciManifest, image.digest, size);
        entry.platform = Some(Platform::parse(platform).unwrap());
        images.push(entry);
    }
    let inner = index(client, &name.at_tag("inner").unwrap(), images.split_off(1)).await;
    images.push(inner);
    let root = index(client, &name, images).await;
    let signature = artifact(client, &name, "signature", &root).await;
    let counter = artifact(client, &name, "counter", &signature).await;
    (name, root, [signature, counter])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nested_indexes_and_referrers_with_and_without_the_api() {
    for (source_api, target_api) in [(true, true), (true, false), (false, true), (false, false)] {
        let client = anonymous();
        let source = Registry::in_memory().referrers_api(source_api).listen("127.0.0.1:0").await.unwrap();
        let target = Registry::in_memory().referrers_api(target_api).listen("127.0.0.1:0").await.unwrap();
        let (from, root, [signature, counter]) = graph(&client, &source).await;
        let to = reference(&target, "y/z:copy");
        let options = CopyOptions::new().referrers(true);
        let report = client.copy(&from, &to, options.clone()).await.unwrap();
        assert_eq!(report.descriptor.digest, root.digest);
        assert_eq!(report.manifests.len(), 6, "two images, two indexes, two referrers");
        let copied = client.manifest(&to).await.unwrap();
        assert_eq!(copied.descriptor.digest, root.digest);
        for manifest in &report.manifests {
            assert!(client.head_manifest(&to.at_digest(*manifest)).await.unwrap().is_some());
        }
        for (subject, referrer) in [(&root, &signature), (&signature, &counter)] {
            let found = client.referrers(&to, &subject.digest, None).await.unwrap();
            assert_eq!(found.len(), 1, "source {source_api}, target {target_api}");
            assert_eq!((found[0].digest, found[0].size), (referrer.digest, referrer.size));
            assert!(found[0].artifact_type.as_deref().unwrap().starts_with("application/vnd.example."));
        }
        source.journal().clear();
        target.journal().clear();
        let again = client.copy(&from, &to, options).await.unwrap();
        assert!(again.manifests.is_empty() && again.blobs.is_empty());
        assert_eq!(blob_bytes(&source) + blob_bytes(&target), 0);
        assert_eq!(client.referrers(&to, &root.digest, None).await.unwrap().len(), 1, "listed once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_platform_of_a_nested_index() {
    let (source, target, client) = (memory().await, memory().await, anonymous());
    let (from, _, _) = graph(&client, &source).await;
    let to = reference(&target, "y:arm");
    let arm = Platform::parse("linux/arm64").unwrap();
    let report = client.copy(&from, &to, CopyOptions::new().platform(arm)).await.unwrap();
    assert_eq!(report.manifests.len(), 1, "the inner index leads to it");
    assert_eq!(report.blobs.len(), 5);
    assert!(client.manifest(&to).await.unwrap().descriptor.media_type.is_manifest());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_lies_leaves_no_name() {
    let (source, target, client) = (memory().await, memory().await, anonymous());
    let image = Image::new(1, 100_000);
    let (from, to) = (reference(&source, "x:1"), reference(&target, "x:1"));
    image.push(&client, &from).await;
    source.fault(Fault::new(Action::Corrupt).method("GET").path("/blobs/"));
    assert!(client.copy(&from, &to, CopyOptions::new()).await.is_err());
    assert_eq!(client.head_manifest(&to).await.unwrap(), None);
    for descriptor in image.descriptors() {
        assert!(!client.blob_exists(&to, &descriptor).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn referrers_that_cannot_be_listed_end_the_copy() {
    for status in [401, 403, 429, 500] {
        let (source, target, client) = (memory().await, memory().await, anonymous());
        let image = Image::new(1, 10);
        let (from, to) = (reference(&source, "x:1"), reference(&target, "x:1"));
        image.push(&client, &from).await;
        source.fault(Fault::new(Action::Status(status)).path("/referrers/"));
        assert!(client.copy(&from, &to, CopyOptions::new().referrers(true)).await.is_err(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_on_both_sides_of_a_copy() {
    let (source, target, client) = (memory().await, memory().await, anonymous());
    let image = Image::new(1, 20 << 20);
    let (from, to) = (reference(&source, "x:1"), reference(&target, "x:1"));
    image.push(&client, &from).await;
    source.fault(Fault::new(Action::CutResponse(3_000_000)).method("GET").path("/blobs/").times(4));
    target.fault(Fault::new(Action::CutRequest(9_000_000)).method("PUT").path("/blobs/").times(1));
    target.fault(Fault::new(Action::CutRequest(1_000_000)).method("PATCH").times(2));
    client.copy(&from, &to, CopyOptions::new()).await.unwrap();
    image.check(&client, &to).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_is_refused_sends_the_bytes() {
    let (registry, client, image) = (memory().await, anonymous(), Image::new(2, 1000));
    let (from, to) = (reference(&registry, "a:1"), reference(&registry, "b:1"));
    image.push(&client, &from).await;
    registry.fault(Fault::new(Action::Status(405)).method("POST").times(1));
    let report = client.copy(&from, &to, CopyOptions::new()).await.unwrap();
    let uploaded = report.blobs.iter().filter(|(_, outcome)| *outcome == BlobPush::Uploaded).count();
    assert_eq!(uploaded, 1);
    image.check(&client, &to).await;
}
