//! The conformance program of the distribution spec (its `conformance/` folder, built elsewhere) against the
//! in-process registry. `COOPERAGE_CONFORMANCE` names the program.

use std::path::PathBuf;
use std::process::Command;

use registry_client::server::Registry;

use crate::debian::{Settings, docker_registry, peer};
use crate::{CANARY, USER};

fn program() -> Option<PathBuf> {
    let found = std::env::vars_os().find(|(key, _)| key == "COOPERAGE_CONFORMANCE").map(|(_, value)| value);
    if found.is_none() {
        println!("skipped: COOPERAGE_CONFORMANCE does not name the conformance program");
    }
    found.map(PathBuf::from)
}

async fn run(registry: Registry, what: &str) {
    let Some(program) = program() else { return };
    let registry = registry.listen("127.0.0.1:0").await.unwrap();
    let [checks, failures, skips] = check(program, &registry.addr().to_string()).await;
    println!("conformance: {what}: {failures} failures and {skips} skips of {checks} checks");
    assert!(checks > 800 && failures == 0 && skips == 0, "{what}");
}

/// Checks, failures and skips, as the suite counts them.
async fn check(program: PathBuf, address: &str) -> [u32; 3] {
    let results = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command
        .env("OCI_REGISTRY", address)
        .env("OCI_TLS", "disabled")
        .env("OCI_VERSION", "1.1")
        .env("OCI_REPO1", "conformance/one")
        .env("OCI_REPO2", "conformance/two")
        .env("OCI_USERNAME", USER)
        .env("OCI_PASSWORD", CANARY)
        .env("OCI_RESULTS_DIR", results.path())
        .current_dir(results.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let failed = text.lines().filter(|line| line.ends_with(": FAIL") || line.ends_with(": Skip"));
    failed.for_each(|line| println!("{line}"));
    let report = std::fs::read_to_string(results.path().join("junit.xml")).unwrap();
    let head = report.lines().find(|line| line.contains("<testsuites ")).unwrap().to_owned();
    ["tests", "failures", "skipped"].map(|name| {
        // A count of none is left out.
        let Some((_, rest)) = head.split_once(&format!(" {name}=\"")) else { return 0 };
        rest.split('"').next().unwrap().parse().unwrap()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain() {
    run(Registry::in_memory(), "memory, plain").await;
    let directory = tempfile::tempdir().unwrap();
    run(Registry::directory(directory.path()), "directory, plain").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_basic() {
    run(Registry::in_memory().basic_auth(USER, CANARY), "memory, Basic").await;
    let directory = tempfile::tempdir().unwrap();
    run(Registry::directory(directory.path()).basic_auth(USER, CANARY), "directory, Basic").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_bearer() {
    run(Registry::in_memory().bearer_auth(USER, CANARY), "memory, Bearer").await;
    let directory = tempfile::tempdir().unwrap();
    run(Registry::directory(directory.path()).bearer_auth(USER, CANARY), "directory, Bearer").await;
}

/// The same program on Debian's docker-registry, so that a suite that finds nothing is not taken for a clean one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_docker_registry() {
    let Some(program) = program() else { return };
    if !peer("docker-registry") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (_served, address) = docker_registry(directory.path(), &Settings::default()).await;
    let [checks, failures, skips] = check(program, &address).await;
    println!("conformance: docker-registry: {failures} failures and {skips} skips of {checks} checks");
    assert!(failures > 0);
}
