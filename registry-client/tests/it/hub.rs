//! A registry shaped as Docker Hub is.

use std::sync::{Arc, Mutex};

use registry_client::credential::{Credentials, FixedCredentials};
use registry_client::server::Registry;
use registry_client::server::fault::{Action, Fault};
use registry_client::{Client, Event};

use crate::{CANARY, Image, USER, anonymous, quick, reference, with_login};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realm_elsewhere_blobs_elsewhere_limits_and_429() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let realm = format!("http://{}/token", listener.local_addr().unwrap());
    let hub = Registry::in_memory().bearer_auth(USER, CANARY).anonymous_pull(true).token_realm(realm);
    let hub = hub.listen("127.0.0.1:0").await.unwrap();
    let (address, relayed) = (hub.addr(), Arc::new(Mutex::new(0)));
    let count = Arc::clone(&relayed);
    let relay = tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            *count.lock().unwrap() += 1;
            let mut to = tokio::net::TcpStream::connect(address).await.unwrap();
            tokio::spawn(async move { drop(tokio::io::copy_bidirectional(&mut from, &mut to).await) });
        }
    });
    let storage = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (image, name) = (Image::new(3, 10_000), reference(&hub, "library/busybox:1.36"));
    image.push(&with_login(&hub), &name).await;
    image.push(&anonymous(), &reference(&storage, "cdn:1")).await;
    for descriptor in image.descriptors() {
        let target = format!("{}/v2/cdn/blobs/{}?X-Signature=s", storage.url(), descriptor.digest);
        let path = format!("/blobs/{}", descriptor.digest);
        hub.fault(Fault::new(Action::Redirect(307, target)).method("GET").path(&path));
    }
    let later = vec![("retry-after".to_owned(), "1".to_owned())];
    hub.fault(Fault::new(Action::Answer(429, later)).method("GET").path("/manifests/").times(1));
    let left = Action::Header("ratelimit-remaining".to_owned(), "76;w=21600".to_owned());
    hub.fault(Fault::new(left).path("/manifests/"));
    storage.journal().clear();
    *relayed.lock().unwrap() = 0;
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let login = FixedCredentials::new().with(hub.addr().to_string(), Credentials::basic(USER, CANARY));
    let client = Client::builder()
        .loopback_plain_http(true)
        .retry(quick())
        .credentials(Arc::new(login))
        .events(Arc::new(move |event: &Event| sink.lock().unwrap().push(event.clone())))
        .build()
        .unwrap();
    image.check(&client, &name).await;
    assert_eq!(*relayed.lock().unwrap(), 1, "one token, from the realm");
    let entries = storage.journal().entries();
    assert_eq!(entries.len(), image.descriptors().len());
    assert!(entries.iter().all(|entry| entry.authorization.is_none()));
    let told = told.lock().unwrap();
    assert!(told.iter().any(|event| matches!(event, Event::RateLimit { remaining: 76, .. })));
    assert_eq!(told.iter().filter(|event| matches!(event, Event::Retry { .. })).count(), 1);
    assert!(!format!("{told:?}").contains(CANARY));
    relay.abort();
}
