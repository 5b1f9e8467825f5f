//! Who the user is, and where that is written down.
//!
//! A [`CredentialSource`] is asked once per host (and repository) and answers with [`Credentials`], with nothing
//! (anonymous), or with an error; "nothing" and "failed" are different answers.

mod chain;
mod docker;
mod entry;
mod file;
mod helper;
mod podman;
mod secret;

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

pub use chain::{CredentialChain, CredentialEnvironment, FixedCredentials};
pub use docker::{DockerConfig, StoredIn};
pub use helper::Helper;
pub use podman::PodmanAuth;
pub use secret::Secret;

/// What a user proves who they are with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// User name and password (or access token in the place of one).
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth2 refresh token, which docker calls identity token; its user name in helpers is `<token>`.
    IdentityToken(Secret),
    /// A bearer token that is sent as it is, without asking a token server.
    BearerToken(Secret),
}

impl Credentials {
    /// User name and password.
    pub fn basic(username: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self::Basic { username: username.into(), password: password.into() }
    }

    /// The user name, when there is one.
    pub fn username(&self) -> Option<&str> {
        match self {
            Self::Basic { username, .. } => Some(username),
            _ => None,
        }
    }
}

/// What credentials are wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CredentialQuery<'q> {
    /// The registry as a reference names it: `docker.io`, `ghcr.io`, `localhost:5000`.
    pub host: &'q str,
    /// The repository, such as `library/busybox`; `None` when none in particular.
    pub repository: Option<&'q str>,
}

impl<'q> CredentialQuery<'q> {
    /// For a host, whatever the repository.
    pub fn host(host: &'q str) -> Self {
        Self { host, repository: None }
    }

    /// For a repository of a host.
    pub fn repository(host: &'q str, repository: &'q str) -> Self {
        Self { host, repository: Some(repository) }
    }
}

/// Knows credentials.
#[async_trait]
pub trait CredentialSource: Send + Sync + fmt::Debug {
    /// The credentials for `query`, or `None` if this source has none.
    ///
    /// # Errors
    /// When it cannot tell: a file that cannot be parsed, a helper that failed.
    async fn credentials(&self, query: CredentialQuery<'_>) -> Result<Option<Credentials>, CredentialError>;
}

/// Why a credential source could not answer, or a login not be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be replaced.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what docker and podman write.
    #[error("{} is not a credentials file: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong; never the content.
        what: String,
    },
    /// The `auth` of a host is not `base64(user:password)`.
    #[error("the entry for {host} cannot be decoded: {what}")]
    Entry {
        /// The key of the entry.
        host: String,
        /// What is wrong; never the content.
        what: &'static str,
    },
    /// The name of a helper would be a path, or an option.
    #[error("{name:?} cannot be the name of a credential helper")]
    HelperName {
        /// The suffix.
        name: String,
    },
    /// A helper is not installed or cannot be started.
    #[error("cannot run {program}")]
    HelperSpawn {
        /// `docker-credential-…`.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A helper ended with an error.
    #[error("{program} {action} failed: {output}")]
    HelperFailed {
        /// `docker-credential-…`.
        program: String,
        /// `get`, `store`, `erase`.
        action: &'static str,
        /// What it printed, shortened.
        output: String,
    },
    /// A helper took too long.
    #[error("{program} {action} did not end within {seconds} s")]
    HelperTimeout {
        /// `docker-credential-…`.
        program: String,
        /// `get`, `store`, `erase`.
        action: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// A helper answered with something else than the JSON of the protocol.
    #[error("{program} {action} answered with something that is not the helper protocol")]
    HelperAnswer {
        /// `docker-credential-…`.
        program: String,
        /// `get`, `store`, `erase`.
        action: &'static str,
    },
    /// Credentials of this kind cannot be stored there.
    #[error("{what} cannot be stored in {}", path.display())]
    NotStorable {
        /// The kind.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
}
