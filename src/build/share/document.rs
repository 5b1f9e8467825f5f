//! The document of a shared cache, in BuildKit's shape: see [`super`] for what is in it.

use std::collections::BTreeMap;

use image_core::{Descriptor, DiffId};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    pub(super) layers: Vec<CacheLayer>,
    pub(super) records: Vec<Record>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cooperage: Option<Ours>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct CacheLayer {
    pub(super) blob: String,
    /// The index of the layer below; ours stand alone.
    pub(super) parent: i64,
    pub(super) annotations: Annotations,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Annotations {
    #[serde(rename = "mediaType")]
    pub(super) media_type: String,
    #[serde(rename = "diffID")]
    pub(super) diff_id: String,
    pub(super) size: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    pub(super) digest: String,
    pub(super) layers: Vec<Place>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Place {
    pub(super) layer: usize,
    #[serde(rename = "createdAt")]
    pub(super) created: String,
}

impl CacheLayer {
    /// The layer `diff_id`, which stands alone, as the blob `blob`.
    pub(super) fn alone(blob: &Descriptor, diff_id: &DiffId) -> Self {
        let annotations = Annotations {
            media_type: blob.media_type.to_string(),
            diff_id: diff_id.to_string(),
            size: blob.size,
        };
        Self { blob: blob.digest.to_string(), parent: -1, annotations }
    }
}

impl Record {
    /// The step with this key made the layer at `place`.
    pub(super) fn new(key: String, place: usize) -> Self {
        // When it was made is an accident of this host, and would make equal caches unequal.
        let created = "1970-01-01T00:00:00Z".to_owned();
        Self { digest: key, layers: vec![Place { layer: place, created }] }
    }
}

/// What BuildKit's document has no place for.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Ours {
    pub(super) version: u32,
    /// A step as it is shown, by key.
    pub(super) steps: BTreeMap<String, String>,
    /// The place of the layer that a cache mount is, by id.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) mounts: BTreeMap<String, usize>,
}

/// Reads the document of the cache `name`.
pub(super) fn parse(bytes: &[u8], name: &str) -> Result<Config> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Io { path: name.into(), source: std::io::Error::other(error) })
}
