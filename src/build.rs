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
mod base;
mod binfmt;
mod cache_mount;
mod chmod;
mod context;
mod copy;
mod dress;
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
    lock: Option<Arc<Lock>>,
    policy: Option<Arc<dyn SourcePolicy>>,
    insecure: bool,
    squash: bool,
    inline_cache: bool,
    annotations: BTreeMap<String, String>,
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
    /// An image of an OCI layout in this directory.
    Layout(PathBuf, LayoutImage),
}

impl NamedContext {
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
            lock: None,
            policy: None,
            insecure: false,
            squash: false,
            inline_cache: false,
            annotations: BTreeMap::new(),
            bases: Arc::default(),
            events: crate::event::nowhere(),
        }
    }
}

impl Build {
    /// How much the process of each RUN may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The Dockerfile, if it is not the context's `Dockerfile`.
    pub fn dockerfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.dockerfile = Some(path.into());
        self
    }

    /// A build argument.
    pub fn arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.args.insert(name.into(), value.into());
        self
    }

    /// The stage to build; the last one without.
    pub fn target(mut self, stage: impl Into<String>) -> Self {
        self.target = Some(stage.into());
        self
    }

    /// A name for the image.
    #[expect(clippy::needless_pass_by_value, reason = "a builder takes its parts")]
    pub fn tag(mut self, name: Reference) -> Self {
        self.tags.push(name.with_default_tag());
        self
    }

    /// A label, over those of the file.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Which times the image carries.
    pub fn timestamps(mut self, timestamps: Timestamps) -> Self {
        self.timestamps = timestamps;
        self
    }

    /// Does every step again.
    pub fn no_cache(mut self, yes: bool) -> Self {
        self.no_cache = yes;
        self
    }

    /// Does every step of the stages of this name again.
    pub fn no_cache_stage(mut self, stage: impl Into<String>) -> Self {
        self.no_cache_stages.insert(stage.into());
        self
    }

    /// What `name` means in FROM, `COPY --from` and mounts: an image's name, or any other.
    pub fn context(mut self, name: impl Into<String>, context: NamedContext) -> Self {
        let name = name.into();
        // The name of an image is looked for in its short form, as docker's tools do.
        let short = name.parse::<Reference>().ok().map(|reference| reference.familiar());
        let name = short.map_or(name, |short| short.trim_end_matches(":latest").to_owned());
        self.contexts.insert(name, context);
        self
    }

    /// A secret for `RUN --mount=type=secret,id=…`. It reaches no layer, no config and no cache key.
    pub fn secret(mut self, id: impl Into<String>, secret: Secret) -> Self {
        self.secrets.insert(id.into(), secret);
        self
    }

    /// The socket of an ssh agent for `RUN --mount=type=ssh`; the id of a mount that names none is `default`.
    pub fn ssh(mut self, id: impl Into<String>, socket: impl Into<PathBuf>) -> Self {
        self.secrets.insert_agent(id.into(), socket.into());
        self
    }

    /// A line of `/etc/hosts` of every RUN. It is no part of a step's key.
    pub fn add_host(mut self, name: impl Into<String>, address: IpAddr) -> Self {
        self.hosts.push((name.into(), address));
        self
    }

    /// The host name of every RUN; BuildKit's without.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// The size of `/dev/shm` of every RUN, in bytes.
    pub fn shm_size(mut self, bytes: u64) -> Self {
        self.shm_size = Some(bytes);
        self
    }

    /// A limit of every RUN's processes.
    pub fn rlimit(mut self, kind: runtime::oci_spec::runtime::PosixRlimitType, soft: u64, hard: u64) -> Self {
        self.rlimits.push((kind, soft, hard));
        self
    }

    /// Gives a RUN that asks for no network of its own loopback alone, instead of the host's network.
    pub fn no_network(mut self, yes: bool) -> Self {
        self.no_network = yes;
        self
    }

    /// Asks the registry for base images that are in the store too.
    pub fn pull(mut self, yes: bool) -> Self {
        self.pull = yes;
        self
    }

    /// How many steps work at once; by default as many as there are processors. It changes no image.
    pub fn parallel(mut self, steps: usize) -> Self {
        self.jobs = steps;
        self
    }

    /// Keeps what a failed RUN left as an image, which [`Error::StepFailed`] holds: a container of it shows the files as
    /// the step left them, in its environment. It goes like every image without a name, by a prune.
    pub fn keep_failed(mut self, yes: bool) -> Self {
        self.keep_failed = yes;
        self
    }

    /// Takes steps that are not known here from this cache, too. What it has is believed.
    pub fn cache_from(mut self, location: CacheLocation) -> Self {
        self.cache_from.push(location);
        self
    }

    /// Takes base images at the digests of `lock` alone, whatever their names mean by now. An image that it does not have
    /// is refused, unless its name is a digest.
    pub fn lock(mut self, lock: Lock) -> Self {
        self.lock = Some(Arc::new(lock));
        self
    }

    /// Asks `policy` about every image, URL and git repository before it is used.
    pub fn source_policy(mut self, policy: Arc<dyn SourcePolicy>) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Lets `RUN --security=insecure` have all capabilities that this process can give, no seccomp filter and no hidden
    /// paths. As root that is the host's root in all but name: for Dockerfiles that are trusted.
    pub fn allow_insecure(mut self, yes: bool) -> Self {
        self.insecure = yes;
        self
    }

    /// Makes one layer of all that the build adds to its base. The steps' own layers stay in the cache.
    pub fn squash(mut self, yes: bool) -> Self {
        self.squash = yes;
        self
    }

    /// An annotation of the image's manifest. It makes the manifest now, so layers are compressed at once.
    pub fn annotation(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(name.into(), value.into());
        self
    }

    /// Writes what every step of the build made to this cache, when the build succeeds.
    pub fn cache_to(mut self, location: CacheLocation) -> Self {
        self.cache_to.push(location);
        self
    }

    /// Writes into the image's config which steps its layers are, so that the image itself is a cache: see
    /// [`CacheLocation::Registry`]. It changes the image's ID. `BUILDKIT_INLINE_CACHE=1` as build argument asks for it, too.
    pub fn inline_cache(mut self, yes: bool) -> Self {
        self.inline_cache = yes;
        self
    }

    fn jobs(&self) -> usize {
        match self.jobs {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            jobs => jobs.min(1_024),
        }
    }

    /// What the image is for; the engine's platform without.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Takes what happens, as it happens.
    pub fn on_event(mut self, sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.events = Arc::new(sink);
        self
    }

    /// The text of the Dockerfile, which then is no file of the context.
    pub fn dockerfile_text(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.text = Some(text.into().into());
        self
    }

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
        let started = self.engine.now();
        let reports = solve::Reports::default();
        let result = match self.build(&reports).await {
            Ok(built) => dress::dress(&self, built).await,
            error => error,
        };
        history::keep(&self, started, &result, reports.take());
        result
    }

    async fn build(&self, reports: &solve::Reports) -> Result<Built> {
        let identity =
            self.context.path().map_or_else(|| PathBuf::from(self.context.identity()), Path::to_owned);
        let hashes = Arc::new(hashes::Hashes::load(self.engine.state(), &identity));
        let ready = {
            let (context, state, hashes) =
                (self.context.clone(), self.engine.state().to_owned(), hashes.clone());
            crate::task::blocking(move || context.ready(&state, &hashes)).await?
        };
        let (text, file) = self.source(&ready)?;
        let parsed = Dockerfile::parse(&text).map_err(|errors| Error::Dockerfile(Box::new(errors)))?;
        let mut options = self.options()?;
        options.ignore_file = ready.ignore_text(file.as_deref())?;
        let plan = self.compile(&parsed, options).await?;
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
                    context::Ready::Tree(_) => None,
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
