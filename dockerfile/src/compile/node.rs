//! A stage while it is compiled, or an image that an instruction copies from.

use std::sync::Arc;

use image_core::{ContainerConfig, ImageConfig, Platform, Reference};

use super::context::NamedContext;
use crate::Env;
use crate::plan::{Base, HistoryEntry, Input};
use crate::source::{Lines, Span};
use crate::syntax::{Instruction, Stage};

/// An instruction of the file, or one that a trigger brought.
#[derive(Clone)]
pub(super) enum Given<'a> {
    File(&'a Instruction),
    Trigger(Box<Instruction>),
}

impl std::ops::Deref for Given<'_> {
    type Target = Instruction;

    fn deref(&self) -> &Instruction {
        match self {
            Self::File(instruction) => instruction,
            Self::Trigger(instruction) => instruction,
        }
    }
}

/// An instruction of a stage, with the nodes that it reads.
#[derive(Clone)]
pub(super) struct Task<'a> {
    pub(super) instruction: Given<'a>,
    /// COPY `--from`, and `from` of each mount.
    pub(super) sources: Vec<usize>,
    /// Whether it is a trigger; its place is then its stage's FROM.
    pub(super) onbuild: bool,
}

/// Where CMD, ENTRYPOINT or HEALTHCHECK was seen.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen(pub(super) Option<Lines>);

/// The name of a declared ARG and its last value.
pub(super) type DeclaredArg = (Arc<str>, Option<Arc<str>>);

/// A stage, or an image that is not a stage.
#[derive(Clone, Default)]
pub(super) struct Node<'a> {
    /// The stage; none for images that COPY or a mount names.
    pub(super) stage: Option<Stage<'a>>,
    /// The base's name, expanded.
    pub(super) base_name: String,
    /// The name that messages and progress use.
    pub(super) title: String,
    pub(super) span: Span,
    pub(super) lines: Lines,
    /// What was asked for, then what it is.
    pub(super) platform: Option<Platform>,
    /// The node that it is built from.
    pub(super) base: Option<usize>,
    /// Nodes that its instructions read, in the order in which they came up.
    pub(super) deps: Vec<usize>,
    /// The same as a set.
    pub(super) dep_set: std::collections::BTreeSet<usize>,
    pub(super) tasks: Vec<Task<'a>>,
    pub(super) context: Option<NamedContext>,
    /// The name of `context`.
    pub(super) context_name: String,
    pub(super) dispatched: bool,
    pub(super) resolved: bool,
    pub(super) triggered: bool,
    /// Steps that progress counts.
    pub(super) total: u32,
    pub(super) ordinal: u32,

    /// The reference that `base_name` is, when somebody read it already.
    pub(super) parsed: Option<Reference>,
    /// The base's reference, when it is an image.
    pub(super) reference: Option<Reference>,
    pub(super) plan_base: Option<Base>,
    pub(super) base_image: Option<Arc<ImageConfig>>,
    pub(super) image_platform: Platform,
    pub(super) author: Option<String>,
    pub(super) config: Arc<ContainerConfig>,
    pub(super) root: Input,
    pub(super) env: Env,
    pub(super) dir: String,
    pub(super) user: String,
    /// Declared ARGs in the order of their first declaration.
    pub(super) args: Arc<Vec<DeclaredArg>>,
    /// Where in `args` each name is.
    pub(super) arg_places: Arc<std::collections::BTreeMap<Arc<str>, usize>>,
    /// Where in the config's variables each name is, as far as they were looked at; only when there are many.
    pub(super) env_places: std::collections::HashMap<String, usize>,
    pub(super) env_indexed: usize,
    pub(super) workdir_set: bool,
    pub(super) cmd: Seen,
    pub(super) entrypoint: Seen,
    pub(super) health: Seen,
    pub(super) history: Vec<HistoryEntry>,
    pub(super) ignore_cache: bool,
    /// Whether it is not known what it is built from.
    pub(super) unsure: bool,
    /// Global ARGs that its FROM uses; only when the outline is asked for.
    pub(super) used: Vec<String>,
    pub(super) capture: Option<Box<super::capture::Capture>>,
}

impl Node<'_> {
    /// The name after AS.
    pub(super) fn name(&self) -> Option<&str> {
        self.stage.and_then(|stage| stage.from.name.as_deref())
    }

    pub(super) fn os(&self) -> &str {
        self.platform.as_ref().map_or("linux", |platform| platform.os.as_str())
    }

    /// Whether the name of an ARG was declared in this stage or below it.
    pub(super) fn declares(&self, name: &str) -> bool {
        self.arg_places.contains_key(name)
    }

    /// Takes over what a stage inherits from the node that it is built from.
    pub(super) fn inherit(&mut self, base: &Self) {
        self.root = base.root;
        self.platform.clone_from(&base.platform);
        self.config = Arc::clone(&base.config);
        if !self.config.on_build.is_empty() {
            Arc::make_mut(&mut self.config).on_build.clear();
        }
        self.author.clone_from(&base.author);
        self.image_platform = base.image_platform.clone();
        self.base_image.clone_from(&base.base_image);
        self.env = base.env.clone();
        self.dir.clone_from(&base.dir);
        self.user.clone_from(&base.user);
        self.workdir_set = base.workdir_set;
        self.unsure |= base.unsure;
        self.args = Arc::clone(&base.args);
        self.arg_places = Arc::clone(&base.arg_places);
    }
}
