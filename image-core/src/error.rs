//! What can be wrong with a document or a name.

use thiserror::Error;

/// The longest piece of foreign text that an error repeats, in characters.
const EXCERPT: usize = 120;

/// The first characters of `input`, so that an error never carries a megabyte of somebody else's text.
pub(crate) fn excerpt(input: &str) -> String {
    match input.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", input.get(..end).unwrap_or_default()),
        None => input.to_owned(),
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DigestError {
    /// Not `algorithm:hex`, or the hex has the wrong length or letters.
    #[error("malformed digest {input:?}")]
    Malformed {
        /// The text, shortened.
        input: String,
    },
    /// An algorithm that is not sha256, sha384 or sha512.
    #[error("unknown digest algorithm in {input:?}")]
    UnknownAlgorithm {
        /// The text, shortened.
        input: String,
    },
}

/// A text that is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Outside the grammar.
    #[error("invalid reference format: {input:?}")]
    Format {
        /// The text, shortened.
        input: String,
    },
    /// The repository holds an upper-case letter.
    #[error("invalid reference format: repository name ({name}) must be lowercase")]
    Uppercase {
        /// The repository, shortened.
        name: String,
    },
    /// 64 hex characters: an image ID, not a name.
    #[error("invalid repository name ({input}), cannot specify 64-byte hexadecimal strings")]
    Identifier {
        /// The text.
        input: String,
    },
    /// The repository path is over 255 characters.
    #[error("repository name must not be more than 255 characters: {input:?}")]
    TooLong {
        /// The text, shortened.
        input: String,
    },
    /// The part after `@` is no digest.
    #[error("invalid digest in reference {input:?}")]
    Digest {
        /// The reference, shortened.
        input: String,
        /// What is wrong with the digest.
        source: DigestError,
    },
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid platform {input:?}: expected os[/arch[/variant]]")]
pub struct PlatformError {
    /// The text, shortened.
    pub input: String,
}

/// A text that is no RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid time {input:?}: expected RFC 3339, such as 2026-01-02T15:04:05Z")]
pub struct TimestampError {
    /// The text, shortened.
    pub input: String,
}

/// A document that cannot be taken.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Not JSON, or not of the expected shape.
    #[error("cannot read the {kind}")]
    Json {
        /// What was expected: `manifest`, `index`, `image config`.
        kind: &'static str,
        /// Where and why.
        source: JsonError,
    },
    /// More bytes than this kind of document may have.
    #[error("the {kind} has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// What it is.
        kind: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Both a manifest and an index (CVE-2021-41190).
    #[error("ambiguous document: it has both \"manifests\" and \"layers\" or \"config\"")]
    Ambiguous,
    /// Docker's schema 1, which has no stable layer identity.
    #[error("docker image manifest schema 1 is not supported")]
    SchemaOne,
    /// The `mediaType` inside differs from the one it was served or described with.
    #[error("the document says it is {found}, but it was given as {expected}")]
    MediaType {
        /// What the descriptor or the header said.
        expected: String,
        /// What stands inside.
        found: String,
    },
    /// Neither manifest nor index.
    #[error("unknown kind of document{}", .media_type.as_deref().map(|t| format!(" {t}")).unwrap_or_default())]
    UnknownKind {
        /// The media type, where there is one.
        media_type: Option<String>,
    },
    /// A manifest must have a blob for each layer of its config.
    #[error("a config of {layers} layers and {blobs} blobs for them")]
    Layers {
        /// In the config.
        layers: usize,
        /// For the manifest.
        blobs: usize,
    },
    /// The bytes embedded in a descriptor are not what it says.
    #[error("the data embedded in the descriptor of {digest} are not of it: {reason}")]
    Data {
        /// The digest in the descriptor.
        digest: String,
        /// What is wrong with them.
        reason: String,
    },
    /// It holds something that the other format has no place for.
    #[error("docker's format has no place for {what}")]
    NotDocker {
        /// What would be lost: `annotations`, `subject`.
        what: String,
    },
    /// The bytes do not have the digest or the size that was promised.
    #[error("expected {expected}, got {actual}")]
    DigestMismatch {
        /// The promised digest.
        expected: String,
        /// The digest of the bytes.
        actual: String,
    },
}

/// A JSON failure, without the dependency's type.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct JsonError(#[from] pub(crate) serde_json::Error);
