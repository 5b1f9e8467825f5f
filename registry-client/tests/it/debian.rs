//! Against Debian's docker-registry, where it is installed: plain, with passwords, TLS, client certificates, tokens.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use image_core::Reference;
use registry_client::credential::{Credentials, FixedCredentials, Secret};
use registry_client::{Client, ClientIdentity, TlsRoots, TlsSettings};

use crate::tls::Authority;
use crate::token_server::TokenServer;
use crate::{CANARY, Image, USER, anonymous, quick};

/// A peer that is not there is a skipped test, or a failed one where peers are required.
pub(crate) fn peer(name: &str) -> bool {
    let found = ["/usr/bin", "/usr/local/bin"].iter().any(|dir| Path::new(dir).join(name).exists());
    if !found {
        skipped(&format!("{name} is not installed"));
    }
    found
}

/// Says why a test does not run; where everything is required, that is a failure.
pub(crate) fn skipped(fact: &str) {
    let required = std::env::vars().any(|(key, value)| key == "COOPERAGE_REQUIRE_PEERS" && value == "1");
    assert!(!required, "{fact}");
    println!("skipped: {fact}");
}

pub(crate) struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// How a docker-registry is set up; nothing set is a plain one that lets everybody in.
#[derive(Default)]
pub(crate) struct Settings {
    /// The lines of a password file.
    pub(crate) htpasswd: Option<String>,
    /// Certificate and key, in PEM.
    pub(crate) tls: Option<(String, Secret)>,
    /// The authority of client certificates, in PEM.
    pub(crate) client_authority: Option<String>,
    /// The address of a token server, and its certificate in PEM.
    pub(crate) token: Option<(String, String)>,
}

/// A docker-registry on a free port, once it answers.
pub(crate) async fn docker_registry(directory: &Path, settings: &Settings) -> (Served, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let written = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut http = format!("http:\n  addr: 127.0.0.1:{port}\n");
    if let Some((certificate, key)) = &settings.tls {
        let (certificate, key) = (written("tls.crt", certificate), written("tls.key", key.expose()));
        http.push_str(&format!("  tls:\n    certificate: {certificate}\n    key: {key}\n"));
    }
    if let Some(authority) = &settings.client_authority {
        http.push_str(&format!("    clientcas:\n      - {}\n", written("clients.crt", authority)));
    }
    let mut auth = String::new();
    if let Some(lines) = &settings.htpasswd {
        auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", written("htpasswd", lines));
    }
    if let Some((realm, certificate)) = &settings.token {
        let bundle = written("token.crt", certificate);
        auth = format!(
            "auth:\n  token:\n    realm: {realm}\n    service: registry\n    issuer: tests\n    rootcertbundle: {bundle}\n"
        );
    }
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n{http}{auth}",
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
    for _ in 0..400 {
        if std::net::TcpStream::connect(&address).is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    (Served(child), address)
}

fn named(address: &str, rest: &str) -> Reference {
    Reference::parse(&format!("{address}/{rest}")).unwrap()
}

#[tokio::test]
async fn docker_registry_with_tls_and_client_certificates() {
    if !peer("docker-registry") {
        return;
    }
    let (authority, clients) = (Authority::new(), Authority::new());
    let image = Image::new(2, 100_000);
    for mutual in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            tls: Some(authority.issue("127.0.0.1")),
            client_authority: mutual.then(|| clients.pem.clone()),
            ..Settings::default()
        };
        let (_served, address) = docker_registry(directory.path(), &settings).await;
        let name = named(&address, "org/name:v1");
        let tls = TlsSettings::default().roots(TlsRoots::None).authority_pem(authority.pem.clone());
        let stranger = Client::builder().tls(tls.clone()).retry(quick()).build().unwrap();
        let (certificate, key) = clients.issue("client.example");
        let tls = tls.identity(ClientIdentity::from_pem(certificate, key));
        let client = Client::builder().tls(tls).retry(quick()).build().unwrap();
        image.push(&client, &name).await;
        image.check(&client, &name).await;
        assert_eq!(stranger.manifest(&name).await.is_ok(), !mutual);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_registry_with_a_token_server() {
    if !peer("docker-registry") {
        return;
    }
    let tokens = TokenServer::start(USER, CANARY).await;
    let directory = tempfile::tempdir().unwrap();
    let settings =
        Settings { token: Some((tokens.realm(), tokens.certificate().to_owned())), ..Settings::default() };
    let (_served, address) = docker_registry(directory.path(), &settings).await;
    let (name, image) = (named(&address, "org/name:v1"), Image::new(3, 100_000));
    let client = |password: &str| {
        let login = FixedCredentials::new().with(address.clone(), Credentials::basic(USER, password));
        let builder = Client::builder().loopback_plain_http(true).retry(quick());
        builder.credentials(Arc::new(login)).build().unwrap()
    };
    let right = client(CANARY);
    image.push(&right, &name).await;
    assert_eq!(tokens.given(), 1, "one token for a whole push");
    image.check(&right, &name).await;
    assert!(client("wrong").manifest(&name).await.unwrap_err().is_unauthorized());
    assert!(anonymous().manifest(&name).await.unwrap_err().is_unauthorized());
    let to = named(&address, "org/other:v1");
    let options = registry_client::PushOptions::new().mount_from(name.clone());
    let pushed = right.push_blob(&to, Box::new(image.blobs[1].clone()), options).await.unwrap();
    assert_eq!(pushed, registry_client::BlobPush::Mounted { from: "org/name".to_owned() });
    assert!(
        right.delete_manifest(&name.at_digest(image.digest)).await.unwrap(),
        "a wider scope is asked for"
    );
}

#[tokio::test]
async fn docker_registry_plain() {
    if !peer("docker-registry") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (_served, address) = docker_registry(directory.path(), &Settings::default()).await;
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
    let htpasswd = Some(String::from_utf8(output.stdout).unwrap());
    let settings = Settings { htpasswd, ..Settings::default() };
    let (_served, address) = docker_registry(directory.path(), &settings).await;
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
