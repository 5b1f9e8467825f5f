//! Credentials stay at their origin, and servers do not send clients where they should not go.

use std::net::IpAddr;
use std::sync::Arc;

use image_core::MediaType;
use registry_client::credential::{Credentials, FixedCredentials};
use registry_client::server::fault::{Action, Fault};
use registry_client::server::{Registry, RunningRegistry};
use registry_client::{Client, ClientBuilder, CopyOptions, Error, PushOptions};

use crate::{CANARY, Image, USER, blob, noise, quick, reference, with_login};

/// What a server does to lead a client astray.
#[derive(Debug)]
enum Attack {
    /// Redirects requests of this method, whose path has this in it.
    Redirect(&'static str, &'static str, u16, String),
    /// Names a token server.
    Realm(String),
    /// Names a place for the bytes of an upload.
    Location(String),
    /// Names the next page of a list.
    Link(&'static str, String),
    /// Puts addresses into a manifest for its layers.
    Urls(String),
}

/// Everything that a client does with a repository; what went wrong is told, and that is all.
async fn everything(client: &Client, home: &RunningRegistry) -> String {
    let name = reference(home, "x:1");
    let image = Image::new(1, 1000);
    let mut told = String::new();
    let mut note = |error: Option<Error>| {
        told.extend(error.map(|error| crate::net::told(&error)));
    };
    // The first requests teach the scheme, so that the later ones have the header.
    note(client.manifest(&reference(home, "other:1")).await.err());
    note(client.manifest(&name).await.err());
    note(client.head_manifest(&name).await.err());
    note(client.blob_into(&name, &image.descriptors()[1], Vec::new()).await.err());
    note(client.blob_exists(&name, &image.descriptors()[1]).await.err());
    note(client.tags(&name).await.err());
    note(client.referrers(&name, &image.digest, None).await.err());
    let data = Box::new(blob(MediaType::OciEmpty, noise(8, 100)));
    note(client.push_blob(&name, data, PushOptions::new()).await.err());
    let bytes = image.manifest.clone();
    note(client.push_manifest(&name, &MediaType::OciManifest, bytes).await.err());
    note(client.copy(&name, &reference(home, "z:1"), CopyOptions::new()).await.err());
    note(client.delete_manifest(&name).await.err());
    told
}

/// Targets that no server may name, whatever else is allowed; those with a port are where another server listens.
fn refused_targets(port: u16) -> Vec<String> {
    let mut targets: Vec<String> = [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
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
    ]
    .map(str::to_owned)
    .into();
    for host in ["0.0.0.0", "[::]", "[::ffff:0.0.0.0]", "0", "unspecified.example", "user:pw@127.0.0.1"] {
        targets.push(format!("http://{host}:{port}/v2/x"));
    }
    targets
}

/// A client to which the names among those targets mean addresses that they should not.
fn resolving() -> ClientBuilder {
    let names = [
        ("metadata.example", "169.254.169.254"),
        ("mapped.example", "::ffff:169.254.169.254"),
        ("unspecified.example", "0.0.0.0"),
    ];
    let builder = Client::builder().loopback_plain_http(true).retry(quick());
    names
        .into_iter()
        .fold(builder, |builder, (name, address)| builder.resolve(name, [address.parse::<IpAddr>().unwrap()]))
}

fn attacks(other: &RunningRegistry) -> (Vec<Attack>, Vec<Attack>) {
    let url = |rest: &str| format!("{}{rest}", other.url());
    let mut elsewhere = Vec::new();
    for status in [301, 302, 303, 307, 308] {
        for (method, path) in
            [("GET", "/manifests/"), ("HEAD", "/manifests/"), ("GET", "/blobs/"), ("HEAD", "/blobs/")]
        {
            elsewhere.push(Attack::Redirect(method, path, status, url("/v2/x/manifests/1")));
        }
    }
    for (method, path) in [
        ("POST", "/blobs/uploads/"),
        ("PUT", "/blobs/uploads/"),
        ("PUT", "/manifests/"),
        ("DELETE", "/manifests/"),
        ("GET", "/tags/list"),
        ("GET", "/referrers/"),
    ] {
        elsewhere.push(Attack::Redirect(method, path, 307, url("/v2/x")));
        elsewhere.push(Attack::Redirect(method, path, 302, url("/v2/x")));
    }
    elsewhere.push(Attack::Location(url("/v2/x/blobs/uploads/1")));
    elsewhere.push(Attack::Location(format!("//{}/v2/x/blobs/uploads/1", other.addr())));
    elsewhere.push(Attack::Link("/tags/list", url("/v2/x/tags/list?last=1")));
    elsewhere.push(Attack::Link("/referrers/", url("/v2/x/referrers/1")));
    elsewhere.push(Attack::Link("/tags/list", format!("//{}/v2/x/tags/list", other.addr())));
    elsewhere.push(Attack::Urls(url("/v2/x/blobs/1")));
    let mut refused = Vec::new();
    for target in refused_targets(other.addr().port()) {
        refused.push(Attack::Redirect("GET", "/manifests/", 307, target.clone()));
        refused.push(Attack::Redirect("GET", "/blobs/", 302, target.clone()));
        refused.push(Attack::Realm(target.clone()));
        refused.push(Attack::Location(target.clone()));
        refused.push(Attack::Link("/tags/list", target));
    }
    (elsewhere, refused)
}

async fn launch(attack: &Attack) -> RunningRegistry {
    let registry = Registry::in_memory();
    let registry = match attack {
        Attack::Realm(target) => registry.bearer_auth(USER, CANARY).token_realm(target),
        _ => registry.basic_auth(USER, CANARY),
    };
    let home = registry.listen("127.0.0.1:0").await.unwrap();
    if !matches!(attack, Attack::Realm(_)) {
        let (client, image) = (with_login(&home), Image::new(1, 1000));
        image.push(&client, &reference(&home, "x:1")).await;
        if let Attack::Urls(target) = attack {
            let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
            manifest["layers"][0]["urls"] = serde_json::json!([target]);
            manifest["layers"][0]["mediaType"] =
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip".into();
            let bytes = manifest.to_string().into();
            client.push_manifest(&reference(&home, "x:1"), &MediaType::OciManifest, bytes).await.unwrap();
        }
    }
    match attack {
        Attack::Redirect(method, path, status, target) => {
            home.fault(Fault::new(Action::Redirect(*status, target.clone())).method(method).path(path));
        }
        Attack::Location(target) => {
            let answer = Action::Answer(202, vec![("location".to_owned(), target.clone())]);
            home.fault(Fault::new(answer).method("POST"));
        }
        Attack::Link(path, target) => {
            let link = format!("<{target}>; rel=\"next\"");
            home.fault(Fault::new(Action::Header("link".to_owned(), link)).path(path));
        }
        Attack::Realm(_) | Attack::Urls(_) => {}
    }
    home
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_attacks() {
    let other = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (elsewhere, refused) = attacks(&other);
    let (count, mut leaks, mut connections) = (elsewhere.len() + refused.len(), 0, 0);
    let (first_refused, mut reached) = (elsewhere.len(), 0);
    for (number, attack) in elsewhere.iter().chain(&refused).enumerate() {
        let home = launch(attack).await;
        let login = FixedCredentials::new().with(home.addr().to_string(), Credentials::basic(USER, CANARY));
        let client = resolving().credentials(Arc::new(login)).build().unwrap();
        other.journal().clear();
        let told = everything(&client, &home).await;
        let entries = other.journal().entries();
        let leaked = entries.iter().any(|entry| entry.authorization.is_some())
            || crate::net::has_secret(&format!("{entries:?}"))
            || crate::net::has_secret(&told);
        if leaked {
            println!("leaked: {attack:?}: {entries:?}");
            leaks += 1;
        }
        reached += usize::from(!entries.is_empty());
        if number >= first_refused && !entries.is_empty() {
            println!("connected: {attack:?}");
            connections += 1;
        }
    }
    println!("attacks: {count}, leaks: {leaks}, connections to refused addresses: {connections}");
    assert!(count >= 24 && leaks == 0 && connections == 0);
    assert!(
        reached >= 20,
        "the other server was reached where that is allowed, without credentials: {reached}"
    );
}

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
    for target in refused_targets(1) {
        let (home, _other) = pair().await;
        home.fault(Fault::new(Action::Redirect(307, target.clone())).path("/manifests/"));
        let error = resolving().build().unwrap().manifest(&reference(&home, "x:1")).await.unwrap_err();
        let refused = matches!(error, Error::AddressRefused { .. } | Error::TargetRefused { .. });
        assert!(refused, "{target}: {error:?}");
        // The same as a realm: nobody sends credentials there.
        let home = Registry::in_memory()
            .bearer_auth(USER, CANARY)
            .token_realm(&target)
            .listen("127.0.0.1:0")
            .await
            .unwrap();
        let source = FixedCredentials::new().with(home.addr().to_string(), Credentials::basic(USER, CANARY));
        let client = resolving().credentials(Arc::new(source)).build().unwrap();
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
