//! Against Debian's docker-registry and skopeo, where they are installed.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use image_core::Reference;
use registry_client::Client;
use registry_client::credential::{Credentials, FixedCredentials};
use registry_client::server::Registry;

use crate::{CANARY, Image, USER, anonymous, quick, reference};

/// A peer that is not there is a skipped test, or a failed one where peers are required.
fn peer(name: &str) -> bool {
    let found = ["/usr/bin", "/usr/local/bin"].iter().any(|dir| Path::new(dir).join(name).exists());
    if !found {
        let required = std::env::vars().any(|(key, value)| key == "COOPERAGE_REQUIRE_PEERS" && value == "1");
        assert!(!required, "{name} is not installed");
        println!("skipped: {name} is not installed");
    }
    found
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn docker_registry(directory: &Path, htpasswd: Option<&str>) -> (Served, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let auth = htpasswd.map_or(String::new(), |text| {
        std::fs::write(directory.join("htpasswd"), text).unwrap();
        format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", directory.join("htpasswd").display())
    });
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
        directory.join("data").display()
    );
    let path = directory.join("config.yml");
    std::fs::write(&path, config).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = format!("127.0.0.1:{port}");
    for _ in 0..200 {
        if std::net::TcpStream::connect(&address).is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    (Served(child), address)
}

#[tokio::test]
async fn docker_registry_plain() {
    if !peer("docker-registry") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (_served, address) = docker_registry(directory.path(), None).await;
    let name = Reference::parse(&format!("{address}/org/name:v1")).unwrap();
    let (client, image) = (anonymous(), Image::new(3, 300_000));
    image.push(&client, &name).await;
    image.check(&client, &name).await;
    assert_eq!(client.tags(&name).await.unwrap(), ["v1"]);
    assert!(
        client
            .manifest(&Reference::parse(&format!("{address}/no:1")).unwrap())
            .await
            .unwrap_err()
            .is_not_found()
    );
    let other = Reference::parse(&format!("{address}/org/other:v1")).unwrap();
    let options = registry_client::PushOptions::new().mount_from(name.clone());
    let pushed = client.push_blob(&other, Box::new(image.blobs[1].clone()), options).await.unwrap();
    assert_eq!(pushed, registry_client::BlobPush::Mounted { from: "org/name".to_owned() });
    assert!(client.delete_manifest(&name.at_digest(image.digest)).await.unwrap());
}

#[tokio::test]
async fn docker_registry_with_htpasswd() {
    if !peer("docker-registry") || !peer("htpasswd") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("htpasswd").args(["-Bbn", USER, CANARY]).output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let (_served, address) = docker_registry(directory.path(), Some(&line)).await;
    let name = Reference::parse(&format!("{address}/org/name:v1")).unwrap();
    let error = anonymous().manifest(&name).await.unwrap_err();
    assert!(error.to_string().contains("no basic auth credentials"), "{error}");
    let credentials = Credentials::basic(USER, CANARY);
    anonymous().verify_credentials(&address, &credentials).await.unwrap();
    assert!(
        anonymous()
            .verify_credentials(&address, &Credentials::basic(USER, "no"))
            .await
            .unwrap_err()
            .is_unauthorized()
    );
    let source = FixedCredentials::new().with(address, credentials);
    let client = Client::builder()
        .loopback_plain_http(true)
        .credentials(Arc::new(source))
        .retry(quick())
        .build()
        .unwrap();
    let image = Image::new(2, 100_000);
    image.push(&client, &name).await;
    image.check(&client, &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_copies_through_our_registry() {
    if !peer("skopeo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::directory(directory.path().join("data"))
        .basic_auth(USER, CANARY)
        .listen("127.0.0.1:0")
        .await
        .unwrap();
    let (client, image) = (crate::with_login(&registry), Image::new(3, 200_000));
    image.push(&client, &reference(&registry, "a:1")).await;
    let (from, to) =
        (format!("docker://{}/a:1", registry.addr()), format!("docker://{}/b/c:2", registry.addr()));
    let layout = format!("oci:{}:x", directory.path().join("layout").display());
    let login = format!("{USER}:{CANARY}");
    for (from, to, side) in [(&from, &layout, "src"), (&layout, &to, "dest")] {
        let (tls, creds) = (format!("--{side}-tls-verify=false"), format!("--{side}-creds={login}"));
        let arguments =
            ["--insecure-policy", "copy", "--preserve-digests", &tls, &creds, from, to].map(str::to_owned);
        let output =
            tokio::task::spawn_blocking(move || Command::new("skopeo").args(arguments).output().unwrap());
        let output = output.await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    image.check(&client, &reference(&registry, "b/c:2")).await;
}
