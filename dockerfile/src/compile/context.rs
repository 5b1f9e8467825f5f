//! Named contexts: what stands for an image, a stage or a source of the same name.

use std::str::FromStr;

use image_core::{Digest, Reference};

use crate::git;
use crate::quote::quote;

/// What a named context is.
///
/// ```
/// use dockerfile::NamedContext;
///
/// let context: NamedContext = "docker-image://alpine:3".parse()?;
/// assert!(matches!(context, NamedContext::Image(_)));
/// assert!(matches!("https://example.com/a.tar".parse()?, NamedContext::Http(_)));
/// # Ok::<(), dockerfile::ContextError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NamedContext {
    /// An image of a registry.
    Image(Reference),
    /// A directory that the caller has under this name.
    Directory,
    /// A git repository, in any form that ADD takes.
    Git(String),
    /// A file behind a URL; it is the one file `context` of the tree.
    Http(String),
    /// An image in an OCI layout of the caller.
    OciLayout {
        /// The caller's name for the layout.
        store: String,
        /// The digest of the manifest or index in it.
        digest: Digest,
    },
    /// Nothing: `docker-image://scratch`.
    Scratch,
}

/// Why a text names no context.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// It has no scheme, or one that no context has.
    #[error("unsupported context source {0}")]
    Unsupported(String),
    /// Behind `docker-image://` stands no reference.
    #[error("{text} is not an image")]
    Image {
        /// What stands there, quoted.
        text: String,
        /// Why.
        #[source]
        cause: Box<image_core::ReferenceError>,
    },
    /// Behind `oci-layout://` stands no `store@digest`.
    #[error("oci-layout reference {0} has no digest")]
    NoDigest(String),
    /// A git address that cannot be read.
    #[error("invalid git context {text}: {reason}")]
    Git {
        /// The address, quoted.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl FromStr for NamedContext {
    type Err = ContextError;

    /// Reads the forms of `--build-context`: `docker-image://REF`, `oci-layout://STORE@DIGEST`, `local:NAME`,
    /// `https://…` and every form of a git repository that ADD takes. A path is none of them: what a directory is, the caller knows.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once(':').unwrap_or(("", text));
        let bare = rest.strip_prefix("//").unwrap_or(rest);
        match scheme {
            "docker-image" if bare == "scratch" => Ok(Self::Scratch),
            "docker-image" => Reference::parse(bare)
                .map(Self::Image)
                .map_err(|cause| ContextError::Image { text: quote(bare), cause: Box::new(cause) }),
            "oci-layout" => {
                let missing = || ContextError::NoDigest(quote(bare));
                let (store, digest) = bare.rsplit_once('@').ok_or_else(missing)?;
                let digest = digest.parse().map_err(|_| missing())?;
                // A tag before the digest only says how the caller found it.
                let tag = store.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
                let store = tag.map_or(store, |(store, _)| store);
                if store.is_empty() {
                    Err(missing())
                } else {
                    Ok(Self::OciLayout { store: store.to_owned(), digest })
                }
            }
            "local" => Ok(Self::Directory),
            _ => match git::parse(text) {
                Ok(Some(_)) => Ok(Self::Git(text.to_owned())),
                Ok(None) if matches!(scheme, "http" | "https") => Ok(Self::Http(text.to_owned())),
                Ok(None) => Err(ContextError::Unsupported(quote(text))),
                Err(reason) => Err(ContextError::Git { text: quote(text), reason }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let layout: NamedContext = format!("oci-layout://dir:1@{digest}").parse().unwrap();
        assert_eq!(
            layout,
            NamedContext::OciLayout { store: "dir".to_owned(), digest: digest.parse().unwrap() }
        );
        assert_eq!("docker-image://scratch".parse(), Ok(NamedContext::Scratch));
        assert_eq!("local:x".parse(), Ok(NamedContext::Directory));
        for git in ["https://h/a.git#b:c", "git@h:a/b.git", "ssh://h/a"] {
            assert_eq!(git.parse(), Ok(NamedContext::Git(git.to_owned())));
        }
        assert_eq!("http://h/a".parse(), Ok(NamedContext::Http("http://h/a".to_owned())));
        assert!(matches!("oci-layout://dir".parse::<NamedContext>(), Err(ContextError::NoDigest(_))));
        assert!(matches!("./dir".parse::<NamedContext>(), Err(ContextError::Unsupported(_))));
        assert!(matches!("docker-image://A".parse::<NamedContext>(), Err(ContextError::Image { .. })));
        assert!(matches!("https://h/a.git?x=1".parse::<NamedContext>(), Err(ContextError::Git { .. })));
    }
}
