//! What a request carries, and the watch over a transfer that stopped moving.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::header::CONTENT_LENGTH;

/// Bytes on their way out.
type BodyStream = BoxStream<'static, io::Result<Bytes>>;

/// The body of a request.
pub(crate) enum Body {
    /// None; a method that usually has one says `Content-Length: 0`.
    Empty,
    /// In memory: can be sent again.
    Bytes(Bytes),
    /// Read once. `length` is `None` for content of unknown size (chunked transfer encoding).
    Stream { stream: BodyStream, length: Option<u64>, sent: Arc<AtomicU64> },
}

impl Body {
    pub(crate) fn stream(stream: BodyStream, length: Option<u64>) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let stream = stream
            .inspect(move |chunk| {
                if let Ok(chunk) = chunk {
                    counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
            })
            .boxed();
        Self::Stream { stream, length, sent }
    }

    /// The same body once more, when that is possible.
    pub(crate) fn replay(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Bytes(bytes) => Some(Self::Bytes(bytes.clone())),
            Self::Stream { .. } => None,
        }
    }

    /// Counts the bytes that were handed to the connection.
    pub(crate) fn progress(&self) -> Option<Arc<AtomicU64>> {
        match self {
            Self::Stream { sent, .. } => Some(Arc::clone(sent)),
            _ => None,
        }
    }

    pub(crate) fn attach(self, builder: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self {
            Self::Empty => builder,
            Self::Bytes(bytes) => builder.body(bytes),
            Self::Stream { stream, length, .. } => {
                let builder = match length {
                    Some(length) => builder.header(CONTENT_LENGTH, length),
                    None => builder,
                };
                builder.body(reqwest::Body::wrap_stream(stream))
            }
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            // A body may be the form with a refresh token.
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Stream { length, .. } => write!(f, "Stream({length:?})"),
        }
    }
}

/// Waits for `work`; `None` when for `stall` neither did it end nor did `progress` move.
pub(crate) async fn watch<F: Future>(
    work: F,
    stall: Duration,
    progress: Option<Arc<AtomicU64>>,
) -> Option<F::Output> {
    let mut work = std::pin::pin!(work);
    let mut seen = 0;
    loop {
        match tokio::time::timeout(stall, &mut work).await {
            Ok(output) => return Some(output),
            Err(_) => {
                let now = progress.as_ref().map_or(0, |counter| counter.load(Ordering::Relaxed));
                if now == seen {
                    return None;
                }
                seen = now;
            }
        }
    }
}
