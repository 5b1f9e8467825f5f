//! skopeo, podman and buildah push to and pull from the in-process registry, where they are installed.

use std::path::Path;
use std::process::Command;

use image_core::{AnyManifest, Reference};
use registry_client::credential::{Credentials, FixedCredentials};
use registry_client::server::{Registry, RunningRegistry};
use registry_client::{Client, TlsRoots, TlsSettings};

use crate::debian::peer;
use crate::tls::Authority;
use crate::{CANARY, Image, USER, quick, reference, with_login};

async fn run(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let shown = format!("{program} {arguments:?}");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{shown}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_copies_through_our_registry() {
    if !peer("skopeo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let layout = format!("oci:{}:x", directory.path().join("layout").display());
    let login = format!("{USER}:{CANARY}");
    for bearer in [false, true] {
        let registry = Registry::directory(data.join(bearer.to_string()));
        let registry =
            if bearer { registry.bearer_auth(USER, CANARY) } else { registry.basic_auth(USER, CANARY) };
        let registry = registry.listen("127.0.0.1:0").await.unwrap();
        let (client, image) = (with_login(&registry), Image::new(3, 200_000));
        image.push(&client, &reference(&registry, "a:1")).await;
        let at = |rest: &str| format!("docker://{}/{rest}", registry.addr());
        for (from, to, side) in [(&at("a:1"), &layout, "src"), (&layout, &at("b/c:2"), "dest")] {
            let (tls, creds) = (format!("--{side}-tls-verify=false"), format!("--{side}-creds={login}"));
            run("skopeo", &["--insecure-policy", "copy", "--preserve-digests", &tls, &creds, from, to]).await;
        }
        image.check(&client, &reference(&registry, "b/c:2")).await;
        // Within the registry blobs are mounted, which Bearer allows with the scopes of both names alone.
        let both = [format!("--src-creds={login}"), format!("--dest-creds={login}")];
        let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        registry.journal().clear();
        let [source, target] = &both;
        let arguments = ["--insecure-policy", "copy", plain[0], plain[1], source, target];
        run("skopeo", &[&arguments[..], &[&at("a:1"), &at("mounted:3")]].concat()).await;
        image.check(&client, &reference(&registry, "mounted:3")).await;
    }
}

/// A registry with TLS and a password, a client of ours for it, and a directory with its authority.
async fn secured(directory: &Path) -> (RunningRegistry, Client) {
    let authority = Authority::new();
    let registry = Registry::directory(directory.join("data"))
        .basic_auth(USER, CANARY)
        .tls(authority.server("127.0.0.1"))
        .listen("127.0.0.1:0")
        .await
        .unwrap();
    std::fs::create_dir(directory.join("certs")).unwrap();
    std::fs::write(directory.join("certs/ca.crt"), &authority.pem).unwrap();
    std::fs::create_dir_all(directory.join("root/etc")).unwrap();
    std::fs::write(directory.join("root/etc/hello"), "hello").unwrap();
    let login = FixedCredentials::new().with(registry.addr().to_string(), Credentials::basic(USER, CANARY));
    let tls = TlsSettings::default().roots(TlsRoots::None).authority_pem(authority.pem);
    let client = Client::builder().tls(tls).retry(quick());
    (registry, client.credentials(std::sync::Arc::new(login)).build().unwrap())
}

/// The image at `name` goes from our registry through the client to another name.
async fn relay(client: &Client, from: &Reference, to: &Reference) -> String {
    let fetched = client.manifest(from).await.unwrap();
    let AnyManifest::Manifest(manifest) = fetched.parse().unwrap() else { panic!("{fetched:?}") };
    for layer in &manifest.value().layers {
        client.blob_into(from, layer, Vec::new()).await.unwrap();
    }
    client.copy(from, to, registry_client::CopyOptions::new()).await.unwrap();
    manifest.value().config.digest.hex()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_pushes_and_pulls() {
    if !peer("podman") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (registry, client) = secured(directory.path()).await;
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (root, runroot, certs) = (path("storage"), path("run"), path("certs"));
    let storage = ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs"];
    let podman = async |arguments: &[&str]| run("podman", &[&storage, arguments].concat()).await;
    let (tar, creds) = (path("root.tar"), format!("{USER}:{CANARY}"));
    run("tar", &["-C", &path("root"), "-cf", &tar, "."]).await;
    let id = podman(&["import", "-q", &tar, "localhost/made:1"]).await;
    let (pushed, relayed) = (reference(&registry, "podman/a:1"), reference(&registry, "podman/b:2"));
    let access = ["--creds", creds.as_str(), "--cert-dir", &certs];
    podman(&[&["push", "-q"], &access[..], &["localhost/made:1", &pushed.to_string()]].concat()).await;
    let config = relay(&client, &pushed, &relayed).await;
    assert!(id.ends_with(&config), "{id} {config}");
    podman(&["rmi", "-f", &id]).await;
    let pulled = podman(&[&["pull", "-q"], &access[..], &[&relayed.to_string()]].concat()).await;
    assert_eq!(pulled, config);
    assert!(
        registry
            .journal()
            .entries()
            .iter()
            .all(|entry| entry.status < 400 || entry.status == 401 || entry.status == 404)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buildah_pushes_and_pulls() {
    if !peer("buildah") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (registry, client) = secured(directory.path()).await;
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (root, runroot, certs) = (path("storage"), path("run"), path("certs"));
    let storage = ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs"];
    let buildah = async |arguments: &[&str]| run("buildah", &[&storage, arguments].concat()).await;
    let creds = format!("{USER}:{CANARY}");
    let access = ["--creds", creds.as_str(), "--cert-dir", &certs];
    let container = buildah(&["from", "scratch"]).await;
    buildah(&["copy", "-q", &container, &path("root"), "/"]).await;
    for (format, tag) in [("oci", "1"), ("docker", "2")] {
        let id = buildah(&["commit", "-q", "--format", format, &container, "made"]).await;
        let pushed = reference(&registry, &format!("buildah/a:{tag}"));
        let relayed = reference(&registry, &format!("buildah/b:{tag}"));
        let target = format!("docker://{pushed}");
        buildah(&[&["push", "-q"], &access[..], &["made", &target]].concat()).await;
        let config = relay(&client, &pushed, &relayed).await;
        assert_eq!(id, config, "{format}");
        buildah(&["rmi", "-f", &id]).await;
        let pulled = buildah(&[&["pull", "-q"], &access[..], &[&relayed.to_string()]].concat()).await;
        assert_eq!(pulled, config, "{format}");
    }
}
