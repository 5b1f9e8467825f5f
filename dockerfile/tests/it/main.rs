//! Tests of the crate as a program sees it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::unreachable,
    reason = "a test fails by panicking and says what it counted"
)]

mod builder;
mod compare;
mod compiled;
mod contexts;
mod data;
mod expand;
mod ignore;
mod lint;
mod output;
mod platforms;
mod properties;
mod query;
mod records;
mod regressions;
