//! How an image was made: the predicate of SLSA provenance v1.
//!
//! Specification: <https://slsa.dev/spec/v1.0/provenance>; names of parameters as BuildKit has them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use dockerfile::Plan;
use image_core::{Digest, Platform, Reference, Timestamp};
use serde_json::{Map, Value, json};

use crate::build::base::BaseImage;
use crate::build::tree::Tree;
use crate::build::{Build, Built, Timestamps};
use crate::error::Result;

/// What a build of a Dockerfile is told, and how.
const BUILD_TYPE: &str = "urn:cooperage:dockerfile:v1";
const BUILDER: &str = "urn:cooperage";

/// What one build was made of, beside its base images.
#[derive(Debug, Default)]
pub(in crate::build) struct Materials(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Entries of `resolvedDependencies`, by what orders them.
    sources: BTreeMap<String, Value>,
    dockerfile: Option<(String, Digest)>,
    platform: Option<Platform>,
    epoch: Option<Timestamp>,
}

fn digest_set(digest: &Digest) -> Value {
    json!({ digest.algorithm().name(): digest.hex() })
}

impl Materials {
    fn put(&self, key: String, source: Value) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sources.insert(key, source);
    }

    /// The file of a URL.
    pub(in crate::build) fn file(&self, url: String, digest: &Digest) {
        let source = json!({"uri": url, "digest": digest_set(digest)});
        self.put(url, source);
    }

    /// A commit of a git repository, whatever it was asked for by.
    pub(in crate::build) fn git(&self, remote: &str, reference: &str, commit: &str) {
        let fragment = if reference.is_empty() { String::new() } else { format!("#{reference}") };
        let uri = format!("git+{remote}{fragment}");
        self.put(uri.clone(), json!({"uri": uri, "digest": {"gitCommit": commit}}));
    }

    /// A context, as far as the build reads it. Blocks: what was not read yet is hashed.
    pub(in crate::build) fn context(&self, name: String, uri: Option<String>, tree: &Tree) -> Result<()> {
        let mut source = Map::from_iter([("name".to_owned(), Value::from(name.clone()))]);
        let digest = match &tree.commit {
            Some(commit) => json!({"gitCommit": commit}),
            None => digest_set(&tree.digest()?),
        };
        source.insert("digest".to_owned(), digest);
        if let Some(uri) = uri {
            source.insert("uri".to_owned(), uri.into());
        }
        self.put(name, source.into());
        Ok(())
    }

    /// What was compiled. The path of a Dockerfile outside of the context is the host's own affair: its name alone is told.
    pub(in crate::build) fn compiled(&self, build: &Build, text: &[u8], file: Option<&Path>, plan: &Plan) {
        let inside = file.zip(build.context.path()).and_then(|(file, root)| file.strip_prefix(root).ok());
        let path = inside.or_else(|| Some(Path::new(file?.file_name()?)));
        let path = path.map_or_else(|| "Dockerfile".to_owned(), |path| path.display().to_string());
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.dockerfile = Some((path, Digest::sha256(text)));
        state.platform = Some(plan.platform.clone());
        state.epoch = match (build.timestamps, &plan.epoch) {
            (Timestamps::Fixed(epoch), _) => Some(epoch),
            (_, Some(dockerfile::plan::Epoch::Seconds(seconds))) => Some(Timestamp::from_seconds(*seconds)),
            _ => None,
        };
    }
}

/// A name of an image as a package URL.
pub(super) fn package_url(name: &Reference, platform: &Platform) -> String {
    let (repository, platform) = (name.familiar_repository(), platform.to_string().replace('/', "%2F"));
    let version = name.tag().map(|tag| format!("@{tag}")).unwrap_or_default();
    let digest = name.digest().map(|digest| format!("digest={}&", digest.to_string().replace(':', "%3A")));
    format!("pkg:docker/{repository}{version}?{}platform={platform}", digest.unwrap_or_default())
}

fn base(base: &BaseImage) -> (String, Value) {
    let uri = package_url(&base.reference, &base.platform);
    // An image that was made here and went nowhere has no digest but that of its config.
    let source = match &base.digest {
        Some(digest) => json!({"uri": uri, "digest": digest_set(digest)}),
        None => {
            json!({"uri": uri, "digest": digest_set(base.id.digest()), "annotations": {"digestOf": "config"}})
        }
    };
    (uri, source)
}

/// The predicate for what `build` made.
pub(super) fn predicate(build: &Build, built: &Built) -> Value {
    let state = build.materials.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut sources = state.sources.clone();
    sources.extend(built.bases.iter().map(base));
    let mut args: BTreeMap<String, Value> = BTreeMap::new();
    args.extend(build.args.iter().map(|(name, value)| (format!("build-arg:{name}"), value.as_str().into())));
    args.extend(build.labels.iter().map(|(name, value)| (format!("label:{name}"), value.as_str().into())));
    let platform = state.platform.as_ref().map(ToString::to_string);
    let hosts = build.hosts.iter().map(|(name, address)| format!("{name}={address}")).collect::<Vec<_>>();
    for (name, value) in [
        ("target", build.target.clone()),
        ("platform", platform),
        ("hostname", build.hostname.clone()),
        ("add-hosts", Some(hosts.join(",")).filter(|hosts| !hosts.is_empty())),
        ("shm-size", build.shm_size.map(|bytes| bytes.to_string())),
        ("force-network-mode", build.no_network.then(|| "none".to_owned())),
        ("squash", build.squash.then(|| "true".to_owned())),
        ("allow", build.insecure.then(|| "security.insecure".to_owned())),
    ] {
        args.extend(value.map(|value| (name.to_owned(), value.into())));
    }
    let mut config = Map::new();
    if let Some((path, digest)) = &state.dockerfile {
        config.insert("path".to_owned(), path.as_str().into());
        config.insert("digest".to_owned(), digest_set(digest));
    }
    if let Some(uri) = build.context.address() {
        config.insert("uri".to_owned(), uri.into());
    }
    let secrets: Vec<Value> = build.secrets.ids().map(|id| json!({"id": id})).collect();
    let mut metadata = Map::new();
    if let Some(epoch) = state.epoch {
        metadata.insert("finishedOn".to_owned(), epoch.to_string().into());
    }
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "configSource": config,
                "request": {"frontend": "dockerfile.v0", "args": args, "secrets": secrets},
            },
            "internalParameters": {"builderPlatform": build.engine.platform().to_string()},
            "resolvedDependencies": sources.into_values().collect::<Vec<_>>(),
        },
        "runDetails": {
            "builder": {
                "id": build.builder.as_deref().unwrap_or(BUILDER),
                "version": {"cooperage": env!("CARGO_PKG_VERSION")},
            },
            "metadata": metadata,
        },
    })
}
