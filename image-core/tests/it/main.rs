//! Everything that image-core promises about real data.

mod documents;
mod json;
mod references;
mod spec;
