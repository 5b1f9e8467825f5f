//! The Dockerfile language, compiled to a typed plan.

pub mod limits;
mod expand;
mod quote;
mod source;
mod suggest;

pub use expand::{ExpandError, Expander, Expansion, Variables};
pub use source::{Lines, Source, Span};
