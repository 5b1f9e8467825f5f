//! A pull that was cut goes on with what came, also when nothing but the store is left of the first.

use cooperage::registry::server::Registry;
use cooperage::registry::server::fault::{Action, Fault};
use cooperage::registry::{Client, RetryPolicy};
use cooperage::{Context, Engine, EngineOptions};

use crate::{engine, quiet};

#[tokio::test]
async fn the_next_engine_asks_for_the_rest_of_a_layer() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let name = format!("{}/org/large:v1", registry.addr()).parse().unwrap();
    let files = tempfile::tempdir().unwrap();
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..3_000_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect();
    std::fs::write(files.path().join("noise"), &noise).unwrap();
    std::fs::write(files.path().join("Dockerfile"), "FROM scratch\nCOPY noise /\n").unwrap();
    let first = tempfile::tempdir().unwrap();
    let builder = engine(&first).await;
    let built = builder.build(Context::directory(files.path())).run().await.unwrap();
    builder.push(&built.image, &name, &quiet()).await.unwrap();

    let store = tempfile::tempdir().unwrap();
    let open = || async {
        let mut policy = RetryPolicy::default();
        policy.attempts = 1;
        let client = Client::builder().loopback_plain_http(true).retry(policy).build().unwrap();
        Engine::open(EngineOptions::rooted_at(store.path()).client(client)).await.unwrap()
    };
    registry.fault(Fault::new(Action::CutResponse(1 << 20)).method("GET").path("/blobs/"));
    open().await.pull(&name, &quiet()).await.unwrap_err();
    registry.clear_faults();
    registry.journal().clear();
    let pulled = open().await.pull(&name, &quiet()).await.unwrap();
    assert_eq!(pulled.image.id(), built.image.id());
    let ranges: Vec<u64> = registry
        .journal()
        .entries()
        .iter()
        .filter(|entry| entry.path.contains("/blobs/"))
        .filter_map(|entry| {
            entry.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
        })
        .collect();
    let [from] = ranges.as_slice() else { panic!("{:?}", registry.journal().entries()) };
    assert!((500_000..=1 << 20).contains(from), "it went on at byte {from}");
    registry.shutdown().await;
}
