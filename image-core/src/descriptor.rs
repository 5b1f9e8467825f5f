//! Descriptors: what a document says of a blob before anybody has it.
//!
//! Source: image-spec `descriptor.md`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::DocumentError;
use crate::json::{Unknown, null_as_default};
use crate::media_type::MediaType;
use crate::platform::Platform;

/// Type, digest and size of a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: MediaType,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Other places to get it from.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free text by key.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The blob itself, in base64, for small ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The type of an artifact, when the blob is a manifest of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What the image in it runs on, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Descriptor {
    /// A descriptor with the three members that every one has.
    #[must_use]
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self {
            media_type,
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            artifact_type: None,
            platform: None,
            unknown: Unknown::new(),
        }
    }

    /// The descriptor of `bytes`, by sha256.
    #[must_use]
    pub fn of(media_type: MediaType, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256(bytes), bytes.len() as u64)
    }

    /// The same, for an image that runs on `platform`.
    #[must_use]
    pub fn with_platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// The same with one more annotation.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// The same for an artifact of this type.
    #[must_use]
    pub fn with_artifact_type(mut self, artifact_type: impl Into<String>) -> Self {
        self.artifact_type = Some(artifact_type.into());
        self
    }

    /// The descriptor of `bytes`, by sha256, with the bytes in it.
    #[must_use]
    pub fn embedding(media_type: MediaType, bytes: &[u8]) -> Self {
        Self { data: Some(STANDARD.encode(bytes)), ..Self::of(media_type, bytes) }
    }

    /// The bytes that are embedded in it, if there are any, verified: they must have its size and digest.
    ///
    /// # Errors
    /// [`DocumentError::Data`], [`DocumentError::DigestMismatch`].
    pub fn embedded(&self) -> Result<Option<Vec<u8>>, DocumentError> {
        let Some(text) = &self.data else { return Ok(None) };
        let bad = |reason: String| DocumentError::Data { digest: self.digest.to_string(), reason };
        // Refused before they are decoded: base64 has four characters for three bytes.
        let least = u64::try_from(text.len()).unwrap_or(u64::MAX) / 4 * 3;
        if least > self.size.saturating_add(2) {
            return Err(bad(format!("{} characters for {} bytes", text.len(), self.size)));
        }
        let bytes = STANDARD.decode(text).map_err(|error| bad(error.to_string()))?;
        if bytes.len() as u64 != self.size {
            return Err(bad(format!("{} bytes and not {}", bytes.len(), self.size)));
        }
        let actual = Digest::of(self.digest.algorithm(), &bytes);
        if actual != self.digest {
            let (expected, actual) = (self.digest.to_string(), actual.to_string());
            return Err(DocumentError::DigestMismatch { expected, actual });
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_bytes_are_checked() {
        let config = Descriptor::embedding(MediaType::OciEmpty, b"{}");
        assert_eq!(
            (config.data.as_deref(), config.embedded().unwrap()),
            (Some("e30="), Some(b"{}".to_vec()))
        );
        assert_eq!(Descriptor::of(MediaType::OciEmpty, b"{}").embedded().unwrap(), None);
        let with = |data: &str, size| {
            let data = Some(data.to_owned());
            Descriptor { data, size, ..config.clone() }.embedded()
        };
        assert!(matches!(with("e30=", 3), Err(DocumentError::Data { .. })), "another size");
        assert!(matches!(
            with("e31=", 2),
            Err(DocumentError::Data { .. } | DocumentError::DigestMismatch { .. })
        ));
        assert!(matches!(with("W10=", 2), Err(DocumentError::DigestMismatch { .. })), "other bytes");
        assert!(matches!(with("e3 0", 2), Err(DocumentError::Data { .. })), "no base64");
        assert!(matches!(with(&"AAAA".repeat(100_000), 2), Err(DocumentError::Data { .. })), "too long");
    }
}
