//! Pulls that end badly: the reason is the download's, and nothing is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cooperage::image::Reference;
use cooperage::registry::hosts::{HostRule, HostRules, Mirror};
use cooperage::registry::server::fault::{Action, Fault};
use cooperage::registry::server::{Registry, RunningRegistry};
use cooperage::registry::{self, Client, RetryPolicy};
use cooperage::{Context, Engine, EngineOptions, Error, Event};

use crate::{engine, quiet};

/// A registry with an image of three layers, two of them larger than what is held back on its way.
async fn registry() -> (RunningRegistry, Reference) {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let name = format!("{}/org/app:v1", registry.addr()).parse().unwrap();
    let files = tempfile::tempdir().unwrap();
    let mut state = 7_u32;
    for file in ["one", "two"] {
        let noise: Vec<u8> = (0..2_000_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect();
        std::fs::write(files.path().join(file), noise).unwrap();
    }
    std::fs::write(
        files.path().join("Dockerfile"),
        "FROM scratch\nCOPY one /\nCOPY two /\nCOPY Dockerfile /\n",
    )
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let builder = engine(&dir).await;
    let built = builder.build(Context::directory(files.path())).run().await.unwrap();
    builder.push(&built.image, &name, &quiet()).await.unwrap();
    (registry, name)
}

async fn puller(at: &std::path::Path) -> Engine {
    let mut policy = RetryPolicy::default();
    policy.attempts = 1;
    let client = Client::builder().loopback_plain_http(true).retry(policy).build().unwrap();
    Engine::open(EngineOptions::rooted_at(at).client(client)).await.unwrap()
}

fn staged(engine: &Engine) -> usize {
    std::fs::read_dir(engine.store().path().join("ingest")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_blob_that_lies_is_named_and_its_layer_is_not_kept() {
    let (registry, name) = registry().await;
    let dir = tempfile::tempdir().unwrap();
    let engine = puller(dir.path()).await;
    // The config passes.
    registry.fault(Fault::new(Action::Corrupt).method("GET").path("/blobs/").after(2));
    let error = engine.pull(&name, &quiet()).await.unwrap_err();
    let Error::Registry(cause) = &error else { panic!("{error:?}") };
    assert!(matches!(**cause, registry::Error::DigestMismatch { .. }), "{error:?}");
    assert_eq!(staged(&engine), 0);
    assert!(engine.store().images().unwrap().is_empty());
    registry.clear_faults();
    engine.pull(&name, &quiet()).await.unwrap();
    assert!(engine.store().check().unwrap().findings.is_empty());
    registry.shutdown().await;
}

#[tokio::test]
async fn a_cut_is_what_the_pull_fails_with() {
    let (registry, name) = registry().await;
    let dir = tempfile::tempdir().unwrap();
    let engine = puller(dir.path()).await;
    registry.fault(Fault::new(Action::CutResponse(1 << 20)).method("GET").path("/blobs/"));
    let error = engine.pull(&name, &quiet()).await.unwrap_err();
    assert!(matches!(error, Error::Registry(_)), "{error:?}");
    assert_eq!(staged(&engine), 0);
    registry.shutdown().await;
}

#[tokio::test]
async fn a_pull_that_is_dropped_between_two_layers_leaves_nothing() {
    let (registry, name) = registry().await;
    let dir = tempfile::tempdir().unwrap();
    let engine = puller(dir.path()).await;
    // The config and one layer pass, the others never come.
    registry
        .fault(Fault::new(Action::Delay(Duration::from_secs(3_600))).method("GET").path("/blobs/").after(2));
    let one = Arc::new(AtomicBool::new(false));
    let seen = one.clone();
    let events: cooperage::EventSink = Arc::new(move |event: &Event| {
        if matches!(event, Event::Pull { status: "Download complete", .. }) {
            seen.store(true, Ordering::SeqCst);
        }
    });
    let pull = engine.pull(&name, &events);
    tokio::select! {
        ended = pull => panic!("{ended:?}"),
        () = async {
            // One layer is here; others are awaited, by the threads that unpack, too.
            while !one.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } => {}
    }
    // The threads that waited for the others end on their own.
    for _ in 0..1_000 {
        if staged(&engine) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(staged(&engine), 0);
    assert!(engine.store().images().unwrap().is_empty());
    registry.shutdown().await;
}

#[tokio::test]
async fn a_mirror_that_lies_does_not_stop_a_pull() {
    let (registry, name) = registry().await;
    let (mirror, _) = self::registry().await;
    mirror.fault(Fault::new(Action::Corrupt).method("GET").path("/blobs/"));
    let rule =
        HostRule::new(registry.addr().to_string()).mirror(Mirror::at(&mirror.addr().to_string()).unwrap());
    let client =
        Client::builder().loopback_plain_http(true).hosts(HostRules::new().with(rule)).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(EngineOptions::rooted_at(dir.path()).client(client)).await.unwrap();
    engine.pull(&name, &quiet()).await.unwrap();
    assert!(engine.store().check().unwrap().findings.is_empty());
    let entries = mirror.journal().entries();
    let asked = entries.iter().filter(|entry| entry.method == "GET" && entry.path.contains("/blobs/"));
    assert_eq!(asked.count(), 4, "the config and each layer, once");
    registry.shutdown().await;
    mirror.shutdown().await;
}

#[tokio::test]
async fn coop_asks_the_mirrors_of_a_registries_conf() {
    let coop = crate::transcript::examples().join("coop");
    if !coop.exists() {
        return crate::base::skipped("the example coop is not built: run `cargo build --examples`");
    }
    let (mirror, _) = registry().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registries.conf");
    let text = format!(
        "[[registry]]\nprefix = \"nowhere.invalid\"\nlocation = \"nowhere.invalid\"\n[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
        mirror.addr()
    );
    std::fs::write(&file, text).unwrap();
    let output = tokio::process::Command::new(coop)
        .args(["pull", "nowhere.invalid/org/app:v1"])
        .env("COOP_ROOT", dir.path().join("store"))
        .env("CONTAINERS_REGISTRIES_CONF", file)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        String::from_utf8_lossy(&output.stdout)
            .contains("Downloaded newer image for nowhere.invalid/org/app:v1")
    );
    mirror.shutdown().await;
}
