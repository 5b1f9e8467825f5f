//! How many requests an image of ten layers takes.

use image_core::{BlobSource, MediaType};
use registry_client::server::Registry;
use registry_client::{BlobPush, PushOptions};

use crate::{Image, anonymous, reference};

#[tokio::test]
async fn ten_layers() {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (client, image) = (anonymous(), Image::new(10, 1000));
    let push = async |name: &str| {
        let blobs = image.blobs.iter().map(|blob| Box::new(blob.clone()) as Box<dyn BlobSource>).collect();
        let name = reference(&registry, name);
        let manifest = image.manifest.clone();
        registry.journal().clear();
        let pushed = client.push_image(&name, &MediaType::OciManifest, manifest, blobs, PushOptions::new());
        (pushed.await.unwrap(), registry.journal().len())
    };
    let (report, cold) = push("x:1").await;
    assert_eq!(report.descriptor.digest, image.digest);
    assert!(
        report.blobs.iter().all(|(_, outcome)| *outcome == BlobPush::Uploaded) && report.blobs.len() == 11
    );
    let (report, warm) = push("x:1").await;
    assert!(report.blobs.is_empty());
    let (_, tag) = push("x:2").await;
    registry.journal().clear();
    image.check(&client, &reference(&registry, "x:2")).await;
    let pull = registry.journal().len();
    println!("requests: cold push {cold}, warm push {warm}, another tag {tag}, pull {pull}");
    assert!(cold <= 35 && warm <= 2 && tag <= 2 && pull <= 12, "cold {cold}, warm {warm}, pull {pull}");
}
