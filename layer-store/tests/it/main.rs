//! What the store promises, on real directories.

mod layers;
mod store;
