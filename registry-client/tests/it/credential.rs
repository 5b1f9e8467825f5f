//! Credential files, as docker and podman read and write them.

use std::process::Command;

use registry_client::credential::{
    CredentialEnvironment, CredentialQuery, CredentialSource, Credentials, DockerConfig, PodmanAuth,
};

use crate::debian::peer;

const HUB: &str = "https://index.docker.io/v1/";

fn named(found: Option<Credentials>) -> String {
    match found {
        None => "-".to_owned(),
        Some(Credentials::Basic { username, password }) => format!("{username}:{}", password.expose()),
        Some(Credentials::IdentityToken(token)) => format!("identity {}", token.expose()),
        Some(Credentials::BearerToken(token)) => format!("bearer {}", token.expose()),
        Some(other) => format!("{other:?}"),
    }
}

/// A file, a host, a repository, and what is found: a dash for nothing.
type Fixture = (&'static str, &'static str, Option<&'static str>, &'static str);

// dTpw is u:p, YTpi is a:b, PHRva2VuPjp0 is <token>:t, dTpwOnE= is u:p:q.
const DOCKER: [Fixture; 30] = [
    ("{}", "a.example", None, "-"),
    ("", "a.example", None, "-"),
    (r#"{"auths":{}}"#, "a.example", None, "-"),
    (r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#, "a.example", None, "u:p"),
    (r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#, "a.example", Some("org/name"), "u:p"),
    (r#"{"auths":{"a.example/org":{"auth":"dTpw"}}}"#, "b.example", Some("org/name"), "-"),
    (r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#, "b.example", None, "-"),
    (r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#, "a.example:443", None, "-"),
    (r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#, "x.a.example", None, "-"),
    (r#"{"auths":{"a.example:5000":{"auth":"dTpw"}}}"#, "a.example:5000", None, "u:p"),
    (r#"{"auths":{"a.example:5000":{"auth":"dTpw"},"a.example":{"auth":"YTpi"}}}"#, "a.example", None, "a:b"),
    (r#"{"auths":{"https://a.example":{"auth":"dTpw"}}}"#, "a.example", None, "u:p"),
    (r#"{"auths":{"http://a.example/v1/":{"auth":"dTpw"}}}"#, "a.example", None, "u:p"),
    (r#"{"auths":{"a.example/v2/":{"auth":"dTpw"}}}"#, "a.example", None, "u:p"),
    (
        r#"{"auths":{"https://a.example/":{"auth":"YTpi"},"a.example":{"auth":"dTpw"}}}"#,
        "a.example",
        None,
        "u:p",
    ),
    (r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}"#, "docker.io", None, "u:p"),
    (r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}"#, "index.docker.io", None, "u:p"),
    (r#"{"auths":{"docker.io":{"auth":"dTpw"}}}"#, "docker.io", None, "-"),
    (r#"{"auths":{"a.example":{"auth":"dTpwOnE="}}}"#, "a.example", None, "u:p:q"),
    (r#"{"auths":{"a.example":{"auth":"dTo="}}}"#, "a.example", None, "u:"),
    (r#"{"auths":{"a.example":{"username":"u","password":"p"}}}"#, "a.example", None, "u:p"),
    (r#"{"auths":{"a.example":{"identitytoken":"t","auth":"dTpw"}}}"#, "a.example", None, "identity t"),
    (r#"{"auths":{"a.example":{"registrytoken":"t"}}}"#, "a.example", None, "bearer t"),
    (r#"{"auths":{"a.example":{"auth":"PHRva2VuPjp0"}}}"#, "a.example", None, "identity t"),
    (r#"{"auths":{"a.example":{}}}"#, "a.example", None, "-"),
    (r#"{"auths":{"a.example":{"auth":""}}}"#, "a.example", None, "-"),
    (r#"{"auths":{"a.example":{"email":"x@y"}}}"#, "a.example", None, "-"),
    (r#"{"credsStore":"","auths":{"a.example":{"auth":"dTpw"}}}"#, "a.example", None, "u:p"),
    (
        r#"{"credHelpers":{"b.example":"none"},"auths":{"a.example":{"auth":"dTpw"}}}"#,
        "a.example",
        None,
        "u:p",
    ),
    (r#"{"HttpHeaders":{"x":"y"},"auths":{"[::1]:5000":{"auth":"dTpw"}}}"#, "[::1]:5000", None, "u:p"),
];

const NAMESPACED: &str = r#"{"auths":{"q.example":{"auth":"dTpw"},"q.example/org":{"auth":"YTpi"}}}"#;
const HUB_FILE: &str = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}"#;

const PODMAN: [Fixture; 20] = [
    ("{}", "q.example", None, "-"),
    (NAMESPACED, "q.example", None, "u:p"),
    (NAMESPACED, "q.example", Some("org/name"), "a:b"),
    (NAMESPACED, "q.example", Some("org"), "a:b"),
    (NAMESPACED, "q.example", Some("organic/name"), "u:p"),
    (NAMESPACED, "q.example", Some("other"), "u:p"),
    (r#"{"auths":{"q.example/org/name":{"auth":"dTpw"}}}"#, "q.example", Some("org/name"), "u:p"),
    (r#"{"auths":{"q.example/org/name":{"auth":"dTpw"}}}"#, "q.example", Some("org"), "-"),
    (r#"{"auths":{"q.example/org/name":{"auth":"dTpw"}}}"#, "q.example", None, "-"),
    (
        r#"{"auths":{"q.example/a/b/c":{"auth":"YTpi"},"q.example/a":{"auth":"dTpw"}}}"#,
        "q.example",
        Some("a/b/c/d"),
        "a:b",
    ),
    (
        r#"{"auths":{"q.example/a/b/c":{"auth":"YTpi"},"q.example/a":{"auth":"dTpw"}}}"#,
        "q.example",
        Some("a/b"),
        "u:p",
    ),
    (r#"{"auths":{"q.example:5000":{"auth":"dTpw"}}}"#, "q.example:5000", None, "u:p"),
    (r#"{"auths":{"q.example:5000":{"auth":"dTpw"}}}"#, "q.example", None, "-"),
    (r#"{"auths":{"https://q.example/v1/":{"auth":"dTpw"}}}"#, "q.example", Some("org"), "u:p"),
    (r#"{"auths":{"http://q.example":{"auth":"dTpw"}}}"#, "q.example", None, "u:p"),
    (r#"{"auths":{"docker.io":{"auth":"dTpw"}}}"#, "docker.io", Some("library/x"), "u:p"),
    (r#"{"auths":{"index.docker.io":{"auth":"dTpw"}}}"#, "docker.io", None, "u:p"),
    (HUB_FILE, "docker.io", Some("library/x"), "u:p"),
    (r#"{"auths":{"q.example":{"auth":"dTpw"}},"credsStore":"none"}"#, "q.example", None, "u:p"),
    (r#"{"auths":{"q.example":{}}}"#, "q.example", None, "-"),
];

fn query<'q>(host: &'q str, repository: Option<&'q str>) -> CredentialQuery<'q> {
    match repository {
        None => CredentialQuery::host(host),
        Some(repository) => CredentialQuery::repository(host, repository),
    }
}

#[tokio::test]
async fn what_docker_and_podman_find() {
    for (file, host, repository, expected) in DOCKER {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, file).unwrap();
        let config = DockerConfig::read(&path).unwrap();
        let found = config.credentials(query(host, repository)).await.unwrap();
        assert_eq!(named(found), expected, "{host} in {file}");
    }
    for (file, host, repository, expected) in PODMAN {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.json");
        std::fs::write(&path, file).unwrap();
        let auth = PodmanAuth::read(&path).unwrap();
        let found = auth.get(query(host, repository)).await.unwrap();
        assert_eq!(named(found), expected, "{host}/{repository:?} in {file}");
    }
    println!("fixtures: {} of docker, {} of podman", DOCKER.len(), PODMAN.len());
}

/// The same files, as podman's own code reads them: `--get-login` prints the user name.
#[tokio::test]
async fn skopeo_finds_the_same() {
    if !peer("skopeo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.json");
    for (file, host, repository, expected) in PODMAN {
        std::fs::write(&path, file).unwrap();
        let name = repository.map_or(host.to_owned(), |repository| format!("{host}/{repository}"));
        let mut command = Command::new("skopeo");
        command
            .args(["login", "--get-login", "--authfile"])
            .arg(&path)
            .arg(&name)
            .env("HOME", directory.path());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let user = String::from_utf8(output.stdout).unwrap();
        let theirs = if output.status.success() { user.trim() } else { "-" };
        assert_eq!(theirs, expected.split(':').next().unwrap(), "{name} in {file}");
    }
    println!("fixtures: {} of podman resolve as in skopeo", PODMAN.len());
}

/// The same files, as docker's own code reads them, which crane has in it. `COOPERAGE_CRANE` names the program.
#[tokio::test]
async fn crane_finds_the_same() {
    let crane = std::env::vars_os().find(|(key, _)| key == "COOPERAGE_CRANE").map(|(_, value)| value);
    let Some(crane) = crane else {
        println!("skipped: COOPERAGE_CRANE does not name crane");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut same = 0;
    // docker's credentials are those of a host, whatever the repository.
    for (file, host, _, expected) in DOCKER {
        std::fs::write(directory.path().join("config.json"), file).unwrap();
        let mut command = Command::new(&crane);
        command.args(["auth", "get"]).arg(host);
        command.env("DOCKER_CONFIG", directory.path()).env("HOME", directory.path());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        let theirs = match (text("Username").as_str(), text("Secret").as_str()) {
            ("", "") => "-".to_owned(),
            ("<token>", token) => format!("identity {token}"),
            (user, password) => format!("{user}:{password}"),
        };
        // crane has no word for a bearer token.
        if expected.starts_with("bearer") {
            continue;
        }
        assert_eq!(theirs, expected, "{host} in {file}: {}", String::from_utf8_lossy(&output.stderr));
        same += 1;
    }
    println!("fixtures: {same} of docker resolve as in crane");
}

#[tokio::test]
async fn what_docker_does_not_take() {
    for file in [
        "[]",
        "not json",
        r#"{"auths":{"a.example":{"auth":"!!"}}}"#,
        r#"{"auths":{"a.example":{"auth":"dXA="}}}"#,
        r#"{"auths":{"a.example":{"auth":7}}}"#,
        r#"{"credsStore":"../evil"}"#,
        r#"{"credHelpers":{"a.example":"a/b"}}"#,
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, file).unwrap();
        let outcome = match DockerConfig::read(&path) {
            Ok(config) => config.get("a.example").await,
            Err(error) => Err(error),
        };
        assert!(outcome.is_err(), "{file}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn login_and_logout_leave_the_rest_of_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("deep/config.json");
    let mut config = DockerConfig::read(&path).unwrap();
    config.store("a.example", &Credentials::basic("u", "p")).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\n\t\"auths\": {\n\t\t\"a.example\": {\n\t\t\t\"auth\": \"dTpw\"\n\t\t}\n\t}\n}");
    std::fs::write(&path, text.replacen("{\n", "{\n\t\"psFormat\": \"x\",\n", 1)).unwrap();
    config.store("docker.io", &Credentials::basic("a", "b")).await.unwrap();
    let again = DockerConfig::read(&path).unwrap();
    assert_eq!(named(again.get("docker.io").await.unwrap()), "a:b");
    assert_eq!(again.hosts().collect::<Vec<_>>(), ["a.example", HUB]);
    assert!(config.erase("a.example").await.unwrap());
    assert!(!config.erase("a.example").await.unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("\"psFormat\": \"x\"") && !text.contains("a.example"), "{text}");
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
}

#[cfg(unix)]
#[tokio::test]
async fn helpers() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("docker-credential-test");
    let text = "#!/bin/sh\nread -r server\ncase \"$1:$server\" in\n\
        get:a.example) echo '{\"ServerURL\":\"a.example\",\"Username\":\"u\",\"Secret\":\"p\"}';;\n\
        get:t.example) echo '{\"Username\":\"<token>\",\"Secret\":\"t\"}';;\n\
        get:broken.example) echo 'the door is locked'; exit 1;;\n\
        get:odd.example) echo 'not json';;\n\
        get:*) echo 'credentials not found in native keychain'; exit 1;;\nesac\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("config.json");
    std::fs::write(&path, r#"{"credsStore":"test","auths":{"none.example":{"auth":"dTpw"}}}"#).unwrap();
    let config = DockerConfig::read(&path).unwrap().helpers_in(directory.path());
    assert_eq!(named(config.get("a.example").await.unwrap()), "u:p");
    assert_eq!(named(config.get("t.example").await.unwrap()), "identity t");
    assert_eq!(named(config.get("none.example").await.unwrap()), "-", "unknown to the helper is anonymous");
    assert!(config.get("broken.example").await.unwrap_err().to_string().contains("the door is locked"));
    assert!(config.get("odd.example").await.is_err());
    let missing = DockerConfig::from_json(r#"{"credsStore":"absent"}"#).unwrap().helpers_in(directory.path());
    assert!(missing.get("a.example").await.is_err());
}

#[tokio::test]
async fn the_order_of_places() {
    let home = tempfile::tempdir().unwrap();
    let write = |path: &str, auth: &str| {
        let path = home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!(r#"{{"auths":{{"a.example":{{"auth":"{auth}"}}}}}}"#)).unwrap();
    };
    let mut environment = CredentialEnvironment::new();
    environment.home = Some(home.path().to_owned());
    let query = CredentialQuery::host("a.example");
    let podman = |environment: &CredentialEnvironment| environment.podman().unwrap();
    assert_eq!(named(podman(&environment).credentials(query).await.unwrap()), "-");
    std::fs::write(home.path().join(".dockercfg"), r#"{"https://a.example/v1/":{"auth":"dTpw"}}"#).unwrap();
    assert_eq!(named(podman(&environment).credentials(query).await.unwrap()), "u:p");
    write(".docker/config.json", "YTpi");
    assert_eq!(named(podman(&environment).credentials(query).await.unwrap()), "a:b");
    assert_eq!(named(environment.docker().unwrap().credentials(query).await.unwrap()), "a:b");
    write(".config/containers/auth.json", "Yzpk");
    assert_eq!(named(podman(&environment).credentials(query).await.unwrap()), "c:d");
    environment.docker_auth_config = Some(r#"{"auths":{"a.example":{"auth":"ZTpm"}}}"#.into());
    assert_eq!(named(environment.docker().unwrap().credentials(query).await.unwrap()), "e:f");
    let other = CredentialQuery::host("b.example");
    assert_eq!(named(environment.docker().unwrap().credentials(other).await.unwrap()), "-");
    environment.registry_auth_file = Some(home.path().join("absent.json"));
    assert_eq!(named(podman(&environment).credentials(query).await.unwrap()), "-");
    assert!(!format!("{environment:?}").contains("ZTpm"));
}
