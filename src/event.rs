//! What happens, as values. The library emits; a user interface renders.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use image_core::Digest;

use crate::build::Cause;

/// A stream of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Something that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A build step begins.
    StepStarted {
        /// Its number, from 1.
        number: usize,
        /// `[build 2/5] RUN make`.
        name: String,
    },
    /// A process of a step, or a container, wrote something.
    Output {
        /// The step's number; 0 for a container.
        number: usize,
        /// Where it wrote.
        stream: Stream,
        /// What.
        bytes: Vec<u8>,
    },
    /// A build step ended.
    StepDone {
        /// Its number.
        number: usize,
        /// Nothing had to be done.
        cached: bool,
        /// Why it had to be done.
        cause: Option<Cause>,
        /// How long it took.
        took: Duration,
    },
    /// A lint rule found something.
    Warning {
        /// In words.
        text: String,
    },
    /// The manifest of an image is there; its layers follow.
    PullStarted {
        /// The image, as it was asked for.
        name: String,
    },
    /// A layer is pulled: `Pulling fs layer`, `Already exists`, `Download complete`, `Pull complete`.
    Pull {
        /// The layer's blob.
        digest: Digest,
        /// What is done.
        status: &'static str,
    },
    /// A layer is pushed: `Preparing`, `Pushed`, `Layer already exists`, `Mounted from org/base`.
    Push {
        /// The layer's diff ID.
        digest: Digest,
        /// What is done.
        status: Cow<'static, str>,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StepStarted { number, name } => write!(f, "#{number} {name}"),
            Self::Output { number, bytes, .. } => {
                write!(f, "#{number} {}", String::from_utf8_lossy(bytes).trim_end())
            }
            Self::StepDone { number, cached: true, .. } => write!(f, "#{number} CACHED"),
            Self::StepDone { number, cause, took, .. } => {
                write!(f, "#{number} DONE {:.1}s", took.as_secs_f64())?;
                cause.as_ref().map_or(Ok(()), |cause| write!(f, " ({cause})"))
            }
            Self::Warning { text } => write!(f, "WARN: {text}"),
            Self::PullStarted { name } => write!(f, "Pulling {name}"),
            Self::Pull { digest, status } => write!(f, "{}: {status}", digest.short()),
            Self::Push { digest, status } => write!(f, "{}: {status}", digest.short()),
        }
    }
}

/// Takes events. Called from several threads; must not block for long.
pub type EventSink = Arc<dyn Fn(&Event) + Send + Sync>;

/// A sink that takes everything and does nothing.
pub(crate) fn nowhere() -> EventSink {
    Arc::new(|_| ())
}
