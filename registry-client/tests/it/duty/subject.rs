//! Referrers and their tag: duties 22 to 29.

use image_core::{AnyManifest, Digest, MediaType};
use registry_client::server::Registry;
use registry_client::server::RunningRegistry;
use registry_client::server::fault::{Action, Fault};

use super::{listed, memory, referrer, referrers_tag, signed, without};
use crate::{Image, anonymous, reference};

async fn without_api() -> RunningRegistry {
    Registry::in_memory().referrers_api(false).listen("127.0.0.1:0").await.unwrap()
}

const BOTH: [&str; 2] = ["application/vnd.example.a", "application/vnd.example.b"];

/// "When pushing a manifest with the subject field and the OCI-Subject header was not set, the client MUST" keep the
/// list: with artifact type and annotations, each referrer once.
#[tokio::test]
async fn duty_22_without_oci_subject_the_referrers_tag_is_kept() {
    let (registry, client) = (without_api().await, anonymous());
    let name = reference(&registry, "x:1");
    let [subject, ..] = signed(&client, &name).await;
    let tag = referrers_tag(&name, &subject);
    assert!(client.manifest(&tag).await.unwrap().descriptor.media_type.is_index());
    assert_eq!(listed(&client, &name, &subject).await, BOTH);
    signed(&client, &name).await;
    let found = client.referrers(&name, &subject, None).await.unwrap();
    assert_eq!(found.len(), 2, "listed once each");
    assert_eq!(found[0].annotations["org.example.kind"], "a");

    let registry = memory().await;
    let name = reference(&registry, "x:1");
    let [subject, ..] = signed(&client, &name).await;
    assert_eq!(client.tags(&name).await.unwrap(), ["1"], "with OCI-Subject no tag is made");
    assert_eq!(listed(&client, &name, &subject).await.len(), 2);
    registry.fault(without("oci-subject").method("PUT"));
    signed(&client, &name).await;
    assert_eq!(client.tags(&name).await.unwrap().len(), 2, "the header alone decides");
}

/// "If that pull returns a manifest other than the expected image index, the client SHOULD report a failure and skip
/// the remaining steps."
#[tokio::test]
async fn duty_23_something_else_under_the_referrers_tag_is_a_failure() {
    let (registry, client, image) = (without_api().await, anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    let tag = referrers_tag(&name, &image.digest);
    image.push(&client, &tag).await;
    let (digest, bytes) = referrer(&image, "a");
    let pushed = client.push_manifest(&name.at_digest(digest), &MediaType::OciManifest, bytes.into()).await;
    assert!(matches!(pushed, Err(registry_client::Error::Unsupported { .. })), "{pushed:?}");
    assert_eq!(client.manifest(&tag).await.unwrap().bytes, image.manifest, "what was there stays");
}

/// "If the tag returns a 404, the client MUST begin with an empty image index."
#[tokio::test]
async fn duty_24_the_list_begins_empty() {
    let (registry, client, image) = (without_api().await, anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    let (digest, bytes) = referrer(&image, "a");
    client.push_manifest(&name.at_digest(digest), &MediaType::OciManifest, bytes.into()).await.unwrap();
    let list = client.manifest(&referrers_tag(&name, &image.digest)).await.unwrap();
    let AnyManifest::Index(index) = list.parse().unwrap() else { panic!("no index") };
    let digests: Vec<Digest> = index.value().manifests.iter().map(|entry| entry.digest).collect();
    assert_eq!(digests, [digest]);
    // Any other answer than 404 is no reason to begin anew.
    registry.fault(Fault::new(Action::Status(403)).method("GET").path("/manifests/sha256-"));
    let (digest, bytes) = referrer(&image, "b");
    let pushed = client.push_manifest(&name.at_digest(digest), &MediaType::OciManifest, bytes.into()).await;
    assert_eq!(pushed.unwrap_err().status(), Some(403));
    registry.clear_faults();
    assert_eq!(listed(&client, &name, &image.digest).await, BOTH[..1]);
}

/// "The client MAY use conditional HTTP requests to prevent overwriting a referrers list that has changed since it was
/// first pulled."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duty_25_two_clients_do_not_overwrite_each_others_lists() {
    let (registry, image) = (without_api().await, Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&anonymous(), &name).await;
    let mut tasks = tokio::task::JoinSet::new();
    for client_number in 0..2 {
        let (client, name) = (anonymous(), name.clone());
        let referrers: Vec<_> =
            (0..6).map(|number| referrer(&image, &format!("c{client_number}-{number}"))).collect();
        tasks.spawn(async move {
            for (digest, bytes) in referrers {
                let at = name.at_digest(digest);
                client.push_manifest(&at, &MediaType::OciManifest, bytes.into()).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(listed(&anonymous(), &name, &image.digest).await.len(), 12);
    let entries = registry.journal().entries();
    let changes =
        entries.iter().filter(|entry| entry.method == "PUT" && entry.path.contains("/manifests/sha256-"));
    for change in changes {
        assert!(change.headers.contains_key("if-match") || change.headers.contains_key("if-none-match"));
    }
}

/// "If the referrers API returns a 404, the client MUST fallback to pulling the referrers tag schema."
#[tokio::test]
async fn duty_26_a_404_of_the_referrers_api_leads_to_the_tag() {
    let (registry, client) = (without_api().await, anonymous());
    let name = reference(&registry, "x:1");
    let [subject, ..] = signed(&client, &name).await;
    registry.journal().clear();
    assert_eq!(listed(&client, &name, &subject).await, BOTH);
    let entries = registry.journal().entries();
    let asked: Vec<(&str, u16)> =
        entries.iter().map(|entry| (entry.path.split('/').nth(3).unwrap(), entry.status)).collect();
    assert_eq!(asked, [("referrers", 404), ("manifests", 200)]);
    // With the API, the tag is not asked for; filters that were not applied are applied here.
    let registry = memory().await;
    let name = reference(&registry, "x:1");
    signed(&client, &name).await;
    registry.fault(without("oci-filters-applied").path("/referrers/"));
    for (kind, count) in [("application/vnd.example.a", 1), ("application/vnd.example.none", 0)] {
        assert_eq!(client.referrers(&name, &subject, Some(kind)).await.unwrap().len(), count, "{kind}");
    }
    assert!(!registry.journal().entries().iter().any(|entry| entry.path.contains("/manifests/sha256-")));
}

/// "If the response to the referrers API is a 404, and the tag schema does not return a valid image index, the client
/// SHOULD assume there are no referrers to the manifest."
#[tokio::test]
async fn duty_27_neither_api_nor_tag_means_none() {
    let (registry, client, image) = (without_api().await, anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    assert_eq!(client.referrers(&name, &image.digest, None).await.unwrap(), []);
    image.push(&client, &referrers_tag(&name, &image.digest)).await;
    assert_eq!(client.referrers(&name, &image.digest, None).await.unwrap(), [], "an image is no list");
    for status in [401, 403, 429, 500, 503] {
        for path in ["/referrers/", "/manifests/sha256-"] {
            registry.clear_faults();
            registry.fault(Fault::new(Action::Status(status)).path(path));
            let outcome = client.referrers(&name, &image.digest, None).await;
            assert!(outcome.is_err(), "{status} of {path} says nothing about referrers");
        }
    }
}

/// "When deleting an image manifest that contains a subject field, and the referrers API returns a 404, clients SHOULD"
/// remove it from the list.
#[tokio::test]
async fn duty_28_a_deleted_referrer_goes_from_the_list() {
    let (registry, client) = (without_api().await, anonymous());
    let name = reference(&registry, "x:1");
    let [subject, first, second] = signed(&client, &name).await;
    assert!(client.delete_manifest(&name.at_digest(first)).await.unwrap());
    assert_eq!(listed(&client, &name, &subject).await, BOTH[1..]);
    assert!(!client.delete_manifest(&name.at_digest(first)).await.unwrap(), "it is gone");
    assert!(client.delete_manifest(&name.at_digest(second)).await.unwrap());
    assert_eq!(listed(&client, &name, &subject).await, Vec::<String>::new());
    // With the API there is nothing to keep.
    let registry = memory().await;
    let name = reference(&registry, "x:1");
    let [subject, first, _] = signed(&client, &name).await;
    registry.journal().clear();
    assert!(client.delete_manifest(&name.at_digest(first)).await.unwrap());
    assert!(!registry.journal().entries().iter().any(|entry| entry.method == "PUT"));
    assert_eq!(listed(&client, &name, &subject).await, BOTH[1..]);
}

/// "When deleting a manifest that has an associated referrers tag schema, clients MAY also delete the referrers tag
/// when it returns a valid image index."
#[tokio::test]
async fn duty_29_the_referrers_tag_of_a_deleted_manifest_can_be_deleted() {
    let (registry, client) = (without_api().await, anonymous());
    let name = reference(&registry, "x:1");
    let [subject, ..] = signed(&client, &name).await;
    assert!(client.delete_manifest(&name.at_digest(subject)).await.unwrap());
    assert!(client.delete_referrers_tag(&name, &subject).await.unwrap());
    assert!(!client.delete_referrers_tag(&name, &subject).await.unwrap());
    assert_eq!(client.tags(&name).await.unwrap(), Vec::<String>::new());
    let image = Image::new(1, 10);
    image.push(&client, &name).await;
    image.push(&client, &referrers_tag(&name, &image.digest)).await;
    assert!(client.delete_referrers_tag(&name, &image.digest).await.is_err(), "that is an image, not a list");
    assert_eq!(client.tags(&name).await.unwrap().len(), 2);
}
