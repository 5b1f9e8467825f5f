//! Pulls: duties 1 to 9.

use image_core::{Algorithm, BlobSource, Descriptor, Digest, MediaType, MemoryBlob};
use registry_client::server::fault::{Action, Fault};
use registry_client::{Error, PushOptions};

use super::{header, memory, without};
use crate::{Image, anonymous, noise, reference};

/// "these headers are OPTIONAL and clients SHOULD NOT depend on them"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duty_01_headers_of_docker_are_not_needed() {
    for name in ["docker-distribution-api-version", "docker-content-digest", "docker-upload-uuid"] {
        let registry = memory().await;
        registry.fault(without(name));
        let (client, image) = (anonymous(), Image::new(2, 1000));
        let at = reference(&registry, "x:1");
        image.push(&client, &at).await;
        image.check(&client, &at).await;
        assert_eq!(client.head_manifest(&at).await.unwrap().unwrap().digest, image.digest, "{name}");
    }
}

/// "These error codes are OPTIONAL and clients SHOULD NOT depend on them."
#[tokio::test]
async fn duty_02_error_codes_of_schema_1_are_not_needed() {
    for code in ["TAG_INVALID", "MANIFEST_UNVERIFIED", "SOMETHING_NEW", ""] {
        let registry = memory().await;
        let body = format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#);
        registry.fault(Fault::new(Action::Json(404, body)).path("/manifests/"));
        let (client, name) = (anonymous(), reference(&registry, "x:1"));
        assert!(client.manifest(&name).await.unwrap_err().is_not_found(), "the status decides: {code}");
        assert_eq!(client.head_manifest(&name).await.unwrap(), None);
        registry.clear_faults();
        let body = format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#);
        registry.fault(Fault::new(Action::Json(400, body)).path("/manifests/"));
        assert_eq!(client.manifest(&name).await.unwrap_err().code(), Some(code));
    }
}

/// "The client SHOULD include an Accept header indicating which manifest content types it supports."
#[tokio::test]
async fn duty_03_accept_names_what_can_be_read() {
    let (registry, client, image) = (memory().await, anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    registry.journal().clear();
    client.manifest(&name).await.unwrap();
    client.head_manifest(&name).await.unwrap();
    client.manifest(&name.at_digest(image.digest)).await.unwrap();
    let entries = registry.journal().entries();
    assert_eq!(entries.len(), 3);
    for entry in entries {
        for kind in [
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.docker.distribution.manifest.list.v2+json",
            "application/vnd.docker.distribution.manifest.v2+json",
        ] {
            assert!(entry.headers["accept"].contains(kind), "{entry:?}");
        }
    }
}

/// "The client SHOULD ignore parameters on the Content-Type header."
#[tokio::test]
async fn duty_04_parameters_of_the_content_type_are_ignored() {
    let (registry, client, image) = (memory().await, anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    let value = format!("{}; charset=utf-8", MediaType::OciManifest.as_str());
    registry.fault(header("content-type", &value).path("/manifests/"));
    let fetched = client.manifest(&name).await.unwrap();
    assert_eq!(fetched.media_type, MediaType::OciManifest);
    assert!(fetched.parse().is_ok());
    assert_eq!(client.head_manifest(&name).await.unwrap().unwrap().media_type, MediaType::OciManifest);
}

/// "clients SHOULD reject unless the mediaType field's value matches the type specified by the Content-Type header"
#[tokio::test]
async fn duty_05_another_type_than_the_header_says_is_refused() {
    let (registry, client, image) = (memory().await, anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    registry.fault(header("content-type", MediaType::OciIndex.as_str()).path("/manifests/"));
    assert!(client.manifest(&name).await.unwrap().parse().is_err());
    let to = reference(&registry, "y:1");
    assert!(client.copy(&name, &to, registry_client::CopyOptions::new()).await.is_err());
}

/// "if it is used, the client MUST verify the value matches the returned manifest"
#[tokio::test]
async fn duty_06_the_stated_digest_of_a_manifest_is_verified() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let (registry, client, image) = (memory().await, anonymous(), Image::new(1, 10));
        let name = reference(&registry, "x:1");
        image.push(&client, &name).await;
        let lie = Digest::of(algorithm, b"something else").to_string();
        registry.fault(header("docker-content-digest", &lie).path("/manifests/"));
        for at in [name.clone(), name.at_digest(image.digest)] {
            let outcome = client.manifest(&at).await;
            assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "{at}: {outcome:?}");
        }
        let head = client.head_manifest(&name.at_digest(image.digest)).await;
        assert!(matches!(head, Err(Error::DigestMismatch { .. })) || algorithm == Algorithm::Sha512);
    }
}

/// "If the <tag-or-digest> part of a manifest request is a digest, clients SHOULD verify the returned manifest matches
/// this digest."
#[tokio::test]
async fn duty_07_a_manifest_is_the_one_of_the_digest() {
    let (registry, client) = (memory().await, anonymous());
    let (wanted, other) = (Image::new(1, 10), Image::new(2, 10));
    let name = reference(&registry, "x:1");
    wanted.push(&client, &name).await;
    other.push(&client, &name.at_tag("2").unwrap()).await;
    let target = format!("/v2/x/manifests/{}", other.digest);
    let path = format!("/manifests/{}", wanted.digest);
    registry.fault(Fault::new(Action::Redirect(307, target)).path(&path));
    let outcome = client.manifest(&name.at_digest(wanted.digest)).await;
    assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "{outcome:?}");
}

/// "Most clients MAY ignore the value, but if it is used, the client MUST verify the value matches the returned
/// response body." It is not used: the digest that was asked for is what counts.
#[tokio::test]
async fn duty_08_the_stated_digest_of_a_blob_is_not_believed() {
    let (registry, client, image) = (memory().await, anonymous(), Image::new(1, 1000));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    let (layer, other) = (image.descriptors().remove(1), Digest::sha256(b"other"));
    registry.fault(header("docker-content-digest", &other.to_string()).path("/blobs/"));
    let got = client.blob_into(&name, &layer, Vec::new()).await.unwrap();
    assert_eq!(Digest::sha256(&got), layer.digest);
    // A right header over wrong bytes helps nothing.
    registry.clear_faults();
    registry.fault(Fault::new(Action::Corrupt).method("GET").path("/blobs/"));
    assert!(client.blob_into(&name, &layer, Vec::new()).await.is_err());
}

/// "Clients SHOULD verify that the response body matches the requested digest."
#[tokio::test]
async fn duty_09_a_blob_is_the_one_of_the_digest() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
        let (registry, client, bytes) = (memory().await, anonymous(), noise(7, 100_000));
        let name = reference(&registry, "x");
        let digest = Digest::of(algorithm, &bytes);
        let descriptor = Descriptor::new(MediaType::OciEmpty, digest, bytes.len() as u64);
        let source = MemoryBlob::new(descriptor.clone(), bytes.clone());
        assert_eq!(source.descriptor().digest, digest);
        client.push_blob(&name, Box::new(source), PushOptions::new()).await.unwrap();
        assert_eq!(client.blob_into(&name, &descriptor, Vec::new()).await.unwrap(), bytes);
        registry.fault(Fault::new(Action::Corrupt).method("GET").path("/blobs/"));
        let outcome = client.blob_into(&name, &descriptor, Vec::new()).await;
        assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "{algorithm:?}: {outcome:?}");
        let mut stream = client.blob(&name, &descriptor).await.unwrap();
        let outcome = loop {
            match stream.next_chunk().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "{algorithm:?}: {outcome:?}");
    }
}
