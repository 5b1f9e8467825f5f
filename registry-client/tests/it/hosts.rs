//! Files about hosts: registries.conf as podman reads it, hosts.toml as containerd does, certs.d as both.

use std::path::Path;
use std::process::Command;

use image_core::Reference;
use registry_client::hosts::{HostRules, HostsError, HostsToml, RegistriesConf, ShortName};
use registry_client::server::{Registry, RunningRegistry};
use registry_client::{Client, ClientBuilder, TlsRoots, TlsSettings};

use crate::debian::peer;
use crate::mirror::{manifests, memory};
use crate::tls::Authority;
use crate::{CANARY, Image, anonymous, quick, reference};

fn builder() -> ClientBuilder {
    Client::builder().tls(TlsSettings::default().roots(TlsRoots::None)).retry(quick())
}

fn conf(text: &str) -> Result<RegistriesConf, HostsError> {
    RegistriesConf::parse("registries.conf", text)
}

#[tokio::test]
async fn the_file_of_a_distribution() {
    let text = r#"
# unqualified-search-registries is what Fedora ships
unqualified-search-registries = ["registry.fedoraproject.org", "docker.io"]
short-name-mode = "enforcing"
credential-helpers = ["containers-auth.json"]

[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "mirror.gcr.io"
[[registry.mirror]]
location = "10.0.0.1:5000/hub"
insecure = true
pull-from-mirror = "digest-only"

[[registry]]
location = "evil.example"
blocked = true

[[registry]]
prefix = "*.corp.example"

[aliases]
"fedora" = "registry.fedoraproject.org/fedora"
"org/tool" = "quay.io/org/tool"
"#;
    let conf = conf(text).unwrap();
    assert_eq!(conf.rules().unwrap().len(), 3);
    assert_eq!(conf.search_registries(), ["registry.fedoraproject.org", "docker.io"]);
    let parse = |text: &str| Reference::parse(text).unwrap();
    for (name, meaning) in [
        ("fedora:40", ShortName::Alias(parse("registry.fedoraproject.org/fedora:40"))),
        ("org/tool", ShortName::Alias(parse("quay.io/org/tool"))),
        ("quay.io/x/y:1", ShortName::Full(parse("quay.io/x/y:1"))),
        (
            "busybox:1",
            ShortName::Candidates(vec![
                parse("registry.fedoraproject.org/busybox:1"),
                parse("docker.io/library/busybox:1"),
            ]),
        ),
    ] {
        assert_eq!(conf.resolve(name).unwrap(), meaning, "{name}");
    }
}

#[test]
fn files_that_podman_refuses() {
    for text in [
        "registry = 7",
        "[registries.search]\nregistries = ['docker.io']",
        "[[registry]]\n",
        "[[registry]]\nprefix = 'a.example'",
        "[[registry]]\nlocation = 'https://a.example'",
        "[[registry]]\nlocation = '/'",
        "[[registry]]\nlocation = 'a.example'\npull-from-mirror = 'all'",
        "[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\ninsecure = true",
        "[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'some'",
        "[[registry]]\nlocation = 'a.example'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'all'",
        "[[registry]]\nprefix = 'x.example'\nlocation = 'a.example'\n[[registry]]\nlocation = 'a.example'\ninsecure = true",
        "[[registry]\n",
    ] {
        assert!(conf(text).is_err(), "{text}");
    }
}

#[test]
fn drop_ins_override_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    let main = directory.path().join("main.conf");
    std::fs::create_dir(directory.path().join("d")).unwrap();
    write(
        "main.conf",
        "unqualified-search-registries = ['a.example']\n[[registry]]\nlocation = 'x.example'\nblocked = true\n[aliases]\na = 'x.example/a'\nb = 'x.example/b'",
    );
    write("d/20.conf", "[[registry]]\nlocation = 'x.example'\n[aliases]\na = ''");
    write("d/10.conf", "unqualified-search-registries = ['b.example']\n[aliases]\nb = 'y.example/b'");
    write("d/30.txt", "nonsense");
    let before = RegistriesConf::read(&main).unwrap();
    let conf = before.clone().drop_ins(directory.path().join("d")).unwrap();
    assert_eq!(conf.search_registries(), ["b.example"]);
    assert!(matches!(conf.resolve("a").unwrap(), ShortName::Candidates(_)), "taken back");
    assert_eq!(conf.resolve("b").unwrap(), ShortName::Alias(Reference::parse("y.example/b").unwrap()));
    // The later file says nothing of blocking.
    assert!(format!("{:?}", before.rules().unwrap()).contains("blocked: true"));
    assert!(format!("{:?}", conf.rules().unwrap()).contains("blocked: false"));
    let absent = RegistriesConf::read("/nonexistent/x").unwrap().drop_ins("/nonexistent/d").unwrap();
    assert!(absent.rules().unwrap().is_empty());
    assert!(RegistriesConf::read(directory.path()).is_err(), "a directory is no file");
}

/// Three registries, named A, B and C in the texts below.
async fn three() -> [RunningRegistry; 3] {
    [memory().await, memory().await, memory().await]
}

fn filled(text: &str, registries: &[RunningRegistry; 3]) -> String {
    let mut text = text.to_owned();
    for (name, registry) in ["@A", "@B", "@C"].iter().zip(registries) {
        text = text.replace(name, &registry.addr().to_string());
    }
    text
}

/// Each case: what stands in registries.conf, what is pulled.
const RESOLUTIONS: [(&str, &str); 12] = [
    ("[[registry]]\nprefix='r.example'\nlocation='@C'\ninsecure=true", "r.example/x/y:1"),
    ("[[registry]]\nprefix='r.example/x'\nlocation='@C/deep/er'\ninsecure=true", "r.example/x/y:1"),
    (
        "[[registry]]\nprefix='r.example'\nlocation='@C'\ninsecure=true\n[[registry.mirror]]\nlocation='@A'\ninsecure=true\n[[registry.mirror]]\nlocation='@B/b'\ninsecure=true",
        "r.example/x/y:1",
    ),
    (
        "[[registry]]\nprefix='r.example'\nlocation='@C'\ninsecure=true\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='@A'\ninsecure=true",
        "r.example/x/y:1",
    ),
    (
        "[[registry]]\nprefix='r.example'\nlocation='@C'\ninsecure=true\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='@A'\ninsecure=true",
        "r.example/x/y@DIGEST",
    ),
    (
        "[[registry]]\nprefix='r.example'\nlocation='@B'\ninsecure=true\n[[registry]]\nprefix='r.example/x'\nlocation='@C'\ninsecure=true",
        "r.example/x/y:1",
    ),
    (
        "[[registry]]\nprefix='r.example'\nlocation='@B'\ninsecure=true\n[[registry]]\nprefix='r.example/x'\nlocation='@C'\ninsecure=true",
        "r.example/xx/y:1",
    ),
    ("[[registry]]\nprefix='*.r.example'\nlocation='@C/w'\ninsecure=true", "a.b.r.example/x:1"),
    ("[[registry]]\nprefix='r.example/x/y'\nlocation='@C/other'\ninsecure=true", "r.example/x/y:1"),
    ("[[registry]]\nprefix='docker.io'\nlocation='@C/hub'\ninsecure=true", "busybox:1"),
    ("[[registry]]\nprefix='docker.io/library'\nlocation='@C/hub'\ninsecure=true", "busybox:1"),
    // With a location that differs from the prefix, skopeo 1.9 does not see that the prefix is blocked; we do.
    ("[[registry]]\nlocation='@C'\ninsecure=true\nblocked=true", "@C/x/y:1"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_asks_the_same_servers() {
    if !peer("skopeo") {
        return;
    }
    let registries = three().await;
    let image = Image::new(1, 10);
    for path in ["x/y", "y", "deep/er/y", "w/x", "other", "hub/library/busybox", "hub/busybox", "xx/y"] {
        for registry in registries.iter().skip(if path == "xx/y" { 1 } else { 2 }) {
            image.push(&anonymous(), &reference(registry, &format!("{path}:1"))).await;
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("registries.conf");
    let mut found = 0;
    for (text, name) in RESOLUTIONS {
        let text = filled(text, &registries);
        let name = filled(name, &registries).replace("DIGEST", &image.digest.to_string());
        std::fs::write(&path, &text).unwrap();
        let asked = |method: &str| -> Vec<Vec<String>> {
            let of = |registry| {
                let all = manifests(registry).into_iter();
                all.map(|line| line.replace(method, "").trim().to_owned()).collect()
            };
            registries.iter().map(of).collect()
        };
        let clear = || registries.iter().for_each(|registry| registry.journal().clear());
        clear();
        let mut skopeo = Command::new("skopeo");
        skopeo.arg("--registries-conf").arg(&path).args(["inspect", "--raw"]);
        skopeo.arg(format!("docker://{name}"));
        let output = tokio::task::spawn_blocking(move || skopeo.output().unwrap()).await.unwrap();
        let theirs = asked("GET");
        clear();
        let rules = RegistriesConf::read(&path).unwrap().rules().unwrap();
        let client = builder().hosts(rules).build().unwrap();
        let ours = client.manifest(&Reference::parse(&name).unwrap()).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(ours.is_ok(), output.status.success(), "{text}\n{name}: {ours:?}\n{error}");
        assert_eq!(asked("GET"), theirs, "{text}\n{name}\n{error}");
        if let Ok(fetched) = ours {
            assert_eq!(fetched.bytes, output.stdout, "{text}\n{name}");
            found += 1;
        }
    }
    // One is blocked. Where both find nothing, little is shown.
    assert_eq!(found, RESOLUTIONS.len() - 1);
    println!("registries.conf: {0} of {0} cases resolve as in skopeo", RESOLUTIONS.len());
}

fn hosts_toml(root: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(root.join(name)).unwrap();
    std::fs::write(root.join(name).join("hosts.toml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_toml_in_the_order_of_the_file() {
    let registries = three().await;
    let image = Image::new(2, 1000);
    // Not the order of the alphabet: the last server of the file has it.
    let [a, b, c] = &registries;
    image.push(&anonymous(), &reference(a, "x:1")).await;
    let text = filled(
        "server = 'http://@C'\n[host.'http://@B']\ncapabilities = ['pull', 'resolve']\n[host.'http://@A']\n",
        &registries,
    );
    let root = tempfile::tempdir().unwrap();
    hosts_toml(root.path(), "r.example", &text);
    let client = builder().hosts(HostsToml::read(root.path()).unwrap()).build().unwrap();
    a.journal().clear();
    image.check(&client, &Reference::parse("r.example/x:1").unwrap()).await;
    assert_eq!(manifests(b), ["GET /v2/x/manifests/1 404"]);
    assert_eq!(b.journal().entries()[0].query.as_deref(), Some("ns=r.example"));
    assert_eq!(manifests(a), ["GET /v2/x/manifests/1 200"]);
    assert!(c.journal().is_empty());
    // A push goes to the server, which is not told whom it stands for.
    image.push(&client, &Reference::parse("r.example/y:1").unwrap()).await;
    assert!(
        c.journal().entries().iter().all(|entry| !entry.query.clone().unwrap_or_default().contains("ns="))
    );
    image.check(&anonymous(), &reference(c, "y:1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_toml_capabilities_paths_and_default() {
    let registries = three().await;
    let [a, b, c] = &registries;
    let image = Image::new(1, 1000);
    image.push(&anonymous(), &reference(a, "proxy/x:1")).await;
    for registry in [b, c] {
        image.push(&anonymous(), &reference(registry, "x:1")).await;
    }
    let root = tempfile::tempdir().unwrap();
    hosts_toml(
        root.path(),
        "path.example",
        &filled("server='http://@C'\n[host.'http://@A/v2/proxy']\noverride_path = true", &registries),
    );
    hosts_toml(
        root.path(),
        "pull.example_5000_",
        &filled("server='http://@C'\n[host.'http://@B']\ncapabilities=['pull']", &registries),
    );
    hosts_toml(root.path(), "_default", &filled("[host.'http://@B']", &registries));
    let client = builder().hosts(HostsToml::read(root.path()).unwrap()).build().unwrap();
    let pull = async |name: &str| {
        registries.iter().for_each(|registry| registry.journal().clear());
        image.check(&client, &Reference::parse(name).unwrap()).await;
        registries.iter().map(|registry| manifests(registry).len()).collect::<Vec<_>>()
    };
    assert_eq!(pull("path.example/x:1").await, [1, 0, 0]);
    assert_eq!(manifests(a), ["GET /v2/proxy/x/manifests/1 200"]);
    assert_eq!(pull("pull.example:5000/x:1").await, [0, 0, 1], "a tag is resolved by the server");
    assert_eq!(b.journal().len(), 2, "the blobs come from the host");
    assert_eq!(c.journal().entries()[0].query.as_deref(), Some("ns=pull.example%3A5000"));
    assert_eq!(pull("whatever.example/x:1").await, [0, 1, 0]);
    assert_eq!(b.journal().entries()[0].query.as_deref(), Some("ns=whatever.example"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_toml_with_tls() {
    let (authority, other) = (Authority::new(), Authority::new());
    let image = Image::new(1, 1000);
    let mutual = authority.server("127.0.0.1").client_authority(other.pem.clone());
    let registry = Registry::in_memory().tls(mutual).listen("127.0.0.1:0").await.unwrap();
    let (certificate, key) = other.issue("client.example");
    let root = tempfile::tempdir().unwrap();
    let at = format!("https://{}", registry.addr());
    let write = |name: &str, text: &str| {
        hosts_toml(root.path(), name, text);
        let write = |file: &str, text: &str| std::fs::write(root.path().join(name).join(file), text).unwrap();
        write("ca.pem", &authority.pem);
        write("client.pem", &certificate);
        write("client.key", key.expose());
    };
    let settings = "client = [['client.pem', 'client.key']]\n[host.'AT'.header]\nX-Meta = ['a', 'b']";
    let server = "server = 'AT'\nca = 'ca.pem'\nclient = [['client.pem', 'client.key']]";
    write("ca.example", &format!("[host.'AT']\nca = 'ca.pem'\n{settings}").replace("AT", &at));
    write("skip.example", &format!("[host.'AT']\nskip_verify = true\n{settings}").replace("AT", &at));
    write("server.example", &server.replace("AT", &at));
    write("stranger.example", &server.replace("AT", &at).replace("ca.pem", "client.pem"));
    let client = builder().hosts(HostsToml::read(root.path()).unwrap()).build().unwrap();
    let name = |host: &str| Reference::parse(&format!("{host}/x:1")).unwrap();
    image.push(&client, &name("server.example")).await;
    for host in ["server.example", "ca.example", "skip.example"] {
        image.check(&client, &name(host)).await;
    }
    assert!(client.manifest(&name("stranger.example")).await.is_err());
    assert!(
        client.manifest(&reference(&registry, "x:1")).await.is_err(),
        "the settings are for the rule alone"
    );
    let told =
        registry.journal().entries().iter().filter(|entry| entry.headers.contains_key("x-meta")).count();
    assert_eq!(told, 6);
}

/// Two servers of a rule may be at one host, with settings of their own each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skip_verify_is_for_one_server() {
    let (authority, other) = (Authority::new(), Authority::new());
    let registry =
        Registry::in_memory().tls(authority.server("127.0.0.1")).listen("127.0.0.1:0").await.unwrap();
    let root = tempfile::tempdir().unwrap();
    let text = "server = 'https://AT/two'\nskip_verify = true\n[host.'https://AT/one']\nca = 'other.pem'\n";
    hosts_toml(root.path(), "r.example", &text.replace("AT", &registry.addr().to_string()));
    std::fs::write(root.path().join("r.example/other.pem"), &other.pem).unwrap();
    let client = builder().hosts(HostsToml::read(root.path()).unwrap()).build().unwrap();
    assert!(client.manifest(&Reference::parse("r.example/x:1").unwrap()).await.unwrap_err().is_not_found());
    let entries = registry.journal().entries();
    assert!(
        !entries.is_empty() && entries.iter().all(|entry| entry.path.starts_with("/two/")),
        "{entries:?}"
    );
}

#[test]
fn hosts_toml_that_cannot_be_meant() {
    for text in [
        "server = 7",
        "server = 'ftp://a'",
        "[host.'https://a']\ncapabilities = ['everything']",
        "[host.'https://u:p@a']",
        "[host.'https://a']\nca = 'absent.pem'",
        "[host.'https://a'.header]\nAuthorization = 'Basic x'",
        "[host.'https://a']\nclient = [['a', 'b', 'c']]",
        "[host",
    ] {
        let root = tempfile::tempdir().unwrap();
        hosts_toml(root.path(), "r.example", text);
        assert!(HostsToml::read(root.path()).is_err(), "{text}");
    }
    assert!(HostsToml::read("/nonexistent").unwrap().is_empty());
}

/// Headers may be secret: what is wrong with a line is said without the line.
#[test]
fn files_are_not_quoted() {
    for text in [
        format!("[host.'https://a'.header]\nX-Key = '{CANARY}"),
        format!("[host.'https://a'.header]\nX-Key = {{ key = '{CANARY}' }}"),
        format!("[header]\nX-Key = '{CANARY}' = 1"),
        format!("[host.'https://a']\nheader = 'X-Key: {CANARY}'"),
        format!("header = 'X-Key: {CANARY}'"),
        format!("skip_verify = '{CANARY}, expected {CANARY}'"),
        format!("host = '{CANARY}'"),
    ] {
        let error = HostsToml::parse("r.example", Path::new("hosts.toml"), &text).unwrap_err();
        let told = crate::net::told(&error);
        assert!(!crate::net::has_secret(&told) && told.contains("hosts.toml: "), "{told}");
    }
    let error =
        HostsToml::parse("r.example", Path::new("hosts.toml"), "[header]\nX-Key = 'a' = 1").unwrap_err();
    assert!(error.to_string().starts_with("hosts.toml: line 2: "), "{error}");
}

/// Neither a certificate nor a file of rules is read without an end.
#[test]
fn files_without_an_end_are_refused() {
    let root = tempfile::tempdir().unwrap();
    hosts_toml(root.path(), "r.example", "[host.'https://a']\nca = '/dev/zero'");
    assert!(matches!(HostsToml::read(root.path()), Err(HostsError::Read { .. })));
    assert!(matches!(RegistriesConf::read("/dev/zero"), Err(HostsError::Read { .. })));
    let certs = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/zero", certs.path().join("ca.crt")).unwrap();
    assert!(TlsSettings::default().certs_dir(certs.path()).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_by_host() {
    let authority = Authority::new();
    let serve = async || {
        let tls = authority.server("127.0.0.1");
        Registry::in_memory().tls(tls).listen("127.0.0.1:0").await.unwrap()
    };
    let (known, unknown, image) = (serve().await, serve().await, Image::new(1, 100));
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let host = known.addr().to_string();
    for (root, pem) in [(&first, &authority.pem), (&second, &Authority::new().pem)] {
        std::fs::create_dir_all(root.path().join(&host)).unwrap();
        std::fs::write(root.path().join(&host).join("ca.crt"), pem).unwrap();
    }
    let with = |roots: [&Path; 2]| {
        let certs = roots.into_iter().try_fold(builder(), ClientBuilder::certs_d).unwrap();
        certs.hosts(HostRules::new()).build().unwrap()
    };
    let client = with([first.path(), second.path()]);
    image.push(&client, &reference(&known, "x:1")).await;
    image.check(&client, &reference(&known, "x:1")).await;
    assert!(client.manifest(&reference(&unknown, "x:1")).await.is_err());
    let client = with([second.path(), first.path()]);
    assert!(client.manifest(&reference(&known, "x:1")).await.is_err(), "the first directory counts");
}
