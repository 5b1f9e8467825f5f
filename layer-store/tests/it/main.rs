//! What the store promises, on real directories.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod attacks;
mod corpus;
mod layers;
mod peers;
mod store;
mod tarball;
