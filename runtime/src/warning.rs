//! What is left out of a Spec without a failure.

use std::fmt;

/// A wish of the Spec that is left out, where the runtime-spec wants a warning and no failure (`runtime.md`, "Warnings").
///
/// Each is also a `tracing` event of level `WARN` when the container or process is made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// `process.capabilities` asks for a capability that this process cannot give; the container's process runs without
    /// it (`config.md`, "Linux Process").
    CapabilityNotGranted {
        /// Its name, such as `CAP_SYS_RESOURCE`.
        capability: String,
    },
    /// `process.capabilities.ambient` asks for a capability that is not both permitted and inheritable, and which the
    /// kernel would refuse (`capabilities(7)`).
    AmbientNotRaised {
        /// Its name, such as `CAP_KILL`.
        capability: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CapabilityNotGranted { capability } => {
                write!(f, "can't grant capability {capability}: this process does not have it")
            }
            Self::AmbientNotRaised { capability } => {
                write!(
                    f,
                    "can't raise ambient capability {capability}: it is not both permitted and inheritable"
                )
            }
        }
    }
}

/// Logs them.
pub(crate) fn log(warnings: &[Warning]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
