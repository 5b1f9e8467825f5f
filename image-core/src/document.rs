//! Documents with their exact bytes: the bytes are the identity, the typed view is a convenience.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::{DocumentError, JsonError};
use crate::index::Index;
use crate::manifest::Manifest;
use crate::media_type::MediaType;

/// The largest manifest or index, in bytes; what the distribution spec tells registries to take at least.
pub const MANIFEST_LIMIT: u64 = 4 << 20;
/// The largest image config, in bytes.
pub const CONFIG_LIMIT: u64 = 8 << 20;

/// A parsed document beside the bytes it was parsed from.
///
/// ```
/// use image_core::{Document, ImageConfig};
/// let bytes = br#"{ "architecture":"amd64", "os":"linux" }"#;
/// let config = Document::<ImageConfig>::config(bytes.to_vec())?;
/// assert_eq!(config.bytes(), bytes);
/// assert_eq!(config.value().os, "linux");
/// # Ok::<(), image_core::DocumentError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Document<T> {
    value: T,
    bytes: Vec<u8>,
    digest: Digest,
}

impl<T> Document<T> {
    /// The typed view.
    #[must_use]
    pub const fn value(&self) -> &T {
        &self.value
    }

    /// The exact bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The sha256 of the bytes.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Gives the parts back.
    #[must_use]
    pub fn into_parts(self) -> (T, Vec<u8>) {
        (self.value, self.bytes)
    }
}

impl<T: DeserializeOwned> Document<T> {
    fn parse(bytes: Vec<u8>, kind: &'static str, limit: u64) -> Result<Self, DocumentError> {
        check_size(&bytes, kind, limit)?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|source| DocumentError::Json { kind, source: JsonError(source) })?;
        let digest = Digest::sha256(&bytes);
        Ok(Self { value, bytes, digest })
    }
}

impl<T: serde::Serialize> Document<T> {
    /// Writes `value` by the one JSON writer.
    ///
    /// # Errors
    /// [`DocumentError::Json`], which no type of this crate provokes.
    pub fn from_value(value: T) -> Result<Self, DocumentError> {
        let bytes = crate::json::to_bytes(&value)
            .map_err(|source| DocumentError::Json { kind: "document", source })?;
        let digest = Digest::sha256(&bytes);
        Ok(Self { value, bytes, digest })
    }
}

impl Document<ImageConfig> {
    /// Parses an image config.
    ///
    /// # Errors
    /// [`DocumentError`] when it is too large or no config.
    pub fn config(bytes: Vec<u8>) -> Result<Self, DocumentError> {
        Self::parse(bytes, "image config", CONFIG_LIMIT)
    }
}

/// A manifest or an index, told apart by content **and** media type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "matched at once, never kept in number")]
pub enum AnyManifest {
    /// A single image or artifact.
    Manifest(Document<Manifest>),
    /// One for each platform.
    Index(Document<Index>),
}

/// The members that decide the kind.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl AnyManifest {
    /// Parses a manifest or an index. `given` is the media type it was served or described with.
    ///
    /// # Errors
    /// [`DocumentError`]: too large, no JSON, ambiguous (CVE-2021-41190), schema 1, or not what `given` says.
    pub fn parse(bytes: Vec<u8>, given: Option<&MediaType>) -> Result<Self, DocumentError> {
        check_size(&bytes, "manifest", MANIFEST_LIMIT)?;
        let shape: Shape = serde_json::from_slice(&bytes)
            .map_err(|source| DocumentError::Json { kind: "manifest", source: JsonError(source) })?;
        if shape.schema_version == Some(1) || shape.fs_layers.is_some() {
            return Err(DocumentError::SchemaOne);
        }
        let is_index = shape.manifests.is_some();
        let is_manifest = shape.layers.is_some() || shape.config.is_some();
        if is_index && is_manifest {
            return Err(DocumentError::Ambiguous);
        }
        let inside = shape.media_type.as_deref().filter(|text| !text.is_empty()).map(MediaType::parse);
        if let (Some(inside), Some(given)) = (&inside, given)
            && inside != given
        {
            return Err(DocumentError::MediaType { expected: given.to_string(), found: inside.to_string() });
        }
        let said = inside.as_ref().or(given);
        let contradicts =
            |said: &MediaType| (said.is_index() && !is_index) || (said.is_manifest() && !is_manifest);
        if said.is_some_and(contradicts) || is_index == is_manifest {
            return Err(DocumentError::UnknownKind { media_type: said.map(ToString::to_string) });
        }
        if is_index {
            Document::parse(bytes, "index", MANIFEST_LIMIT).map(Self::Index)
        } else {
            Document::parse(bytes, "manifest", MANIFEST_LIMIT).map(Self::Manifest)
        }
    }

    /// The exact bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Manifest(document) => document.bytes(),
            Self::Index(document) => document.bytes(),
        }
    }

    /// The media type: what stands inside, or OCI's for its kind.
    #[must_use]
    pub fn media_type(&self) -> MediaType {
        match self {
            Self::Manifest(document) => document.value().media_type.clone().unwrap_or(MediaType::OciManifest),
            Self::Index(document) => document.value().media_type.clone().unwrap_or(MediaType::OciIndex),
        }
    }
}

fn check_size(bytes: &[u8], kind: &'static str, limit: u64) -> Result<(), DocumentError> {
    let size = bytes.len() as u64;
    if size > limit {
        return Err(DocumentError::TooLarge { kind, size, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTOR: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,
        "digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","x-new":[1]}"#;

    #[test]
    fn ambiguous_documents_are_refused() {
        let both = format!(r#"{{"schemaVersion":2,"config":{DESCRIPTOR},"layers":[],"manifests":[]}}"#);
        assert!(matches!(AnyManifest::parse(both.into_bytes(), None), Err(DocumentError::Ambiguous)));
        let one = r#"{"schemaVersion":1,"fsLayers":[]}"#.as_bytes().to_vec();
        assert!(matches!(AnyManifest::parse(one, None), Err(DocumentError::SchemaOne)));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#.as_bytes().to_vec();
        let said = AnyManifest::parse(index.clone(), Some(&MediaType::OciManifest));
        assert!(matches!(said, Err(DocumentError::UnknownKind { .. })));
        assert!(matches!(AnyManifest::parse(index, None), Ok(AnyManifest::Index(_))));
        assert!(AnyManifest::parse(b"{}".to_vec(), None).is_err());
        assert!(AnyManifest::parse("[".repeat(100_000).into_bytes(), None).is_err(), "deep nesting");
    }

    #[test]
    fn unknown_members_survive_a_typed_edit() {
        let text =
            format!(r#"{{"schemaVersion":2,"config":{DESCRIPTOR},"layers":[],"x-ours":{{"b":1,"a":2}}}}"#);
        let AnyManifest::Manifest(document) = AnyManifest::parse(text.into_bytes(), None).unwrap() else {
            panic!()
        };
        let (mut manifest, _) = document.into_parts();
        manifest.annotations.insert("k".into(), "v".into());
        let bytes = Document::from_value(manifest).unwrap();
        let text = String::from_utf8(bytes.bytes().to_vec()).unwrap();
        assert!(text.contains(r#""x-new":[1]"#) && text.contains(r#""x-ours":{"a":2,"b":1}"#), "{text}");
    }
}
