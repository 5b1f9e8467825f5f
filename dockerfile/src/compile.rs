//! From a parsed file to a [`Plan`].
//!
//! The compiler does no IO. It says which images' configs it needs, and is asked again when the
//! caller has them; it keeps nothing between two calls, so the same inputs give the same plan.

mod dispatch;
mod finish;
mod globals;
mod graph;
mod node;
mod port;
mod request;
mod resolve;
mod run;
mod transfer;

pub use request::{ImageRequest, Images, KnownImage, NamedContext, NoCache, Options};

use crate::error::{Diagnostic, Diagnostics, ErrorKind};
use crate::expand::{Budget, Expander};
use crate::ignore::Ignore;
use crate::lint::{self, Linter};
use crate::plan::{Epoch, Plan};
use crate::syntax::Dockerfile;
use crate::{Env, directive};

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
#[derive(Clone, Debug)]
pub struct Compiler<'a> {
    file: &'a Dockerfile,
    options: Options,
}

impl<'a> Compiler<'a> {
    /// A compiler of `file` for the request `options`.
    pub const fn new(file: &'a Dockerfile, options: Options) -> Self {
        Self { file, options }
    }

    /// The plan, or what is missing to make it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with the file or the request, as far as it can be found.
    pub fn compile(&self, images: &Images) -> Result<Outcome, Diagnostics> {
        Work::new(self.file, &self.options, images)?.run()
    }
}

/// A refusal of an instruction: what is wrong, and a hint.
type Refusal = (ErrorKind, Option<String>);

/// One run of the compiler.
struct Work<'a> {
    file: &'a Dockerfile,
    options: &'a Options,
    images: &'a Images,
    expander: Expander,
    /// What expansions may still cost.
    budget: Budget,
    linter: Linter,
    ignore: Option<Ignore>,
    /// Build arguments, after `SOURCE_DATE_EPOCH` is resolved.
    build_args: std::collections::BTreeMap<String, String>,
    globals: Env,
    /// Names that global ARGs declare.
    global_names: std::collections::BTreeSet<String>,
    epoch: Option<Epoch>,
    nodes: graph::Graph<'a>,
    steps: finish::Steps,
    errors: Vec<Diagnostic>,
    /// Bytes of text made so far.
    text: usize,
}

impl<'a> Work<'a> {
    fn new(file: &'a Dockerfile, options: &'a Options, images: &'a Images) -> Result<Self, Diagnostics> {
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
        Ok(Self {
            file,
            options,
            images,
            expander: Expander::new(file.escape()),
            budget: Budget::default(),
            linter: Linter::new(config),
            ignore,
            build_args: options.build_args.clone(),
            globals: Env::new(),
            global_names: std::collections::BTreeSet::new(),
            epoch: None,
            nodes: graph::Graph::default(),
            steps: finish::Steps::default(),
            errors: Vec::new(),
            text: 0,
        })
    }

    fn run(mut self) -> Result<Outcome, Diagnostics> {
        self.lint_file();
        self.prepare_globals()?;
        self.add_stages()?;
        let target = self.target()?;
        self.link()?;
        let needed = match self.resolve(target)? {
            Ok(needed) => needed,
            Err(missing) => return Ok(Outcome::NeedImages(missing)),
        };
        self.dispatch_all(&needed);
        if let Some(errors) = Diagnostics::from_list(std::mem::take(&mut self.errors)) {
            return Err(errors);
        }
        if let Some(rules) = self.linter.violations() {
            return Err(Diagnostic::request(ErrorKind::Lint(rules)).into());
        }
        Ok(Outcome::Plan(Box::new(self.finish(target, &needed))))
    }
}
