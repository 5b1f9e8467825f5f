//! Indexes: one manifest for each platform.
//!
//! Source: image-spec `image-index.md`; docker's manifest list has the same members.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::descriptor::Descriptor;
use crate::json::{Unknown, null_as_default};
use crate::media_type::MediaType;
use crate::platform::Platform;

/// An index, docker's manifest list or OCI's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The type of an artifact that is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests, in the author's order.
    #[serde(default, deserialize_with = "null_as_default")]
    pub manifests: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free text by key.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Index {
    /// An OCI index of `manifests`.
    #[must_use]
    pub fn oci(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OciIndex),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
            unknown: Unknown::new(),
        }
    }

    /// A docker manifest list of `manifests`.
    #[must_use]
    pub fn docker(manifests: Vec<Descriptor>) -> Self {
        Self { media_type: Some(MediaType::DockerIndex), ..Self::oci(manifests) }
    }

    /// The manifest that suits `wanted` best; the first of equals.
    ///
    /// Entries for `unknown/unknown` (attestations) are passed over. An entry without a platform suits only when
    /// there is no better one.
    #[must_use]
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        let rank = |entry: &Descriptor| match &entry.platform {
            Some(platform) => wanted.rank(platform),
            None => Some(u32::MAX),
        };
        let ranked = self.manifests.iter().filter_map(|entry| Some((rank(entry)?, entry)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn the_best_variant_wins() {
        let entry = |platform: &str| Descriptor {
            platform: Some(Platform::parse(platform).unwrap()),
            ..Descriptor::new(MediaType::OciManifest, Digest::sha256(platform.as_bytes()), 1)
        };
        let index =
            Index::oci(["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64"].map(entry).to_vec());
        for (wanted, chosen) in
            [("linux/arm/v7", 2), ("linux/arm/v6", 1), ("linux/arm64", 3), ("linux/arm/v8", 2)]
        {
            let found = index.select(&Platform::parse(wanted).unwrap());
            assert_eq!(found, index.manifests.get(chosen), "{wanted}");
        }
        assert_eq!(index.select(&Platform::new("linux", "s390x")), None);
    }
}
