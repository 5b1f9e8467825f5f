//! Media types of documents and layers, and which of docker's and OCI's mean the same.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a layer's tar stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Compression {
    /// Plain tar.
    None,
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 8878, one or more frames.
    Zstd,
}

/// A media type: a known one, or any other text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MediaType {
    /// `application/vnd.oci.image.manifest.v1+json`
    OciManifest,
    /// `application/vnd.oci.image.index.v1+json`
    OciIndex,
    /// `application/vnd.oci.image.config.v1+json`
    OciConfig,
    /// `application/vnd.oci.image.layer.v1.tar`, `…+gzip`, `…+zstd`
    OciLayer(Compression),
    /// `application/vnd.oci.empty.v1+json`
    OciEmpty,
    /// `application/vnd.docker.distribution.manifest.v2+json`
    DockerManifest,
    /// `application/vnd.docker.distribution.manifest.list.v2+json`
    DockerIndex,
    /// `application/vnd.docker.container.image.v1+json`
    DockerConfig,
    /// `application/vnd.docker.image.rootfs.diff.tar`, `….tar.gzip`, `….tar.zstd`
    DockerLayer(Compression),
    /// Anything else, kept as it is.
    Other(String),
}

/// Names and values, once for reading and writing.
const NAMES: [(&str, MediaType); 14] = [
    ("application/vnd.oci.image.manifest.v1+json", MediaType::OciManifest),
    ("application/vnd.oci.image.index.v1+json", MediaType::OciIndex),
    ("application/vnd.oci.image.config.v1+json", MediaType::OciConfig),
    ("application/vnd.oci.image.layer.v1.tar", MediaType::OciLayer(Compression::None)),
    ("application/vnd.oci.image.layer.v1.tar+gzip", MediaType::OciLayer(Compression::Gzip)),
    ("application/vnd.oci.image.layer.v1.tar+zstd", MediaType::OciLayer(Compression::Zstd)),
    ("application/vnd.oci.empty.v1+json", MediaType::OciEmpty),
    ("application/vnd.docker.distribution.manifest.v2+json", MediaType::DockerManifest),
    ("application/vnd.docker.distribution.manifest.list.v2+json", MediaType::DockerIndex),
    ("application/vnd.docker.container.image.v1+json", MediaType::DockerConfig),
    ("application/vnd.docker.image.rootfs.diff.tar", MediaType::DockerLayer(Compression::None)),
    ("application/vnd.docker.image.rootfs.diff.tar.gzip", MediaType::DockerLayer(Compression::Gzip)),
    ("application/vnd.docker.image.rootfs.diff.tar.zstd", MediaType::DockerLayer(Compression::Zstd)),
    // Older docker wrote this for layers that registries must not distribute; the bytes are the same.
    ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", MediaType::DockerLayer(Compression::Gzip)),
];

/// Docker's schema 1, with and without signatures: refused by name.
const SCHEMA_ONE: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

impl MediaType {
    /// The type that `text` names; parameters after `;` do not count.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let name = text.split(';').next().unwrap_or_default().trim();
        // The foreign-layer name must survive a round trip, so only its own text maps to it.
        let known = NAMES.iter().take(13).find(|(known, _)| *known == name);
        known.map_or_else(|| Self::Other(name.to_owned()), |(_, value)| value.clone())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(text) => text,
            known => NAMES.iter().find(|(_, value)| value == known).map_or("", |(name, _)| name),
        }
    }

    /// An image manifest, docker's or OCI's.
    #[must_use]
    pub const fn is_manifest(&self) -> bool {
        matches!(self, Self::OciManifest | Self::DockerManifest)
    }

    /// An index or manifest list.
    #[must_use]
    pub const fn is_index(&self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerIndex)
    }

    /// An image config, docker's or OCI's.
    #[must_use]
    pub const fn is_config(&self) -> bool {
        matches!(self, Self::OciConfig | Self::DockerConfig)
    }

    /// Docker's schema 1 manifest.
    #[must_use]
    pub fn is_schema_one(&self) -> bool {
        matches!(self, Self::Other(text) if SCHEMA_ONE.contains(&text.as_str()))
    }

    /// How the layer is compressed; `None` when this is no layer that we know.
    ///
    /// Foreign and non-distributable layers count by the bytes they hold.
    #[must_use]
    pub fn layer_compression(&self) -> Option<Compression> {
        match self {
            Self::OciLayer(compression) | Self::DockerLayer(compression) => Some(*compression),
            Self::Other(text) => {
                if let Some((_, Self::DockerLayer(compression))) = NAMES.iter().find(|(name, _)| name == text)
                {
                    return Some(*compression);
                }
                match text.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar")? {
                    "" => Some(Compression::None),
                    "+gzip" => Some(Compression::Gzip),
                    "+zstd" => Some(Compression::Zstd),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// The OCI type with the same meaning.
    #[must_use]
    pub fn to_oci(&self) -> Self {
        match self {
            Self::DockerManifest => Self::OciManifest,
            Self::DockerIndex => Self::OciIndex,
            Self::DockerConfig => Self::OciConfig,
            Self::DockerLayer(compression) => Self::OciLayer(*compression),
            other => other.clone(),
        }
    }

    /// The docker type with the same meaning.
    #[must_use]
    pub fn to_docker(&self) -> Self {
        match self {
            Self::OciManifest => Self::DockerManifest,
            Self::OciIndex => Self::DockerIndex,
            Self::OciConfig => Self::DockerConfig,
            Self::OciLayer(compression) => Self::DockerLayer(*compression),
            other => other.clone(),
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not `parse`: a parameter in a document is part of its bytes.
        let text = String::deserialize(deserializer)?;
        Ok(match Self::parse(&text) {
            known if known.as_str() == text => known,
            _ => Self::Other(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for (name, _) in &NAMES {
            assert_eq!(MediaType::parse(name).as_str(), *name);
            assert_eq!(MediaType::parse(&format!("{name}; charset=utf-8")).as_str(), *name);
        }
        assert_eq!(MediaType::parse("text/plain").as_str(), "text/plain");
    }

    #[test]
    fn docker_and_oci_mean_the_same() {
        for (_, value) in NAMES.iter().take(13) {
            if *value != MediaType::OciEmpty {
                assert_eq!(value.to_docker().to_oci(), value.to_oci());
            }
        }
        assert_eq!(
            MediaType::parse("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip").layer_compression(),
            Some(Compression::Gzip)
        );
    }
}
