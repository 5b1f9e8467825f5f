//! Manifests: stored byte for byte as they came, after a look at what they refer to.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION};
use http::{HeaderName, StatusCode};
use image_core::{Digest, MANIFEST_LIMIT};
use serde::Deserialize;

use super::{Asked, CONTENT_DIGEST, Service};
use crate::server::answer::{Answer, Code, append, empty, error, internal, set, with_body};
use crate::server::route::{ManifestKey, is_tag};
use crate::server::storage::{Repository, StoredManifest};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Tags that one PUT may set beside its own.
const MAX_TAGS: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Part>,
    #[serde(default)]
    layers: Option<Vec<Part>>,
    #[serde(default)]
    subject: Option<Part>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    digest: Digest,
    #[serde(default)]
    media_type: String,
}

impl Part {
    /// Layers that registries must not distribute need not be here.
    fn is_foreign(&self) -> bool {
        self.media_type.contains("nondistributable") || self.media_type.contains(".foreign.")
    }
}

/// Reads what the registry needs to know of a manifest.
pub(in crate::server) fn describe(
    media_type: Option<&str>,
    bytes: Bytes,
) -> Result<StoredManifest, serde_json::Error> {
    let document: Document = serde_json::from_slice(&bytes)?;
    let media_type = media_type.map(str::to_owned).or(document.media_type);
    let config_type = document.config.map(|config| config.media_type).filter(|text| !text.is_empty());
    Ok(StoredManifest {
        media_type: media_type.unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned()),
        bytes,
        subject: document.subject.map(|subject| subject.digest),
        artifact_type: document.artifact_type.filter(|text| !text.is_empty()).or(config_type),
        annotations: document.annotations.unwrap_or_default(),
    })
}

fn find(repository: &Repository, key: &ManifestKey) -> Option<(Digest, StoredManifest)> {
    let digest = match key {
        ManifestKey::Digest(digest) => *digest,
        ManifestKey::Tag(tag) => *repository.tags.get(tag)?,
    };
    repository.manifests.get(&digest).map(|found| (digest, found.clone()))
}

/// Whether a name is as the client believes it to be: `If-Match` with one entity tag, `If-None-Match: *`.
fn holds(repository: &Repository, key: &ManifestKey, (same, absent): &(Option<String>, bool)) -> bool {
    let now = find(repository, key).map(|(digest, _)| format!("\"{digest}\""));
    same.as_ref().is_none_or(|same| now.as_ref() == Some(same)) && !(*absent && now.is_some())
}

impl Service {
    pub(super) fn manifest(&self, name: &str, key: &ManifestKey) -> Answer {
        match self.storage.with(name, |repository| find(repository, key)) {
            None => error(StatusCode::NOT_FOUND, Code::NameUnknown),
            Some(None) => error(StatusCode::NOT_FOUND, Code::ManifestUnknown),
            Some(Some((digest, found))) => {
                let mut answer = with_body(StatusCode::OK, &found.media_type, found.bytes);
                set(&mut answer, CONTENT_DIGEST, &digest.to_string());
                set(&mut answer, ETAG, &format!("\"{digest}\""));
                answer
            }
        }
    }

    pub(super) async fn put_manifest(&self, name: &str, key: ManifestKey, asked: Asked) -> Answer {
        let invalid = || error(StatusCode::BAD_REQUEST, Code::ManifestInvalid);
        let stated = asked.header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if stated.is_some_and(|length| length > MANIFEST_LIMIT) {
            return error(StatusCode::PAYLOAD_TOO_LARGE, Code::ManifestInvalid);
        }
        let media_type = asked
            .header(CONTENT_TYPE)
            .map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
        let media_type = media_type.filter(|text| !text.is_empty());
        let wanted = asked.query("digest").map(str::parse::<Digest>);
        let tags: Vec<String> = asked
            .query
            .iter()
            .filter(|(key, _)| key == "tag")
            .map(|(_, tag)| tag.clone())
            .take(MAX_TAGS)
            .collect();
        if tags.iter().any(|tag| !is_tag(tag)) {
            return error(StatusCode::BAD_REQUEST, Code::TagInvalid);
        }
        let condition = (asked.header(IF_MATCH).map(str::to_owned), asked.header(IF_NONE_MATCH).is_some());
        let Ok(bytes) = axum::body::to_bytes(asked.body, MANIFEST_LIMIT as usize).await else {
            return invalid();
        };
        let expected = match (&key, wanted) {
            (ManifestKey::Digest(digest), _) => Some(*digest),
            (_, Some(Ok(digest))) => Some(digest),
            (_, Some(Err(_))) => return error(StatusCode::BAD_REQUEST, Code::DigestInvalid),
            (_, None) => None,
        };
        let digest = match expected {
            Some(expected) => Digest::of(expected.algorithm(), &bytes),
            None => Digest::sha256(&bytes),
        };
        if expected.is_some_and(|expected| expected != digest) {
            return error(StatusCode::BAD_REQUEST, Code::DigestInvalid);
        }
        let Ok(document) = serde_json::from_slice::<Document>(&bytes) else { return invalid() };
        if let (Some(inside), Some(given)) = (&document.media_type, &media_type)
            && inside != given
        {
            return invalid();
        }
        let parts = document.config.iter().chain(document.layers.iter().flatten());
        let missing = parts
            .filter(|part| !part.is_foreign())
            .any(|part| self.storage.blob(name, &part.digest).is_none());
        if missing {
            return error(StatusCode::NOT_FOUND, Code::ManifestBlobUnknown);
        }
        let Ok(stored) = describe(media_type.as_deref(), bytes.clone()) else { return invalid() };
        let subject = stored.subject;
        let kept = self.storage.keep_manifest(name, &digest, &bytes).and_then(|()| {
            self.storage.change(name, |repository| {
                if !holds(repository, &key, &condition) {
                    return false;
                }
                repository.manifests.insert(digest, stored);
                if let ManifestKey::Tag(tag) = &key {
                    repository.tags.insert(tag.clone(), digest);
                }
                for tag in &tags {
                    repository.tags.insert(tag.clone(), digest);
                }
                true
            })
        });
        match kept {
            Ok(true) => {}
            Ok(false) => return error(StatusCode::PRECONDITION_FAILED, Code::Denied),
            Err(error) => return internal(&error),
        }
        let mut answer = empty(StatusCode::CREATED);
        set(&mut answer, LOCATION, &format!("/v2/{name}/manifests/{digest}"));
        set(&mut answer, CONTENT_DIGEST, &digest.to_string());
        if let Some(subject) = subject.filter(|_| self.settings.referrers) {
            set(&mut answer, OCI_SUBJECT, &subject.to_string());
        }
        for tag in &tags {
            append(&mut answer, OCI_TAG, tag);
        }
        answer
    }

    pub(super) fn delete_manifest(&self, name: &str, key: &ManifestKey) -> Answer {
        let known = self.storage.with(name, |repository| match key {
            ManifestKey::Tag(tag) => repository.tags.contains_key(tag),
            ManifestKey::Digest(digest) => repository.manifests.contains_key(digest),
        });
        match known {
            None => return error(StatusCode::NOT_FOUND, Code::NameUnknown),
            Some(false) => return error(StatusCode::NOT_FOUND, Code::ManifestUnknown),
            Some(true) => {}
        }
        let changed = self.storage.change(name, |repository| match key {
            ManifestKey::Tag(tag) => {
                repository.tags.remove(tag);
            }
            ManifestKey::Digest(digest) => {
                repository.manifests.remove(digest);
                repository.tags.retain(|_, of| of != digest);
            }
        });
        let changed = changed.and_then(|()| match key {
            ManifestKey::Digest(digest) => self.storage.remove_content(name, digest),
            ManifestKey::Tag(_) => Ok(()),
        });
        match changed {
            Ok(()) => empty(StatusCode::ACCEPTED),
            Err(error) => internal(&error),
        }
    }
}
