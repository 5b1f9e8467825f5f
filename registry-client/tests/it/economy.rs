//! How many requests an image of ten layers takes.

use registry_client::server::Registry;

use crate::{Image, anonymous, reference};

#[tokio::test]
async fn ten_layers() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (anonymous(), Image::new(10, 1000));
    let name = reference(&registry, "x:1");
    assert_eq!(client.head_manifest(&name).await.unwrap(), None);
    image.push(&client, &name).await;
    let cold = registry.journal().len();
    registry.journal().clear();
    assert_eq!(client.head_manifest(&name).await.unwrap().unwrap().digest, image.digest);
    let warm = registry.journal().len();
    registry.journal().clear();
    image.check(&client, &name).await;
    let pull = registry.journal().len();
    println!("requests: cold push {cold}, warm push {warm}, pull {pull}");
    assert!(cold <= 35 && warm <= 2 && pull <= 12, "cold {cold}, warm {warm}, pull {pull}");
}
