//! Mirrors: asked in order, verified, and strangers to the registry's credentials.

use std::sync::{Arc, Mutex};

use image_core::{BlobSink, BlobSource, Digest, MediaType, Reference};
use registry_client::credential::{Credentials, FixedCredentials};
use registry_client::hosts::{HostRule, HostRules, Mirror, MirrorUse};
use registry_client::server::fault::{Action, Fault};
use registry_client::server::{Registry, RunningRegistry};
use registry_client::{Client, ClientBuilder, CopyOptions, Error, Event, PushOptions};

use crate::{CANARY, Image, USER, anonymous, blob, noise, quick, reference};

pub(crate) async fn memory() -> RunningRegistry {
    Registry::in_memory().listen("127.0.0.1:0").await.unwrap()
}

fn builder() -> ClientBuilder {
    Client::builder().loopback_plain_http(true).retry(quick())
}

fn at(registry: &RunningRegistry, path: &str) -> Mirror {
    Mirror::at(&format!("{}{path}", registry.addr())).unwrap()
}

fn ruled(rule: HostRule) -> Client {
    builder().hosts(HostRules::new().with(rule)).build().unwrap()
}

/// An address at which nobody answers.
async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The manifest requests that a registry has seen, as `METHOD PATH STATUS`.
pub(crate) fn manifests(registry: &RunningRegistry) -> Vec<String> {
    let entries = registry.journal().entries();
    let about = entries.iter().filter(|entry| entry.path.contains("/manifests/"));
    about.map(|entry| format!("{} {} {}", entry.method, entry.path, entry.status)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_is_down_and_the_second_answers() {
    let (origin, mirror, image) = (memory().await, memory().await, Image::new(5, 10_000));
    image.push(&anonymous(), &reference(&mirror, "x:1")).await;
    let rule = HostRule::new(origin.addr().to_string())
        .mirror(Mirror::at(&nobody().await).unwrap())
        .mirror(at(&mirror, ""));
    let told = Arc::new(Mutex::new(0));
    let sink = Arc::clone(&told);
    let count = move |event: &Event| {
        *sink.lock().unwrap() += u32::from(matches!(event, Event::MirrorPassedOver { .. }));
    };
    let client = builder().hosts(HostRules::new().with(rule)).events(Arc::new(count)).build().unwrap();
    mirror.journal().clear();
    image.check(&client, &reference(&origin, "x:1")).await;
    assert_eq!(mirror.journal().len(), 7, "manifest, config, five layers");
    assert!(origin.journal().is_empty(), "nothing was left to ask of the registry");
    assert_eq!(*told.lock().unwrap(), 1, "a mirror that is down is asked once, not for each blob");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_mirror_does_not_have_the_registry_has() {
    let (origin, mirror, image) = (memory().await, memory().await, Image::new(2, 10_000));
    image.push(&anonymous(), &reference(&origin, "x:1")).await;
    // One of the layers is in the mirror.
    let part = Box::new(image.blobs[1].clone());
    anonymous().push_blob(&reference(&mirror, "hub/x"), part, PushOptions::new()).await.unwrap();
    let client = ruled(HostRule::new(origin.addr().to_string()).mirror(at(&mirror, "/hub")));
    origin.journal().clear();
    mirror.journal().clear();
    image.check(&client, &reference(&origin, "x:1")).await;
    assert_eq!(manifests(&mirror), ["GET /v2/hub/x/manifests/1 404"]);
    assert_eq!(origin.journal().len(), 3, "the manifest, the config and the other layer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_that_pass_a_mirror_over() {
    for status in [400, 401, 403, 404, 429, 500, 503] {
        let (origin, mirror, image) = (memory().await, memory().await, Image::new(1, 1000));
        image.push(&anonymous(), &reference(&origin, "x:1")).await;
        mirror.fault(Fault::new(Action::Answer(status, vec![("retry-after".into(), "30".into())])));
        let client = ruled(HostRule::new(origin.addr().to_string()).mirror(at(&mirror, "")));
        image.check(&client, &reference(&origin, "x:1")).await;
        assert_eq!(mirror.journal().len(), 3, "{status}: asked once each, waited for never");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_mirror_sends_is_verified() {
    let (origin, mirror, image) = (memory().await, memory().await, Image::new(1, 100_000));
    for registry in [&origin, &mirror] {
        image.push(&anonymous(), &reference(registry, "x:1")).await;
    }
    mirror.fault(Fault::new(Action::Corrupt).method("GET"));
    let client = ruled(HostRule::new(origin.addr().to_string()).mirror(at(&mirror, "")));
    let name = reference(&origin, "x:1");
    let fetched = client.manifest(&name.at_digest(image.digest)).await.unwrap();
    assert!(fetched.bytes == image.manifest && fetched.request.url().starts_with(&origin.url()));
    let layer = image.descriptors().remove(1);
    // A mirror that lies is no reason to fail: the registry has the blob.
    let got = client.blob_into(&name, &layer, Vec::new()).await.unwrap();
    assert_eq!(Digest::sha256(&got), layer.digest);
    // So it is with one that sends more than there is, and with the parts of a large one.
    let long = noise(9, 20 << 20);
    let data = blob(MediaType::OciEmpty, long.clone());
    for registry in [&origin, &mirror] {
        let name = reference(registry, "x");
        anonymous().push_blob(&name, Box::new(data.clone()), PushOptions::new()).await.unwrap();
    }
    let rule = HostRule::new(origin.addr().to_string()).mirror(at(&mirror, ""));
    let parts = builder().hosts(HostRules::new().with(rule)).parallel_ranges(4).build().unwrap();
    for client in [&client, &parts] {
        let got = client.blob_into(&name, data.descriptor(), Vec::new()).await.unwrap();
        assert!(got == long);
    }
    // Nobody is asked twice, and where both lie it is an error.
    origin.fault(Fault::new(Action::Corrupt).method("GET"));
    let outcome = client.blob_into(&name, &layer, Vec::new()).await;
    assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "{outcome:?}");
    // Bytes that somebody has seen already cannot be taken back.
    origin.clear_faults();
    let outcome = client.blob_into(&name, &layer, Seen).await;
    assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "the sink cannot begin anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_asks_elsewhere_for_what_a_mirror_sends_wrong() {
    let (origin, mirror, other, target) = (memory().await, memory().await, memory().await, memory().await);
    let image = Image::new(3, 300_000);
    for registry in [&origin, &mirror, &other] {
        image.push(&anonymous(), &reference(registry, "x:1")).await;
    }
    for liar in [&mirror, &other] {
        liar.fault(Fault::new(Action::Corrupt).method("GET").path("/blobs/"));
    }
    let rule = HostRule::new(origin.addr().to_string()).mirror(at(&mirror, "")).mirror(at(&other, ""));
    let client = ruled(rule);
    let (from, to) = (reference(&origin, "x:1"), reference(&target, "y:1"));
    let report = client.copy(&from, &to, CopyOptions::new()).await.unwrap();
    assert_eq!((report.descriptor.digest, report.blobs.len()), (image.digest, 4));
    image.check(&anonymous(), &to).await;
    // Where all of them lie it is an error, and nothing has a name.
    origin.fault(Fault::new(Action::Corrupt).method("GET").path("/blobs/"));
    let to = reference(&target, "z:1");
    let error = client.copy(&from, &to, CopyOptions::new()).await.unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(matches!(error, Error::BlobRead { .. }) && cause.contains("sha256:"), "{error}: {cause}");
    assert!(anonymous().manifest(&to).await.is_err());
}

/// A sink that cannot begin anew.
#[derive(Debug)]
struct Seen;

impl BlobSink for Seen {
    fn write(&mut self, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_fails_in_the_middle_of_a_blob() {
    let (origin, mirror) = (memory().await, memory().await);
    let bytes = noise(3, 8 << 20);
    let data = blob(MediaType::OciEmpty, bytes.clone());
    let descriptor = data.descriptor().clone();
    for registry in [&origin, &mirror] {
        let name = reference(registry, "x");
        anonymous().push_blob(&name, Box::new(data.clone()), PushOptions::new()).await.unwrap();
    }
    mirror.fault(Fault::new(Action::CutResponse(3_000_000)).method("GET").times(1));
    mirror.fault(Fault::new(Action::Status(404)).method("GET"));
    let client = ruled(HostRule::new(origin.addr().to_string()).mirror(at(&mirror, "")));
    origin.journal().clear();
    let got = client.blob_into(&reference(&origin, "x"), &descriptor, Vec::new()).await.unwrap();
    assert!(got == bytes);
    let rest = origin.journal().entries().remove(0);
    assert!(rest.headers["range"].starts_with("bytes=") && rest.sent < 6 << 20, "{rest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registrys_credentials_never_go_to_a_mirror() {
    let origin = Registry::in_memory().basic_auth(USER, CANARY).listen("127.0.0.1:0").await.unwrap();
    let challenging = Registry::in_memory().basic_auth(USER, CANARY).listen("127.0.0.1:0").await.unwrap();
    let open = memory().await;
    let image = Image::new(2, 1000);
    let login = FixedCredentials::new().with(origin.addr().to_string(), Credentials::basic(USER, CANARY));
    let rule = HostRule::new(origin.addr().to_string())
        .mirror(at(&challenging, "").namespace(true))
        .mirror(at(&open, "").namespace(true));
    let builder = builder().credentials(Arc::new(login)).hosts(HostRules::new().with(rule));
    let client = builder.build().unwrap();
    image.push(&client, &reference(&origin, "x:1")).await;
    for registry in [&challenging, &open] {
        assert!(registry.journal().is_empty(), "a push is the registry's alone");
    }
    image.check(&client, &reference(&origin, "x:1")).await;
    for registry in [&challenging, &open] {
        let entries = registry.journal().entries();
        assert!(!entries.is_empty() && entries.iter().all(|entry| entry.authorization.is_none()));
        assert!(!format!("{entries:?}").contains(CANARY));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_has_credentials_of_its_own() {
    let origin = memory().await;
    let mirror = Registry::in_memory().bearer_auth("other", "its-own").listen("127.0.0.1:0").await.unwrap();
    let login =
        FixedCredentials::new().with(mirror.addr().to_string(), Credentials::basic("other", "its-own"));
    let rule = HostRule::new(origin.addr().to_string()).mirror(at(&mirror, "/cache"));
    let client = builder().credentials(Arc::new(login)).hosts(HostRules::new().with(rule)).build().unwrap();
    let image = Image::new(2, 1000);
    image.push(&client, &reference(&mirror, "cache/x:1")).await;
    image.check(&client, &reference(&origin, "x:1")).await;
    assert!(origin.journal().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_for_digests_is_not_asked_for_tags() {
    let (origin, mirror, image) = (memory().await, memory().await, Image::new(2, 1000));
    let old = Image::new(1, 10);
    image.push(&anonymous(), &reference(&origin, "x:1")).await;
    image.push(&anonymous(), &reference(&mirror, "x:2")).await;
    old.push(&anonymous(), &reference(&mirror, "x:1")).await;
    let name = reference(&origin, "x:1");
    for (usage, tag_at_mirror, digest_at_mirror) in [
        (MirrorUse::All, true, true),
        (MirrorUse::DigestOnly, false, true),
        (MirrorUse::TagOnly, true, false),
        (MirrorUse::ResolveOnly, true, false),
    ] {
        let rule = HostRule::new(origin.addr().to_string()).mirror(at(&mirror, "").used_for(usage));
        let client = ruled(rule);
        let tagged = client.manifest(&name).await.unwrap();
        assert_eq!(tagged.descriptor.digest == old.digest, tag_at_mirror, "{usage:?}");
        let fetched = client.manifest(&name.at_digest(image.digest)).await.unwrap();
        assert_eq!(fetched.request.url().starts_with(&mirror.url()), digest_at_mirror, "{usage:?}");
        mirror.journal().clear();
        client.blob_into(&name, &image.descriptors()[1], Vec::new()).await.unwrap();
        assert_eq!(mirror.journal().is_empty(), usage == MirrorUse::ResolveOnly, "{usage:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_that_replace_the_registry() {
    let (origin, mirror, image) = (memory().await, memory().await, Image::new(1, 1000));
    image.push(&anonymous(), &reference(&origin, "x:1")).await;
    let rule = HostRule::new(origin.addr().to_string()).mirror(at(&mirror, "")).replace(true);
    let client = ruled(rule);
    origin.journal().clear();
    assert!(client.manifest(&reference(&origin, "x:1")).await.unwrap_err().is_not_found());
    assert_eq!(client.head_manifest(&reference(&origin, "x:1")).await.unwrap(), None);
    assert!(origin.journal().is_empty());
    assert!(client.head_manifest_at_origin(&reference(&origin, "x:1")).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_is_not_fooled_by_what_mirrors_have() {
    let (origin, mirror, image) = (memory().await, memory().await, Image::new(2, 1000));
    image.push(&anonymous(), &reference(&mirror, "x:1")).await;
    let client = ruled(HostRule::new(origin.addr().to_string()).mirror(at(&mirror, "")));
    let blobs = image.blobs.iter().map(|blob| Box::new(blob.clone()) as Box<dyn BlobSource>).collect();
    let name = reference(&origin, "x:1");
    mirror.journal().clear();
    client
        .push_image(&name, &MediaType::OciManifest, image.manifest.clone(), blobs, PushOptions::new())
        .await
        .unwrap();
    assert!(mirror.journal().is_empty());
    image.check(&anonymous(), &name).await;
}

#[tokio::test]
async fn what_is_blocked_goes_neither_way() {
    let (origin, image) = (memory().await, Image::new(1, 10));
    let client = ruled(HostRule::new(format!("{}/evil", origin.addr())).blocked(true));
    let name = reference(&origin, "evil/x:1");
    let data = Box::new(image.blobs[0].clone());
    let outcomes = [
        client.manifest(&name).await.map(drop),
        client.head_manifest(&name).await.map(drop),
        client.blob_into(&name, &image.descriptors()[0], Vec::new()).await.map(drop),
        client.push_blob(&name, data, PushOptions::new()).await.map(drop),
        client.tags(&name).await.map(drop),
    ];
    for outcome in outcomes {
        assert!(matches!(outcome, Err(Error::Blocked { .. })), "{outcome:?}");
    }
    assert!(origin.journal().is_empty());
    image.push(&client, &reference(&origin, "good/x:1")).await;
}

#[tokio::test]
async fn headers_of_a_mirror_stay_with_it() {
    let (origin, mirror, storage) = (memory().await, memory().await, memory().await);
    let image = Image::new(1, 1000);
    for registry in [&mirror, &storage] {
        image.push(&anonymous(), &reference(registry, "x:1")).await;
    }
    let layer = image.descriptors().remove(1);
    let target = format!("{}/v2/x/blobs/{}", storage.url(), layer.digest);
    mirror.fault(Fault::new(Action::Redirect(307, target)).path("/blobs/"));
    let secret = at(&mirror, "").header("X-Key", CANARY).unwrap();
    let client = ruled(HostRule::new(origin.addr().to_string()).mirror(secret));
    mirror.journal().clear();
    storage.journal().clear();
    client.blob_into(&reference(&origin, "x:1"), &layer, Vec::new()).await.unwrap();
    assert_eq!(mirror.journal().entries()[0].headers["x-key"], CANARY);
    assert!(!storage.journal().is_empty() && !format!("{:?}", storage.journal().entries()).contains(CANARY));
}

#[tokio::test]
async fn insecure_finds_out_that_it_is_plain() {
    let (registry, image) = (memory().await, Image::new(1, 10));
    // Without permission, nothing is said in the clear; with it, https is tried first.
    let strict = Client::builder().retry(quick()).build().unwrap();
    assert!(strict.manifest(&reference(&registry, "x:1")).await.is_err());
    assert!(registry.journal().is_empty());
    let rules = HostRules::new().with(HostRule::new(registry.addr().to_string()).insecure(true));
    let client = Client::builder().retry(quick()).hosts(rules).build().unwrap();
    image.push(&client, &reference(&registry, "x:1")).await;
    image.check(&client, &reference(&registry, "x:1")).await;
    let named = HostRule::new("r.example").location(at(&registry, "").insecure(true));
    let client = Client::builder().retry(quick()).hosts(HostRules::new().with(named)).build().unwrap();
    image.check(&client, &Reference::parse("r.example/x:1").unwrap()).await;
}

#[tokio::test]
async fn an_insecure_server_that_comes_later_is_found() {
    let address = nobody().await;
    let rules = HostRules::new().with(HostRule::new(&address).insecure(true));
    let client = Client::builder().retry(quick()).hosts(rules).build().unwrap();
    let name = Reference::parse(&format!("{address}/x:1")).unwrap();
    assert!(client.manifest(&name).await.is_err());
    let registry = Registry::in_memory().listen(&address).await.unwrap();
    let image = Image::new(1, 10);
    image.push(&client, &name).await;
    image.check(&client, &name).await;
    registry.shutdown().await;
}

#[tokio::test]
async fn whoever_is_asked_for_https_first_gets_no_headers_for_that() {
    let (origin, mirror, image) = (memory().await, memory().await, Image::new(1, 10));
    image.push(&anonymous(), &reference(&mirror, "x:1")).await;
    mirror.journal().clear();
    let secret = at(&mirror, "").insecure(true).header("X-Key", CANARY).unwrap();
    image
        .check(&ruled(HostRule::new(origin.addr().to_string()).mirror(secret)), &reference(&origin, "x:1"))
        .await;
    let entries = mirror.journal().entries();
    assert_eq!((entries[0].path.as_str(), entries[0].headers.get("x-key")), ("/v2/", None));
    assert!(
        entries.len() == 4 && entries[1..].iter().all(|entry| entry.headers["x-key"] == CANARY),
        "{entries:?}"
    );
}
