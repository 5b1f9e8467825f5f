//! Credentials stay at their origin, and servers do not send clients where they should not go.

use std::net::IpAddr;
use std::sync::Arc;

use image_core::MediaType;
use registry_client::credential::{Credentials, FixedCredentials};
use registry_client::server::fault::{Action, Fault};
use registry_client::server::{Registry, RunningRegistry};
use registry_client::{Client, Error, PushOptions};

use crate::{CANARY, Image, USER, blob, noise, quick, reference, with_login};

async fn pair() -> (RunningRegistry, RunningRegistry) {
    let home = Registry::in_memory().basic_auth(USER, CANARY).listen("127.0.0.1:0").await.unwrap();
    let other = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    (home, other)
}

fn nothing_leaked(other: &RunningRegistry) {
    for entry in other.journal().entries() {
        assert_eq!(entry.authorization, None, "{entry:?}");
        assert!(!format!("{entry:?}").contains(CANARY));
    }
}

#[tokio::test]
async fn a_redirect_to_another_port_goes_without_credentials() {
    for status in [301, 302, 303, 307, 308] {
        let (home, other) = pair().await;
        let image = Image::new(1, 1000);
        image.push(&crate::anonymous(), &reference(&other, "x:1")).await;
        other.journal().clear();
        let layer = image.descriptors().remove(1);
        let target = format!("{}/v2/x/blobs/{}", other.url(), layer.digest);
        home.fault(Fault::new(Action::Redirect(status, target)).path("/blobs/").method("GET").after(1));
        let client = with_login(&home);
        // The first request teaches the scheme, so that the one that is redirected has the header.
        client.manifest(&reference(&home, "y:1")).await.unwrap_err();
        client.blob_exists(&reference(&home, "y"), &layer).await.unwrap();
        drop(client.blob_into(&reference(&home, "y"), &layer, Vec::new()).await);
        let got = client.blob_into(&reference(&home, "y"), &layer, Vec::new()).await.unwrap();
        assert_eq!(got.len(), 1000);
        assert!(!other.journal().is_empty());
        nothing_leaked(&other);
    }
}

#[tokio::test]
async fn the_way_back_is_without_credentials_too() {
    let (home, other) = pair().await;
    let back = format!("{}/v2/x/manifests/2", home.url());
    other.fault(Fault::new(Action::Redirect(307, back)));
    home.fault(Fault::new(Action::Redirect(307, format!("{}/v2/", other.url()))).path("/manifests/1"));
    let client = with_login(&home);
    client.manifest(&reference(&home, "x:0")).await.unwrap_err();
    home.journal().clear();
    client.manifest(&reference(&home, "x:1")).await.unwrap_err();
    let last = home.journal().entries().into_iter().find(|entry| entry.path.ends_with("/2")).unwrap();
    assert_eq!(last.authorization, None);
    nothing_leaked(&other);
}

#[tokio::test]
async fn an_upload_location_elsewhere_gets_the_bytes_but_no_credentials() {
    let (home, other) = pair().await;
    let elsewhere = format!("{}/v2/x/blobs/uploads/1", other.url());
    home.fault(Fault::new(Action::Answer(202, vec![("location".to_owned(), elsewhere)])).method("POST"));
    let client = with_login(&home);
    let data = blob(MediaType::OciEmpty, noise(1, 100));
    client.push_blob(&reference(&home, "x"), Box::new(data), PushOptions::new()).await.unwrap_err();
    assert!(!other.journal().is_empty());
    nothing_leaked(&other);
}

#[tokio::test]
async fn addresses_that_a_server_may_not_name() {
    for target in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0:1/",
        "http://[::]:1/",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[fe80::1]/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://100.100.100.200/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://metadata.example/",
        "http://mapped.example/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://user:pw@127.0.0.1/",
    ] {
        let (home, _other) = pair().await;
        home.fault(Fault::new(Action::Redirect(307, target.to_owned())).path("/manifests/"));
        let builder = Client::builder()
            .loopback_plain_http(true)
            .retry(quick())
            .resolve("metadata.example", ["169.254.169.254".parse::<IpAddr>().unwrap()])
            .resolve("mapped.example", ["::ffff:169.254.169.254".parse::<IpAddr>().unwrap()]);
        let error = builder.build().unwrap().manifest(&reference(&home, "x:1")).await.unwrap_err();
        let refused = matches!(error, Error::AddressRefused { .. } | Error::TargetRefused { .. });
        assert!(refused, "{target}: {error:?}");
        // The same as a realm: nobody sends credentials there.
        let home = Registry::in_memory()
            .bearer_auth(USER, CANARY)
            .token_realm(target)
            .listen("127.0.0.1:0")
            .await
            .unwrap();
        let source = FixedCredentials::new().with(home.addr().to_string(), Credentials::basic(USER, CANARY));
        let client = Client::builder()
            .loopback_plain_http(true)
            .retry(quick())
            .credentials(Arc::new(source))
            .resolve("metadata.example", ["169.254.169.254".parse::<IpAddr>().unwrap()])
            .resolve("mapped.example", ["::ffff:169.254.169.254".parse::<IpAddr>().unwrap()])
            .build()
            .unwrap();
        let error = client.manifest(&reference(&home, "x:1")).await.unwrap_err();
        let refused = matches!(error, Error::AddressRefused { .. } | Error::TargetRefused { .. });
        assert!(refused, "realm {target}: {error:?}");
        assert!(!format!("{error:?}").contains(CANARY));
    }
}

#[tokio::test]
async fn a_realm_on_another_loopback_port_works_for_a_loopback_registry() {
    let tokens = Registry::in_memory().bearer_auth(USER, CANARY).listen("127.0.0.1:0").await.unwrap();
    let home = Registry::in_memory()
        .bearer_auth(USER, CANARY)
        .token_realm(format!("{}/token", tokens.url()))
        .listen("127.0.0.1:0")
        .await
        .unwrap();
    // The other server's tokens mean nothing here, but it is asked, with credentials, and answers.
    let error = with_login(&home).manifest(&reference(&home, "x:1")).await.unwrap_err();
    assert!(error.is_unauthorized());
    let asked = tokens.journal().entries();
    assert!(asked.iter().all(|entry| entry.path == "/token" && entry.status == 200) && !asked.is_empty());
}

#[tokio::test]
async fn a_token_server_that_redirects_gets_no_second_request() {
    let (_, other) = pair().await;
    let home = Registry::in_memory().bearer_auth(USER, CANARY).listen("127.0.0.1:0").await.unwrap();
    home.fault(Fault::new(Action::Redirect(307, format!("{}/token", other.url()))).path("/token"));
    with_login(&home).manifest(&reference(&home, "x:1")).await.unwrap_err();
    assert!(other.journal().is_empty());
}

#[tokio::test]
async fn a_link_to_another_server_ends_the_list() {
    let (home, other) = pair().await;
    let client = with_login(&home);
    Image::new(1, 10).push(&client, &reference(&home, "x:1")).await;
    let link = format!("<{}/v2/x/tags/list?last=1>; rel=\"next\"", other.url());
    home.fault(Fault::new(Action::Header("link".to_owned(), link)).path("/tags/"));
    let error = client.tags(&reference(&home, "x")).await.unwrap_err();
    assert!(matches!(error, Error::TargetRefused { .. }), "{error:?}");
    assert!(other.journal().is_empty());
}

#[tokio::test]
async fn a_list_that_goes_in_circles_ends() {
    let (home, _) = pair().await;
    let client = with_login(&home);
    Image::new(1, 10).push(&client, &reference(&home, "x:1")).await;
    let link = "</v2/x/tags/list>; rel=\"next\"".to_owned();
    home.fault(Fault::new(Action::Header("link".to_owned(), link)).path("/tags/"));
    assert!(matches!(client.tags(&reference(&home, "x")).await, Err(Error::Protocol { .. })));
}

#[tokio::test]
async fn redirects_without_end_end() {
    let (home, _) = pair().await;
    home.fault(Fault::new(Action::Redirect(307, "/v2/x/manifests/1".to_owned())));
    let error = with_login(&home).manifest(&reference(&home, "x:1")).await.unwrap_err();
    assert!(matches!(error, Error::TargetRefused { .. }), "{error:?}");
    assert!(home.journal().len() <= 11);
}
