//! What a Dockerfile compiles to: a DAG of typed steps with every argument resolved.
//!
//! ```text
//!  Plan ─ stages ─┬─ base ─▶ Image | Scratch | another stage
//!                 ├─ root ─▶ the step that makes the final root file system
//!                 ├─ config, history ─▶ what the image will say
//!       ─ steps ──┴─ 0 Image alpine ◀──root── 2 Exec … ◀──root── 3 Files (copy from 1)
//!                    1 Context
//! ```
//!
//! Steps stand in topological order: a step's inputs have smaller indices. Only what the target
//! needs is there.

mod definition;
mod dot;
mod file;
mod run;
mod stage;

use image_core::{Digest, Platform, Reference};
use serde::Serialize;

use crate::source::{Lines, Span};

pub use definition::{Component, Definition};
pub use file::{Copy, CopySource, FileAction, Files, Mkdir, Mode, Owner, Principal};
pub use run::{CacheOwner, Device, Exec, Mount, MountKind, Network, Security, Sharing};
pub use stage::{Base, HistoryEntry, PlanStage};

use crate::lint::Warning;
use crate::outline::Outline;

/// A compiled build for one target and one platform.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// What the image is for.
    pub platform: Platform,
    /// All steps that the target needs, inputs first.
    pub steps: Vec<Step>,
    /// The stages that the target needs, in the order of the file.
    pub stages: Vec<PlanStage>,
    /// Index of the target in `stages`.
    pub target: usize,
    /// Findings of the lint rules, in the order in which they came up.
    pub warnings: Vec<Warning>,
    /// What `SOURCE_DATE_EPOCH` asks for, when the file or the build arguments set it.
    pub epoch: Option<Epoch>,
    /// What a build of the target may be given, when [`Options::outline`](crate::Options::outline) asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outline: Option<Outline>,
}

/// The meaning of `SOURCE_DATE_EPOCH`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Epoch {
    /// Seconds since 1970.
    Seconds(i64),
    /// The time of the build context (a git commit's; a directory has none).
    Context,
    /// The time of a named context.
    NamedContext(String),
    /// The time of the one remote source in the stage of this number.
    Stage(usize),
}

/// Index of a [`Step`] in [`Plan::steps`].
pub type StepIndex = usize;

/// A tree of files that a step reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// An empty tree (`scratch`).
    #[default]
    Empty,
    /// What the step of this index makes.
    Step(StepIndex),
}

impl Input {
    /// The step, when there is one.
    pub const fn step(self) -> Option<StepIndex> {
        match self {
            Self::Empty => None,
            Self::Step(index) => Some(index),
        }
    }
}

impl Input {
    /// The same with another number for the step.
    pub(crate) fn map(self, place: impl Fn(StepIndex) -> StepIndex) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Step(index) => Self::Step(place(index)),
        }
    }
}

/// One node of the plan.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Step {
    /// Its place in [`Plan::steps`].
    pub index: StepIndex,
    /// Index in [`Plan::stages`] of the stage whose instruction it is; none for sources that several stages may share.
    pub stage: Option<usize>,
    /// 1-based place among the stage's steps that do work; 0 for sources that are not a FROM.
    pub ordinal: u32,
    /// How many such steps the stage has.
    pub total: u32,
    /// The line of progress: `[build 2/5] RUN make`.
    pub name: String,
    /// Where the instruction stands.
    pub span: Span,
    /// Physical lines of the instruction.
    pub lines: Lines,
    /// Whether a trigger of the base image asked for it.
    pub onbuild: bool,
    /// The root file system on which the step works. [`Input::Empty`] for sources.
    pub root: Input,
    /// What to do.
    pub op: Op,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Op {
    /// The root file system of an image of a registry.
    Image(ImageSource),
    /// The root file system of an image in an OCI layout of the caller.
    Layout(LayoutSource),
    /// The build context, or a named context that is a directory.
    Context(ContextSource),
    /// One file fetched by HTTP.
    Http(HttpSource),
    /// A checkout of a git repository.
    Git(GitSource),
    /// RUN.
    Exec(Box<Exec>),
    /// COPY, ADD or WORKDIR: makes one layer.
    Files(Files),
}

/// An image to start from or to copy from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ImageSource {
    /// The normalised reference, with a tag or digest.
    pub reference: Reference,
    /// For which platform.
    pub platform: Platform,
    /// The manifest's digest, when the caller gave one with the config.
    pub digest: Option<Digest>,
}

/// An image in an OCI layout that the caller has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LayoutSource {
    /// The caller's name for the layout.
    pub store: String,
    /// The context's name with the digest of the manifest or index in the layout.
    pub reference: Reference,
    /// For which platform.
    pub platform: Platform,
    /// The manifest's digest, when the caller gave one with the config.
    pub digest: Option<Digest>,
}

/// A directory of the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ContextSource {
    /// Which one; none for the main context.
    pub name: Option<String>,
    /// Slash-separated paths below the context that the build may read; empty when it may read all.
    pub paths: Vec<String>,
}

/// A file behind a URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HttpSource {
    /// Where it is.
    pub url: String,
    /// The name that it gets.
    pub filename: String,
    /// What its bytes must have.
    pub checksum: Option<Digest>,
}

/// A git repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GitSource {
    /// What `git` can fetch from.
    pub remote: String,
    /// `host/path[#ref[:subdir]]`: equal for all protocols.
    pub identity: String,
    /// Branch, tag or commit; empty for the remote's default.
    pub reference: String,
    /// Directory of the checkout that becomes the root.
    pub subdir: String,
    /// Whether `.git` stays.
    pub keep_git_dir: bool,
    /// The commit that must be found.
    pub checksum: Option<String>,
    /// Whether submodules are fetched.
    pub submodules: bool,
    /// Fetch the commit of `checksum` directly.
    pub fetch_by_commit: bool,
    /// `checkout` or `commit`: where modification times come from.
    pub mtime: Option<String>,
}

impl Op {
    /// Calls `change` with every tree that the operation reads beside its root.
    pub(crate) fn each_input(&mut self, mut change: impl FnMut(&mut Input)) {
        match self {
            Self::Exec(exec) => {
                for mount in &mut exec.mounts {
                    if let MountKind::Bind { from, .. } | MountKind::Cache { from, .. } = &mut mount.kind {
                        change(from);
                    }
                }
            }
            Self::Files(files) => {
                for action in &mut files.actions {
                    if let FileAction::Copy(copy) = action
                        && let CopySource::Tree(from) = &mut copy.from
                    {
                        change(from);
                    }
                }
            }
            _ => {}
        }
    }
}

impl GitSource {
    /// Reads a word as a git reference, in any form that ADD takes; nothing when it is something else.
    ///
    /// # Errors
    /// With what is wrong in its query.
    pub fn parse(word: &str) -> Result<Option<Self>, String> {
        Ok(crate::git::parse(word)?.map(|reference| reference.source(None, "")))
    }
}

impl Step {
    /// All steps whose trees this one reads, the root first, each once.
    pub fn inputs(&self) -> Vec<StepIndex> {
        let mut inputs: Vec<_> = self.root.step().into_iter().collect();
        let mut seen = std::collections::BTreeSet::from_iter(inputs.iter().copied());
        let mut add = |input: Input| {
            if let Some(step) = input.step()
                && seen.insert(step)
            {
                inputs.push(step);
            }
        };
        match &self.op {
            Op::Exec(exec) => exec.mounts.iter().filter_map(Mount::from).for_each(&mut add),
            Op::Files(files) => files.actions.iter().filter_map(FileAction::from).for_each(&mut add),
            _ => {}
        }
        inputs
    }

    /// Whether the step makes a layer of an image (sources do not).
    pub const fn makes_layer(&self) -> bool {
        matches!(self.op, Op::Exec(_) | Op::Files(_))
    }
}

impl Plan {
    /// The stage that was asked for.
    pub fn target_stage(&self) -> Option<&PlanStage> {
        self.stages.get(self.target)
    }

    /// The new history entries of a stage, oldest first, with those of the stages that it is built from.
    pub fn history(&self, stage: usize) -> Vec<&HistoryEntry> {
        let mut chain = Vec::new();
        let mut next = self.stages.get(stage);
        while let Some(stage) = next {
            chain.push(stage);
            next = match stage.base {
                Base::Stage(index) => self.stages.get(index),
                _ => None,
            };
        }
        chain.into_iter().rev().flat_map(|stage| &stage.history).collect()
    }
}
