//! From a parsed file to a [`Plan`].
//!
//! The compiler does no IO. It says which images' configs it needs, and is asked again when the
//! caller has them. What it keeps between two calls is what no image had a part in, so the same inputs give the
//! same plan.

mod arguments;
mod capture;
mod context;
mod dispatch;
mod finish;
mod globals;
mod graph;
mod node;
mod port;
mod request;
mod resolve;
mod run;
mod step;
mod transfer;
mod unsure;

pub use context::{ContextError, NamedContext};
pub use request::{ImageRequest, Images, KnownImage, NoCache, Options};
pub(crate) use unsure::rest as rest_of;

use std::sync::{Arc, Mutex, PoisonError};

use crate::directive;
use crate::error::{Diagnostic, Diagnostics, ErrorKind};
use crate::expand::{Budget, Expander};
use crate::ignore::Ignore;
use crate::limits::MAX_DIAGNOSTICS;
use crate::lint::{self, Linter};
use crate::plan::{Epoch, Plan};
use crate::syntax::Dockerfile;

/// What one call of the compiler comes to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The configs of these images are needed; none of them is known yet.
    NeedImages(Vec<ImageRequest>),
    /// The plan.
    Plan(Box<Plan>),
}

/// Compiles one file for one request.
///
/// ```
/// use dockerfile::{Compiler, Dockerfile, Images, Options, Outcome};
/// use image_core::{ImageConfig, Platform};
///
/// let file: Dockerfile = "FROM alpine\nRUN make\n".parse()?;
/// let compiler = Compiler::new(&file, Options::new(Platform::new("linux", "amd64")));
/// let mut images = Images::new();
/// let plan = loop {
///     match compiler.compile(&images)? {
///         Outcome::Plan(plan) => break plan,
///         Outcome::NeedImages(requests) => {
///             for request in requests {
///                 let config = ImageConfig::empty(&request.platform); // the caller's registry knows it
///                 images.insert(request, config, None);
///             }
///         }
///         _ => unreachable!(),
///     }
/// };
/// assert_eq!(plan.history(plan.target)[0].created_by, "RUN /bin/sh -c make # buildkit");
/// # Ok::<(), dockerfile::Diagnostics>(())
/// ```
pub struct Compiler<'a> {
    file: &'a Dockerfile,
    options: Arc<Options>,
    /// Work that stopped for want of images before it had looked at any.
    waiting: Mutex<Option<Box<Work<'a>>>>,
}

impl Clone for Compiler<'_> {
    fn clone(&self) -> Self {
        Self { file: self.file, options: Arc::clone(&self.options), waiting: Mutex::default() }
    }
}

impl std::fmt::Debug for Compiler<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiler").field("file", &self.file).field("options", &self.options).finish()
    }
}

impl<'a> Compiler<'a> {
    /// A compiler of `file` for the request `options`.
    pub fn new(file: &'a Dockerfile, options: Options) -> Self {
        Self { file, options: Arc::new(options), waiting: Mutex::default() }
    }

    /// The plan, or what is missing to make it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file or the request, as far as it can be found, with the findings of the lint
    /// rules. What is wrong before any image is needed is said before any is asked for; the rest of the file is then
    /// looked at without them, and what depends on them is left out.
    pub fn compile(&self, images: &Images) -> Result<Outcome, Diagnostics> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut work = match waiting {
            Some(work) => work,
            None => {
                let mut work = Box::new(Work::new(self.file, Arc::clone(&self.options))?);
                work.prepare();
                work
            }
        };
        if !work.errors.is_empty() {
            return Err(work.give_up());
        }
        let needed = match work.resolve(images) {
            Resolved::Needed(needed) => needed,
            Resolved::Failed => return Err(work.give_up()),
            Resolved::Missing(missing) => {
                if !work.saw_image {
                    *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
                }
                return Ok(Outcome::NeedImages(missing));
            }
        };
        work.finish(&needed).map(|plan| Outcome::Plan(Box::new(plan)))
    }
}

/// What looking for the bases of all stages comes to.
enum Resolved {
    /// Which nodes the target needs.
    Needed(Vec<bool>),
    /// Images that must be known first.
    Missing(Vec<ImageRequest>),
    /// There are errors.
    Failed,
}

/// A refusal of an instruction: what is wrong, and a hint.
type Refusal = (ErrorKind, Option<String>);

/// One run of the compiler.
struct Work<'a> {
    file: &'a Dockerfile,
    options: Arc<Options>,
    expander: Expander,
    /// What expansions may still cost.
    budget: Budget,
    linter: Linter,
    ignore: Option<Ignore>,
    /// Build arguments, after `SOURCE_DATE_EPOCH` is resolved.
    build_args: std::collections::BTreeMap<String, String>,
    globals: arguments::Arguments,
    /// What the bases of the stages are when no build argument is given, as far as that makes sense.
    default_bases: Vec<Option<(String, image_core::Reference)>>,
    /// Names that global ARGs declare.
    global_names: std::collections::BTreeSet<String>,
    epoch: Option<Epoch>,
    nodes: graph::Graph<'a>,
    steps: finish::Steps,
    errors: Vec<Diagnostic>,
    /// Bytes of text made so far.
    text: usize,
    /// The node that is asked for.
    target: usize,
    /// The node whose instructions are compiled.
    working: usize,
    /// Whether anything depends on an image's config by now.
    saw_image: bool,
    /// Whether something is wrong behind which nothing can be said.
    lost: bool,
    /// Whether instructions are missing, so that no variable is known not to be set.
    partial: bool,
    /// Whether the instruction at hand used what is not known.
    guessed: bool,
    /// What [`crate::Plan::outline`] is made of, when it is asked for.
    capture: Option<Box<capture::Capture>>,
}

impl<'a> Work<'a> {
    /// Nothing is done yet.
    fn new(file: &'a Dockerfile, options: Arc<Options>) -> Result<Self, Diagnostics> {
        let check = match &options.check {
            Some(check) => Some(check.clone()),
            None => directive::find(file.source().text(), "check"),
        };
        let config = lint::Config::parse(check.as_deref().unwrap_or(""))
            .map_err(|text| Diagnostic::request(ErrorKind::CheckOptions(text)))?;
        let ignore = match &options.ignore_file {
            None => None,
            Some(text) => Some(
                Ignore::parse(text)
                    .map_err(|error| Diagnostic::request(ErrorKind::Value(error.to_string())))?,
            ),
        };
        let build_args = options.build_args.clone();
        let capture = options.outline.then(Box::default);
        let globals = arguments::Arguments::new(Arc::clone(&options), None);
        Ok(Self {
            file,
            options,
            capture,
            expander: Expander::new(file.escape()),
            budget: Budget::default(),
            linter: Linter::new(config),
            ignore,
            build_args,
            globals,
            default_bases: Vec::new(),
            global_names: std::collections::BTreeSet::new(),
            epoch: None,
            nodes: graph::Graph::default(),
            steps: finish::Steps::default(),
            errors: Vec::new(),
            text: 0,
            target: 0,
            working: 0,
            saw_image: false,
            lost: false,
            partial: false,
            guessed: false,
        })
    }

    /// Everything up to the images.
    fn prepare(&mut self) {
        self.linter.file(self.file);
        if let Err(error) = self.prepare_globals() {
            self.fail(error);
            self.lost = true;
            return;
        }
        self.add_stages();
        self.target = match self.find_target() {
            Ok(target) => target,
            Err(error) => {
                self.fail(error);
                self.nodes.all.len().saturating_sub(1)
            }
        };
        self.link();
    }

    fn fail(&mut self, error: Diagnostic) {
        if self.errors.len() < MAX_DIAGNOSTICS {
            self.errors.push(error);
        }
    }

    /// Everything behind the images.
    fn finish(mut self, needed: &[bool]) -> Result<Plan, Diagnostics> {
        self.dispatch_all(needed);
        // Who asks for an outline does not build.
        if self.errors.is_empty()
            && !self.options.outline
            && let Some(rules) = self.linter.violations()
        {
            self.fail(Diagnostic::request(ErrorKind::Lint(rules)));
        }
        if self.errors.is_empty() {
            return Ok(self.plan(needed));
        }
        Err(Diagnostics::new(self.errors, self.linter.warnings))
    }
}
