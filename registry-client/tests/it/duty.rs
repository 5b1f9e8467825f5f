//! Duties that the distribution spec gives to clients, by name. Those about credentials, resumption and retries have
//! their tests where the rest of their subject is.

use std::sync::{Arc, Mutex};

use image_core::{Algorithm, BlobSource, Descriptor, Digest, MediaType, MemoryBlob, Reference};
use registry_client::server::Registry;
use registry_client::server::fault::{Action, Fault};
use registry_client::{BlobPush, Client, Event, PushOptions};

use crate::{Image, anonymous, blob, noise, quick, reference};

/// Answers the first `PUT` as a gateway with a limit does, so that the upload goes in pieces.
fn in_pieces() -> Fault {
    Fault::new(Action::Status(413)).method("PUT").path("/blobs/uploads/").times(1)
}

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
    let pieces: Vec<u64> = registry
        .journal()
        .entries()
        .iter()
        .filter(|entry| entry.method == "PATCH")
        .map(|entry| entry.received)
        .collect();
    assert_eq!(pieces, [least, least, 3 << 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn min_chunk_is_enforced_by_the_registry() {
    let registry = Registry::in_memory().min_chunk(6 << 20).listen("127.0.0.1:0").await.unwrap();
    registry.fault(in_pieces());
    // A client that is not told sends pieces of 4 MiB.
    registry.fault(Fault::new(Action::NoHeader("oci-chunk-min-length".to_owned())).method("POST"));
    let data = blob(MediaType::OciEmpty, noise(1, 15 << 20));
    let outcome = anonymous().push_blob(&reference(&registry, "x"), Box::new(data), PushOptions::new()).await;
    assert_eq!(outcome.unwrap_err().status(), Some(400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_are_in_order_and_say_where_they_belong() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
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

#[tokio::test]
async fn warnings_reach_the_user_and_only_once() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let image = Image::new(1, 10);
    let name = reference(&registry, "x:1");
    image.push(&anonymous(), &name).await;
    let text = "299 - \"this is going away\"".to_owned();
    registry.fault(Fault::new(Action::Header("warning".to_owned(), text)).path("/manifests/"));
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let client = Client::builder()
        .loopback_plain_http(true)
        .retry(quick())
        .events(Arc::new(move |event: &Event| {
            if let Event::Warning { text, .. } = event {
                sink.lock().unwrap().push(text.clone());
            }
        }))
        .build()
        .unwrap();
    for _ in 0..3 {
        client.manifest(&name).await.unwrap();
    }
    assert_eq!(*told.lock().unwrap(), ["this is going away"]);
}

#[tokio::test]
async fn filters_that_were_not_applied_are_applied_here() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let client = anonymous();
    let (name, subject) = (reference(&registry, "x:1"), signed(&client, &reference(&registry, "x:1")).await);
    // A registry that does not know the parameter: no header, everything listed.
    registry.fault(Fault::new(Action::NoHeader("oci-filters-applied".to_owned())).path("/referrers/"));
    for (kind, count) in [("application/vnd.example.a", 1), ("application/vnd.example.none", 0)] {
        let found = client.referrers(&name, &subject, Some(kind)).await.unwrap();
        assert_eq!(found.len(), count, "{kind}");
    }
}

/// An image at `name` with referrers of the types `…a` and `…b`.
async fn signed(client: &Client, name: &Reference) -> Digest {
    let image = Image::new(1, 10);
    image.push(client, name).await;
    for kind in ["a", "b"] {
        let mut manifest = image_core::Manifest::oci(image.descriptors().remove(0), Vec::new());
        manifest.artifact_type = Some(format!("application/vnd.example.{kind}"));
        manifest.subject =
            Some(Descriptor::new(MediaType::OciManifest, image.digest, image.manifest.len() as u64));
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let at = name.at_digest(Digest::sha256(&bytes));
        client.push_manifest(&at, &MediaType::OciManifest, bytes.into()).await.unwrap();
    }
    image.digest
}

#[tokio::test]
async fn without_oci_subject_the_referrers_tag_is_kept() {
    let registry = Registry::in_memory().referrers_api(false).listen("127.0.0.1:0").await.unwrap();
    let (client, name) = (anonymous(), reference(&registry, "x:1"));
    let subject = signed(&client, &name).await;
    let tag = name.at_tag(&format!("sha256-{}", subject.hex())).unwrap();
    assert!(client.manifest(&tag).await.unwrap().descriptor.media_type.is_index());
    let found = client.referrers(&name, &subject, None).await.unwrap();
    let kinds: Vec<&str> = found.iter().filter_map(|entry| entry.artifact_type.as_deref()).collect();
    assert_eq!(kinds, ["application/vnd.example.a", "application/vnd.example.b"]);
    signed(&client, &name).await;
    assert_eq!(client.referrers(&name, &subject, None).await.unwrap().len(), 2, "listed once each");
}

#[tokio::test]
async fn with_oci_subject_no_tag_is_made() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, name) = (anonymous(), reference(&registry, "x:1"));
    signed(&client, &name).await;
    assert_eq!(client.tags(&name).await.unwrap(), ["1"]);
}

#[tokio::test]
async fn a_manifest_of_another_type_than_the_header_says_is_refused() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    let index = MediaType::OciIndex.as_str().to_owned();
    registry.fault(Fault::new(Action::Header("content-type".to_owned(), index)).path("/manifests/"));
    assert!(client.manifest(&name).await.unwrap().parse().is_err());
    let to = reference(&registry, "y:1");
    assert!(client.copy(&name, &to, registry_client::CopyOptions::new()).await.is_err());
}

#[tokio::test]
async fn head_without_a_digest_falls_back_to_get() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    let header = "docker-content-digest".to_owned();
    registry.fault(Fault::new(Action::NoHeader(header)).path("/manifests/"));
    assert_eq!(client.head_manifest(&name).await.unwrap().unwrap().digest, image.digest);
}

#[tokio::test]
async fn a_link_to_another_host_is_not_followed() {
    let (registry, other) = (
        Registry::in_memory().listen("127.0.0.1:0").await.unwrap(),
        Registry::in_memory().listen("127.0.0.1:0").await.unwrap(),
    );
    let (client, image) = (anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    let link = format!("<{}/v2/x/tags/list?last=1>; rel=\"next\"", other.url());
    registry.fault(Fault::new(Action::Header("link".to_owned(), link)).path("/tags/list"));
    assert!(client.tags(&name).await.is_err());
    assert!(other.journal().is_empty());
}

#[tokio::test]
async fn a_link_that_leads_back_ends() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    let link = "</v2/x/tags/list>; rel=\"next\"".to_owned();
    registry.fault(Fault::new(Action::Header("link".to_owned(), link)).path("/tags/list"));
    assert!(client.tags(&name).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sha512_blobs_both_ways_in_one_piece_and_in_several() {
    for pieces in [false, true] {
        let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
        if pieces {
            registry.fault(in_pieces());
        }
        let (client, name) = (anonymous(), reference(&registry, "x"));
        let bytes = noise(3, 6 << 20);
        let digest = Digest::of(Algorithm::Sha512, &bytes);
        let descriptor = Descriptor::new(MediaType::OciEmpty, digest, bytes.len() as u64);
        let source = MemoryBlob::new(descriptor.clone(), bytes.clone());
        client.push_blob(&name, Box::new(source), PushOptions::new()).await.unwrap();
        assert_eq!(client.blob_into(&name, &descriptor, Vec::new()).await.unwrap(), bytes);
        let to = reference(&registry, "y");
        let source = MemoryBlob::new(descriptor, bytes);
        let options = PushOptions::new().mount_from(name);
        let pushed = client.push_blob(&to, Box::new(source), options).await.unwrap();
        assert_eq!(pushed, BlobPush::Mounted { from: "x".to_owned() });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_ranges_at_once_give_the_blob_in_order() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let name = reference(&registry, "x");
    let client =
        Client::builder().loopback_plain_http(true).retry(quick()).parallel_ranges(4).build().unwrap();
    let bytes = noise(7, (33 << 20) + 17);
    let data = blob(MediaType::OciEmpty, bytes.clone());
    let descriptor = data.descriptor().clone();
    client.push_blob(&name, Box::new(data), PushOptions::new()).await.unwrap();
    registry.journal().clear();
    registry
        .fault(Fault::new(Action::CutResponse(1_000_000)).method("GET").path("/blobs/").after(2).times(3));
    assert!(client.blob_into(&name, &descriptor, Vec::new()).await.unwrap() == bytes);
    let entries = registry.journal().entries();
    assert!(entries.len() >= 9 && entries.iter().all(|entry| entry.headers.contains_key("range")));
    let sent: u64 = entries.iter().map(|entry| entry.sent).sum();
    assert!(sent as f64 <= 1.02 * bytes.len() as f64, "{sent}");
    registry.fault(Fault::new(Action::Corrupt).method("GET").path("/blobs/").after(3).times(1));
    let outcome = client.blob_into(&name, &descriptor, Vec::new()).await;
    assert!(matches!(outcome, Err(registry_client::Error::DigestMismatch { .. })), "{outcome:?}");
}
