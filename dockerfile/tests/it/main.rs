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
mod data;
mod expand;
mod ignore;
mod properties;
mod records;
mod regressions;
