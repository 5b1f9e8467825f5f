//! An answer: status, headers, and a body that is read piece by piece or up to a cap.

use std::error::Error as StdError;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{AsHeaderName, HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use url::Url;

use super::address::{OutOfReach, Reach, literal};
use crate::error::{Answer, Error, RegistryError, RequestLine, Result, TransportFailure};

/// Error documents are read this far.
const MAX_ERROR_BODY: u64 = 64 * 1024;
/// Of a body that is not an error document, this much is shown.
const MAX_ERROR_TEXT: usize = 256;
/// Entries of an error document that are kept.
const MAX_ERRORS: usize = 16;
/// A buffered body takes at most this long as a whole, however often a byte of it drips in.
const MAX_BUFFERED_TIME: Duration = Duration::from_secs(120);

/// The answer to one request, after redirects.
#[derive(Debug)]
pub(crate) struct Response {
    line: RequestLine,
    url: Url,
    inner: reqwest::Response,
    proxied: bool,
    stall: Duration,
}

impl Response {
    pub(super) fn new(
        line: RequestLine,
        url: Url,
        inner: reqwest::Response,
        proxied: bool,
        stall: Duration,
    ) -> Self {
        Self { line, url, inner, proxied, stall }
    }

    pub(crate) fn line(&self) -> &RequestLine {
        &self.line
    }

    /// Where the answer came from, after redirects.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn status(&self) -> u16 {
        self.inner.status().as_u16()
    }

    pub(crate) fn is_success(&self) -> bool {
        self.inner.status().is_success()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    /// A header as text, if it is there once or more and is text.
    pub(crate) fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.inner.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The address that answered, unless a proxy stood between.
    fn peer(&self) -> Option<IpAddr> {
        if self.proxied {
            return literal(&self.url).map(|address| address.ip());
        }
        self.inner.remote_addr().map(|address| address.ip())
    }

    /// Which addresses this server may send us to.
    pub(crate) fn reach_of_derived(&self) -> Reach {
        self.peer().map_or(Reach::Public, Reach::derived_from)
    }

    /// The next piece of the body.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        match tokio::time::timeout(self.stall, self.inner.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(source)) => Err(transport_error(self.line.clone(), source)),
            Err(source) => Err(Error::Transport {
                request: self.line.clone(),
                failure: TransportFailure::Timeout,
                source: Box::new(source),
            }),
        }
    }

    /// The whole body, if it is not longer than `cap` bytes.
    pub(crate) async fn bytes(mut self, cap: u64) -> Result<Bytes> {
        let line = self.line.clone();
        match tokio::time::timeout(MAX_BUFFERED_TIME, self.buffered(cap)).await {
            Ok(bytes) => bytes,
            Err(source) => Err(Error::Transport {
                request: line,
                failure: TransportFailure::Timeout,
                source: Box::new(source),
            }),
        }
    }

    async fn buffered(&mut self, cap: u64) -> Result<Bytes> {
        let too_large = |line: &RequestLine| Error::TooLarge { request: line.clone(), limit: cap };
        if self.inner.content_length().is_some_and(|length| length > cap) {
            return Err(too_large(&self.line));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if (body.len() + chunk.len()) as u64 > cap {
                return Err(too_large(&self.line));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// How long the server asks to wait, from `Retry-After` in seconds or as a date.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let text = self.header(RETRY_AFTER)?.trim();
        if let Ok(seconds) = text.parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        let date = httpdate::parse_http_date(text).ok()?;
        // The server's own clock, when it says what it is: ours may be wrong.
        let now = self
            .header(http::header::DATE)
            .and_then(|text| httpdate::parse_http_date(text).ok())
            .unwrap_or_else(SystemTime::now);
        Some(date.duration_since(now).unwrap_or_default())
    }

    /// The error that this answer is.
    pub(crate) async fn into_error(self) -> Error {
        let line = self.line.clone();
        let answer = self.into_answer().await;
        Error::Status { request: line, answer: Box::new(answer) }
    }

    /// Status and errors of an answer that is not success. A body that cannot be read is an empty one.
    pub(crate) async fn into_answer(mut self) -> Answer {
        let status = self.status();
        let retry_after = self.retry_after();
        let mut body = BytesMut::new();
        let read = async {
            while let Ok(Some(chunk)) = self.chunk().await {
                let room = (MAX_ERROR_BODY as usize).saturating_sub(body.len());
                body.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
                if body.len() as u64 >= MAX_ERROR_BODY {
                    break;
                }
            }
        };
        // The status is known; a body that does not come must not hide it.
        let _ = tokio::time::timeout(Duration::from_secs(10), read).await;
        let (errors, text) = parse_errors(&body);
        Answer { status, errors, text, retry_after }
    }
}

#[derive(Deserialize)]
struct ErrorDocument {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    detail: serde_json::Value,
}

/// The `errors` of the spec's document, or the start of some other text.
fn parse_errors(body: &[u8]) -> (Vec<RegistryError>, Option<String>) {
    if let Ok(document) = serde_json::from_slice::<ErrorDocument>(body) {
        let entries = document.errors.into_iter().take(MAX_ERRORS);
        let errors = entries
            .map(|entry| RegistryError {
                code: printable(&entry.code),
                message: printable(&entry.message),
                detail: (!entry.detail.is_null()).then(|| printable(&entry.detail.to_string())),
            })
            .collect();
        return (errors, None);
    }
    let text = printable(&String::from_utf8_lossy(body));
    let text = text.trim();
    (Vec::new(), (!text.is_empty()).then(|| text.to_owned()))
}

/// A server's words end up on terminals: no control characters, not too many.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERROR_TEXT).collect()
}

/// Names what failed below, without the URL that reqwest would print (it may carry a signature).
pub(super) fn transport_error(request: RequestLine, source: reqwest::Error) -> Error {
    let source = source.without_url();
    if let Some(refused) = cause::<OutOfReach>(&source) {
        return Error::AddressRefused { request, address: refused.address, reason: refused.reason };
    }
    let io = cause::<std::io::Error>(&source).map(std::io::Error::kind);
    let failure = if cause::<rustls::Error>(&source).is_some() || io_holds_tls(&source) {
        TransportFailure::Tls
    } else if source.is_dns() {
        TransportFailure::Resolve
    } else if source.is_timeout() {
        TransportFailure::Timeout
    } else if source.is_connect() {
        TransportFailure::Connect
    } else if source.is_body() || source.is_decode() || io.is_some() {
        TransportFailure::Cut
    } else {
        TransportFailure::Exchange
    };
    Error::Transport { request, failure, source: Box::new(source) }
}

fn cause<'e, T: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // An `io::Error` hides what it was made from behind `get_ref`, not `source`.
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && let Some(inner) = io.get_ref()
            && let Some(found) = cause::<T>(inner)
        {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn io_holds_tls(error: &(dyn StdError + 'static)) -> bool {
    cause::<std::io::Error>(error)
        .and_then(|io| io.get_ref())
        .is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_documents_and_other_bodies() {
        let (errors, text) =
            parse_errors(br#"{"errors":[{"code":"DENIED","message":"no","detail":{"a":1}}]}"#);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].code, "DENIED");
        assert_eq!(errors[0].detail.as_deref(), Some("{\"a\":1}"));
        assert_eq!(text, None);
        assert_eq!(parse_errors(b"<html>\x1b[31mno").1.as_deref(), Some("<html> [31mno"));
        assert_eq!(parse_errors(b""), (Vec::new(), None));
    }
}
