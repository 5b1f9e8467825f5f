//! Blobs: whole or in part.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use http::{HeaderValue, StatusCode};
use image_core::Digest;
use tokio::sync::mpsc;

use super::{Asked, CONTENT_DIGEST, Service};
use crate::server::answer::{Answer, Code, empty, error, internal, set};
use crate::server::storage::Content;
use crate::task;

/// Read from a file at once, in bytes.
const READ: usize = 256 << 10;
/// Pieces between the file and the connection.
const PIPE: usize = 4;

impl Service {
    pub(super) fn blob(&self, name: &str, digest: &Digest, asked: &Asked) -> Answer {
        let Some(content) = self.storage.blob(name, digest) else {
            return error(StatusCode::NOT_FOUND, Code::BlobUnknown);
        };
        let size = content.size();
        let etag = format!("\"{digest}\"");
        let same = asked.header(IF_RANGE).is_none_or(|tag| tag == etag);
        let range = asked.header(RANGE).filter(|_| same).and_then(|text| parse(text, size));
        let (status, range) = match range {
            None => (StatusCode::OK, 0..size),
            Some(Ok(range)) => (StatusCode::PARTIAL_CONTENT, range),
            Some(Err(())) => {
                let mut answer = error(StatusCode::RANGE_NOT_SATISFIABLE, Code::SizeInvalid);
                set(&mut answer, CONTENT_RANGE, &format!("bytes */{size}"));
                return answer;
            }
        };
        let length = range.end - range.start;
        let span = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
        let body = if asked.method == http::Method::HEAD { Body::empty() } else { body(content, range) };
        let mut answer = Answer::new(body);
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        set(&mut answer, CONTENT_TYPE, "application/octet-stream");
        set(&mut answer, ACCEPT_RANGES, "bytes");
        set(&mut answer, CONTENT_DIGEST, &digest.to_string());
        set(&mut answer, ETAG, &etag);
        if status == StatusCode::PARTIAL_CONTENT {
            set(&mut answer, CONTENT_RANGE, &span);
        }
        answer
    }

    pub(super) fn delete_blob(&self, name: &str, digest: &Digest) -> Answer {
        let known = self.storage.with(name, |repository| repository.blobs.contains_key(digest));
        match known {
            None => return error(StatusCode::NOT_FOUND, Code::NameUnknown),
            Some(false) => return error(StatusCode::NOT_FOUND, Code::BlobUnknown),
            Some(true) => {}
        }
        let removed = self
            .storage
            .change(name, |repository| drop(repository.blobs.remove(digest)))
            .and_then(|()| self.storage.remove_content(name, digest));
        match removed {
            Ok(()) => empty(StatusCode::ACCEPTED),
            Err(error) => internal(&error),
        }
    }
}

/// One range of RFC 9110 section 14; several, or something else, is as if there was none.
fn parse(text: &str, size: u64) -> Option<Result<Range<u64>, ()>> {
    let spec = text.trim().strip_prefix("bytes=")?;
    let (first, last) = spec.split_once('-')?;
    if last.contains([',', '-']) {
        return None;
    }
    let range = if first.is_empty() {
        let suffix = last.parse::<u64>().ok()?;
        size.saturating_sub(suffix)..size
    } else {
        let first = first.parse::<u64>().ok()?;
        let end = if last.is_empty() { size } else { last.parse::<u64>().ok()?.saturating_add(1).min(size) };
        // RFC 9110 would let this pass as no range; the conformance suite wants it refused.
        if !last.is_empty() && last.parse::<u64>().ok()? < first {
            return Some(Err(()));
        }
        first..end
    };
    Some(if range.start < range.end { Ok(range) } else { Err(()) })
}

fn body(content: Content, range: Range<u64>) -> Body {
    let path = match content {
        Content::Memory(bytes) => {
            let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            return Body::from(bytes.slice(clamp(range.start)..clamp(range.end)));
        }
        Content::File { path, .. } => path,
    };
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(PIPE);
    task::spawn_blocking(move || {
        let outcome = (|| {
            let mut file = std::fs::File::open(path)?;
            file.seek(SeekFrom::Start(range.start))?;
            let mut left = range.end - range.start;
            while left > 0 {
                let mut chunk = vec![0; usize::try_from(left).unwrap_or(READ).min(READ)];
                file.read_exact(&mut chunk)?;
                left -= chunk.len() as u64;
                if sender.blocking_send(Ok(chunk.into())).is_err() {
                    return Ok(());
                }
            }
            Ok(())
        })();
        if let Err(error) = outcome {
            drop(sender.blocking_send(Err(error)));
        }
    });
    Body::from_stream(futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|item| (item, receiver))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse("bytes=0-9", 100), Some(Ok(0..10)));
        assert_eq!(parse("bytes=90-", 100), Some(Ok(90..100)));
        assert_eq!(parse("bytes=-5", 100), Some(Ok(95..100)));
        assert_eq!(parse("bytes=90-500", 100), Some(Ok(90..100)));
        assert_eq!(parse("bytes=100-", 100), Some(Err(())));
        assert_eq!(parse("bytes=5-1", 100), Some(Err(())));
        assert_eq!(parse("bytes=0-1,3-4", 100), None);
        assert_eq!(parse("lines=0-1", 100), None);
    }
}
