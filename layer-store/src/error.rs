//! What can go wrong in a store.

use std::io;
use std::path::PathBuf;

use image_core::{DigestError, DocumentError};
use thiserror::Error;

/// A failure of the store. Every variant says what was being done to which thing.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call on a file of the store failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was being done: `open`, `rename`.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Something that a record of the store names, or that the caller asked for, is not there.
    #[error("{kind} {name} is not in the store")]
    NotFound {
        /// `image`, `layer`, `blob`, `container`, `tag`.
        kind: &'static str,
        /// Its name or digest.
        name: String,
    },
    /// More than one thing answers to a short name.
    #[error("{kind} {name} is ambiguous")]
    Ambiguous {
        /// `image`, `container`.
        kind: &'static str,
        /// The short name.
        name: String,
    },
    /// The thing is in use.
    #[error("{kind} {name} is in use: {by}")]
    InUse {
        /// `image`, `container`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// By what.
        by: String,
    },
    /// Bytes do not have the promised digest.
    #[error("{what}: expected digest {expected}, got {actual}")]
    DigestMismatch {
        /// Which bytes.
        what: String,
        /// The promised digest.
        expected: String,
        /// What the bytes have.
        actual: String,
    },
    /// A blob has more or fewer bytes than promised.
    #[error("{what}: expected {expected} bytes, got {actual}")]
    SizeMismatch {
        /// Which bytes.
        what: String,
        /// The promised size in bytes.
        expected: u64,
        /// How many came.
        actual: u64,
    },
    /// A layer holds something that no layer may hold.
    #[error("refused layer entry {path:?}: {reason}")]
    Layer {
        /// The path in the layer, lossy.
        path: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A layer's stream cannot be read as tar or decompressed.
    #[error("cannot read the layer's {format} stream")]
    Stream {
        /// `tar`, `gzip`, `zstd`.
        format: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A layer is over one of its limits.
    #[error("the layer has more than {limit} {unit}")]
    Budget {
        /// The limit that was passed.
        limit: u64,
        /// Of what: `bytes`, `entries`.
        unit: &'static str,
    },
    /// A document in the store cannot be read.
    #[error("cannot read {what}")]
    Document {
        /// Which one.
        what: String,
        /// Why.
        source: DocumentError,
    },
    /// A record of the store cannot be read.
    #[error("the record {} is damaged: {reason}", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A digest in a name is none.
    #[error("cannot read {what}")]
    Digest {
        /// Where it stood.
        what: String,
        /// Why.
        source: DigestError,
    },
    /// The store was made by a newer version with a feature that this one does not know.
    #[error("the store at {} needs the feature {feature:?}, which this version does not know", .path.display())]
    Incompatible {
        /// The store.
        path: PathBuf,
        /// The first unknown feature.
        feature: String,
    },
    /// The files of the store's trees have other owners than the authority gives.
    #[error("the store at {} keeps {kept}", .path.display())]
    OtherOwners {
        /// The store.
        path: PathBuf,
        /// Whose files it keeps.
        kept: &'static str,
    },
    /// Equal files of the store cannot share their blocks.
    #[error("equal files of the store at {} cannot share their blocks: {reason}", .path.display())]
    NoFileSharing {
        /// The store.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something that this version does not do.
    #[error("not supported yet: {what}")]
    Unsupported {
        /// Its name.
        what: String,
    },
}

impl Error {
    /// The thing that was asked for is not there.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |source| Self::Io { action, path: path.into(), source: source.into() }
    }

    pub(crate) fn layer(path: &[u8], reason: &'static str) -> Self {
        Self::Layer { path: String::from_utf8_lossy(path).chars().take(200).collect(), reason }
    }
}

/// What the store's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
