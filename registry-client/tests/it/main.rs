//! The client against registries: the one in this crate, and Debian's where it is installed.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "what fails or is printed here is a test"
)]

mod auth;
mod conformance;
mod copy;
mod crash;
mod credential;
mod debian;
mod duty;
mod economy;
mod fault;
mod hosts;
mod hub;
mod leak;
mod mirror;
mod net;
mod network;
mod peers;
mod tls;
mod token_server;
mod transfer;

use std::sync::Arc;

use bytes::Bytes;
use image_core::{Descriptor, Digest, Manifest, MediaType, MemoryBlob, Reference};
use registry_client::credential::{Credentials, FixedCredentials};
use registry_client::server::RunningRegistry;
use registry_client::{Client, PushOptions, RetryPolicy};

pub(crate) const USER: &str = "me";
pub(crate) const CANARY: &str = "canary-5ecret";

/// Waits that do not make a test slow.
pub(crate) fn quick() -> RetryPolicy {
    net::spread();
    let mut policy = RetryPolicy::default();
    policy.base = std::time::Duration::from_millis(2);
    policy.attempts = 8;
    policy
}

pub(crate) fn anonymous() -> Client {
    Client::builder().loopback_plain_http(true).retry(quick()).build().unwrap()
}

pub(crate) fn with_login(registry: &RunningRegistry) -> Client {
    let host = registry.addr().to_string();
    let source = FixedCredentials::new().with(host, Credentials::basic(USER, CANARY));
    Client::builder().loopback_plain_http(true).credentials(Arc::new(source)).retry(quick()).build().unwrap()
}

pub(crate) fn reference(registry: &RunningRegistry, rest: &str) -> Reference {
    Reference::parse(&format!("{}/{rest}", registry.addr())).unwrap()
}

/// Bytes that no compression and no chance makes equal.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

pub(crate) fn blob(media_type: MediaType, bytes: Vec<u8>) -> MemoryBlob {
    MemoryBlob::new(Descriptor::of(media_type, &bytes), bytes)
}

/// An image with so many layers of so many bytes.
pub(crate) struct Image {
    pub(crate) blobs: Vec<MemoryBlob>,
    pub(crate) manifest: Bytes,
    pub(crate) digest: Digest,
}

impl Image {
    pub(crate) fn new(layers: u64, size: usize) -> Self {
        let config = blob(MediaType::OciConfig, b"{\"architecture\":\"amd64\",\"os\":\"linux\"}".to_vec());
        let gzip = image_core::Compression::Gzip;
        let layers: Vec<MemoryBlob> =
            (0..layers).map(|seed| blob(MediaType::OciLayer(gzip), noise(seed + 1, size))).collect();
        let of = |blob: &MemoryBlob| image_core::BlobSource::descriptor(blob).clone();
        let manifest = Manifest::oci(of(&config), layers.iter().map(of).collect());
        let manifest = Bytes::from(serde_json::to_vec(&manifest).unwrap());
        let digest = Digest::sha256(&manifest);
        let mut blobs = vec![config];
        blobs.extend(layers);
        Self { blobs, manifest, digest }
    }

    pub(crate) fn descriptors(&self) -> Vec<Descriptor> {
        self.blobs.iter().map(|blob| image_core::BlobSource::descriptor(blob).clone()).collect()
    }

    pub(crate) async fn push(&self, client: &Client, to: &Reference) {
        for blob in &self.blobs {
            client.push_blob(to, Box::new(blob.clone()), PushOptions::new()).await.unwrap();
        }
        client.push_manifest(to, &MediaType::OciManifest, self.manifest.clone()).await.unwrap();
    }

    pub(crate) async fn check(&self, client: &Client, from: &Reference) {
        let fetched = client.manifest(from).await.unwrap();
        assert_eq!(fetched.bytes, self.manifest);
        assert_eq!(fetched.descriptor.digest, self.digest);
        for descriptor in self.descriptors() {
            let bytes = client.blob_into(from, &descriptor, Vec::new()).await.unwrap();
            assert_eq!(Digest::sha256(&bytes), descriptor.digest);
        }
    }
}
