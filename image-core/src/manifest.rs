//! Image manifests: a config and its layers.
//!
//! Source: image-spec `manifest.md`; docker's schema 2 has the same members.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::descriptor::Descriptor;
use crate::error::DocumentError;
use crate::json::{Unknown, null_as_default};
use crate::media_type::MediaType;

/// A manifest, docker's schema 2 or OCI's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What it is; docker always says so, OCI may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The type of an artifact that is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub layers: Vec<Descriptor>,
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

impl Manifest {
    /// An OCI manifest of `config` and `layers`, lowest first.
    #[must_use]
    pub fn oci(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::OciManifest),
            artifact_type: None,
            config,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
            unknown: Unknown::new(),
        }
    }

    /// A docker manifest (schema 2) of `config` and `layers`, lowest first.
    #[must_use]
    pub fn docker(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self { media_type: Some(MediaType::DockerManifest), ..Self::oci(config, layers) }
    }

    /// The same image as OCI writes it. Config and layers are the same bytes under other names.
    #[must_use]
    pub fn to_oci(&self) -> Self {
        let mut manifest = self.clone();
        manifest.media_type = Some(MediaType::OciManifest);
        for blob in std::iter::once(&mut manifest.config).chain(&mut manifest.layers) {
            blob.media_type = blob.media_type.to_oci();
        }
        manifest
    }

    /// The same image as docker's schema 2 writes it.
    ///
    /// # Errors
    /// [`DocumentError::NotDocker`] when something would be lost, or is no image.
    pub fn to_docker(&self) -> Result<Self, DocumentError> {
        let lost = |what: &str| Err(DocumentError::NotDocker { what: what.to_owned() });
        if self.artifact_type.is_some() {
            return lost("artifactType");
        }
        if self.subject.is_some() {
            return lost("subject");
        }
        if !self.annotations.is_empty() {
            return lost("annotations");
        }
        let mut manifest = self.clone();
        manifest.media_type = Some(MediaType::DockerManifest);
        for blob in std::iter::once(&mut manifest.config).chain(&mut manifest.layers) {
            let media_type = blob.media_type.to_docker();
            if !(media_type.is_config() || media_type.layer_compression().is_some()) {
                return lost(media_type.as_str());
            }
            if !blob.annotations.is_empty() || blob.data.is_some() {
                return lost("annotations or data of a blob");
            }
            blob.media_type = media_type;
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media_type::Compression;

    #[test]
    fn docker_and_oci_are_the_same_image() {
        let config = Descriptor::of(MediaType::OciConfig, b"{}");
        let layer = Descriptor::of(MediaType::OciLayer(Compression::Gzip), b"layer");
        let oci = Manifest::oci(config, vec![layer]);
        let docker = oci.to_docker().unwrap();
        assert_eq!(docker.config.media_type, MediaType::DockerConfig);
        assert_eq!(docker.layers[0].media_type, MediaType::DockerLayer(Compression::Gzip));
        assert_eq!(docker.to_oci(), oci);
        assert_eq!(docker.to_docker().unwrap(), docker);
        let annotated =
            Manifest { annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]), ..oci.clone() };
        assert!(matches!(annotated.to_docker(), Err(DocumentError::NotDocker { .. })));
        let mut artifact = oci;
        artifact.layers[0].media_type = MediaType::parse("application/x-thing");
        assert!(matches!(artifact.to_docker(), Err(DocumentError::NotDocker { .. })));
    }
}
