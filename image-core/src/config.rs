//! Image configs: execution parameters, layers' diff IDs, history.
//!
//! Source: image-spec `config.md`, with the members that docker adds (Healthcheck, Shell, OnBuild, ArgsEscaped).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::history::History;
use crate::id::DiffId;
use crate::json::{Unknown, keys, null_as_default};
use crate::platform::Platform;
use crate::timestamp::Timestamp;

/// The config document of an image. Its digest is the image ID.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageConfig {
    /// When the image was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The processor: `amd64`.
    pub architecture: String,
    /// The variant of the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating system: `linux`.
    pub os: String,
    /// The version of the operating system.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features that the operating system must have.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// How a container of this image is run.
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: ContainerConfig,
    /// The layers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub rootfs: Rootfs,
    /// How the image came about, oldest first.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl ImageConfig {
    /// A config with no layer and nothing to run, for `platform`.
    #[must_use]
    pub fn empty(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            ..Self::default()
        }
    }

    /// What the image runs on.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            variant: self.variant.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            ..Platform::new(self.os.clone(), self.architecture.clone())
        }
    }
}

/// The layers of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rootfs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The layers' diff IDs, lowest first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub diff_ids: Vec<DiffId>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Default for Rootfs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new(), unknown: Unknown::new() }
    }
}

/// How a container of an image is run. Member names are docker's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct ContainerConfig {
    /// `user[:group]`, names or numbers; empty is root.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports that it listens on: `80/tcp`.
    #[serde(with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value`, in order.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The first words of the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The words after the entrypoint, unless the user gives others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Checks whether the container is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Set by CMD and ENTRYPOINT in shell form; matters on Windows only.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Paths whose content belongs outside of the image.
    #[serde(with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// Where the command starts; empty is `/`.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Instructions for images made from this one.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// Free text by key.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that ends it politely.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds between that signal and SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// The words before shell-form commands.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Docker's health check. Durations are in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", words…]` or `["CMD-SHELL", text]`.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// How long one check may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// While failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row before it counts as ill.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_writes_is_kept() {
        let text = r#"{"architecture":"amd64","os":"linux","os.version":"10.0","config":{"Hostname":"h","Env":null,"Volumes":{"/d":{}},
            "Healthcheck":{"Test":["CMD-SHELL","x"],"Interval":30000000000,"New":1},"Shell":["/bin/bash","-c"],"OnBuild":["RUN x"]},
            "rootfs":{"type":"layers","diff_ids":null},"container":"abc"}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        let again: serde_json::Value =
            serde_json::from_slice(&crate::json::to_bytes(&config).unwrap()).unwrap();
        assert_eq!(again["config"]["Hostname"], "h");
        assert_eq!(again["config"]["Healthcheck"]["New"], 1);
        assert_eq!(again["config"]["Shell"][0], "/bin/bash");
        assert_eq!(again["config"]["OnBuild"][0], "RUN x");
        assert_eq!(again["config"]["Volumes"], serde_json::json!({"/d": {}}));
        assert_eq!(again["container"], "abc");
        assert_eq!(again["os.version"], "10.0");
    }
}
