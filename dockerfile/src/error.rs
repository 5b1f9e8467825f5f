//! What is wrong with a file, where, and what to do about it.

mod render;

use std::fmt;

use crate::expand::ExpandError;
use crate::lint::Warning;
use crate::source::{Lines, Span};

/// Everything that is wrong with a file, at least one thing; and what the lint rules found in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics {
    errors: Vec<Diagnostic>,
    warnings: Vec<Warning>,
}

/// One thing that is wrong, with its place and, when there is one, a way out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// What is wrong.
    pub kind: ErrorKind,
    /// The bytes concerned.
    pub span: Span,
    /// The physical lines concerned; `0` when the request is wrong, not the file.
    pub lines: Lines,
    /// What may help: "did you mean RUN?".
    pub hint: Option<String>,
}

/// What can be wrong with a Dockerfile or with what is asked of it.
///
/// The texts say what BuildKit's say, so that people find them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A bound of [`crate::limits`] is exceeded.
    #[error("{what} is more than {limit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The file holds nothing at all.
    #[error("the Dockerfile cannot be empty")]
    EmptyFile,
    /// The file holds comments only.
    #[error("file with no instructions")]
    NoInstructions,
    /// The file holds ARGs only.
    #[error("dockerfile contains no stages to build")]
    NoStages,
    /// An instruction stands before the first FROM.
    #[error("no build stage in current context")]
    OutsideStage,
    /// A parser directive is given twice or has a value that it cannot have.
    #[error("{0}")]
    Directive(String),
    /// `# check=` cannot be read.
    #[error("failed to parse check options: {0}")]
    CheckOptions(String),
    /// No text of a Dockerfile says what a [`Builder`](crate::Builder) was asked for.
    #[error("no {0} instruction can be written that says this")]
    Unprintable(&'static str),
    /// No instruction has this name.
    #[error("unknown instruction: {0}")]
    UnknownInstruction(String),
    /// A heredoc's end is missing.
    #[error("unterminated heredoc")]
    UnterminatedHeredoc,
    /// A flag is unknown, given twice, lacks a value or has a bad one.
    #[error("{0}")]
    Flag(String),
    /// An instruction's arguments are too many, too few or malformed.
    #[error("{0}")]
    Arguments(String),
    /// `RUN --mount` or `--device` has a field that cannot be.
    #[error("{0}")]
    Mount(String),
    /// A word cannot be expanded.
    #[error("failed to process {word}")]
    Expand {
        /// The word, quoted.
        word: String,
        /// Why.
        #[source]
        cause: Box<ExpandError>,
    },
    /// FROM's image name is empty after expansion.
    #[error("base name ({0}) should not be blank")]
    BlankBase(String),
    /// FROM's image name is not a reference.
    #[error("failed to parse stage name {name}")]
    BaseName {
        /// The name, quoted.
        name: String,
        /// Why.
        #[source]
        cause: Box<image_core::ReferenceError>,
    },
    /// `--platform` is empty after expansion.
    #[error("empty platform value from expression {0}")]
    BlankPlatform(String),
    /// `--platform` cannot be read.
    #[error("failed to parse platform {expression}")]
    Platform {
        /// As written.
        expression: String,
        /// Why.
        #[source]
        cause: Box<image_core::PlatformError>,
    },
    /// The target is not a stage.
    #[error("target stage {0} could not be found")]
    UnknownTarget(String),
    /// `--from` names a stage number that is not there.
    #[error("invalid stage index {0}")]
    StageIndex(i64),
    /// A stage needs itself.
    #[error("circular dependency detected on stage: {0}")]
    Circular(String),
    /// A stage is used before it is defined.
    #[error("cannot {action} from stage {stage}, it needs to be defined before current stage {current}")]
    StageOrder {
        /// `copy` or `mount`.
        action: &'static str,
        /// The stage that is used.
        stage: String,
        /// The stage that uses it.
        current: String,
    },
    /// `COPY --from` holds a variable.
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"
    )]
    VariableInFrom,
    /// A value is refused when the instruction is compiled.
    #[error("{0}")]
    Value(String),
    /// Lint rules that fired although `# check=error=true`.
    #[error("lint violation found for rules: {}", .0.join(", "))]
    Lint(Vec<&'static str>),
    /// Something that the language has and this request or crate does not.
    #[error("{0} is not supported")]
    Unsupported(String),
}

impl ErrorKind {
    /// The cause's text behind the error's, as one line.
    pub(crate) fn with_cause(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl Diagnostic {
    /// An error with a place.
    pub fn new(kind: ErrorKind, span: Span, lines: Lines) -> Self {
        Self { kind, span, lines, hint: None }
    }

    /// An error in the request.
    pub(crate) fn request(kind: ErrorKind) -> Self {
        Self::new(kind, Span::default(), Lines::default())
    }

    /// Adds a hint.
    pub(crate) fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl std::error::Error for Diagnostic {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.kind.source()
    }
}

impl Diagnostics {
    /// What is wrong: first what stops a build, then what else was found, each in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.errors.iter()
    }

    /// Findings of the lint rules, also in what stands behind an error, as far as they do not depend on it.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The first error.
    pub fn first(&self) -> Option<&Diagnostic> {
        self.errors.first()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.errors.len()
    }

    /// Never true; here because `len` is.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// What was found; `errors` is not empty.
    pub(crate) fn new(errors: Vec<Diagnostic>, warnings: Vec<Warning>) -> Self {
        debug_assert!(!errors.is_empty());
        Self { errors, warnings }
    }

    pub(crate) fn into_parts(self) -> (Vec<Diagnostic>, Vec<Warning>) {
        (self.errors, self.warnings)
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(one: Diagnostic) -> Self {
        Self { errors: vec![one], warnings: Vec::new() }
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, one) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            if one.lines.first > 0 {
                write!(f, "line {}: ", one.lines)?;
            }
            f.write_str(&one.kind.with_cause())?;
            if let Some(hint) = &one.hint {
                write!(f, " ({hint})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
