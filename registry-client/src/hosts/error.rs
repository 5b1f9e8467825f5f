//! What can be wrong with a file about hosts.

use std::path::PathBuf;

/// Why a file about hosts cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostsError {
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not the TOML that it should be.
    #[error("{}: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        what: String,
    },
    /// It says something that cannot be meant.
    #[error("{}: {entry:?}: {what}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The registry, mirror, host or alias that it says it of.
        entry: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An address is none.
    #[error("{address:?} cannot be the address of a registry: {what}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        what: &'static str,
    },
}
