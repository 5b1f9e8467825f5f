//! Real containers, as root and as an ordinary user.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that meets the unexpected should stop, and says what it skips"
)]

mod basic;
mod exec;
mod failure;
mod hostile;
mod overlay;
mod support;
mod threads;
