//! The policy hook: who may come into the store.
//!
//! An image is shown to the verifier once its manifest and config are here and verified, before any of it is
//! committed. Only a clear yes lets it in: a refusal, an error, a panic and silence all leave the store as it was.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use image_core::{Descriptor, Digest, Document, ImageConfig, Reference};
use registry_client::{Client, FetchedManifest};

use crate::engine::Engine;
use crate::error::{Error, Result};

/// What a verifier's own failure was.
pub type VerifierCause = Box<dyn std::error::Error + Send + Sync>;

/// Decides whether an image that is being pulled may be kept.
///
/// It is asked for every pull, also for one that finds everything in the store already: a policy may be newer than
/// what is there. Images that are built here or loaded from an archive are not asked about.
///
/// ```
/// use cooperage::{Candidate, ImageVerifier, VerifyError};
///
/// /// Nothing comes in that nobody has signed.
/// #[derive(Debug)]
/// struct Signed;
///
/// #[async_trait::async_trait]
/// impl ImageVerifier for Signed {
///     async fn verify(&self, candidate: &Candidate) -> Result<(), VerifyError> {
///         let kind = Some("application/vnd.example.signature");
///         let found = candidate.referrers(candidate.digest(), kind).await.map_err(VerifyError::failed)?;
///         if found.is_empty() { Err(VerifyError::refused("nobody has signed it")) } else { Ok(()) }
///     }
/// }
/// ```
#[async_trait]
pub trait ImageVerifier: Send + Sync + fmt::Debug {
    /// Lets the image in, or says why not.
    ///
    /// # Errors
    /// [`VerifyError::refused`] for a no, [`VerifyError::failed`] when it cannot tell; both keep the image out.
    ///
    /// # Cancel safety
    /// The future is dropped when its time is over or when nobody waits for the pull any more.
    async fn verify(&self, candidate: &Candidate) -> Result<(), VerifyError>;
}

/// Why an image was not let in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The verifier says no.
    #[error("refused: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
    /// The verifier could not tell.
    #[error("the verifier failed")]
    Failed {
        /// Why.
        source: VerifierCause,
    },
    /// The verifier panicked.
    #[error("the verifier panicked")]
    Panicked,
    /// The verifier did not answer in time.
    #[error("the verifier did not answer within {} s", after.as_secs_f64())]
    TimedOut {
        /// How long it had.
        after: Duration,
    },
}

impl VerifyError {
    /// A no, with its reason.
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into() }
    }

    /// No answer, because of `source`.
    pub fn failed(source: impl Into<VerifierCause>) -> Self {
        Self::Failed { source: source.into() }
    }
}

/// An image that wants to come in. Digests have been checked; nothing else has.
#[derive(Debug)]
pub struct Candidate {
    client: Client,
    reference: Reference,
    digest: Digest,
    manifest: Descriptor,
    manifest_bytes: Vec<u8>,
    config: Document<ImageConfig>,
}

impl Candidate {
    /// What was asked for.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The digest of what the name means: of the index where there is one. Signatures are usually of this.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The manifest for the engine's platform.
    #[must_use]
    pub fn manifest(&self) -> &Descriptor {
        &self.manifest
    }

    /// The exact bytes of that manifest.
    #[must_use]
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest_bytes
    }

    /// The config, with its exact bytes.
    #[must_use]
    pub fn config(&self) -> &Document<ImageConfig> {
        &self.config
    }

    /// What refers to `subject` in the registry, of one artifact type if one is given.
    ///
    /// # Errors
    /// [`registry_client::Error`]: a registry that does not answer is not one that has no signatures.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> registry_client::Result<Vec<Descriptor>> {
        self.client.referrers(&self.reference, subject, artifact_type).await
    }

    /// A manifest of the same repository, such as that of a signature.
    ///
    /// # Errors
    /// [`registry_client::Error`]
    pub async fn fetch_manifest(&self, digest: &Digest) -> registry_client::Result<FetchedManifest> {
        self.client.manifest(&self.reference.at_digest(*digest)).await
    }

    /// A blob of the same repository, if it has at most `limit` bytes; its digest and size are verified.
    ///
    /// # Errors
    /// [`registry_client::Error`]; [`registry_client::Error::Unsupported`] when it is larger.
    pub async fn fetch_blob(&self, blob: &Descriptor, limit: u64) -> registry_client::Result<Vec<u8>> {
        if blob.size > limit {
            let what = format!("a blob of {} bytes, more than {limit},", blob.size);
            return Err(registry_client::Error::Unsupported { what });
        }
        self.client.blob_into(&self.reference, blob, Vec::new()).await
    }
}

impl Engine {
    /// Asks the verifier, if there is one.
    pub(super) async fn admit(
        &self,
        reference: &Reference,
        digest: Digest,
        manifest: &Descriptor,
        manifest_bytes: &[u8],
        config: &Document<ImageConfig>,
    ) -> Result<()> {
        let Some((verifier, limit)) = self.verifier() else { return Ok(()) };
        let (verifier, limit) = (Arc::clone(verifier), *limit);
        let candidate = Candidate {
            client: self.client().clone(),
            reference: reference.clone(),
            digest,
            manifest: manifest.clone(),
            manifest_bytes: manifest_bytes.to_vec(),
            config: config.clone(),
        };
        // A task of its own: its panic is an answer, and it ends when this future does.
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { verifier.verify(&candidate).await });
        let source = match tokio::time::timeout(limit, tasks.join_next()).await {
            Ok(Some(Ok(Ok(())))) => return Ok(()),
            Ok(Some(Ok(Err(error)))) => error,
            Ok(Some(Err(_)) | None) => VerifyError::Panicked,
            Err(_) => VerifyError::TimedOut { after: limit },
        };
        Err(Error::NotVerified { reference: reference.familiar(), digest: Box::new(digest), source })
    }
}
