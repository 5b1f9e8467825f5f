//! Hosts, redirects, errors and warnings: duties 30 to 38. The rules for `Link` are in `leak`.

use std::sync::Arc;

use image_core::{BlobSource, MediaType, Reference};
use registry_client::credential::{Credentials, FixedCredentials};
use registry_client::hosts::{HostRule, HostRules, Mirror};
use registry_client::server::Registry;
use registry_client::server::fault::{Action, Fault};
use registry_client::{BlobPush, Client, CopyOptions, Error, Event, PushOptions};

use super::{header, in_pieces, listening, memory, without};
use crate::{CANARY, Image, USER, anonymous, blob, noise, quick, reference};

fn ruled(rule: HostRule) -> Client {
    let builder = Client::builder().loopback_plain_http(true).retry(quick());
    builder.hosts(HostRules::new().with(rule)).build().unwrap()
}

fn named() -> Reference {
    Reference::parse("registry.example/x:1").unwrap()
}

/// "a client MAY be configured to use a different host"
#[tokio::test]
async fn duty_30_another_host_can_be_configured() {
    let (registry, image) = (memory().await, Image::new(1, 10));
    let server = Mirror::at(&registry.addr().to_string()).unwrap();
    let client = ruled(HostRule::new("registry.example").server(server));
    image.push(&client, &named()).await;
    image.check(&client, &named()).await;
    image.check(&anonymous(), &reference(&registry, "x:1")).await;
}

/// "A client SHOULD be aware of whether a registry host is a proxy, such as when the ns query parameter differs from
/// the Host header."
#[tokio::test]
async fn duty_31_a_proxy_is_told_which_registry_is_meant() {
    let (proxy, image) = (memory().await, Image::new(1, 10));
    image.push(&anonymous(), &reference(&proxy, "x:1")).await;
    let mirror = Mirror::at(&proxy.addr().to_string()).unwrap().namespace(true);
    let client = ruled(HostRule::new("registry.example").mirror(mirror).replace(true));
    proxy.journal().clear();
    image.check(&client, &named()).await;
    let entries = proxy.journal().entries();
    assert_eq!(entries.len(), 3);
    assert!(entries.iter().all(|entry| entry.query.as_deref() == Some("ns=registry.example")), "{entries:?}");
}

/// "A client SHOULD avoid sending ns query parameters to non-proxy registries."
#[tokio::test]
async fn duty_32_no_other_registry_is_told() {
    let (registry, proxy, image) = (memory().await, memory().await, Image::new(1, 10));
    let mirror = Mirror::at(&proxy.addr().to_string()).unwrap().namespace(true);
    let client = ruled(HostRule::new(registry.addr().to_string()).mirror(mirror));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    image.check(&client, &name).await;
    client.tags(&name).await.unwrap();
    client.referrers(&name, &image.digest, None).await.unwrap();
    assert!(!proxy.journal().is_empty() && !registry.journal().is_empty());
    for entry in registry.journal().entries() {
        assert!(!entry.query.unwrap_or_default().contains("ns="));
    }
}

/// "Client implementations MUST support registries that implement partial or older versions of the OCI Distribution
/// Spec."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duty_33_older_and_partial_registries() {
    let lacks: [(&str, Fault); 8] = [
        ("HEAD of manifests", Fault::new(Action::Status(405)).method("HEAD").path("/manifests/")),
        ("digest headers", without("docker-content-digest")),
        ("lengths of HEAD", without("content-length").method("HEAD")),
        (
            "the type of manifests",
            header("content-type", "application/json").method("GET").path("/manifests/"),
        ),
        ("mounts", Fault::new(Action::Status(405)).method("POST").times(1)),
        ("the referrers API", Fault::new(Action::Status(404)).path("/referrers/")),
        (
            "the referrers API, with a page",
            Fault::new(Action::Json(200, "{}".to_owned())).path("/referrers/"),
        ),
        ("entity tags", without("etag")),
    ];
    for (what, fault) in lacks {
        let (registry, client, image) = (memory().await, anonymous(), Image::new(2, 1000));
        let (name, to) = (reference(&registry, "x:1"), reference(&registry, "y:1"));
        image.push(&client, &name).await;
        registry.fault(fault);
        image.check(&client, &name).await;
        assert_eq!(client.head_manifest(&name).await.unwrap().unwrap().digest, image.digest, "{what}");
        assert_eq!(client.referrers(&name, &image.digest, None).await.unwrap(), [], "{what}");
        client.copy(&name, &to, CopyOptions::new()).await.unwrap();
        image.check(&client, &to).await;
    }
    // Ranges of uploads, which only an upload in pieces has.
    let (registry, client) = (memory().await, anonymous());
    registry.fault(in_pieces());
    registry.fault(without("range").method("PATCH"));
    let data = blob(MediaType::OciEmpty, noise(1, 9 << 20));
    let (name, descriptor) = (reference(&registry, "x"), data.descriptor().clone());
    client.push_blob(&name, Box::new(data), PushOptions::new()).await.unwrap();
    assert!(client.blob_exists(&name, &descriptor).await.unwrap());
    assert_eq!(registry.journal().entries().iter().filter(|entry| entry.method == "PATCH").count(), 3);
    let registry = Registry::in_memory().deletes(false).listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (anonymous(), Image::new(1, 10));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    assert!(matches!(client.delete_manifest(&name).await, Err(Error::Unsupported { .. })));
}

/// "clients SHOULD follow such redirects, and MUST NOT forward Authorization headers across host boundaries"
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duty_34_redirects_are_followed_without_credentials() {
    let home = Registry::in_memory().basic_auth(USER, CANARY).listen("127.0.0.1:0").await.unwrap();
    let (other, image) = (memory().await, Image::new(1, 1000));
    image.push(&anonymous(), &reference(&other, "x:1")).await;
    let login = FixedCredentials::new().with(home.addr().to_string(), Credentials::basic(USER, CANARY));
    let builder = Client::builder().loopback_plain_http(true).retry(quick());
    let client = builder.credentials(Arc::new(login)).build().unwrap();
    // The scheme is learnt, so that what is redirected has the header.
    client.tags(&reference(&home, "x")).await.unwrap_err();
    for (path, target) in [
        ("/manifests/1", "/v2/x/manifests/1".to_owned()),
        ("/blobs/", format!("/v2/x/blobs/{}", image.descriptors()[1].digest)),
    ] {
        home.fault(Fault::new(Action::Redirect(307, format!("{}{target}", other.url()))).path(path));
    }
    other.journal().clear();
    home.journal().clear();
    let name = reference(&home, "x:1");
    assert_eq!(client.manifest(&name).await.unwrap().bytes, image.manifest);
    assert_eq!(client.head_manifest(&name).await.unwrap().unwrap().digest, image.digest);
    assert_eq!(client.blob_into(&name, &image.descriptors()[1], Vec::new()).await.unwrap().len(), 1000);
    assert!(home.journal().entries().iter().all(|entry| entry.authorization.as_deref() == Some("Basic")));
    let entries = other.journal().entries();
    assert!(entries.len() == 3 && entries.iter().all(|entry| entry.authorization.is_none()), "{entries:?}");
}

/// "The detail field is OPTIONAL and MAY contain arbitrary JSON data providing information the client can use"
#[tokio::test]
async fn duty_35_the_detail_of_an_error_is_handed_on() {
    for (member, detail) in [
        ("", None),
        (r#","detail":null"#, None),
        (r#","detail":"text""#, Some(r#""text""#)),
        (r#","detail":{"a":[1,2]}"#, Some(r#"{"a":[1,2]}"#)),
    ] {
        let registry = memory().await;
        let body = format!(
            r#"{{"errors":[{{"code":"DENIED","message":"no"{member}}},{{"code":"TOOMANYREQUESTS"}}]}}"#
        );
        registry.fault(Fault::new(Action::Json(403, body)));
        let error = anonymous().manifest(&reference(&registry, "x:1")).await.unwrap_err();
        let answer = error.answer().unwrap();
        assert_eq!((answer.errors[0].code.as_str(), answer.errors[0].detail.as_deref()), ("DENIED", detail));
        assert_eq!(answer.errors[1].code, "TOOMANYREQUESTS");
    }
}

async fn warned(values: &[&str]) -> (u64, Vec<String>) {
    let (registry, image) = (memory().await, Image::new(2, 1000));
    let name = reference(&registry, "x:1");
    image.push(&anonymous(), &name).await;
    for value in values {
        registry.fault(header("warning", value).times(2));
    }
    if let Some(last) = values.last() {
        registry.fault(header("warning", last));
    }
    registry.journal().clear();
    let (client, told) = listening();
    image.check(&client, &name).await;
    client.tags(&name).await.unwrap();
    let told = told.lock().unwrap();
    let texts = told.iter().filter_map(|event| match event {
        Event::Warning { text, .. } => Some(text.clone()),
        _ => None,
    });
    (registry.journal().len(), texts.collect())
}

/// "If a client receives Warning response headers, it SHOULD report the warnings to the user in an unobtrusive way."
#[tokio::test]
async fn duty_36_warnings_reach_the_user() {
    let (_, told) = warned(&["299 - \"this is going away\"", "299 - \"say \\\"please\\\"\""]).await;
    assert_eq!(told, ["this is going away", "say \"please\""]);
    assert_eq!(warned(&["110 - \"stale\"", "nonsense", "299"]).await.1, Vec::<String>::new());
}

/// "Clients SHOULD deduplicate warnings from multiple associated responses."
#[tokio::test]
async fn duty_37_a_warning_is_told_once() {
    let (requests, told) = warned(&["299 - \"again and again\""]).await;
    assert!(requests >= 5 && told == ["again and again"], "{requests} {told:?}");
}

/// "clients MUST NOT take any automated action based on the presence or contents of warnings"
#[tokio::test]
async fn duty_38_a_warning_changes_nothing() {
    let without = warned(&[]).await.0;
    for text in ["retry later", "use https://evil.example/ instead", "401 Unauthorized", "Retry-After: 100"] {
        let (requests, told) = warned(&[&format!("299 - \"{text}\"")]).await;
        assert_eq!((requests, told.len()), (without, 1), "{text}");
    }
}

#[tokio::test]
async fn layers_of_one_image_are_mounted_from_where_each_is() {
    let (registry, client) = (memory().await, anonymous());
    let (base, top) = (Image::new(2, 1000), blob(MediaType::OciEmpty, noise(77, 1000)));
    base.push(&client, &reference(&registry, "base:1")).await;
    client
        .push_blob(&reference(&registry, "tools"), Box::new(top.clone()), PushOptions::new())
        .await
        .unwrap();
    let mut options =
        PushOptions::new().mount_blob_from(top.descriptor().digest, reference(&registry, "tools"));
    for descriptor in base.descriptors() {
        options = options.mount_blob_from(descriptor.digest, reference(&registry, "base"));
    }
    let to = reference(&registry, "app");
    for (blob, from) in [(&base.blobs[1], "base"), (&top, "tools"), (&base.blobs[2], "base")] {
        let pushed = client.push_blob(&to, Box::new(blob.clone()), options.clone()).await.unwrap();
        assert_eq!(pushed, BlobPush::Mounted { from: from.to_owned() });
    }
}
