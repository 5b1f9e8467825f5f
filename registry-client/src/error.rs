//! What can go wrong between here and a registry, request first.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use image_core::Digest;

use crate::credential::CredentialError;

/// A boxed cause whose type is nobody's business but a log's.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Result of everything here that talks to a registry.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Method and address of the request that an error is about.
///
/// The address has no query and no user information: a signed URL keeps its signature to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestLine {
    method: String,
    url: String,
}

impl RequestLine {
    pub(crate) fn new(method: &http::Method, url: &url::Url) -> Self {
        Self { method: method.to_string(), url: redacted(url) }
    }

    /// The method, in capitals.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The address without query, fragment and user information.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl fmt::Display for RequestLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// `scheme://host[:port]/path` and nothing that could be a secret.
pub(crate) fn redacted(url: &url::Url) -> String {
    let mut plain = url.clone();
    plain.set_query(None);
    plain.set_fragment(None);
    // Only URLs that cannot have user information refuse these, and then there is none.
    let _ = plain.set_username("");
    let _ = plain.set_password(None);
    plain.to_string()
}

/// One entry of the `errors` list of a registry's answer (distribution-spec, "Error Codes").
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryError {
    /// The code, such as `MANIFEST_UNKNOWN`.
    pub code: String,
    /// The registry's words; may be empty.
    pub message: String,
    /// The `detail` member as JSON text, when there is one.
    pub detail: Option<String>,
}

/// An answer that was not the one asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The errors that the body lists; empty when the body is not the error document of the spec.
    pub errors: Vec<RegistryError>,
    /// The start of a body that is not an error document.
    pub text: Option<String>,
    /// How long the registry asked to wait.
    pub retry_after: Option<Duration>,
}

impl Answer {
    /// The first error code, such as `NAME_UNKNOWN`.
    pub fn code(&self) -> Option<&str> {
        self.errors.first().map(|error| error.code.as_str())
    }

    /// The words of the first error, else the start of the body.
    pub fn message(&self) -> Option<&str> {
        let listed = self.errors.first().map(|error| error.message.as_str()).filter(|text| !text.is_empty());
        listed.or(self.text.as_deref())
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        let reason =
            http::StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        if let Some(reason) = reason {
            write!(f, " {reason}")?;
        }
        for error in &self.errors {
            write!(f, ": {}", error.code)?;
            if !error.message.is_empty() {
                write!(f, ": {}", error.message)?;
            }
        }
        match &self.text {
            Some(text) if self.errors.is_empty() => write!(f, ": {text}"),
            _ => Ok(()),
        }
    }
}

/// How a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportFailure {
    /// The name has no address.
    Resolve,
    /// Nobody answered at the address.
    Connect,
    /// The TLS handshake failed: an unknown authority, a wrong name, no client certificate.
    Tls,
    /// Nothing arrived for longer than the read timeout.
    Timeout,
    /// The connection ended before the answer did.
    Cut,
    /// The request could not be written or the answer not be read as HTTP.
    Exchange,
}

impl fmt::Display for TransportFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "host name not found",
            Self::Connect => "connection failed",
            Self::Tls => "TLS handshake failed",
            Self::Timeout => "timed out",
            Self::Cut => "connection ended early",
            Self::Exchange => "HTTP exchange failed",
        })
    }
}

/// Why something did not come from, or did not go to, a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry answered with a status that is not success.
    #[error("{request}: {answer}")]
    Status {
        /// The request.
        request: RequestLine,
        /// What came back.
        answer: Box<Answer>,
    },
    /// The registry wants a user name and a password (Basic), and no credential source has them.
    #[error("{request}: no basic auth credentials")]
    NoBasicCredentials {
        /// The request.
        request: RequestLine,
    },
    /// The registry refused the credentials, or the lack of them.
    #[error("{request}: {}: {answer}", if *.authenticated { "credentials refused" } else { "no credentials" })]
    Unauthorized {
        /// The request.
        request: RequestLine,
        /// Whether credentials of the user were part of the exchange.
        authenticated: bool,
        /// What came back.
        answer: Box<Answer>,
    },
    /// The token server did not give a token.
    #[error("{request}: no token for {scope:?}: {answer}")]
    TokenRefused {
        /// The request to the token server.
        request: RequestLine,
        /// The scopes asked for, separated by blanks.
        scope: String,
        /// Whether credentials of the user were sent to it.
        authenticated: bool,
        /// What came back.
        answer: Box<Answer>,
    },
    /// No answer, or only part of one.
    #[error("{request}: {failure}")]
    Transport {
        /// The request.
        request: RequestLine,
        /// What kind of failure.
        failure: TransportFailure,
        /// The layer below's account.
        source: Cause,
    },
    /// A server wanted this request to go to an address that it has no business to send clients to.
    #[error("{request}: address {address} refused: {reason}")]
    AddressRefused {
        /// The request.
        request: RequestLine,
        /// The address that the name resolved to.
        address: SocketAddr,
        /// Which rule refuses it.
        reason: &'static str,
    },
    /// A redirect, `Location`, `Link` or realm that must not be followed.
    #[error("{request}: will not go to {target}: {reason}")]
    TargetRefused {
        /// The request that was answered with the target.
        request: RequestLine,
        /// The target without query and user information.
        target: String,
        /// Which rule refuses it.
        reason: &'static str,
    },
    /// The answer breaks the distribution spec.
    #[error("{request}: {what}")]
    Protocol {
        /// The request.
        request: RequestLine,
        /// What is wrong with the answer.
        what: String,
    },
    /// A body that has a limit is longer than that.
    #[error("{request}: body is longer than {limit} bytes")]
    TooLarge {
        /// The request.
        request: RequestLine,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The bytes are not the ones that the digest names.
    #[error("{request}: digest of the content is {actual}, expected {expected}")]
    DigestMismatch {
        /// The request.
        request: RequestLine,
        /// The digest that was asked for.
        expected: Box<Digest>,
        /// The digest of what came.
        actual: Box<Digest>,
    },
    /// The content is shorter or longer than its descriptor says.
    #[error("{request}: content has {actual} bytes, expected {expected}")]
    SizeMismatch {
        /// The request.
        request: RequestLine,
        /// Size of the descriptor, in bytes.
        expected: u64,
        /// What came, in bytes; for content that is too long, what had come when it was cut.
        actual: u64,
    },
    /// The manifest is not a document that this crate can take.
    #[error("{request}: cannot read the manifest")]
    Manifest {
        /// The request.
        request: RequestLine,
        /// What is wrong with it.
        source: Cause,
    },
    /// A credential source failed; this is not the same as one that knows nothing.
    #[error("cannot read the credentials for {host}")]
    Credentials {
        /// The host they were wanted for.
        host: String,
        /// Why.
        source: CredentialError,
    },
    /// The caller's blob source failed while it was read for an upload.
    #[error("cannot read blob {digest} for upload")]
    BlobRead {
        /// The blob.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
    /// What was downloaded cannot be kept.
    #[error("cannot keep the answer to {request}")]
    DownloadWrite {
        /// The request.
        request: RequestLine,
        /// Why.
        source: std::io::Error,
    },
    /// The caller's blob sink failed.
    #[error("cannot write blob {digest}")]
    BlobWrite {
        /// The blob.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
    /// A rule says that nothing comes from or goes to this name.
    #[error("{name} is blocked by a rule")]
    Blocked {
        /// The name.
        name: String,
    },
    /// A setting of the client cannot be used.
    #[error("{what}")]
    Configuration {
        /// What cannot be used.
        what: String,
        /// Why, when a layer below knows.
        source: Option<Cause>,
    },
    /// The reference lacks what the operation needs, such as a tag or a digest.
    #[error("{reference}: {what}")]
    Reference {
        /// The reference.
        reference: String,
        /// What is missing.
        what: &'static str,
    },
    /// The registry, or this crate, does not do this.
    #[error("{what} is not supported")]
    Unsupported {
        /// The operation.
        what: String,
    },
    /// A thread of the process that did blocking work ended without an answer.
    #[error("blocking work ended early: {what}")]
    Interrupted {
        /// Which work.
        what: &'static str,
    },
}

impl Error {
    /// The request that this is about, when there was one.
    pub fn request(&self) -> Option<&RequestLine> {
        match self {
            Self::Status { request, .. }
            | Self::NoBasicCredentials { request }
            | Self::Unauthorized { request, .. }
            | Self::TokenRefused { request, .. }
            | Self::Transport { request, .. }
            | Self::AddressRefused { request, .. }
            | Self::TargetRefused { request, .. }
            | Self::Protocol { request, .. }
            | Self::TooLarge { request, .. }
            | Self::DigestMismatch { request, .. }
            | Self::SizeMismatch { request, .. }
            | Self::Manifest { request, .. } => Some(request),
            _ => None,
        }
    }

    /// What the server answered, when it did.
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Status { answer, .. }
            | Self::Unauthorized { answer, .. }
            | Self::TokenRefused { answer, .. } => Some(answer),
            _ => None,
        }
    }

    /// The HTTP status of the answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::NoBasicCredentials { .. } => Some(401),
            other => other.answer().map(|answer| answer.status),
        }
    }

    /// The first error code of the answer, such as `MANIFEST_UNKNOWN`.
    pub fn code(&self) -> Option<&str> {
        self.answer().and_then(Answer::code)
    }

    /// The registry says that the name, manifest, blob or upload does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { answer, .. } if answer.status == 404)
    }

    /// Credentials are missing, wrong, or do not allow this.
    pub fn is_unauthorized(&self) -> bool {
        match self {
            Self::NoBasicCredentials { .. } | Self::Unauthorized { .. } => true,
            Self::Status { answer, .. } | Self::TokenRefused { answer, .. } => {
                matches!(answer.status, 401 | 403)
            }
            _ => false,
        }
    }

    /// The same request might succeed a little later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transport { failure, .. } => !matches!(failure, TransportFailure::Tls),
            Self::Status { answer, .. } | Self::TokenRefused { answer, .. } => {
                matches!(answer.status, 408 | 429 | 500 | 502 | 503 | 504)
            }
            // A short body without a cut is a proxy's doing; a wrong digest is not.
            Self::SizeMismatch { expected, actual, .. } => actual < expected,
            _ => false,
        }
    }
}
