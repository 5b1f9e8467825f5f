//! Basic, Bearer, anonymous; what errors say.

use std::sync::Arc;

use registry_client::credential::{Credentials, FixedCredentials};
use registry_client::server::Registry;
use registry_client::{Client, Error, PushOptions};

use crate::{CANARY, Image, USER, anonymous, quick, reference, with_login};

#[tokio::test]
async fn basic() {
    let registry = Registry::in_memory().basic_auth(USER, CANARY).listen("127.0.0.1:0").await.unwrap();
    let (name, image) = (reference(&registry, "org/x:1"), Image::new(2, 1000));
    let client = with_login(&registry);
    image.push(&client, &name).await;
    image.check(&client, &name).await;
    let refused = registry.journal().entries().iter().filter(|entry| entry.status == 401).count();
    assert_eq!(refused, 1, "the scheme is learnt once");

    let error = anonymous().manifest(&name).await.unwrap_err();
    assert!(error.to_string().ends_with(": no basic auth credentials"), "{error}");
    assert!(error.is_unauthorized() && !error.is_retryable());
    let push = anonymous().push_blob(&name, Box::new(image.blobs[0].clone()), PushOptions::new()).await;
    assert!(matches!(push, Err(Error::NoBasicCredentials { .. })));
}

#[tokio::test]
async fn bearer_and_its_scopes() {
    let registry = Registry::in_memory()
        .bearer_auth(USER, CANARY)
        .anonymous_pull(true)
        .listen("127.0.0.1:0")
        .await
        .unwrap();
    let (name, image) = (reference(&registry, "org/x:1"), Image::new(3, 1000));
    let client = with_login(&registry);
    image.push(&client, &name).await;
    let tokens = |registry: &registry_client::server::RunningRegistry| {
        registry.journal().entries().iter().filter(|entry| entry.path == "/token").count()
    };
    assert_eq!(tokens(&registry), 1, "one token for a whole push");
    image.check(&client, &name).await;
    assert_eq!(tokens(&registry), 1, "which is good for the pull, too");
    image.check(&anonymous(), &name).await;
    let push =
        anonymous().push_manifest(&name, &image_core::MediaType::OciManifest, image.manifest.clone()).await;
    assert!(push.unwrap_err().is_unauthorized());
    assert!(client.delete_manifest(&name).await.unwrap(), "a wider scope is fetched");
}

#[tokio::test]
async fn login_says_yes_and_no() {
    for registry in
        [Registry::in_memory().basic_auth(USER, CANARY), Registry::in_memory().bearer_auth(USER, CANARY)]
    {
        let registry = registry.listen("127.0.0.1:0").await.unwrap();
        let host = registry.addr().to_string();
        let client = anonymous();
        client.verify_credentials(&host, &Credentials::basic(USER, CANARY)).await.unwrap();
        let error = client.verify_credentials(&host, &Credentials::basic(USER, "wrong")).await.unwrap_err();
        assert!(error.is_unauthorized(), "{error}");
    }
}

#[tokio::test]
async fn errors_name_the_request_first_and_never_the_secret() {
    let registry = Registry::in_memory().basic_auth(USER, "another").listen("127.0.0.1:0").await.unwrap();
    let client = with_login(&registry);
    let error = client.manifest(&reference(&registry, "x:1")).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("GET http://{}/v2/x/manifests/1: ", registry.addr())));
    assert_eq!(error.code(), Some("UNAUTHORIZED"));
    for text in [format!("{error}"), format!("{error:?}"), format!("{client:?}")] {
        assert!(!text.contains(CANARY), "{text}");
    }
}

#[tokio::test]
async fn unknown_things_have_their_codes() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (anonymous(), Image::new(1, 10));
    image.push(&client, &reference(&registry, "x:1")).await;
    let error = client.manifest(&reference(&registry, "x:2")).await.unwrap_err();
    assert_eq!((error.code(), error.status()), (Some("MANIFEST_UNKNOWN"), Some(404)));
    let error = client.tags(&reference(&registry, "y")).await.unwrap_err();
    assert_eq!(error.code(), Some("NAME_UNKNOWN"));
}

#[tokio::test]
async fn an_https_registry_is_not_spoken_to_in_the_clear() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let source = FixedCredentials::new().with(registry.addr().to_string(), Credentials::basic(USER, CANARY));
    let client = Client::builder().credentials(Arc::new(source)).retry(quick()).build().unwrap();
    client.manifest(&reference(&registry, "x:1")).await.unwrap_err();
    assert!(registry.journal().is_empty(), "no request was made in the clear");
}

#[tokio::test]
async fn a_mount_asks_for_both_names_and_does_without_where_it_may_not() {
    let registry = Registry::in_memory().bearer_auth(USER, CANARY).listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (with_login(&registry), Image::new(1, 1000));
    image.push(&client, &reference(&registry, "a:1")).await;
    registry.journal().clear();
    let options = PushOptions::new().mount_from(reference(&registry, "a")).skip_check(true);
    let source = Box::new(image.blobs[1].clone());
    let pushed = client.push_blob(&reference(&registry, "b"), source, options).await.unwrap();
    assert_eq!(pushed, registry_client::BlobPush::Mounted { from: "a".to_owned() });
    let entries = registry.journal().entries();
    let query = entries.iter().find(|entry| entry.path == "/token").unwrap().query.clone().unwrap();
    for scope in ["repository%3Aa%3Apull", "repository%3Ab%3Apull%2Cpush"] {
        assert!(query.contains(scope), "{query}");
    }
    assert!(entries.iter().all(|entry| entry.status != 401), "known beforehand: {entries:?}");
}
