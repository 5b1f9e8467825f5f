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
//! Times: with [`Timestamps::Derived`] the epoch E is the base image's `created` (1980-01-01 for scratch). Entry k of
//! the history is created at E+k, and no file in its layer is younger. So equal inputs give equal images, and files
//! of later steps are still younger than those of earlier ones, which is what make and cargo look at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerfile::{Compiler, Dockerfile, ImageRequest, Images, Options, Outcome, Plan};
use image_core::{Platform, Reference, Timestamp};

use crate::engine::{Engine, Image};
use crate::error::{Error, Result};
use crate::event::{Event, EventSink};
use crate::process::Limits;

mod context;
mod copy;
mod exec;
mod glob;
mod solve;
mod tree;

pub use context::Context;

/// The largest Dockerfile that is read, in bytes.
const DOCKERFILE_LIMIT: u64 = 16 << 20;

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
    args: BTreeMap<String, String>,
    target: Option<String>,
    tags: Vec<Reference>,
    labels: BTreeMap<String, String>,
    timestamps: Timestamps,
    no_cache: bool,
    platform: Option<Platform>,
    limits: Limits,
    events: EventSink,
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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepReport {
    /// `[build 2/5] RUN make`.
    pub name: String,
    /// Its result was known.
    pub cached: bool,
    /// Why it was done again: the first part of what it depends on that differs, against the last time.
    pub cause: Option<String>,
}

/// What a build made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Built {
    /// The image.
    pub image: Image,
    /// Step by step.
    pub steps: Vec<StepReport>,
}

impl Engine {
    /// A build of `context`.
    pub fn build(&self, context: Context) -> Build {
        Build {
            engine: self.clone(),
            context,
            dockerfile: None,
            args: BTreeMap::new(),
            target: None,
            tags: Vec::new(),
            labels: BTreeMap::new(),
            timestamps: Timestamps::default(),
            no_cache: false,
            platform: None,
            limits: Limits::default(),
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

    fn file(&self) -> PathBuf {
        match &self.dockerfile {
            Some(path) => path.clone(),
            None => self.context.path().join("Dockerfile"),
        }
    }

    /// Builds.
    ///
    /// # Errors
    /// [`Error::Dockerfile`], [`Error::StepFailed`], [`Error::Step`], [`Error::Unsupported`] and what pulling and
    /// storing can meet. Steps that were done stay in the cache.
    ///
    /// # Cancel safety
    /// Dropping the future kills what runs and leaves nothing but the cache of finished builds.
    pub async fn run(self) -> Result<Built> {
        let path = self.file();
        let text = read(&path)?;
        let parsed = Dockerfile::parse(&text).map_err(|errors| Error::Dockerfile(Box::new(errors)))?;
        let plan = self.compile(&parsed).await?;
        for warning in &plan.warnings {
            (self.events)(&Event::Warning {
                text: format!("{}: {} (line {})", warning.rule, warning.message, warning.lines.first),
            });
        }
        solve::solve(&self, &plan, &path).await
    }

    async fn compile(&self, parsed: &Dockerfile) -> Result<Plan> {
        let mut options =
            Options::new(self.platform.clone().unwrap_or_else(|| self.engine.platform().clone()));
        options.build_platform = self.engine.platform().clone();
        options.target.clone_from(&self.target);
        options.build_args.clone_from(&self.args);
        options.labels.clone_from(&self.labels);
        let compiler = Compiler::new(parsed, options);
        let mut images = Images::new();
        loop {
            let outcome = compiler.compile(&images).map_err(|errors| Error::Dockerfile(Box::new(errors)))?;
            match outcome {
                Outcome::Plan(plan) => return Ok(*plan),
                Outcome::NeedImages(requests) => {
                    for request in requests {
                        let image = self.base(&request).await?;
                        images.insert(request, image.config().clone(), None);
                    }
                }
                _ => return Err(Error::unsupported("what the compiler asks for")),
            }
        }
    }

    /// The image that a FROM means: in the store, or pulled.
    async fn base(&self, request: &ImageRequest) -> Result<Image> {
        if let Some(tag) = self.engine.store().find_tag(&request.reference)? {
            return self.engine.load(self.engine.store().image(&tag.image)?);
        }
        Ok(self.engine.pull(&request.reference, &self.events).await?.image)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let fail = |source| Error::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(fail)?
        .take(DOCKERFILE_LIMIT + 1)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    if bytes.len() as u64 > DOCKERFILE_LIMIT {
        return Err(fail(std::io::Error::other("the Dockerfile is too large")));
    }
    Ok(bytes)
}
