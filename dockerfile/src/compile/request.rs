//! What a build is asked for, and what is known of images.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use image_core::{Digest, ImageConfig, Platform, Reference};
use serde::Serialize;

use super::context::NamedContext;
use crate::plan::Network;

/// Everything about a build that is not in the file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The stage to build; the last one without it.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// Labels that override those of the file.
    pub labels: BTreeMap<String, String>,
    /// What the image is for. Without it, the build platform, and images of other platforms decide for themselves.
    pub platform: Option<Platform>,
    /// Where the build runs.
    pub build_platform: Platform,
    /// Named contexts: they stand for images, stages and sources of the same name.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Host name of every RUN.
    pub hostname: Option<String>,
    /// Lines for `/etc/hosts` of every RUN.
    pub extra_hosts: Vec<(String, IpAddr)>,
    /// Network of every RUN that asks for none.
    pub network: Network,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// Prefix of the ids of cache mounts.
    pub cache_namespace: String,
    /// Which stages do not use the cache.
    pub no_cache: NoCache,
    /// The text of the ignore file; only the rule `CopyIgnoredFile` reads it.
    pub ignore_file: Option<String>,
    /// The lint options, in place of the file's `# check=`: `skip=…;error=true`.
    pub check: Option<String>,
    /// Compile stages that the target does not need too, so that they are linted.
    pub all_stages: bool,
    /// Print the platform in the names of steps.
    pub multi_platform: bool,
    /// Also say what a build of the target may be given: [`crate::Plan::outline`]. As in BuildKit, `# check=error=true`
    /// then makes no error of findings.
    pub outline: bool,
}

/// Stages that are built without the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None.
    #[default]
    No,
    /// All.
    All,
    /// Those of these names.
    Stages(BTreeSet<String>),
}

impl Options {
    /// A build of the last stage for `platform`, on the same platform.
    pub fn new(platform: Platform) -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            platform: Some(platform.clone()),
            build_platform: platform,
            contexts: BTreeMap::new(),
            hostname: None,
            extra_hosts: Vec::new(),
            network: Network::Default,
            shm_size: None,
            cache_namespace: String::new(),
            no_cache: NoCache::No,
            ignore_file: None,
            check: None,
            all_stages: false,
            multi_platform: false,
            outline: false,
        }
    }
}

/// An image whose config the compiler needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[non_exhaustive]
pub struct ImageRequest {
    /// The normalised reference, with a tag or digest.
    pub reference: Reference,
    /// For which platform.
    pub platform: Platform,
    /// The OCI layout that holds it, as [`NamedContext::OciLayout`] names it; none for an image of a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
}

/// What is known of an image.
#[derive(Clone, Debug)]
pub struct KnownImage {
    /// Its config.
    pub config: Arc<ImageConfig>,
    /// The digest of its manifest, to pin what the plan was made for.
    pub digest: Option<Digest>,
}

/// Configs of images, by what was asked.
#[derive(Clone, Debug, Default)]
pub struct Images {
    known: BTreeMap<ImageRequest, KnownImage>,
}

impl Images {
    /// Nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers a request.
    pub fn insert(
        &mut self,
        request: ImageRequest,
        config: impl Into<Arc<ImageConfig>>,
        digest: Option<Digest>,
    ) {
        self.known.insert(request, KnownImage { config: config.into(), digest });
    }

    /// What is known of an image.
    pub fn image(&self, request: &ImageRequest) -> Option<&KnownImage> {
        self.known.get(request)
    }
}
