//! Any file behind a URL, by the same transport: what `ADD https://…` and remote contexts need.
//!
//! No credential of a registry goes there. Redirects, address rules, time limits and retries are those of the rest.

use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use http::Method;
use http::header::LAST_MODIFIED;
use image_core::BlobSink;
use url::Url;

use crate::client::Client;
use crate::error::{Error, RequestLine, Result};
use crate::manifest::refuse_encoding;
use crate::retry::is_retryable_status;
use crate::task;
use crate::transport::{Request, Response};

/// Pieces between the connection and the sink.
const PIPE: usize = 32;

/// A file on its way here. Its bytes are unverified: nothing but the caller's own checksum proves them.
pub struct Download {
    response: Response,
}

impl Client {
    /// Asks for the file at `url` (`http` or `https`).
    ///
    /// # Errors
    /// [`Error::Configuration`] when it is no such URL; [`Error::Status`] when the answer is not a success; what
    /// any request can end in, after the retries of the client's policy.
    pub async fn download(&self, url: &str) -> Result<Download> {
        let wrong =
            |why: String| Error::Configuration { what: format!("the URL to download: {why}"), source: None };
        let url = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(format!("the scheme {:?} is neither http nor https", url.scheme())));
        }
        let engine = self.engine();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut request = Request::new(Method::GET, url.clone());
            request.bulk = true;
            let line = request.line();
            let (wait, reason) = match engine.transport.send(request).await {
                Ok(response) if response.is_success() => {
                    refuse_encoding(&response)?;
                    return Ok(Download { response });
                }
                Ok(response) => {
                    let status = response.status();
                    let wait = is_retryable_status(status)
                        .then(|| engine.retry.wait(attempt, response.retry_after(), engine.dice()))
                        .flatten();
                    let Some(wait) = wait else { return Err(response.into_error().await) };
                    (wait, format!("status {status}"))
                }
                Err(error) => {
                    let Some(wait) = engine.retry.after_error(&error, attempt, engine.dice()) else {
                        return Err(error);
                    };
                    (wait, error.to_string())
                }
            };
            engine.wait(line, attempt, wait, reason).await;
        }
    }
}

impl Download {
    /// The request that was answered.
    pub fn request(&self) -> &RequestLine {
        self.response.line()
    }

    /// What the server says the length is, in bytes.
    pub fn length(&self) -> Option<u64> {
        self.response.header(http::header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// `Last-Modified`, in seconds since 1970.
    pub fn modified(&self) -> Option<i64> {
        let date = httpdate::parse_http_date(self.response.header(LAST_MODIFIED)?.trim()).ok()?;
        i64::try_from(date.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()).ok()
    }

    /// A header of the answer, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.header(name)
    }

    /// Writes the file to `sink` and gives the sink back.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when there are more than `limit` bytes; [`Error::SizeMismatch`] when there are fewer than
    /// the server announced; [`Error::DownloadWrite`] when they cannot be kept; cuts and stalls.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection; the sink is dropped with what it has.
    pub async fn into_sink<S: BlobSink + 'static>(mut self, mut sink: S, limit: u64) -> Result<S> {
        let line = self.response.line().clone();
        let announced = self.length();
        if announced.is_some_and(|length| length > limit) {
            return Err(Error::TooLarge { request: line, limit });
        }
        // Writing blocks, so it happens elsewhere; the pipe is short, so memory is bounded.
        let (send, mut receive) = tokio::sync::mpsc::channel::<Bytes>(PIPE);
        let writer = task::blocking("writing a download", move || {
            while let Some(chunk) = receive.blocking_recv() {
                sink.write(&chunk)?;
            }
            Ok::<_, std::io::Error>(sink)
        });
        let reader = async {
            let mut at = 0u64;
            while let Some(chunk) = self.response.chunk().await? {
                at += chunk.len() as u64;
                if at > limit {
                    return Err(Error::TooLarge { request: line.clone(), limit });
                }
                // A closed pipe means that the sink failed: its error is the one to tell.
                if send.send(chunk).await.is_err() {
                    break;
                }
            }
            drop(send);
            Ok(at)
        };
        let (read, written) = tokio::join!(reader, writer);
        let sink = written?.map_err(|source| Error::DownloadWrite { request: line.clone(), source })?;
        let actual = read?;
        match announced {
            Some(expected) if expected != actual => {
                Err(Error::SizeMismatch { request: line, expected, actual })
            }
            _ => Ok(sink),
        }
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("request", self.request()).finish_non_exhaustive()
    }
}
