//! What a build may be made from.

use std::fmt;

use image_core::{Digest, Platform, Reference};

use crate::error::{Error, Result};

/// A source that a build is about to use.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Source<'a> {
    /// An image of FROM, `COPY --from` or a mount, before the store or a registry is asked.
    Image {
        /// Its whole name.
        reference: &'a Reference,
        /// For which platform.
        platform: &'a Platform,
    },
    /// A file behind a URL.
    Http {
        /// Where it is.
        url: &'a str,
        /// The digest that it must have.
        checksum: Option<Digest>,
    },
    /// A git repository.
    Git {
        /// What git fetches from.
        remote: &'a str,
        /// Branch, tag or commit; empty for the default.
        reference: &'a str,
    },
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image { reference, .. } => f.write_str(&reference.familiar()),
            Self::Http { url, .. } => f.write_str(url),
            Self::Git { remote, reference: "" } => f.write_str(remote),
            Self::Git { remote, reference } => write!(f, "{remote}#{reference}"),
        }
    }
}

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// It may be used.
    Allow,
    /// It may not, and why.
    Deny(String),
    /// This image is used instead; a policy that says so of anything else denies it.
    Replace(Reference),
}

/// Decides about every source that is not the caller's own: a hook for allow lists, mirrors and pins. Contexts, named ones
/// too, are the caller's.
pub trait SourcePolicy: fmt::Debug + Send + Sync {
    /// About one source. Called again for every build; must not block for long.
    fn decide(&self, source: &Source<'_>) -> Decision;
}

fn denied(source: &Source<'_>, reason: impl Into<String>) -> Error {
    Error::Denied { source_name: source.to_string(), reason: reason.into() }
}

/// Lets an image in, or gives the one to use instead.
pub(super) fn image(policy: Option<&dyn SourcePolicy>, source: &Source<'_>) -> Result<Option<Reference>> {
    match policy.map_or(Decision::Allow, |policy| policy.decide(source)) {
        Decision::Allow => Ok(None),
        Decision::Deny(reason) => Err(denied(source, reason)),
        Decision::Replace(other) => Ok(Some(other.with_default_tag())),
    }
}

/// Lets anything else in.
pub(super) fn admit(policy: Option<&dyn SourcePolicy>, source: &Source<'_>) -> Result<()> {
    match policy.map_or(Decision::Allow, |policy| policy.decide(source)) {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => Err(denied(source, reason)),
        Decision::Replace(_) => Err(denied(source, "only images can be replaced")),
    }
}
