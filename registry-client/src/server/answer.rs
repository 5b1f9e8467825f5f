//! Answers: statuses, headers, and the error document of the spec.

use axum::body::Body;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};

/// What a handler gives back.
pub(super) type Answer = Response<Body>;

/// Error codes of the distribution spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TagInvalid,
    Unknown,
}

impl Code {
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::BlobUnknown => ("BLOB_UNKNOWN", "blob unknown to registry"),
            Self::BlobUploadInvalid => ("BLOB_UPLOAD_INVALID", "blob upload invalid"),
            Self::BlobUploadUnknown => ("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
            Self::DigestInvalid => ("DIGEST_INVALID", "provided digest did not match uploaded content"),
            Self::ManifestBlobUnknown => ("MANIFEST_BLOB_UNKNOWN", "manifest references an unknown blob"),
            Self::ManifestInvalid => ("MANIFEST_INVALID", "manifest invalid"),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", "manifest unknown"),
            Self::NameInvalid => ("NAME_INVALID", "invalid repository name"),
            Self::NameUnknown => ("NAME_UNKNOWN", "repository name not known to registry"),
            Self::SizeInvalid => ("SIZE_INVALID", "provided length did not match content length"),
            Self::Unauthorized => ("UNAUTHORIZED", "authentication required"),
            Self::Denied => ("DENIED", "requested access to the resource is denied"),
            Self::Unsupported => ("UNSUPPORTED", "the operation is unsupported"),
            Self::TagInvalid => ("TAG_INVALID", "manifest tag invalid"),
            Self::Unknown => ("UNKNOWN", "unknown error"),
        }
    }
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    answer
}

/// An answer with the error document of the spec.
pub(super) fn error(status: StatusCode, code: Code) -> Answer {
    let (code, message) = code.text();
    let document = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
    json(status, &document)
}

/// An answer with a JSON document.
pub(super) fn json(status: StatusCode, document: &serde_json::Value) -> Answer {
    with_body(status, "application/json", document.to_string().into())
}

/// An answer with a body in memory.
pub(super) fn with_body(status: StatusCode, content_type: &str, bytes: bytes::Bytes) -> Answer {
    let length = bytes.len();
    let mut answer = Response::new(Body::from(bytes));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    set(&mut answer, CONTENT_TYPE, content_type);
    answer
}

/// Sets a header; a value that cannot be one is left out.
pub(super) fn set(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// Adds a header beside those of the same name.
pub(super) fn append(answer: &mut Answer, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        answer.headers_mut().append(name, value);
    }
}

/// What failed inside is for the log, not for the client.
pub(super) fn internal(error: &dyn std::error::Error) -> Answer {
    tracing::error!(%error, "registry storage");
    self::error(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown)
}

/// Sets a member of a JSON object.
pub(super) fn member(object: &mut serde_json::Value, key: &str, value: serde_json::Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(key.to_owned(), value);
    }
}
