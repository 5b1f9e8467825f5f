//! The Dockerfile language, compiled to a typed plan: text in, typed values out. No IO, no async, no clock, no
//! environment.
//!
//! It parses, lints and compiles; it does not run, fetch or store anything. What an engine cannot execute is still
//! compiled, so that the engine can refuse it by name.
//!
//! ```text
//!  bytes ──parse──▶ Dockerfile ──compile──▶ Plan ──▶ steps: Image, Layout, Context, Http, Git, Exec, Files
//!    │              │  spans, items   ▲              stages: config, history; outline of the target
//!    │              │  Edit, outline  │              warnings: the 22 rules of BuildKit
//!    │              ▼                 └─ Images: configs, when the compiler asks (NeedImages)
//!    │         Diagnostics (all of a file's, with hints and findings; `render` draws them)
//!    └──lint::check──▶ Report (errors and findings, also of a file that does not parse; JSON as BuildKit's)
//! ```
//!
//! | what for | where |
//! | --- | --- |
//! | read a file, and print it back byte by byte | [`Dockerfile`], [`Instruction`], [`instruction`], [`Item`], [`Source`] |
//! | change a file and leave the rest of it | [`Edit`] |
//! | make a file without a text | [`Builder`] |
//! | compile it for a target and a platform | [`Compiler`], [`Options`], [`NamedContext`], [`Images`], [`Outcome`] |
//! | what it compiles to, as JSON and for Graphviz | [`Plan`], [`plan`] |
//! | check it without building it | [`lint::check`], [`lint::Report`], [`lint::RULES`], [`Warning`] |
//! | ask what can be built, and what a build may be given | [`Dockerfile::targets`], [`Dockerfile::outline`], [`Plan::outline`] |
//! | say what is wrong | [`Diagnostics`], [`Diagnostic`], [`ErrorKind`] |
//! | expand variables alone | [`Expander`], [`Env`] |
//! | `.dockerignore` alone | [`Ignore`] |
//! | compare with other compilers | [`record`] |
//! | the bounds | [`limits`] |
//!
//! The meaning of a file is that of BuildKit's frontend; tests compare the two on about 1,400 files and cases, and
//! `benches/differential.rs` on as many mutated ones as one likes, with the answers to lint, outline and targets.
//! Deliberate differences:
//!
//! | here | BuildKit | why |
//! | --- | --- | --- |
//! | bounds on size, nesting and work ([`limits`]) | none but the line's length | hostile input must end; triggers that bring images that bring triggers never end there |
//! | all errors of a file, with hints | the first error | that is what its author wants to know |
//! | suggestions come from names in order | from a map at random | the same input gives the same text |
//! | a parent's match is never skipped in [`Ignore::enter`] | it is, behind exceptions | walking and asking must agree |
//! | `SOURCE_DATE_EPOCH=context` and stage names come out as [`plan::Epoch`] | resolved by the daemon | the compiler does no IO |
//! | letters and digits of variable names by Unicode's wider properties | by general category | no tables; ASCII is equal |
//! | findings behind an error are reported too ([`Diagnostics::warnings`], [`lint::check`]) | none behind the first error | as above |
//! | in an outline the target counts first, then its base, then what it reads in order | in the order of a map | the same file gives the same outline |
//! | a file without FROM has no targets: an error | none, and no error, when only targets are asked for | every build of it fails |
//! | cache mounts are in the outline | the form has a place for them that stays empty | they are asked for |
//! | [`Dockerfile::outline`] is of the whole file | none | it needs no image; [`Plan::outline`] is BuildKit's |
//!
//! A program that needs no text makes the same types with a [`Builder`].
//!
//! BuildKit's compiler takes 21 to 25 times as long for the 964 files of the shared set (1.7 MB), and 24 to 28 times with
//! the records as JSON (`benches/speed.rs`, both in one run on a busy machine). In instructions (callgrind, with the
//! bench's allocator): parsing 36 a byte of text, compiling 82 more, a record 39 more. A quarter of it is allocating,
//! freeing and copying. Ten times as much hostile text takes at most 11.6 times as long (`benches/scaling.rs`).
#![forbid(unsafe_code)]

mod builder;
mod bytes;
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
mod print;
mod query;
mod quote;
pub mod record;
mod source;
mod suggest;
mod syntax;
mod url;

// The public interface is:
pub use builder::{Builder, Word};
pub use compile::{Compiler, ContextError, ImageRequest, Images, NamedContext, NoCache, Options, Outcome};
pub use directive::Directive;
pub use edit::Edit;
pub use env::{Env, Origin, Variable};
pub use error::{Diagnostic, Diagnostics, ErrorKind};
pub use expand::{ExpandError, Expander, Expansion, Variables};
pub use heredoc::Heredoc;
pub use ignore::{DirState, Ignore, IgnoreError, Verdict};
pub use instruction::Kind;
pub use lint::Warning;
pub use outline::{Outline, OutlineArg, OutlineCache, OutlineSecret, Target};
pub use plan::Plan;
pub use source::{Lines, Source, Span};
pub use syntax::{Comments, Dockerfile, Instruction, Item, ItemKind, Stage};
