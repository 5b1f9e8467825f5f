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

/// A program with a storage of its own, a registry with TLS and a password, and a client of ours for that.
struct Setting {
    directory: tempfile::TempDir,
    registry: RunningRegistry,
    client: Client,
    program: &'static str,
    storage: Vec<String>,
    /// What lets the program into the registry.
    access: Vec<String>,
}

impl Setting {
    async fn of(program: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (registry, client) = secured(directory.path()).await;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let storage = ["--root", &path("storage"), "--runroot", &path("run"), "--storage-driver", "vfs"];
        let storage = storage.map(str::to_owned).to_vec();
        let access = ["--creds", &format!("{USER}:{CANARY}"), "--cert-dir", &path("certs")];
        let access = access.map(str::to_owned).to_vec();
        Self { directory, registry, client, program, storage, access }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    async fn run(&self, arguments: &[&str]) -> String {
        let storage: Vec<&str> = self.storage.iter().map(String::as_str).collect();
        run(self.program, &[&storage, arguments].concat()).await
    }

    /// `push` or `pull`, with what it takes to be let in.
    async fn transfer(&self, verb: &str, names: &[&str]) -> String {
        let access: Vec<&str> = self.access.iter().map(String::as_str).collect();
        self.run(&[&[verb, "-q"], &access[..], names].concat()).await
    }
}

/// A registry with TLS and a password, a client of ours for it, and beside it its authority and files for an image.
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
    let podman = Setting::of("podman").await;
    let tar = podman.path("root.tar");
    run("tar", &["-C", &podman.path("root"), "-cf", &tar, "."]).await;
    let id = podman.run(&["import", "-q", &tar, "localhost/made:1"]).await;
    let (pushed, relayed) =
        (reference(&podman.registry, "podman/a:1"), reference(&podman.registry, "podman/b:2"));
    podman.transfer("push", &["localhost/made:1", &pushed.to_string()]).await;
    let config = relay(&podman.client, &pushed, &relayed).await;
    assert!(id.ends_with(&config), "{id} {config}");
    podman.run(&["rmi", "-f", &id]).await;
    assert_eq!(podman.transfer("pull", &[&relayed.to_string()]).await, config);
    let entries = podman.registry.journal().entries();
    assert!(entries.iter().all(|entry| entry.status < 400 || matches!(entry.status, 401 | 404)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buildah_pushes_and_pulls() {
    if !peer("buildah") {
        return;
    }
    let buildah = Setting::of("buildah").await;
    let container = buildah.run(&["from", "scratch"]).await;
    buildah.run(&["copy", "-q", &container, &buildah.path("root"), "/"]).await;
    for (format, tag) in [("oci", "1"), ("docker", "2")] {
        let id = buildah.run(&["commit", "-q", "--format", format, &container, "made"]).await;
        let pushed = reference(&buildah.registry, &format!("buildah/a:{tag}"));
        let relayed = reference(&buildah.registry, &format!("buildah/b:{tag}"));
        buildah.transfer("push", &["made", &format!("docker://{pushed}")]).await;
        let config = relay(&buildah.client, &pushed, &relayed).await;
        assert_eq!(id, config, "{format}");
        buildah.run(&["rmi", "-f", &id]).await;
        assert_eq!(buildah.transfer("pull", &[&relayed.to_string()]).await, config, "{format}");
    }
}
