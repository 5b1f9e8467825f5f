//! Pushes: duties 10 to 21, and the rules for pieces.

use std::time::Duration;

use image_core::{Algorithm, BlobSource, Descriptor, Digest, MANIFEST_LIMIT, MediaType, MemoryBlob};
use registry_client::server::Registry;
use registry_client::server::fault::{Action, Fault};
use registry_client::{BlobPush, Error, PushOptions};

use super::{header, in_pieces, memory, session};
use crate::{Image, anonymous, blob, noise, reference};

/// "It SHOULD NOT be assembled manually by clients except where absolute/relative conversion is necessary", and "The
/// <blob-push-location> MAY contain critical query parameters."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duty_10_the_location_of_an_upload_is_taken_as_it_is() {
    let critical = "state=a%2Fb%20c&empty=&x=1";
    for absolute in [false, true] {
        let (registry, client) = (memory().await, anonymous());
        let front = if absolute { registry.url() } else { String::new() };
        let location = format!("{front}{}?{critical}", session(&registry, "x").await);
        let opened = vec![("location".to_owned(), location)];
        registry.fault(Fault::new(Action::Answer(202, opened)).method("POST").times(1));
        let data = blob(MediaType::OciEmpty, noise(1, 1000));
        let descriptor = data.descriptor().clone();
        let name = reference(&registry, "x");
        client.push_blob(&name, Box::new(data), PushOptions::new()).await.unwrap();
        let entries = registry.journal().entries();
        let put = entries.iter().find(|entry| entry.method == "PUT").unwrap();
        let query = put.query.as_deref().unwrap();
        assert!(query.starts_with(critical) && query.contains("&digest=sha256"), "{query}");
        assert!(client.blob_exists(&name, &descriptor).await.unwrap());
    }
}

/// "clients SHOULD proceed with a subsequent PUT request"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duty_11_a_single_post_that_is_not_taken_goes_on_with_put() {
    let data = || Box::new(blob(MediaType::OciEmpty, noise(1, 1000)));
    let options = || PushOptions::new().single_request(true);
    let methods = |registry: &registry_client::server::RunningRegistry| {
        let entries = registry.journal().entries();
        entries.into_iter().map(|entry| entry.method).collect::<Vec<_>>()
    };
    let (registry, client) = (memory().await, anonymous());
    let name = reference(&registry, "x");
    client.push_blob(&name, data(), options()).await.unwrap();
    assert_eq!(methods(&registry), ["HEAD", "POST"], "taken");

    let registry = memory().await;
    let opened = vec![("location".to_owned(), session(&registry, "x").await)];
    registry.fault(Fault::new(Action::Answer(202, opened)).method("POST").times(1));
    registry.journal().clear();
    let name = reference(&registry, "x");
    client.push_blob(&name, data(), options()).await.unwrap();
    assert_eq!(methods(&registry), ["HEAD", "POST", "PUT"], "202 and a Location");
    assert!(client.blob_exists(&name, data().descriptor()).await.unwrap());

    let registry = memory().await;
    registry.fault(Fault::new(Action::Status(405)).method("POST").times(1));
    let name = reference(&registry, "x");
    client.push_blob(&name, data(), options()).await.unwrap();
    assert_eq!(methods(&registry), ["HEAD", "POST", "POST", "PUT"], "refused");
}

/// "Clients SHOULD send this request when aborting a blob upload, releasing server resources."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duty_12_an_aborted_upload_is_cancelled() {
    let registry = memory().await;
    registry.fault(Fault::new(Action::Delay(Duration::from_secs(30))).method("PUT"));
    assert_eq!(aborted(&registry).await, 204);
}

/// "Clients SHOULD ignore any failures." of that request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duty_13_a_cancellation_that_fails_does_not_matter() {
    for status in [400, 404, 405, 500, 503] {
        let registry = memory().await;
        registry.fault(Fault::new(Action::Delay(Duration::from_secs(30))).method("PUT").times(1));
        registry.fault(Fault::new(Action::Status(status)).method("DELETE"));
        assert_eq!(aborted(&registry).await, status);
        let data = blob(MediaType::OciEmpty, noise(1, 1000));
        let push =
            anonymous().push_blob(&reference(&registry, "x"), Box::new(data), PushOptions::new()).await;
        assert_eq!(push.unwrap(), BlobPush::Uploaded);
        let tries = registry.journal().entries().iter().filter(|entry| entry.method == "DELETE").count();
        assert_eq!(tries, 1, "it is not tried again");
    }
}

/// Drops a push while its PUT waits; the answer to the DELETE that follows.
async fn aborted(registry: &registry_client::server::RunningRegistry) -> u16 {
    let (client, name) = (anonymous(), reference(registry, "x"));
    let data = blob(MediaType::OciEmpty, noise(1, 1000));
    {
        let mut push = std::pin::pin!(client.push_blob(&name, Box::new(data), PushOptions::new()));
        let sent = || registry.journal().entries().iter().any(|entry| entry.method == "PUT");
        while !sent() {
            assert!(tokio::time::timeout(Duration::from_millis(10), &mut push).await.is_err());
        }
    }
    for _ in 0..500 {
        let entries = registry.journal().entries();
        if let Some(cancel) = entries.iter().find(|entry| entry.method == "DELETE" && entry.status != 0) {
            return cancel.status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no DELETE of the session: {:?}", registry.journal().entries());
}

/// "if it is used the client SHOULD verify the value against the uploaded blob data", of a mount.
#[tokio::test]
async fn duty_14_the_stated_digest_of_a_mount_is_verified() {
    let (registry, client, image) = (memory().await, anonymous(), Image::new(1, 1000));
    image.push(&client, &reference(&registry, "a:1")).await;
    let lie = Digest::sha256(b"other").to_string();
    registry.fault(header("docker-content-digest", &lie).method("POST"));
    let options = PushOptions::new().mount_from(reference(&registry, "a"));
    let source = Box::new(image.blobs[1].clone());
    let outcome = client.push_blob(&reference(&registry, "b"), source, options).await;
    assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "{outcome:?}");
}

/// "This indicates that the upload session has begun and that the client MAY proceed with the upload."
#[tokio::test]
async fn duty_15_a_mount_that_fails_uses_the_session_it_got() {
    let (registry, client) = (memory().await, anonymous());
    let data = blob(MediaType::OciEmpty, noise(2, 1000));
    let options = PushOptions::new().mount_from(reference(&registry, "nowhere"));
    let pushed = client.push_blob(&reference(&registry, "two"), Box::new(data), options).await.unwrap();
    assert_eq!(pushed, BlobPush::Uploaded);
    assert_eq!(registry.journal().entries().iter().filter(|entry| entry.method == "POST").count(), 1);
}

/// "Clients SHOULD set the Content-Type header to the type of the manifest being pushed."
#[tokio::test]
async fn duty_16_a_manifest_is_pushed_with_its_type() {
    let (registry, client, image) = (memory().await, anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    let index = image_core::Index::oci(vec![Descriptor::new(
        MediaType::OciManifest,
        image.digest,
        image.manifest.len() as u64,
    )]);
    let bytes = serde_json::to_vec(&index).unwrap();
    client.push_manifest(&name.at_tag("2").unwrap(), &MediaType::OciIndex, bytes.into()).await.unwrap();
    let entries = registry.journal().entries();
    let types: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.method == "PUT" && entry.path.contains("/manifests/"))
        .map(|entry| entry.headers["content-type"].as_str())
        .collect();
    assert_eq!(types, [MediaType::OciManifest.as_str(), MediaType::OciIndex.as_str()]);
}

/// "The client SHOULD NOT include parameters on the Content-Type header"
#[tokio::test]
async fn duty_17_the_type_is_pushed_without_parameters() {
    let (registry, client) = (memory().await, anonymous());
    let kind = MediaType::Other("application/vnd.example.doc+json; charset=utf-8".to_owned());
    let name = reference(&registry, "x:1");
    client.push_manifest(&name, &kind, bytes::Bytes::from_static(b"{}")).await.unwrap();
    let entries = registry.journal().entries();
    assert_eq!(entries[0].headers["content-type"], "application/vnd.example.doc+json");
}

/// "If a manifest includes a mediaType field, clients MUST set the Content-Type header to the value specified by the
/// mediaType field."
#[tokio::test]
async fn duty_18_the_type_is_the_one_that_the_manifest_says() {
    let (registry, client, image) = (memory().await, anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    for blob in &image.blobs {
        client.push_blob(&name, Box::new(blob.clone()), PushOptions::new()).await.unwrap();
    }
    registry.journal().clear();
    for wrong in [MediaType::OciIndex, MediaType::DockerManifest, MediaType::Other("text/plain".to_owned())] {
        let outcome = client.push_manifest(&name, &wrong, image.manifest.clone()).await;
        assert!(matches!(outcome, Err(Error::Manifest { .. })), "{wrong}: {outcome:?}");
    }
    assert!(registry.journal().is_empty(), "nothing was sent");
    client.push_manifest(&name, &MediaType::OciManifest, image.manifest.clone()).await.unwrap();
}

/// "if it is used, the client SHOULD verify the value against the uploaded blob data", of a manifest that was pushed.
#[tokio::test]
async fn duty_19_the_stated_digest_of_a_pushed_manifest_is_verified() {
    let (registry, client, image) = (memory().await, anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    let lie = Digest::sha256(b"other").to_string();
    registry.fault(header("docker-content-digest", &lie).method("PUT"));
    let outcome = client.push_manifest(&name, &MediaType::OciManifest, image.manifest.clone()).await;
    assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "{outcome:?}");
    let data = Box::new(blob(MediaType::OciEmpty, noise(3, 100)));
    let outcome = client.push_blob(&name, data, PushOptions::new()).await;
    assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "a blob as well: {outcome:?}");
}

/// "Clients MAY see other status codes (431 Request Header Fields Too Large) depending on the registry implementation."
#[tokio::test]
async fn duty_20_other_statuses_are_told_as_they_are() {
    for status in [413, 414, 418, 431, 451, 507] {
        let (registry, client, image) = (memory().await, anonymous(), Image::new(1, 10));
        let name = reference(&registry, "x:1");
        image.push(&client, &name).await;
        registry.fault(Fault::new(Action::Status(status)).method("PUT").path("/manifests/"));
        registry.journal().clear();
        let outcome = client.push_manifest(&name, &MediaType::OciManifest, image.manifest.clone()).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.status(), Some(status));
        assert!(!error.is_not_found() && !error.is_unauthorized() && !error.is_retryable());
        assert_eq!(registry.journal().len(), 1, "{status}: not sent again");
    }
}

/// "Client and registry implementations SHOULD expect to be able to support manifest pushes of at least 4 megabytes."
#[tokio::test]
async fn duty_21_manifests_of_four_megabytes() {
    let (registry, client, image) = (memory().await, anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:big");
    image.push(&client, &name.at_tag("small").unwrap()).await;
    let filled = |size: u64| {
        let mut document: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
        document["annotations"] = serde_json::json!({ "org.example.filler": "" });
        let rest = size as usize - document.to_string().len();
        document["annotations"]["org.example.filler"] = "x".repeat(rest).into();
        bytes::Bytes::from(document.to_string())
    };
    for size in [4_000_000, MANIFEST_LIMIT] {
        let bytes = filled(size);
        assert_eq!(bytes.len() as u64, size);
        client.push_manifest(&name, &MediaType::OciManifest, bytes.clone()).await.unwrap();
        assert_eq!(client.manifest(&name).await.unwrap().bytes, bytes);
    }
    registry.journal().clear();
    let outcome = client.push_manifest(&name, &MediaType::OciManifest, filled(MANIFEST_LIMIT + 1)).await;
    assert!(matches!(outcome, Err(Error::TooLarge { .. })) && registry.journal().is_empty());
}

/// "the size of each chunk, except for the final chunk, SHOULD be greater or equal to that value"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_are_at_least_as_long_as_the_registry_says() {
    let least = 6 << 20;
    let registry = Registry::in_memory().min_chunk(least).listen("127.0.0.1:0").await.unwrap();
    registry.fault(in_pieces());
    let data = blob(MediaType::OciEmpty, noise(1, 15 << 20));
    let descriptor = data.descriptor().clone();
    let (client, name) = (anonymous(), reference(&registry, "x"));
    client.push_blob(&name, Box::new(data), PushOptions::new()).await.unwrap();
    assert!(client.blob_exists(&name, &descriptor).await.unwrap());
    let entries = registry.journal().entries();
    let pieces: Vec<u64> =
        entries.iter().filter(|entry| entry.method == "PATCH").map(|entry| entry.received).collect();
    assert_eq!(pieces, [least, least, 3 << 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn min_chunk_is_enforced_by_the_registry() {
    let registry = Registry::in_memory().min_chunk(6 << 20).listen("127.0.0.1:0").await.unwrap();
    registry.fault(in_pieces());
    // A client that is not told sends pieces of 4 MiB.
    registry.fault(super::without("oci-chunk-min-length").method("POST"));
    let data = blob(MediaType::OciEmpty, noise(1, 15 << 20));
    let outcome = anonymous().push_blob(&reference(&registry, "x"), Box::new(data), PushOptions::new()).await;
    assert_eq!(outcome.unwrap_err().status(), Some(400));
}

/// "Chunks MUST be uploaded in order"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_are_in_order_and_say_where_they_belong() {
    let registry = memory().await;
    registry.fault(in_pieces());
    let data = blob(MediaType::OciEmpty, noise(1, 9 << 20));
    anonymous().push_blob(&reference(&registry, "x"), Box::new(data), PushOptions::new()).await.unwrap();
    let entries = registry.journal().entries();
    let ranges: Vec<&str> = entries
        .iter()
        .filter(|entry| entry.method == "PATCH")
        .map(|entry| entry.headers["content-range"].as_str())
        .collect();
    assert_eq!(ranges, ["0-4194303", "4194304-8388607", "8388608-9437183"]);
}

/// "the post request SHOULD include the digest-algorithm parameter"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sha512_blobs_both_ways_in_one_piece_and_in_several() {
    for pieces in [false, true] {
        let registry = memory().await;
        if pieces {
            registry.fault(in_pieces());
        }
        let (client, name) = (anonymous(), reference(&registry, "x"));
        let bytes = noise(3, 6 << 20);
        let digest = Digest::of(Algorithm::Sha512, &bytes);
        let descriptor = Descriptor::new(MediaType::OciEmpty, digest, bytes.len() as u64);
        let source = MemoryBlob::new(descriptor.clone(), bytes.clone());
        client.push_blob(&name, Box::new(source), PushOptions::new()).await.unwrap();
        let entries = registry.journal().entries();
        let post = entries.iter().find(|entry| entry.method == "POST").unwrap();
        assert_eq!(post.query.as_deref(), Some("digest-algorithm=sha512"));
        assert_eq!(client.blob_into(&name, &descriptor, Vec::new()).await.unwrap(), bytes);
        let to = reference(&registry, "y");
        let source = MemoryBlob::new(descriptor, bytes);
        let options = PushOptions::new().mount_from(name);
        let pushed = client.push_blob(&to, Box::new(source), options).await.unwrap();
        assert_eq!(pushed, BlobPush::Mounted { from: "x".to_owned() });
    }
}
