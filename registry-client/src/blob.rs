//! Blobs: whether they are there, and their deletion. Their bytes come in [`fetch`] and go in [`push`].

mod fetch;
mod parts;
mod push;
mod remote;
mod session;
mod upload;
mod write;

use http::Method;
use http::header::CONTENT_LENGTH;
use image_core::{Descriptor, Digest, Reference};

pub use fetch::BlobStream;
pub use push::{BlobPush, PushOptions};
pub(crate) use remote::RemoteBlob;

use crate::auth::{Action, ScopeSet};
use crate::client::Client;
use crate::engine::{Call, unexpected};
use crate::error::{Error, Result};

impl Client {
    /// Whether the repository has the blob. Reference means repository here; its tag and digest do not matter.
    ///
    /// # Errors
    /// [`Error`]; a refusal is an error, not `false`. [`Error::SizeMismatch`] when the registry has the digest with
    /// another size than the descriptor says.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn blob_exists(&self, repository: &Reference, descriptor: &Descriptor) -> Result<bool> {
        self.blob_exists_with(repository, descriptor, &[Action::Pull]).await
    }

    /// As [`Client::blob_exists`], with the actions that the token should have: a push asks for its own at once.
    pub(crate) async fn blob_exists_with(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        actions: &[Action],
    ) -> Result<bool> {
        let endpoint = self.endpoint(repository).await?;
        let digest = descriptor.digest.to_string();
        let segments = ["blobs", digest.as_str()];
        let url = endpoint.repository_url(repository.path(), &segments);
        let scopes = ScopeSet::repository(repository.path(), actions);
        let call = Call::new(Method::HEAD, url, &endpoint).scopes(repository.path(), scopes);
        let response = self.engine().call(call).await?;
        match response.status() {
            200 => {
                let stated = response.header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
                match stated.filter(|size| *size != descriptor.size) {
                    Some(actual) => Err(Error::SizeMismatch {
                        request: response.line().clone(),
                        expected: descriptor.size,
                        actual,
                    }),
                    None => Ok(true),
                }
            }
            404 => Ok(false),
            _ => Err(unexpected(response).await),
        }
    }

    /// Deletes a blob; `false` if there was none.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the registry does not delete blobs.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the blob or not.
    pub async fn delete_blob(&self, repository: &Reference, digest: &Digest) -> Result<bool> {
        let endpoint = self.endpoint(repository).await?;
        let digest = digest.to_string();
        let segments = ["blobs", digest.as_str()];
        let url = endpoint.repository_url(repository.path(), &segments);
        let scopes = ScopeSet::repository(repository.path(), &[Action::Delete]);
        let call = Call::new(Method::DELETE, url, &endpoint).scopes(repository.path(), scopes);
        let response = self.engine().call(call).await?;
        match response.status() {
            200..=204 => Ok(true),
            404 => Ok(false),
            400 | 405 => {
                Err(Error::Unsupported { what: format!("deleting blobs by {}", repository.domain()) })
            }
            _ => Err(unexpected(response).await),
        }
    }
}
