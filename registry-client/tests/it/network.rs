//! IPv6, proxies, and how many requests are on their way at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image_core::BlobSource;
use registry_client::credential::Secret;
use registry_client::server::Registry;
use registry_client::server::fault::{Action, Fault};
use registry_client::{Client, CopyOptions, Event, TlsRoots, TlsSettings};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::debian::skipped;
use crate::tls::Authority;
use crate::{CANARY, Image, anonymous, quick, reference};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_at_an_ipv6_address() {
    let Ok(registry) = Registry::in_memory().listen("[::1]:0").await else {
        return skipped("this machine has no IPv6 loopback");
    };
    let image = Image::new(2, 10_000);
    let name = reference(&registry, "x:1");
    assert!(name.domain().starts_with("[::1]:"));
    image.push(&anonymous(), &name).await;
    image.check(&anonymous(), &name).await;
}

/// A forward proxy: absolute URLs and CONNECT. Writes down the first line of each connection and its login.
async fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let lines = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(forward(stream, Arc::clone(&lines)));
        }
    });
    (format!("http://{address}"), seen)
}

async fn forward(stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let first = head.lines().next().unwrap().to_owned();
    let login = head.lines().find(|line| line.to_ascii_lowercase().starts_with("proxy-authorization:"));
    seen.lock().unwrap().push(format!("{first} {}", login.unwrap_or_default()));
    let (method, target) = (first.split(' ').next().unwrap(), first.split(' ').nth(1).unwrap());
    if method == "CONNECT" {
        let Ok(mut to) = TcpStream::connect(target).await else { return };
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        drop(tokio::io::copy_bidirectional(&mut stream, &mut to).await);
        return;
    }
    let host = target.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let mut to = TcpStream::connect(host).await.unwrap();
    let path = &target["http://".len() + host.len()..];
    // One request per connection is enough here.
    let rest: Vec<&str> = head.split_inclusive("\r\n").skip(1).filter(|line| line.len() > 2).collect();
    let plain = format!("{method} {path} HTTP/1.1\r\n{}connection: close\r\n\r\n", rest.concat());
    to.write_all(plain.as_bytes()).await.unwrap();
    let (mut from_server, mut to_server) = to.split();
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let answer = async {
        drop(tokio::io::copy(&mut from_server, &mut to_client).await);
        drop(to_client.shutdown().await);
    };
    let ask = async {
        drop(tokio::io::copy(&mut from_client, &mut to_server).await);
    };
    tokio::select! { () = answer => {}, () = async { ask.await; std::future::pending::<()>().await } => {} }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_proxy_in_the_clear_and_by_connect() {
    let (authority, image) = (Authority::new(), Image::new(1, 50_000));
    for secure in [false, true] {
        let registry = Registry::in_memory();
        let registry = if secure { registry.tls(authority.server("127.0.0.1")) } else { registry };
        let registry = registry.listen("127.0.0.1:0").await.unwrap();
        let (url, seen) = proxy().await;
        let tls = TlsSettings::default().roots(TlsRoots::None).authority_pem(authority.pem.clone());
        let builder = || Client::builder().loopback_plain_http(!secure).tls(tls.clone()).retry(quick());
        let login = Secret::new("proxy-secret");
        let client = builder().proxy_with_login(&url, "", "proxy-user", login).build().unwrap();
        let name = reference(&registry, "x:1");
        image.push(&client, &name).await;
        image.check(&client, &name).await;
        let lines = std::mem::take(&mut *seen.lock().unwrap());
        assert!(!lines.is_empty());
        for line in lines {
            let by = if secure { "CONNECT " } else { "http://" };
            assert!(line.contains(by) && line.to_ascii_lowercase().contains("basic "), "{line}");
        }
        // Hosts that are excepted are reached directly.
        let direct = builder().proxy(&url, "127.0.0.1").build().unwrap();
        image.check(&direct, &name).await;
        assert!(seen.lock().unwrap().is_empty());
        // A proxy that is not there is an error, not a way around it.
        let gone = builder().proxy("http://127.0.0.1:1", "").build().unwrap();
        assert!(gone.manifest(&name).await.is_err());
    }
}

/// Counts the requests that are on their way at once, by holding each answer back.
async fn most_at_once(client: &Client, rounds: usize) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (flying, highest) = (Arc::clone(&now), Arc::clone(&most));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (flying, highest) = (Arc::clone(&flying), Arc::clone(&highest));
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.unwrap_or(0) > 0 {
                    let here = flying.fetch_add(1, Ordering::SeqCst) + 1;
                    highest.fetch_max(here, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    flying.fetch_sub(1, Ordering::SeqCst);
                    let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let name = image_core::Reference::parse(&format!("{address}/x:1")).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..rounds {
        let (client, name) = (client.clone(), name.clone());
        tasks.spawn(async move { client.head_manifest(&name).await.unwrap() });
    }
    assert!(tasks.join_all().await.iter().all(Option::is_none));
    most.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_gets_so_many_requests_at_once_and_no_more() {
    for limit in [1, 3] {
        let builder = Client::builder().loopback_plain_http(true).retry(quick());
        let client = builder.requests_at_once(limit).build().unwrap();
        assert!(most_at_once(&client, 20).await <= limit);
    }
    assert!(most_at_once(&anonymous(), 60).await <= 16);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_limit_slows_a_copy_down_and_does_not_fail_it() {
    let (source, target) = (crate::mirror::memory().await, crate::mirror::memory().await);
    let image = Image::new(60, 100);
    let (from, to) = (reference(&source, "x:1"), reference(&target, "x:1"));
    image.push(&anonymous(), &from).await;
    let later = vec![("retry-after".to_owned(), "1".to_owned())];
    target.fault(Fault::new(Action::Answer(429, later)).beyond(40));
    let waits = Arc::new(Mutex::new(0));
    let count = Arc::clone(&waits);
    let client = Client::builder().loopback_plain_http(true).retry(quick());
    let client = client.events(Arc::new(move |event: &Event| {
        *count.lock().unwrap() += usize::from(matches!(event, Event::Retry { .. }));
    }));
    let client = client.build().unwrap();
    client.copy(&from, &to, CopyOptions::new()).await.unwrap();
    let entries = target.journal().entries();
    let refused = entries.iter().filter(|entry| entry.status == 429).count();
    let served = entries.len() - refused;
    println!("rate limit: {served} requests served, {refused} refused and sent again");
    assert_eq!(*waits.lock().unwrap(), refused, "each refusal was waited for");
    // Those on their way when a second is full, and no more: nobody asks again before the time that was announced.
    assert!(refused <= (served / 40 + 1) * 8, "{served} {refused}");
    for blob in &image.blobs {
        assert!(anonymous().blob_exists(&from, blob.descriptor()).await.unwrap());
    }
    assert_eq!(anonymous().manifest(&from).await.unwrap().bytes, image.manifest);
    assert!(!format!("{client:?}").contains(CANARY));
}
