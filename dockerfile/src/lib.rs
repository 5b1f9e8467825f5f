//! The Dockerfile language, compiled to a typed plan.
#![forbid(unsafe_code)]

pub mod compile;
mod env;
mod error;
mod expand;
pub mod limits;
mod lint;
pub mod plan;
mod quote;
mod source;
mod suggest;

// The public interface is:
pub use compile::{ImageRequest, Images, NamedContext, NoCache, Options, Outcome};
pub use env::{Env, Origin, Variable};
pub use error::{Diagnostic, Diagnostics, ErrorKind};
pub use expand::{ExpandError, Expander, Expansion, Variables};
pub use lint::Warning;
pub use plan::Plan;
pub use source::{Lines, Source, Span};
