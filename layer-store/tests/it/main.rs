//! What the store promises, on real directories.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test says its figures and what it skipped")]
#![allow(clippy::semicolon_if_nothing_returned, clippy::too_many_lines, reason = "tables of closures")]
#![allow(clippy::disallowed_methods, reason = "how long a test goes on is said in the environment")]

mod arrival;
mod attacks;
mod bombs;
mod calls;
mod corpus;
mod crowd;
mod damage;
mod differential;
mod indexes;
mod layers;
mod layouts;
mod loops;
mod many;
mod peers;
mod policy;
mod power;
mod readers;
mod resume;
mod sample;
mod sharing;
mod snapshots;
mod store;
mod tarball;
mod usage;
mod values;
mod yard;
