//! The conformance program of the distribution spec (its `conformance/` folder, built elsewhere) against the
//! in-process registry. `COOPERAGE_CONFORMANCE` names the program.

use std::path::PathBuf;
use std::process::Command;

use registry_client::server::Registry;

use crate::{CANARY, USER};

fn program() -> Option<PathBuf> {
    let found = std::env::vars_os().find(|(key, _)| key == "COOPERAGE_CONFORMANCE").map(|(_, value)| value);
    if found.is_none() {
        println!("skipped: COOPERAGE_CONFORMANCE does not name the conformance program");
    }
    found.map(PathBuf::from)
}

/// `skips` is how many steps the suite may leave out: a token for one repository mounts nothing from another.
async fn run(registry: Registry, what: &str, skips: usize) {
    let Some(program) = program() else { return };
    let registry = registry.listen("127.0.0.1:0").await.unwrap();
    let results = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command
        .env("OCI_REGISTRY", registry.addr().to_string())
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
    let failed: Vec<&str> =
        text.lines().filter(|line| line.ends_with(": FAIL") || line.ends_with(": Skip")).collect();
    println!("{what}: {} failures and skips", failed.len());
    assert!(output.status.success() && failed.len() <= skips, "{what}: {failed:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    run(Registry::in_memory(), "in memory", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    run(Registry::directory(directory.path()), "directory", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_basic() {
    run(Registry::in_memory().basic_auth(USER, CANARY), "Basic", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_bearer() {
    run(Registry::in_memory().bearer_auth(USER, CANARY), "Bearer", 4).await;
}
