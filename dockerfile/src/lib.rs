//! The Dockerfile language, compiled to a typed plan.
#![forbid(unsafe_code)]

pub mod compile;
mod csv;
mod directive;
mod edit;
mod env;
mod error;
mod expand;
mod git;
mod heredoc;
mod ignore;
pub mod instruction;
mod json;
pub mod limits;
pub mod lint;
mod outline;
mod parse;
mod path;
pub mod plan;
mod quote;
pub mod record;
mod source;
mod suggest;
mod syntax;

// The public interface is:
pub use compile::{Compiler, ImageRequest, Images, NamedContext, NoCache, Options, Outcome};
pub use directive::Directive;
pub use edit::Edit;
pub use env::{Env, Origin, Variable};
pub use error::{Diagnostic, Diagnostics, ErrorKind};
pub use expand::{ExpandError, Expander, Expansion, Variables};
pub use heredoc::Heredoc;
pub use ignore::{DirState, Ignore, IgnoreError, Verdict};
pub use instruction::Kind;
pub use lint::Warning;
pub use outline::{Outline, OutlineArg, OutlineSecret, Target};
pub use plan::Plan;
pub use source::{Lines, Source, Span};
pub use syntax::{Dockerfile, Instruction, Item, ItemKind, Stage};
