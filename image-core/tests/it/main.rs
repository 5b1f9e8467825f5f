//! Everything that image-core promises about real data.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says its figures and what it skipped")]

mod documents;
mod json;
mod references;
mod spec;
