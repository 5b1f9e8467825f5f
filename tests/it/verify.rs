//! The policy hook: only a clear yes lets an image in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cooperage::image::{Descriptor, Digest, Manifest, MediaType, MemoryBlob, Reference};
use cooperage::registry::PushOptions;
use cooperage::registry::server::{Registry, RunningRegistry};
use cooperage::{Candidate, Context, Engine, EngineOptions, Error, ImageVerifier, VerifyError};

use crate::{COPY, context, engine, quiet};

const SIGNATURE: &str = "application/vnd.example.signature";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    Yes,
    Refuse,
    Fail,
    Panic,
    Silence,
    Signed,
}

#[derive(Debug)]
struct Judge(Policy, AtomicU32);

#[async_trait::async_trait]
impl ImageVerifier for Judge {
    async fn verify(&self, candidate: &Candidate) -> Result<(), VerifyError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        assert_eq!(Digest::sha256(candidate.manifest_bytes()), candidate.manifest().digest);
        assert_eq!(candidate.config().value().os, "linux");
        match self.0 {
            Policy::Yes => Ok(()),
            Policy::Refuse => Err(VerifyError::refused("not today")),
            Policy::Fail => Err(VerifyError::failed("the key is lost")),
            Policy::Panic => panic!("a verifier's own fault"),
            Policy::Silence => std::future::pending().await,
            Policy::Signed => {
                let found = candidate.referrers(candidate.digest(), Some(SIGNATURE)).await;
                let found = found.map_err(VerifyError::failed)?;
                let Some(signature) = found.first() else { return Err(VerifyError::refused("unsigned")) };
                let manifest =
                    candidate.fetch_manifest(&signature.digest).await.map_err(VerifyError::failed)?;
                let manifest: Manifest = serde_json::from_slice(&manifest.bytes).unwrap();
                let payload = candidate.fetch_blob(&manifest.layers[0], 1000).await.unwrap();
                let right = payload == candidate.digest().to_string().as_bytes();
                if right { Ok(()) } else { Err(VerifyError::refused("signed for another image")) }
            }
        }
    }
}

/// A registry with an image in it.
async fn published() -> (RunningRegistry, Reference, Descriptor) {
    let registry = Registry::in_memory().listen("127.0.0.1:0").await.unwrap();
    let (store, files) = (tempfile::tempdir().unwrap(), context(&[("Dockerfile", COPY), ("src/x", "x")]));
    let engine = engine(&store).await;
    let built = engine.build(Context::directory(files.path())).run().await.unwrap();
    let name: Reference = format!("{}/org/app:v1", registry.addr()).parse().unwrap();
    let manifest = engine.push(&built.image, &name, &quiet()).await.unwrap();
    (registry, name, manifest)
}

async fn judged(dir: &tempfile::TempDir, policy: Policy) -> (Engine, Arc<Judge>) {
    let judge = Arc::new(Judge(policy, AtomicU32::new(0)));
    let mut options = EngineOptions::rooted_at(dir.path()).verifier(judge.clone());
    options.verify_timeout =
        if policy == Policy::Silence { Duration::from_millis(50) } else { Duration::from_secs(60) };
    (Engine::open(options).await.unwrap(), judge)
}

/// Paths and sizes of everything in a directory.
fn files_in(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                left.push(entry.path());
            } else {
                found.push(format!("{} {}", entry.path().display(), entry.metadata().unwrap().len()));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_yes_lets_an_image_in() {
    let (registry, name, _) = published().await;
    for policy in [Policy::Refuse, Policy::Fail, Policy::Panic, Policy::Silence, Policy::Signed] {
        let dir = tempfile::tempdir().unwrap();
        let (engine, judge) = judged(&dir, policy).await;
        let before = files_in(&dir.path().join("store"));
        registry.journal().clear();
        let error = engine.pull(&name, &quiet()).await.unwrap_err();
        let Error::NotVerified { digest, source, .. } = &error else { panic!("{policy:?}: {error:?}") };
        assert_eq!(digest.algorithm().name(), "sha256");
        let expected = match policy {
            Policy::Refuse | Policy::Signed => matches!(source, VerifyError::Refused { .. }),
            Policy::Fail => matches!(source, VerifyError::Failed { .. }),
            Policy::Panic => matches!(source, VerifyError::Panicked),
            _ => matches!(source, VerifyError::TimedOut { .. }),
        };
        assert!(expected, "{policy:?}: {source:?}");
        assert_eq!(judge.1.load(Ordering::Relaxed), 1);
        assert!(engine.store().images().unwrap().is_empty() && engine.store().tags().unwrap().is_empty());
        assert_eq!(files_in(&dir.path().join("store")), before, "{policy:?}: nothing is left");
        let layers =
            registry.journal().entries().iter().filter(|entry| entry.path.contains("/blobs/")).count();
        assert_eq!(layers, 1, "{policy:?}: the config, and no layer");
    }
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = judged(&dir, Policy::Yes).await;
    assert!(!engine.pull(&name, &quiet()).await.unwrap().up_to_date);
    registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_judged_again() {
    let (registry, name, _) = published().await;
    let dir = tempfile::tempdir().unwrap();
    let free = engine(&dir).await;
    free.pull(&name, &quiet()).await.unwrap();
    let (strict, judge) = judged(&dir, Policy::Refuse).await;
    assert!(strict.pull(&name, &quiet()).await.is_err());
    assert_eq!(judge.1.load(Ordering::Relaxed), 1);
    registry.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_reads_signatures_and_is_not_fooled_by_a_registry_that_fails() {
    let (registry, name, manifest) = published().await;
    let dir = tempfile::tempdir().unwrap();
    let (engine, _) = judged(&dir, Policy::Signed).await;
    let blob = |media_type, bytes: Vec<u8>| MemoryBlob::new(Descriptor::of(media_type, &bytes), bytes);
    let payload = blob(MediaType::Other("text/plain".to_owned()), manifest.digest.to_string().into_bytes());
    let empty = blob(MediaType::OciEmpty, b"{}".to_vec());
    let of = |blob: &MemoryBlob| cooperage::image::BlobSource::descriptor(blob).clone();
    let mut signature = Manifest::oci(of(&empty), vec![of(&payload)]);
    signature.artifact_type = Some(SIGNATURE.to_owned());
    signature.subject = Some(manifest);
    for blob in [payload, empty] {
        engine.client().push_blob(&name, Box::new(blob), PushOptions::new()).await.unwrap();
    }
    let bytes = serde_json::to_vec(&signature).unwrap();
    let at = name.at_digest(Digest::sha256(&bytes));
    engine.client().push_manifest(&at, &MediaType::OciManifest, bytes.into()).await.unwrap();
    engine.pull(&name, &quiet()).await.unwrap();
    registry.shutdown().await;
}
