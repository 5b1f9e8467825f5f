//! History entries, and which layer each of them made.

use serde::{Deserialize, Serialize};

use crate::id::DiffId;
use crate::json::{Unknown, null_as_default};
use crate::timestamp::Timestamp;

/// One step of an image's making (image-spec `config.md`, `history`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct History {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// By which command.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Anything else.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// It changed no file: no layer belongs to it.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Pairs every history entry with its layer, oldest first.
///
/// Layers without an entry come last with no entry; an entry that ought to have a layer and finds none has `None`.
#[must_use]
pub fn pair<'a>(history: &'a [History], layers: &[DiffId]) -> Vec<(Option<&'a History>, Option<DiffId>)> {
    let mut layers = layers.iter().copied();
    let mut pairs: Vec<_> = history
        .iter()
        .map(|entry| (Some(entry), if entry.empty_layer { None } else { layers.next() }))
        .collect();
    pairs.extend(layers.map(|layer| (None, Some(layer))));
    pairs
}
