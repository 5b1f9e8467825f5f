//! Building: a Dockerfile and a context become an image.
//!
//! ```text
//!  text ─parse▶ Dockerfile ─compile▶ NeedImages ─pull, look up▶ … ─▶ Plan
//!                                                                     │ steps, inputs first
//!                 for each step:  preimage = definition + content of what it reads + what it stands on
//!                                 known?  ─▶ its layer
//!                                 else    ─▶ run it in a snapshot, or copy; keep layer and preimage
//!  config + history + layers ─one barrier▶ image ─▶ names
//! ```
//!
//! Steps that do not need one another work at once. What misses the cache says why, see [`Cause`].
//!
//! Times: with [`Timestamps::Derived`] the epoch E is the base image's `created` (1980-01-01 for scratch). The k-th
//! layer of a stage is made at E+k, and no file in it is younger; an instruction without a layer has the time of the
//! last one. So equal inputs give equal images, and files of later steps are still younger than those of earlier ones,
//! which is what make and cargo look at.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerfile::{Compiler, Dockerfile, Images, Options, Outcome, Plan};
use image_core::{Platform, Reference, Timestamp};
use layer_store::ImageRecord;

use crate::engine::{Engine, Image};
use crate::error::{Error, Result};
use crate::event::{Event, EventSink};
use crate::process::Limits;

mod archive;
mod attest;
mod base;
mod binfmt;
mod cache_mount;
mod chmod;
mod context;
mod copy;
mod derive;
mod exec;
mod finish;
mod git;
mod glob;
mod hashes;
mod history;
mod key;
mod layout;
mod lock;
mod mount;
mod options;
mod owner;
mod platforms;
mod policy;
mod reproduce;
mod secret;
mod select;
mod share;
mod solve;
mod source;
mod step;
mod tree;

pub use attest::{Attestation, Package, PackageKind};
pub use base::BaseImage;
pub use context::Context;
pub use history::BuildRecord;
pub use key::{Cause, FileChange};
pub use layout::LayoutImage;
pub use lock::{Lock, LockError};
pub use platforms::BuiltIndex;
pub use policy::{Decision, Source, SourcePolicy};
pub use reproduce::{Irreproducible, Reproducibility};
pub use secret::Secret;
pub use share::CacheLocation;

/// The largest Dockerfile that is read, in bytes.
const DOCKERFILE_LIMIT: u64 = 16 << 20;
/// The largest file that ADD fetches, in bytes.
const DOWNLOAD_LIMIT: u64 = 1 << 40;

/// Which times an image carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Timestamps {
    /// Derived from the base image: the same inputs give the same image.
    #[default]
    Derived,
    /// Exactly this one, as with SOURCE_DATE_EPOCH.
    Fixed(Timestamp),
}

/// A build. Made by [`Engine::build`].
#[derive(Clone)]
#[must_use = "nothing happens until `run`"]
pub struct Build {
    engine: Engine,
    context: Context,
    dockerfile: Option<PathBuf>,
    text: Option<Arc<[u8]>>,
    args: BTreeMap<String, String>,
    target: Option<String>,
    tags: Vec<Reference>,
    /// The names are those of an index that this build is a part of.
    part: bool,
    labels: BTreeMap<String, String>,
    timestamps: Timestamps,
    no_cache: bool,
    no_cache_stages: std::collections::BTreeSet<String>,
    platform: Option<Platform>,
    limits: Limits,
    contexts: BTreeMap<String, NamedContext>,
    secrets: secret::Secrets,
    hosts: Vec<(String, IpAddr)>,
    hostname: Option<String>,
    shm_size: Option<u64>,
    rlimits: Vec<(runtime::oci_spec::runtime::PosixRlimitType, u64, u64)>,
    no_network: bool,
    pull: bool,
    jobs: usize,
    keep_failed: bool,
    cache_from: Vec<CacheLocation>,
    cache_to: Vec<CacheLocation>,
    /// The largest cache mount that goes with them, compressed; none go without.
    mounts_limit: Option<u64>,
    lock: Option<Arc<Lock>>,
    policy: Option<Arc<dyn SourcePolicy>>,
    insecure: bool,
    squash: bool,
    inline_cache: bool,
    annotations: BTreeMap<String, String>,
    attestations: std::collections::BTreeSet<Attestation>,
    builder: Option<String>,
    /// What this run was made of, for its provenance.
    materials: Arc<attest::Materials>,
    /// What this run's images were.
    bases: Arc<base::Bases>,
    events: EventSink,
}

/// What a name of `FROM`, `COPY --from` or `RUN --mount=from=` means, over images and stages of that name.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NamedContext {
    /// An image.
    Image(Reference),
    /// A directory, with its own `.dockerignore`.
    Directory(Context),
    /// A git repository, in any form that ADD takes.
    Git(String),
    /// The file behind a URL of http or https, as the one file `context`; an archive is not unpacked, as in BuildKit. For
    /// what is in an archive there is [`Context::url`] in [`Self::Directory`].
    Url(String),
    /// Nothing, as `scratch`.
    Scratch,
    /// An image of an OCI layout in this directory.
    Layout(PathBuf, LayoutImage),
}

impl NamedContext {
    /// The forms of buildx's `--build-context`: `docker-image://NAME`, `docker-image://scratch`,
    /// `oci-layout://DIRECTORY[:TAG][@DIGEST]`, `https://…`, every form of a git repository, else the path of a directory.
    ///
    /// # Errors
    /// [`dockerfile::ContextError`] for something of such a form that is none.
    pub fn parse(text: &str) -> Result<Self, dockerfile::ContextError> {
        use dockerfile::{ContextError, NamedContext as Compiled};
        if text.starts_with("oci-layout:") {
            return Self::layout(text).ok_or_else(|| ContextError::Unsupported(format!("{text:?}")));
        }
        match text.parse() {
            Ok(Compiled::Image(reference)) => Ok(Self::Image(reference)),
            Ok(Compiled::Git(url)) => Ok(Self::Git(url)),
            Ok(Compiled::Http(url)) => Ok(Self::Url(url)),
            Ok(Compiled::Scratch) => Ok(Self::Scratch),
            Err(ContextError::Unsupported(_)) if !text.contains("://") => {
                Ok(Self::Directory(Context::directory(text)))
            }
            Ok(_) => Err(ContextError::Unsupported(format!("{text:?}"))),
            Err(error) => Err(error),
        }
    }

    /// What buildx calls `oci-layout://directory[:tag][@digest]`; `None` when `text` is nothing of that form.
    #[must_use]
    pub fn layout(text: &str) -> Option<Self> {
        layout::parse_name(text).map(|(directory, image)| Self::Layout(directory, image))
    }
}

impl std::fmt::Debug for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Build")
            .field("context", &self.context)
            .field("tags", &self.tags)
            .finish_non_exhaustive()
    }
}

/// How one step went.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct StepReport {
    /// `[build 2/5] RUN make`.
    pub name: String,
    /// Its result was known.
    pub cached: bool,
    /// Why it was done again: the first part of what it depends on that differs, against the last time.
    pub cause: Option<Cause>,
    /// Under what the store has the layer that it made, or found.
    pub layer: Option<layer_store::LayerKey>,
}

/// What a build made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Built {
    /// The image.
    pub image: Image,
    /// Step by step.
    pub steps: Vec<StepReport>,
    /// The images that it stood on.
    pub bases: Vec<BaseImage>,
}

impl Built {
    /// What the names of its base images meant: for [`Build::lock`] of a later build.
    #[must_use]
    pub fn lock(&self) -> Lock {
        Lock::of(&self.bases)
    }
}

impl Engine {
    /// A build of `context`.
    pub fn build(&self, context: Context) -> Build {
        Build {
            engine: self.clone(),
            context,
            dockerfile: None,
            text: None,
            args: BTreeMap::new(),
            target: None,
            tags: Vec::new(),
            part: false,
            labels: BTreeMap::new(),
            timestamps: Timestamps::default(),
            no_cache: false,
            no_cache_stages: std::collections::BTreeSet::new(),
            platform: None,
            limits: Limits::default(),
            contexts: BTreeMap::new(),
            secrets: secret::Secrets::default(),
            hosts: Vec::new(),
            hostname: None,
            shm_size: None,
            rlimits: Vec::new(),
            no_network: false,
            pull: false,
            jobs: 0,
            keep_failed: false,
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            mounts_limit: None,
            lock: None,
            policy: None,
            insecure: false,
            squash: false,
            inline_cache: false,
            annotations: BTreeMap::new(),
            attestations: std::collections::BTreeSet::new(),
            builder: None,
            materials: Arc::default(),
            bases: Arc::default(),
            events: crate::event::nowhere(),
        }
    }
}

impl Build {
    /// Builds.
    ///
    /// # Errors
    /// [`Error::Dockerfile`], [`Error::StepFailed`], [`Error::Step`], [`Error::Unsupported`] and what pulling and
    /// storing can meet. Steps that were done stay in the cache.
    ///
    /// # Cancel safety
    /// Dropping the future kills what runs and leaves nothing but the cache of finished builds.
    pub async fn run(mut self) -> Result<Built> {
        self.bases = Arc::default();
        self.materials = Arc::default();
        let started = self.engine.now();
        let reports = solve::Reports::default();
        let result = match self.build(&reports).await {
            Ok(built) => match derive::as_asked(&self, built).await {
                Ok(built) => attest::as_asked(&self, built).await,
                error => error,
            },
            error => error,
        };
        history::keep(&self, started, &result, reports.take());
        result
    }

    async fn build(&self, reports: &solve::Reports) -> Result<Built> {
        let identity =
            self.context.path().map_or_else(|| PathBuf::from(self.context.identity()), Path::to_owned);
        let hashes = Arc::new(hashes::Hashes::load(self.engine.state(), &identity));
        let ready = self.context.ready(&self.engine, &hashes).await?;
        let (text, file) = self.source(&ready)?;
        let parsed = Dockerfile::parse(&text).map_err(|errors| Error::Dockerfile(Box::new(errors)))?;
        let mut options = self.options()?;
        options.ignore_file = ready.ignore_text(file.as_deref())?;
        let plan = self.compile(&parsed, options).await?;
        self.materials.compiled(self, &text, file.as_deref(), &plan);
        for warning in &plan.warnings {
            (self.events)(&Event::Warning {
                text: format!("{}: {} (line {})", warning.rule, warning.message, warning.lines.first),
            });
        }
        solve::solve(self, plan, ready, hashes, file, reports).await
    }

    /// The text of the Dockerfile, and its path if it is a file of the host.
    fn source(&self, ready: &context::Ready) -> Result<(Vec<u8>, Option<PathBuf>)> {
        if let Some(text) = &self.text {
            return Ok((text.to_vec(), None));
        }
        match (&self.dockerfile, ready) {
            (_, context::Ready::Text(_)) => {
                Ok((ready.read(Path::new(context::remote::NAME), DOCKERFILE_LIMIT)?, None))
            }
            (Some(path), context::Ready::Directory(_)) => {
                Ok((read(path, DOCKERFILE_LIMIT)?, Some(path.clone())))
            }
            (Some(path), context::Ready::Tree(_)) => Ok((ready.read(path, DOCKERFILE_LIMIT)?, None)),
            (None, ready) => {
                // As BuildKit: the name in lower case will do.
                let text = match ready.read(Path::new("Dockerfile"), DOCKERFILE_LIMIT) {
                    Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                        let other = ready.read(Path::new("dockerfile"), DOCKERFILE_LIMIT);
                        other.or_else(|_| ready.read(Path::new("Dockerfile"), DOCKERFILE_LIMIT))?
                    }
                    other => other?,
                };
                let file = match ready {
                    context::Ready::Directory(root) => Some(root.join("Dockerfile")),
                    context::Ready::Tree(_) | context::Ready::Text(_) => None,
                };
                Ok((text, file))
            }
        }
    }

    fn options(&self) -> Result<Options> {
        let mut options =
            Options::new(self.platform.clone().unwrap_or_else(|| self.engine.platform().clone()));
        options.build_platform = self.engine.platform().clone();
        options.target.clone_from(&self.target);
        options.build_args.clone_from(&self.args);
        options.labels.clone_from(&self.labels);
        options.hostname.clone_from(&self.hostname);
        options.extra_hosts.clone_from(&self.hosts);
        options.shm_size = self.shm_size;
        if self.no_network {
            options.network = dockerfile::plan::Network::None;
        }
        options.no_cache = match (self.no_cache, self.no_cache_stages.is_empty()) {
            (true, _) => dockerfile::NoCache::All,
            (false, true) => dockerfile::NoCache::No,
            (false, false) => dockerfile::NoCache::Stages(self.no_cache_stages.clone()),
        };
        for (name, context) in &self.contexts {
            let context = match context {
                NamedContext::Image(reference) => dockerfile::NamedContext::Image(reference.clone()),
                NamedContext::Directory(_) => dockerfile::NamedContext::Directory,
                NamedContext::Git(url) => dockerfile::NamedContext::Git(url.clone()),
                NamedContext::Url(url) => dockerfile::NamedContext::Http(url.clone()),
                NamedContext::Scratch => dockerfile::NamedContext::Scratch,
                NamedContext::Layout(path, image) => {
                    let digest = layout::digest(path, image)?;
                    dockerfile::NamedContext::OciLayout { store: name.clone(), digest }
                }
            };
            options.contexts.insert(name.clone(), context);
        }
        Ok(options)
    }

    async fn compile(&self, parsed: &Dockerfile, options: Options) -> Result<Plan> {
        let compiler = Compiler::new(parsed, options);
        let mut images = Images::new();
        loop {
            let outcome = compiler.compile(&images).map_err(|errors| Error::Dockerfile(Box::new(errors)))?;
            match outcome {
                Outcome::Plan(plan) => return Ok(*plan),
                Outcome::NeedImages(requests) => {
                    for request in requests {
                        let image = base::image(self, &request).await?;
                        images.insert(request, image.config().clone(), None);
                    }
                }
                _ => return Err(Error::unsupported("what the compiler asks for")),
            }
        }
    }

    /// The image that was found for a reference of the plan.
    fn pinned(&self, reference: &Reference, platform: &Platform) -> Result<ImageRecord> {
        let base = self.bases.find(reference, platform);
        let base = base.ok_or_else(|| Error::unsupported("an image that the compiler did not ask for"))?;
        Ok(self.engine.store().image(&base.id)?)
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let fail = |source| Error::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(fail)?.take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > limit {
        return Err(fail(std::io::Error::other(format!("it is larger than {limit} bytes"))));
    }
    Ok(bytes)
}
