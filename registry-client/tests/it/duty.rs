//! The 38 duties that the distribution spec gives to clients: every line of it that addresses them with MUST, SHOULD
//! or MAY, in its order, without repeats of the same sentence and without the two that only say what a client may see.
//! One test each, by number and name; some need more than one scenario.

mod http;
mod pull;
mod push;
mod subject;

use std::sync::{Arc, Mutex};

use image_core::{Descriptor, Digest, MediaType, Reference};
use registry_client::server::fault::{Action, Fault};
use registry_client::server::{Registry, RunningRegistry};
use registry_client::{Client, Event};

use crate::{Image, quick};

async fn memory() -> RunningRegistry {
    Registry::in_memory().listen("127.0.0.1:0").await.unwrap()
}

/// Answers the first `PUT` as a gateway with a limit does, so that the upload goes in pieces.
fn in_pieces() -> Fault {
    Fault::new(Action::Status(413)).method("PUT").path("/blobs/uploads/").times(1)
}

fn header(name: &str, value: &str) -> Fault {
    Fault::new(Action::Header(name.to_owned(), value.to_owned()))
}

fn without(name: &str) -> Fault {
    Fault::new(Action::NoHeader(name.to_owned()))
}

/// A client that writes down what it is told.
fn listening() -> (Client, Arc<Mutex<Vec<Event>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&told);
    let builder = Client::builder().loopback_plain_http(true).retry(quick());
    let builder = builder.events(Arc::new(move |event: &Event| sink.lock().unwrap().push(event.clone())));
    (builder.build().unwrap(), told)
}

/// A referrer of `subject`.
fn referrer(image: &Image, kind: &str) -> (Digest, Vec<u8>) {
    let mut manifest = image_core::Manifest::oci(image.descriptors().remove(0), Vec::new());
    manifest.artifact_type = Some(format!("application/vnd.example.{kind}"));
    let size = image.manifest.len() as u64;
    manifest.subject = Some(Descriptor::new(MediaType::OciManifest, image.digest, size));
    manifest.annotations.insert("org.example.kind".to_owned(), kind.to_owned());
    let bytes = serde_json::to_vec(&manifest).unwrap();
    (Digest::sha256(&bytes), bytes)
}

/// An image at `name` with referrers of the types `…a` and `…b`; the digests of the three.
async fn signed(client: &Client, name: &Reference) -> [Digest; 3] {
    let image = Image::new(1, 10);
    image.push(client, name).await;
    let mut digests = vec![image.digest];
    for kind in ["a", "b"] {
        let (digest, bytes) = referrer(&image, kind);
        client.push_manifest(&name.at_digest(digest), &MediaType::OciManifest, bytes.into()).await.unwrap();
        digests.push(digest);
    }
    digests.try_into().unwrap()
}

/// The types of what a registry lists as referrers, and the tag that stands for them.
async fn listed(client: &Client, name: &Reference, subject: &Digest) -> Vec<String> {
    let found = client.referrers(name, subject, None).await.unwrap();
    found.into_iter().filter_map(|entry| entry.artifact_type).collect()
}

fn referrers_tag(name: &Reference, subject: &Digest) -> Reference {
    name.at_tag(&format!("sha256-{}", subject.hex())).unwrap()
}

/// Opens an upload by hand; its Location.
async fn session(registry: &RunningRegistry, repository: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(registry.addr()).await.unwrap();
    let request = format!(
        "POST /v2/{repository}/blobs/uploads/ HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with("location: ")).unwrap();
    line["location: ".len()..].trim().to_owned()
}
