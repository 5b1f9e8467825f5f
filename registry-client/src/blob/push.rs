//! Uploads: not at all if the registry has the blob, by mounting if another repository of it has, else in one piece,
//! and in several when that fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::Method;
use image_core::{Algorithm, BlobSource, Digest, Reference};

use super::session::Session;
use super::upload::{Single, Upload, check_stated};
use crate::auth::{Action, ScopeSet};
use crate::client::Client;
use crate::engine::{Call, unexpected};
use crate::error::{Error, Result};
use crate::event::Event;

/// How a blob is pushed.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct PushOptions {
    /// Repositories that may have the blob, best guess first. Those of other registries are passed over.
    pub mount_from: Vec<Reference>,
    /// For single blobs, repositories that are known to have them: they are tried before the others.
    pub mount_blobs: BTreeMap<Digest, Vec<Reference>>,
    /// The caller knows that the registry does not have it: no question, just the upload.
    pub skip_check: bool,
    /// Sends the bytes with the request that opens the upload. It saves a request per blob with registries that take
    /// that, and costs the bytes once more with those that do not.
    pub single_request: bool,
}

impl PushOptions {
    /// Check, then upload.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tries to mount from this repository before uploading.
    #[must_use]
    pub fn mount_from(mut self, repository: Reference) -> Self {
        self.mount_from.push(repository);
        self
    }

    /// Tries to mount this blob from this repository, where the caller knows it to be: what is pushed together may have
    /// come from several.
    #[must_use]
    pub fn mount_blob_from(mut self, blob: Digest, repository: Reference) -> Self {
        let known = self.mount_blobs.entry(blob).or_default();
        if !known.contains(&repository) {
            known.push(repository);
        }
        self
    }

    /// Whether the bytes go with the request that opens the upload.
    #[must_use]
    pub fn single_request(mut self, yes: bool) -> Self {
        self.single_request = yes;
        self
    }

    /// Does not ask whether the blob is there.
    #[must_use]
    pub fn skip_check(mut self, skip: bool) -> Self {
        self.skip_check = skip;
        self
    }
}

/// How a blob came to be in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlobPush {
    /// Its bytes were sent.
    Uploaded,
    /// It was there.
    Exists,
    /// The registry took it from another repository.
    Mounted {
        /// The repository.
        from: String,
    },
}

impl Client {
    /// Brings a blob into a repository.
    ///
    /// # Errors
    /// [`Error::BlobRead`] when the source fails, and what any request can end in.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the upload session as far as the registry can be reached.
    pub async fn push_blob(
        &self,
        repository: &Reference,
        source: Box<dyn BlobSource>,
        options: PushOptions,
    ) -> Result<BlobPush> {
        let descriptor = source.descriptor().clone();
        let digest = descriptor.digest;
        let push = [Action::Pull, Action::Push];
        if !options.skip_check && self.blob_exists_with(repository, &descriptor, &push).await? {
            self.engine().tell(&Event::Exists { digest });
            return Ok(BlobPush::Exists);
        }
        let mut session = None;
        let known = options.mount_blobs.get(&digest).into_iter().flatten();
        for from in known.chain(&options.mount_from) {
            if from.domain() != repository.domain() || from.path() == repository.path() {
                continue;
            }
            match self.mount(repository, from, &descriptor.digest).await? {
                Mount::Mounted => {
                    let from = from.path().to_owned();
                    self.engine().tell(&Event::Mounted { digest, from: from.clone() });
                    return Ok(BlobPush::Mounted { from });
                }
                // The registry has opened an upload instead; a second one would be left over.
                Mount::Session(opened) => {
                    session = Some(*opened);
                    break;
                }
                Mount::Refused => {}
            }
        }
        let source = Arc::new(Mutex::new(source));
        let upload = Upload::new(self, repository, descriptor, source);
        if options.single_request && session.is_none() {
            match upload.single(&self.endpoint(repository).await?).await? {
                Single::Stored => return Ok(BlobPush::Uploaded),
                Single::Session(opened) => session = Some(*opened),
                Single::Refused => {}
            }
        }
        let session = match session {
            Some(session) => session,
            None => self.open_session(repository, digest.algorithm()).await?,
        };
        upload.run(session).await?;
        Ok(BlobPush::Uploaded)
    }

    /// Opens an upload session.
    pub(super) async fn open_session(&self, repository: &Reference, algorithm: Algorithm) -> Result<Session> {
        let endpoint = self.endpoint(repository).await?;
        let mut url = endpoint.repository_url(repository.path(), &["blobs", "uploads", ""]);
        if algorithm != Algorithm::Sha256 {
            url.query_pairs_mut().append_pair("digest-algorithm", algorithm.name());
        }
        let scopes = ScopeSet::repository(repository.path(), &[Action::Pull, Action::Push]);
        let call = Call::new(Method::POST, url, &endpoint).scopes(repository.path(), scopes);
        let response = self.engine().call(call).await?;
        match response.status() {
            202 => Session::from_response(self, repository, endpoint, &response),
            _ => Err(unexpected(response).await),
        }
    }

    async fn mount(&self, repository: &Reference, from: &Reference, digest: &Digest) -> Result<Mount> {
        let endpoint = self.endpoint(repository).await?;
        let mut url = endpoint.repository_url(repository.path(), &["blobs", "uploads", ""]);
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from.path());
        let mut scopes = ScopeSet::repository(repository.path(), &[Action::Pull, Action::Push]);
        scopes.add_repository(from.path(), &[Action::Pull]);
        let call = Call::new(Method::POST, url, &endpoint).scopes(repository.path(), scopes);
        let response = match self.engine().call(call).await {
            Ok(response) => response,
            // Whoever may not read the other repository can still upload.
            Err(error) if error.is_unauthorized() && !matches!(error, Error::NoBasicCredentials { .. }) => {
                return Ok(Mount::Refused);
            }
            Err(error) => return Err(error),
        };
        match response.status() {
            201 => {
                check_stated(&response, digest)?;
                Ok(Mount::Mounted)
            }
            202 => {
                Ok(Mount::Session(Box::new(Session::from_response(self, repository, endpoint, &response)?)))
            }
            status if (400..500).contains(&status) && status != 429 => Ok(Mount::Refused),
            _ => Err(unexpected(response).await),
        }
    }
}

enum Mount {
    Mounted,
    Session(Box<Session>),
    Refused,
}
