//! Bad networks and bad registries.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use image_core::{Digest, MediaType};
use registry_client::server::Registry;
use registry_client::server::fault::{Action, Fault};
use registry_client::{Client, Error, Event, PushOptions};

use crate::{Image, anonymous, blob, noise, quick, reference};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_cuts_of_a_download_cost_two_percent_at_most() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, name) = (anonymous(), reference(&registry, "x"));
    let bytes = noise(9, 64 << 20);
    let data = blob(MediaType::OciEmpty, bytes.clone());
    let descriptor = image_core::BlobSource::descriptor(&data).clone();
    client.push_blob(&name, Box::new(data), PushOptions::new()).await.unwrap();
    registry.journal().clear();
    for cut in 0..20u64 {
        let length = 300_000 + (cut * 7_919_111) % 4_000_000;
        registry.fault(Fault::new(Action::CutResponse(length)).method("GET").path("/blobs/").times(1));
    }
    let got = client.blob_into(&name, &descriptor, Vec::new()).await.unwrap();
    assert_eq!(Digest::sha256(&got), descriptor.digest);
    let entries = registry.journal().entries();
    let sent: u64 = entries.iter().map(|entry| entry.sent).sum();
    assert_eq!(entries.len(), 21);
    println!("cuts: 20 of a download, {:.4}x the bytes", sent as f64 / bytes.len() as f64);
    assert!(entries[1..].iter().all(|entry| entry.headers.contains_key("range")));
    assert!(sent as f64 <= 1.02 * bytes.len() as f64, "{sent} bytes for {}", bytes.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_of_an_upload_resume_it() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, name) = (anonymous(), reference(&registry, "x"));
    let bytes = noise(10, 24 << 20);
    let data = blob(MediaType::OciEmpty, bytes.clone());
    let descriptor = image_core::BlobSource::descriptor(&data).clone();
    registry.fault(Fault::new(Action::CutRequest(9_000_000)).method("PUT").times(1));
    registry.fault(Fault::new(Action::CutRequest(1_000_000)).method("PATCH").times(3));
    client.push_blob(&name, Box::new(data), PushOptions::new()).await.unwrap();
    assert_eq!(client.blob_into(&name, &descriptor, Vec::new()).await.unwrap(), bytes);
    let posts = registry.journal().entries().iter().filter(|entry| entry.method == "POST").count();
    assert_eq!(posts, 1, "one session from the start to the end");
    let received: u64 = registry.journal().entries().iter().map(|entry| entry.received).sum();
    println!("cuts: 4 of an upload, {:.4}x the bytes", received as f64 / bytes.len() as f64);
}

#[tokio::test]
async fn a_lie_about_the_content_is_found() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (anonymous(), Image::new(1, 50_000));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    registry.fault(Fault::new(Action::Corrupt).method("GET"));
    let layer = image.descriptors().remove(1);
    let outcome = client.blob_into(&name, &layer, Vec::new()).await;
    assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "{outcome:?}");
    let outcome = client.manifest(&name.at_digest(image.digest)).await;
    assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "{outcome:?}");
    let outcome = client.manifest(&name).await;
    assert!(matches!(outcome, Err(Error::DigestMismatch { .. })), "the header tells: {outcome:?}");
}

#[tokio::test]
async fn another_length_than_the_descriptor_says() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (anonymous(), Image::new(1, 50_000));
    let name = reference(&registry, "x:1");
    image.push(&client, &name).await;
    for size in [49_999, 50_001] {
        let mut layer = image.descriptors().remove(1);
        layer.size = size;
        let outcome = client.blob_into(&name, &layer, Vec::new()).await;
        assert!(matches!(outcome, Err(Error::SizeMismatch { .. })), "{outcome:?}");
    }
}

/// A server whose list goes on and on: pages with one long entry each. How many it has given is counted.
async fn long_list() -> (String, Arc<Mutex<u32>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let given = Arc::new(Mutex::new(0));
    let count = Arc::clone(&given);
    tokio::spawn(async move {
        let body = format!(r#"{{"tags":["{}"]}}"#, "x".repeat(4_000_000));
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|len| len > 0) {
                *count.lock().unwrap() += 1;
                let (page, length) = (*count.lock().unwrap(), body.len());
                let head = format!(
                    "HTTP/1.1 200 OK\r\nlink: </v2/x/tags/list?last={page}>; rel=\"next\"\r\ncontent-length: {length}\r\n\r\n"
                );
                if stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.is_err() {
                    break;
                }
            }
        }
    });
    (address, given)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_long_entries_ends_at_a_bound() {
    let (address, given) = long_list().await;
    let name = image_core::Reference::parse(&format!("{address}/x:1")).unwrap();
    let outcome = anonymous().tags(&name).await;
    assert!(matches!(outcome, Err(Error::Protocol { .. })), "{outcome:?}");
    assert_eq!(*given.lock().unwrap(), (128 << 20) / 4_000_000 + 1);
}

/// A server that answers everything with this head, and then with bytes for as long as somebody reads them.
async fn endless(head: &'static str) -> (String, Arc<Mutex<u64>>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let sent = Arc::new(Mutex::new(0));
    let count = Arc::clone(&sent);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            drop(stream.read(&mut buffer).await);
            let mut next = head.as_bytes().to_vec();
            while stream.write_all(&next).await.is_ok() {
                *count.lock().unwrap() += next.len() as u64;
                next = b"4000\r\n".iter().copied().chain([b'x'; 0x4000]).chain(*b"\r\n").collect();
            }
        }
    });
    (address, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_without_an_end_is_cut_at_the_cap() {
    let announced =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n";
    let unannounced =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    for (head, limit) in [(announced, 8 << 20), (unannounced, 16 << 20)] {
        let (address, sent) = endless(head).await;
        let name = image_core::Reference::parse(&format!("{address}/x:1")).unwrap();
        let outcome = anonymous().manifest(&name).await;
        assert!(matches!(outcome, Err(Error::TooLarge { .. })), "{outcome:?}");
        let outcome = anonymous().tags(&name).await;
        assert!(matches!(outcome, Err(Error::TooLarge { .. })), "{outcome:?}");
        assert!(*sent.lock().unwrap() < 2 * limit, "what the pipes hold, and no more");
    }
}

/// A sink that tells when it is gone.
struct Held(std::sync::mpsc::Sender<()>);

impl image_core::BlobSink for Held {
    fn write(&mut self, _chunk: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.send(()).ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_nobody_waits_for_ends() {
    let (address, count) = endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let name = image_core::Reference::parse(&format!("{address}/x:1")).unwrap();
    let descriptor = image_core::Descriptor::new(MediaType::OciEmpty, Digest::sha256(b"x"), 1 << 50);
    let (gone, told) = std::sync::mpsc::channel();
    let client = anonymous();
    let download = client.blob_into(&name, &descriptor, Held(gone));
    let begun = async move {
        while *count.lock().unwrap() < 1 << 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! { _ = download => panic!("it has no end"), () = begun => {} }
    let told = tokio::task::spawn_blocking(move || told.recv_timeout(Duration::from_secs(20)));
    told.await.unwrap().expect("the sink is dropped");
    // The server has one connection at a time: that it answers another one says that the first is closed.
    let again = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        stream.read_exact(&mut [0; 15]).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("the connection is closed");
}

#[tokio::test]
async fn retry_after_is_obeyed_and_told() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let image = Image::new(1, 10);
    let name = reference(&registry, "x:1");
    image.push(&anonymous(), &name).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let client = Client::builder()
        .loopback_plain_http(true)
        .retry(quick())
        .events(Arc::new(move |event: &Event| sink.lock().unwrap().push(event.clone())))
        .build()
        .unwrap();
    let later = ("retry-after".to_owned(), "1".to_owned());
    registry.fault(Fault::new(Action::Answer(429, vec![later])).method("GET").times(1));
    registry.fault(Fault::new(Action::Status(503)).method("GET").times(2));
    let start = Instant::now();
    client.manifest(&name).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    let waits: Vec<Duration> = told
        .lock()
        .unwrap()
        .iter()
        .filter_map(|event| match event {
            Event::Retry { wait, .. } => Some(*wait),
            _ => None,
        })
        .collect();
    assert_eq!(waits.len(), 3);
    assert_eq!(waits[0], Duration::from_secs(1));
}

#[tokio::test]
async fn a_wait_that_is_too_long_is_an_answer() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let later = ("retry-after".to_owned(), "86400".to_owned());
    registry.fault(Fault::new(Action::Answer(429, vec![later])));
    let error = anonymous().manifest(&reference(&registry, "x:1")).await.unwrap_err();
    assert_eq!(error.status(), Some(429));
    assert_eq!(error.answer().unwrap().retry_after, Some(Duration::from_secs(86400)));
    assert!(error.is_retryable());
    assert_eq!(registry.journal().len(), 1);
}

#[tokio::test]
async fn an_upload_that_nobody_waits_for_is_cancelled() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    registry.fault(Fault::new(Action::Delay(Duration::from_secs(30))).method("PUT"));
    let (client, name) = (anonymous(), reference(&registry, "x"));
    let data = blob(MediaType::OciEmpty, noise(1, 1000));
    let push = client.push_blob(&name, Box::new(data), PushOptions::new());
    assert!(tokio::time::timeout(Duration::from_millis(500), push).await.is_err());
    for _ in 0..100 {
        if registry.journal().entries().iter().any(|entry| entry.method == "DELETE" && entry.status == 204) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no DELETE of the session: {:?}", registry.journal().entries());
}
