//! What goes in comes out.

use image_core::{Algorithm, Descriptor, Digest, MediaType, MemoryBlob};
use registry_client::server::Registry;
use registry_client::{BlobPush, PushOptions};

use crate::{Image, anonymous, blob, noise, reference};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_in_memory() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (anonymous(), Image::new(3, 300_000));
    let name = reference(&registry, "org/name:v1");
    assert_eq!(client.head_manifest(&name).await.unwrap(), None);
    assert!(client.manifest(&name).await.unwrap_err().is_not_found());
    image.push(&client, &name).await;
    image.check(&client, &name).await;
    image.check(&client, &name.at_digest(image.digest)).await;
    let head = client.head_manifest(&name).await.unwrap().unwrap();
    assert_eq!((head.digest, head.size), (image.digest, image.manifest.len() as u64));
    assert_eq!(client.tags(&name).await.unwrap(), ["v1"]);
    assert_eq!(client.catalog(&registry.addr().to_string()).await.unwrap(), ["org/name"]);
    registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_outlives_its_registry() {
    let directory = tempfile::tempdir().unwrap();
    let (client, image) = (anonymous(), Image::new(2, 700_000));
    let registry = Registry::directory(directory.path()).listen("127.0.0.1:0").await.unwrap();
    image.push(&client, &reference(&registry, "a/b:v1")).await;
    assert!(Registry::directory(directory.path()).listen("127.0.0.1:0").await.is_err(), "two of them");
    registry.shutdown().await;
    let layout = directory.path().join("a/b/_layout");
    assert!(layout.join("oci-layout").exists() && layout.join("index.json").exists());
    let registry = Registry::directory(directory.path()).listen("127.0.0.1:0").await.unwrap();
    image.check(&client, &reference(&registry, "a/b:v1")).await;
}

#[tokio::test]
async fn a_blob_is_sent_once_and_mounted_after_that() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let client = anonymous();
    let (first, second) = (reference(&registry, "one"), reference(&registry, "two"));
    let data = blob(MediaType::OciEmpty, noise(1, 1000));
    let push = |to, options| client.push_blob(to, Box::new(data.clone()), options);
    assert_eq!(push(&first, PushOptions::new()).await.unwrap(), BlobPush::Uploaded);
    assert_eq!(push(&first, PushOptions::new()).await.unwrap(), BlobPush::Exists);
    let mounted = push(&second, PushOptions::new().mount_from(first.clone())).await.unwrap();
    assert_eq!(mounted, BlobPush::Mounted { from: "one".to_owned() });
    let sent: u64 = registry.journal().entries().iter().map(|entry| entry.received).sum();
    assert_eq!(sent, 1000);
}

#[tokio::test]
async fn empty_blobs_and_sha512() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let client = anonymous();
    let name = reference(&registry, "x");
    for (algorithm, bytes) in
        [(Algorithm::Sha256, vec![]), (Algorithm::Sha512, vec![]), (Algorithm::Sha512, noise(3, 5000))]
    {
        let digest = Digest::of(algorithm, &bytes);
        let descriptor = Descriptor::new(MediaType::OciEmpty, digest, bytes.len() as u64);
        let source = MemoryBlob::new(descriptor.clone(), bytes.clone());
        client.push_blob(&name, Box::new(source), PushOptions::new()).await.unwrap();
        assert_eq!(client.blob_into(&name, &descriptor, Vec::new()).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn pages_and_deletes() {
    let registry = Registry::in_memory().page_size(2).listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (anonymous(), Image::new(1, 10));
    for tag in ["b", "A", "c", "d", "e"] {
        image.push(&client, &reference(&registry, &format!("x:{tag}"))).await;
    }
    let name = reference(&registry, "x:b");
    assert_eq!(client.tags(&name).await.unwrap(), ["A", "b", "c", "d", "e"]);
    assert!(client.delete_manifest(&name).await.unwrap());
    assert!(!client.delete_manifest(&name).await.unwrap());
    assert!(client.delete_manifest(&name.at_digest(image.digest)).await.unwrap());
    assert_eq!(client.tags(&name).await.unwrap(), Vec::<String>::new());
    let layer = image.descriptors().remove(1);
    assert!(client.delete_blob(&name, &layer.digest).await.unwrap());
    assert!(!client.blob_exists(&name, &layer).await.unwrap());
}

#[tokio::test]
async fn a_source_that_is_shorter_than_it_says_is_the_sources_error() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let bytes = noise(4, 1000);
    let descriptor = Descriptor::new(MediaType::OciEmpty, Digest::sha256(&bytes), 2000);
    let source = MemoryBlob::new(descriptor, bytes);
    let outcome =
        anonymous().push_blob(&reference(&registry, "x"), Box::new(source), PushOptions::new()).await;
    assert!(matches!(outcome, Err(registry_client::Error::BlobRead { .. })), "{outcome:?}");
}

#[tokio::test]
async fn referrers_by_the_api_and_by_the_tag() {
    for api in [true, false] {
        let registry =
            Registry::in_memory().referrers_api(api).page_size(1).listen("127.0.0.1:0").await.unwrap();
        let (client, image) = (anonymous(), Image::new(1, 10));
        let name = reference(&registry, "x:1");
        image.push(&client, &name).await;
        assert_eq!(client.referrers(&name, &image.digest, None).await.unwrap(), []);
        let mut entries = Vec::new();
        for kind in ["signature", "sbom"] {
            let config = image.descriptors().remove(0);
            let mut manifest = image_core::Manifest::oci(config, Vec::new());
            manifest.artifact_type = Some(format!("application/vnd.example.{kind}"));
            manifest.subject = Some(Descriptor::new(MediaType::OciManifest, image.digest, 1));
            let bytes = serde_json::to_vec(&manifest).unwrap();
            let digest = Digest::sha256(&bytes);
            let at = name.at_digest(digest);
            let mut entry = client.push_manifest(&at, &MediaType::OciManifest, bytes.into()).await.unwrap();
            entry.artifact_type = manifest.artifact_type;
            entries.push(entry);
        }
        if !api {
            let index = serde_json::to_vec(&image_core::Index::oci(entries)).unwrap();
            let tag = name.at_tag(&format!("sha256-{}", image.digest.hex())).unwrap();
            client.push_manifest(&tag, &MediaType::OciIndex, index.into()).await.unwrap();
        }
        assert_eq!(client.referrers(&name, &image.digest, None).await.unwrap().len(), 2, "api {api}");
        let sbom =
            client.referrers(&name, &image.digest, Some("application/vnd.example.sbom")).await.unwrap();
        assert_eq!(sbom.len(), 1);
    }
}

#[tokio::test]
async fn referrers_that_cannot_be_asked_for_are_not_none() {
    use registry_client::server::fault::{Action, Fault};
    for status in [401, 403, 429, 500, 503] {
        let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
        registry.fault(Fault::new(Action::Status(status)).path("/referrers/"));
        let subject = Digest::sha256(b"x");
        let outcome = anonymous().referrers(&reference(&registry, "x:1"), &subject, None).await;
        assert!(outcome.is_err(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_ranges_at_once_give_the_blob_in_order() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let name = reference(&registry, "x");
    let client = registry_client::Client::builder()
        .loopback_plain_http(true)
        .retry(crate::quick())
        .parallel_ranges(4)
        .build()
        .unwrap();
    let bytes = noise(7, (33 << 20) + 17);
    let data = blob(MediaType::OciEmpty, bytes.clone());
    let descriptor = image_core::BlobSource::descriptor(&data).clone();
    client.push_blob(&name, Box::new(data), PushOptions::new()).await.unwrap();
    registry.journal().clear();
    registry.fault(
        registry_client::server::fault::Fault::new(registry_client::server::fault::Action::CutResponse(
            1_000_000,
        ))
        .method("GET")
        .path("/blobs/")
        .after(2)
        .times(3),
    );
    assert!(client.blob_into(&name, &descriptor, Vec::new()).await.unwrap() == bytes);
    let entries = registry.journal().entries();
    assert!(entries.len() >= 9 && entries.iter().all(|entry| entry.headers.contains_key("range")));
    let sent: u64 = entries.iter().map(|entry| entry.sent).sum();
    assert!(sent as f64 <= 1.02 * bytes.len() as f64, "{sent}");
    registry.fault(
        registry_client::server::fault::Fault::new(registry_client::server::fault::Action::Corrupt)
            .method("GET")
            .path("/blobs/")
            .after(3)
            .times(1),
    );
    let outcome = client.blob_into(&name, &descriptor, Vec::new()).await;
    assert!(matches!(outcome, Err(registry_client::Error::DigestMismatch { .. })), "{outcome:?}");
}
