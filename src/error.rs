//! The umbrella's error: which part failed, and how a build step failed.

use std::path::PathBuf;

use image_core::{DocumentError, ReferenceError};
use thiserror::Error;

/// A failure of the SDK.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(layer_store::Error),
    /// The registry.
    #[error(transparent)]
    Registry(Box<registry_client::Error>),
    /// The runtime.
    #[error(transparent)]
    Runtime(Box<runtime::Error>),
    /// The Dockerfile is refused; the diagnostics have spans and hints.
    #[error("{} error(s) in the Dockerfile: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Dockerfile(Box<dockerfile::Diagnostics>),
    /// A name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A document of a registry or of the store cannot be read.
    #[error("cannot read {what}")]
    Document {
        /// Which one.
        what: String,
        /// Why.
        source: DocumentError,
    },
    /// A file of the caller cannot be read.
    #[error("cannot read {}", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A RUN step ended with a failure. The log is whole up to its bound.
    #[error("process {command:?} did not complete successfully: exit code: {exit_code}")]
    StepFailed {
        /// The step as it is shown.
        step: String,
        /// The command line.
        command: String,
        /// Its exit code, or 128 plus the signal.
        exit_code: i32,
        /// What it wrote, the last of it.
        log: String,
        /// First line of the instruction, 1-based.
        line: u32,
        /// What the step left, as an image, when the build was asked to keep it.
        image: Option<Box<crate::engine::Image>>,
    },
    /// A step cannot be done.
    #[error("{step}: {reason}")]
    Step {
        /// The step as it is shown.
        step: String,
        /// Why.
        reason: String,
    },
    /// A source of COPY or ADD is not there.
    #[error("failed to compute cache key: {path:?}: not found")]
    SourceNotFound {
        /// The path.
        path: String,
        /// A path that is there and looks alike.
        hint: Option<String>,
    },
    /// No manifest of an index suits the platform.
    #[error("no match for platform {platform} in {reference}")]
    NoPlatform {
        /// The image.
        reference: String,
        /// What was wanted.
        platform: String,
    },
    /// The engine's verifier did not let the image in; nothing of it was kept.
    #[error("{reference} ({digest}) is not let in")]
    NotVerified {
        /// What was asked for.
        reference: String,
        /// What it means.
        digest: Box<image_core::Digest>,
        /// The verifier's answer, or that it gave none.
        source: crate::pull::VerifyError,
    },
    /// The source policy of the build does not let it be used.
    #[error("{source_name} is denied by policy: {reason}")]
    Denied {
        /// What was to be used.
        source_name: String,
        /// The policy's reason.
        reason: String,
    },
    /// The build's lock has no digest for a base image.
    #[error("{reference} is not in the lock of base images")]
    NotLocked {
        /// The image.
        reference: String,
    },
    /// A RUN is for a processor that this host neither has nor emulates.
    #[error("{step}: it is for {platform}, which this host does not run")]
    ForeignPlatform {
        /// The step as it is shown.
        step: String,
        /// What it is for.
        platform: String,
    },
    /// The file system of the store would have less free than the engine's governor keeps.
    #[error("{what}: {needed} bytes for {}, which has {free} free and keeps {reserve}", .path.display())]
    DiskReserve {
        /// What was to be written.
        what: String,
        /// The store.
        path: PathBuf,
        /// How many bytes it is; 0 where that is not known before.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that stay free.
        reserve: u64,
    },
    /// A RUN may use more memory than all builds of the engine together.
    #[error("{step}: its limit of {limit} bytes of memory is over the {budget} of all builds together")]
    MemoryBudget {
        /// The step as it is shown.
        step: String,
        /// The memory of the RUN.
        limit: u64,
        /// The memory of all.
        budget: u64,
    },
    /// A database of packages of an image is none.
    #[error("cannot read the packages in /{path}{}: {reason}", if *.line == 0 { String::new() } else { format!(", line {line}") })]
    PackageDatabase {
        /// The file, in the image.
        path: String,
        /// The line, from 1; 0 when it is about the whole file.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A user or group has no entry in the image.
    #[error("unable to find {kind} {name}: no matching entries in {} file", if *.kind == "user" { "passwd" } else { .kind })]
    NoSuchUser {
        /// `user` or `group`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// There is nothing to run.
    #[error("no command specified")]
    NoCommand,
    /// A program of the host that a source needs is not there.
    #[error("{needed_for} need {program}, which is not there")]
    ProgramMissing {
        /// The program.
        program: &'static str,
        /// What it is needed for.
        needed_for: &'static str,
    },
    /// Something that this version does not do.
    #[error("not supported yet: {what}")]
    Unsupported {
        /// Its name.
        what: String,
    },
    /// A worker thread ended without an answer.
    #[error("a worker thread ended without an answer")]
    Worker,
}

impl Error {
    /// What was asked for is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Store(error) => error.is_not_found(),
            Self::Registry(error) => error.is_not_found(),
            Self::Runtime(error) => error.is_not_found(),
            Self::SourceNotFound { .. } => true,
            _ => false,
        }
    }

    /// It needs a second user id, which this user does not have.
    #[must_use]
    pub fn needs_second_id(&self) -> bool {
        matches!(self, Self::Runtime(error) if error.needs_second_id())
    }

    /// What may help, in words.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Runtime(error) => error.hint().map(|hint| format!("{}: {}", hint.fact(), hint.remedy())),
            Self::ForeignPlatform { .. } => Some(
                "register an emulator with binfmt_misc (the package qemu-user-static does), or let the stage run here with \
                 FROM --platform=$BUILDPLATFORM and compile for $TARGETPLATFORM"
                    .to_owned(),
            ),
            Self::DiskReserve { .. } => Some(
                "make room (prune images that are not used, collect garbage), or let the governor keep less free"
                    .to_owned(),
            ),
            Self::MemoryBudget { .. } => {
                Some("give the RUNs of the build a smaller limit, or the governor more memory".to_owned())
            }
            Self::NotLocked { .. } => Some("build once without the lock, and write the new one".to_owned()),
            Self::SourceNotFound { hint, .. } => hint.as_ref().map(|hint| format!("did you mean {hint}?")),
            _ => None,
        }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }
}

impl From<layer_store::Error> for Error {
    fn from(error: layer_store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<registry_client::Error> for Error {
    fn from(error: registry_client::Error) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl From<runtime::Error> for Error {
    fn from(error: runtime::Error) -> Self {
        Self::Runtime(Box::new(error))
    }
}

/// What the SDK's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
