//! A process that is killed in a download, and the next one that goes on.

use std::io::{Read, Write};
use std::time::Duration;

use image_core::{BlobSink, BlobSource, Descriptor, Digest, Digester, MediaType, Reference};
use registry_client::PushOptions;
use registry_client::server::Registry;
use registry_client::server::fault::{Action, Fault};

use crate::{anonymous, blob, noise, reference};

struct File(std::fs::File);

impl BlobSink for File {
    fn write(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        self.0.write_all(chunk)?;
        // Slow enough to be killed in the middle.
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    }
}

/// The process that is killed; without its variable, nothing.
#[expect(clippy::disallowed_methods, reason = "a test process is told by its environment what to do")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(work) = std::env::var("COOPERAGE_TEST_CRASH") else { return };
    let [name, digest, size, path] = work.split(' ').collect::<Vec<_>>()[..] else { panic!("{work}") };
    let descriptor = Descriptor::new(MediaType::OciEmpty, digest.parse().unwrap(), size.parse().unwrap());
    let sink = File(std::fs::File::create(path).unwrap());
    anonymous().blob_into(&Reference::parse(name).unwrap(), &descriptor, sink).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_resumes() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, name) = (anonymous(), reference(&registry, "x:1"));
    let bytes = noise(5, 64 << 20);
    let data = blob(MediaType::OciEmpty, bytes.clone());
    let descriptor = data.descriptor().clone();
    client.push_blob(&name, Box::new(data), PushOptions::new()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("partial");
    let work = format!("{name} {} {} {}", descriptor.digest, descriptor.size, path.display());
    let mut process = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child"])
        .env("COOPERAGE_TEST_CRASH", work)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..1000 {
        if std::fs::metadata(&path).is_ok_and(|file| file.len() > 8 << 20) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process.kill().unwrap();
    assert!(!process.wait().unwrap().success(), "it was killed, it did not end");
    let mut got = Vec::new();
    std::fs::File::open(&path).unwrap().read_to_end(&mut got).unwrap();
    let have = got.len() as u64;
    assert!(have > 8 << 20 && have < descriptor.size, "{have}");
    let mut digester = Digester::new(descriptor.digest.algorithm());
    digester.update(&got);
    registry.journal().clear();
    registry.fault(Fault::new(Action::CutResponse(1_000_000)).method("GET").times(1));
    let mut stream = client.blob_from(&name, &descriptor, have, digester).await.unwrap();
    while let Some(chunk) = stream.next_chunk().await.unwrap() {
        got.extend_from_slice(&chunk);
    }
    assert_eq!(Digest::sha256(&got), descriptor.digest);
    let sent: u64 = registry.journal().entries().iter().map(|entry| entry.sent).sum();
    let rest = descriptor.size - have;
    println!("cuts: a killed process, {:.4}x of what was missing", sent as f64 / rest as f64);
    assert!(sent >= rest && sent as f64 <= rest as f64 * 1.02, "{sent} bytes for {rest}");
}
