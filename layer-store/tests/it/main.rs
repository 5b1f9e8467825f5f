//! What the store promises, on real directories.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test says its figures and what it skipped")]
#![allow(clippy::semicolon_if_nothing_returned, clippy::too_many_lines, reason = "tables of closures")]

mod attacks;
mod corpus;
mod damage;
mod layers;
mod peers;
mod power;
mod store;
mod tarball;
