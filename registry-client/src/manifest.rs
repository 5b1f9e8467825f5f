//! Manifests and indexes: their exact bytes, by tag or by digest.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use http::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH,
};
use image_core::{AnyManifest, Descriptor, Digest, MANIFEST_LIMIT, MediaType, Reference};
use serde::Deserialize;

use crate::auth::{Action, ScopeSet};
use crate::client::Client;
use crate::endpoint::Source;
use crate::engine::{Call, CallBody, unexpected};
use crate::error::{Error, RequestLine, Result};
use crate::event::Event;
use crate::hosts::Asked;
use crate::transport::Response;

pub(crate) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// What makes a manifest a referrer, and how it is listed.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refers {
    media_type: Option<String>,
    subject: Option<Descriptor>,
    config: Option<Descriptor>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

/// What this client can read. Registries convert or refuse when a type is missing here.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index as the registry has it: the digest is of exactly these bytes, and has been checked.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FetchedManifest {
    /// Type, digest and size.
    pub descriptor: Descriptor,
    /// The type that the registry gave it.
    pub media_type: MediaType,
    /// The bytes.
    pub bytes: Bytes,
    /// The request that was answered with them: a mirror's, if one had them.
    pub request: RequestLine,
    /// The strong entity tag, if the registry gave one: a later change can be made to depend on it.
    pub(crate) etag: Option<HeaderValue>,
}

/// Under which condition a manifest is stored (RFC 9110 section 13.1). Registries that know no conditions store it.
#[derive(Clone, Debug, Default)]
pub(crate) enum Condition {
    #[default]
    None,
    /// There is nothing under that name.
    Absent,
    /// What is there has this entity tag.
    Unchanged(HeaderValue),
}

impl FetchedManifest {
    /// The parsed document.
    ///
    /// # Errors
    /// [`image_core::DocumentError`] when it is not one, is both manifest and index, or says that it is of another
    /// type than the registry said.
    pub fn parse(&self) -> Result<AnyManifest, image_core::DocumentError> {
        AnyManifest::parse(self.bytes.to_vec(), Some(&self.media_type))
    }
}

impl Client {
    /// Type, digest and size of a manifest, or `None` if the registry does not have it.
    ///
    /// A registry that does not give the digest with HEAD is asked with GET. Mirrors are asked before the registry.
    ///
    /// # Errors
    /// [`Error`]; a refusal is an error, not `None`.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn head_manifest(&self, reference: &Reference) -> Result<Option<Descriptor>> {
        for source in self.sources(reference, Asked::Manifest).await? {
            match self.head_manifest_of(&source, reference).await {
                Ok(None) if !source.last => {}
                Ok(found) => return Ok(found),
                Err(error) => self.pass_over(&source, error)?,
            }
        }
        Ok(None)
    }

    /// As [`Client::head_manifest`], of the registry itself whatever mirrors it has: what they have says nothing of
    /// what has to be pushed.
    ///
    /// # Errors
    /// As [`Client::head_manifest`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn head_manifest_at_origin(&self, reference: &Reference) -> Result<Option<Descriptor>> {
        self.head_manifest_of(&self.origin(reference).await?, reference).await
    }

    async fn head_manifest_of(&self, source: &Source, reference: &Reference) -> Result<Option<Descriptor>> {
        let response = self.manifest_call(Method::HEAD, source, reference, Action::Pull).await?;
        match response.status() {
            200 => {}
            404 => return Ok(None),
            405 => return self.manifest_or_none(source, reference).await,
            _ => return Err(unexpected(response).await),
        }
        let line = response.line().clone();
        let digest = stated_digest(&response)?;
        let size = response.header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        let media_type = response.header(CONTENT_TYPE).map(MediaType::parse);
        drop(response);
        let (Some(media_type), Some(size)) = (media_type, size) else {
            return self.manifest_or_none(source, reference).await;
        };
        let Some(digest) = digest.or(reference.digest().copied()) else {
            return self.manifest_or_none(source, reference).await;
        };
        check_known(&line, reference, &digest)?;
        Ok(Some(Descriptor::new(media_type, digest, size)))
    }

    async fn manifest_or_none(&self, source: &Source, reference: &Reference) -> Result<Option<Descriptor>> {
        match self.manifest_of(source, reference).await {
            Ok(fetched) => Ok(Some(fetched.descriptor)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A manifest or an index. With a digest in the reference, the bytes are those; with a tag, they are what the tag
    /// points to now, and the digest in the answer is computed, not believed. Mirrors are asked before the registry.
    ///
    /// # Errors
    /// [`Error::Status`] with `MANIFEST_UNKNOWN`, [`Error::DigestMismatch`], [`Error::TooLarge`] (4 MiB), and what
    /// any request can end in.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn manifest(&self, reference: &Reference) -> Result<FetchedManifest> {
        let sources = self.sources(reference, Asked::Manifest).await?;
        for source in &sources {
            match self.manifest_of(source, reference).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => self.pass_over(source, error)?,
            }
        }
        self.manifest_at_origin(reference).await
    }

    /// As [`Client::manifest`], from the registry itself.
    pub(crate) async fn manifest_at_origin(&self, reference: &Reference) -> Result<FetchedManifest> {
        self.manifest_of(&self.origin(reference).await?, reference).await
    }

    async fn manifest_of(&self, source: &Source, reference: &Reference) -> Result<FetchedManifest> {
        let response = self.manifest_call(Method::GET, source, reference, Action::Pull).await?;
        if response.status() != 200 {
            return Err(unexpected(response).await);
        }
        let line = response.line().clone();
        let stated = stated_digest(&response)?;
        let media_type = response.header(CONTENT_TYPE).map(MediaType::parse);
        let etag = response.headers().get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")).cloned();
        refuse_encoding(&response)?;
        let bytes = response.bytes(MANIFEST_LIMIT).await?;
        // The algorithm that was asked for, else the one that the registry uses, else the common one.
        let expected = reference.digest().copied().or(stated);
        let mismatch = |expected: Digest, actual: Digest| {
            let (expected, actual) = (Box::new(expected), Box::new(actual));
            Error::DigestMismatch { request: line.clone(), expected, actual }
        };
        let digest = match expected {
            Some(expected) => {
                let actual = Digest::of(expected.algorithm(), &bytes);
                if actual != expected {
                    return Err(mismatch(expected, actual));
                }
                actual
            }
            None => Digest::sha256(&bytes),
        };
        // A header in another algorithm than was asked for says something, too.
        if let Some(stated) = stated.filter(|stated| *stated != digest) {
            let actual = Digest::of(stated.algorithm(), &bytes);
            if actual != stated {
                return Err(mismatch(actual, stated));
            }
        }
        // Old registries serve `application/json`; the document itself says more.
        let media_type = match media_type {
            Some(media_type) if !matches!(&media_type, MediaType::Other(text) if is_vague(text)) => {
                media_type
            }
            _ => AnyManifest::parse(bytes.to_vec(), None)
                .map_err(|source| Error::Manifest { request: line.clone(), source: Box::new(source) })?
                .media_type(),
        };
        let descriptor = Descriptor::new(media_type.clone(), digest, bytes.len() as u64);
        Ok(FetchedManifest { descriptor, media_type, bytes, request: line, etag })
    }

    /// Stores a manifest or an index under the tag of the reference, else under its digest; its blobs must be there.
    ///
    /// # Errors
    /// [`Error::Status`] with `MANIFEST_BLOB_UNKNOWN` and its like; [`Error::DigestMismatch`] when the registry
    /// answers that it has stored something else.
    ///
    /// A registry without the referrers API is recognised by the missing `OCI-Subject`; the list under the referrers
    /// tag of the subject is then kept here.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the manifest, listed or not, or nothing; to push it again lists it.
    pub async fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: Bytes,
    ) -> Result<Descriptor> {
        let refers = serde_json::from_slice::<Refers>(&bytes).unwrap_or_default();
        if let Some(own) = refers.media_type.as_deref().filter(|own| MediaType::parse(own) != *media_type) {
            let url = self.endpoint(reference).await?.repository_url(reference.path(), &["manifests"]);
            let source = format!("it says that it is {own}, and is pushed as {media_type}").into();
            return Err(Error::Manifest { request: RequestLine::new(&Method::PUT, &url), source });
        }
        let (descriptor, listed) = self.put_manifest(reference, media_type, bytes, Condition::None).await?;
        if let Some(subject) = refers.subject.filter(|_| !listed) {
            let mut referrer = Descriptor::new(media_type.clone(), descriptor.digest, descriptor.size);
            let config = refers.config.map(|config| config.media_type.to_string());
            referrer.artifact_type = refers.artifact_type.filter(|text| !text.is_empty()).or(config);
            referrer.annotations = refers.annotations.unwrap_or_default();
            self.list_referrer(reference, &subject.digest, referrer).await?;
        }
        Ok(descriptor)
    }

    /// Stores a manifest; whether the registry says that it lists it with the referrers of its subject.
    pub(crate) async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &MediaType,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<(Descriptor, bool)> {
        let algorithm = reference.digest().map_or(image_core::Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of(algorithm, &bytes);
        let endpoint = self.endpoint(reference).await?;
        let name = reference.tag().map_or_else(|| digest.to_string(), str::to_owned);
        let segments = ["manifests", name.as_str()];
        let mut url = endpoint.repository_url(reference.path(), &segments);
        if reference.tag().is_some() && algorithm != image_core::Algorithm::Sha256 {
            url.query_pairs_mut().append_pair("digest", &digest.to_string());
        }
        let request = RequestLine::new(&Method::PUT, &url);
        if let Some(expected) = reference.digest().filter(|expected| **expected != digest) {
            return Err(Error::DigestMismatch {
                request,
                expected: Box::new(*expected),
                actual: Box::new(digest),
            });
        }
        if bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(Error::TooLarge { request, limit: MANIFEST_LIMIT });
        }
        // Parameters have no place in it.
        let bare = media_type.as_str().split(';').next().unwrap_or_default().trim();
        let content_type = HeaderValue::try_from(bare).map_err(|_| Error::Protocol {
            request: request.clone(),
            what: "the media type cannot be a header".to_owned(),
        })?;
        let size = bytes.len() as u64;
        let scopes = ScopeSet::repository(reference.path(), &[Action::Pull, Action::Push]);
        let mut call = Call::new(Method::PUT, url, &endpoint)
            .scopes(reference.path(), scopes)
            .header(CONTENT_TYPE, content_type)
            .body(CallBody::Bytes(bytes));
        call = match condition {
            Condition::None => call,
            Condition::Absent => call.header(IF_NONE_MATCH, HeaderValue::from_static("*")),
            Condition::Unchanged(tag) => call.header(IF_MATCH, tag),
        };
        let response = self.engine().call(call).await?;
        if !matches!(response.status(), 200..=204) {
            return Err(unexpected(response).await);
        }
        if let Some(stated) = stated_digest(&response)?
            && stated.algorithm() == algorithm
            && stated != digest
        {
            return Err(Error::DigestMismatch {
                request,
                expected: Box::new(digest),
                actual: Box::new(stated),
            });
        }
        self.engine().tell(&Event::ManifestPushed { digest });
        let listed = response.header(OCI_SUBJECT).is_some();
        Ok((Descriptor::new(media_type.clone(), digest, size), listed))
    }

    /// Deletes the manifest of the digest in the reference, or else its tag; `false` if there was none.
    ///
    /// Of a manifest that refers to another, a registry without the referrers API has an entry in the list under the
    /// referrers tag; that goes, too. So a digest costs a request more: what it refers to has to be known first.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the registry does not delete.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the manifest or not; a list may then still name it.
    pub async fn delete_manifest(&self, reference: &Reference) -> Result<bool> {
        let mut subject = None;
        if reference.digest().is_some() {
            match self.manifest_at_origin(reference).await {
                Ok(fetched) => {
                    let refers = serde_json::from_slice::<Refers>(&fetched.bytes).unwrap_or_default();
                    subject = refers.subject.map(|subject| subject.digest);
                }
                Err(error) if error.is_not_found() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let deleted = self.delete_name(reference).await?;
        if let (Some(subject), Some(digest), true) = (subject, reference.digest(), deleted)
            && !self.has_referrers_api(reference, &subject).await?
        {
            self.unlist_referrer(reference, &subject, digest).await?;
        }
        Ok(deleted)
    }

    /// Deletes what stands under a name, and nothing else.
    pub(crate) async fn delete_name(&self, reference: &Reference) -> Result<bool> {
        let source = self.origin(reference).await?;
        let response = self.manifest_call(Method::DELETE, &source, reference, Action::Delete).await?;
        match response.status() {
            200..=204 => Ok(true),
            404 => Ok(false),
            400 | 405 => {
                Err(Error::Unsupported { what: format!("deleting manifests by {}", reference.domain()) })
            }
            _ => Err(unexpected(response).await),
        }
    }

    /// The registry itself, as the only source.
    async fn origin(&self, reference: &Reference) -> Result<Source> {
        let endpoint = self.endpoint(reference).await?;
        Ok(Source { endpoint, repository: reference.path().to_owned(), last: true })
    }

    async fn manifest_call(
        &self,
        method: Method,
        source: &Source,
        reference: &Reference,
        action: Action,
    ) -> Result<Response> {
        let name = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.to_owned(),
            (None, None) => {
                return Err(Error::Reference {
                    reference: reference.to_string(),
                    what: "neither a tag nor a digest",
                });
            }
        };
        let url = source.url(&["manifests", name.as_str()]);
        let scopes = ScopeSet::repository(&source.repository, &[action]);
        let mut call = Call::new(method, url, &source.endpoint)
            .scopes(&source.repository, scopes)
            .header(ACCEPT, HeaderValue::from_static(ACCEPTED));
        // While there is somebody else to ask, nobody is waited for.
        call.retry = source.last;
        self.engine().call(call).await
    }
}

/// The digest that the registry states, if it does and this crate knows the algorithm.
pub(crate) fn stated_digest(response: &Response) -> Result<Option<Digest>> {
    let Some(text) = response.header(DOCKER_CONTENT_DIGEST) else { return Ok(None) };
    match text.parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(image_core::DigestError::UnknownAlgorithm { .. }) => Ok(None),
        Err(_) => Err(Error::Protocol {
            request: response.line().clone(),
            what: "docker-content-digest is not a digest".to_owned(),
        }),
    }
}

/// Bytes that were encoded on the way are not the ones that the digest is of, and we asked for no encoding.
pub(crate) fn refuse_encoding(response: &Response) -> Result<()> {
    match response.header(http::header::CONTENT_ENCODING) {
        None | Some("" | "identity") => Ok(()),
        Some(_) => Err(Error::Protocol {
            request: response.line().clone(),
            what: "the content is encoded, which was not asked for".to_owned(),
        }),
    }
}

fn check_known(line: &RequestLine, reference: &Reference, stated: &Digest) -> Result<()> {
    match reference.digest() {
        Some(expected) if expected.algorithm() == stated.algorithm() && expected != stated => {
            Err(Error::DigestMismatch {
                request: line.clone(),
                expected: Box::new(*expected),
                actual: Box::new(*stated),
            })
        }
        _ => Ok(()),
    }
}

fn is_vague(media_type: &str) -> bool {
    matches!(media_type, "application/json" | "text/plain" | "application/octet-stream" | "")
}
