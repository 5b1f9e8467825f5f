//! Everything that image-core promises about real data.

mod json;
mod references;
