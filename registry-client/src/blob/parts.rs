//! One blob over several connections: parts side by side, put together in order.
//!
//! ```text
//!   part 0 ──▶ done ─┐
//!   part 1 ──▶ …     ├──▶ hash ─▶ sink      at most one part per connection is in memory
//!   part 2 ──▶ …     ┘
//! ```

use std::collections::VecDeque;

use bytes::Bytes;
use image_core::{BlobSink, Digester, Reference};

use super::fetch::{BlobStream, PART};
use super::write::anew;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::event::{Direction, Event};
use crate::task::{self, Owned};

/// What a task does, for the error when it could not.
const PART_OF: &str = "downloading a part of a blob";

impl Client {
    /// The rest of a blob whose first part `first` is.
    pub(super) async fn parts_into<S: BlobSink + 'static>(
        &self,
        repository: &Reference,
        first: BlobStream,
        mut sink: S,
    ) -> Result<S> {
        let descriptor = first.descriptor().clone();
        let (digest, total, line) = (descriptor.digest, descriptor.size, first.line().clone());
        let mut digester = Digester::new(digest.algorithm());
        let mut waiting = VecDeque::from([Owned::spawn(PART_OF, collect(first))]);
        let (mut next, mut done) = (PART, 0u64);
        loop {
            while next < total && waiting.len() < self.upload().ranges {
                let range = next..next.saturating_add(PART).min(total);
                next = range.end;
                let (client, repository, descriptor) = (self.clone(), repository.clone(), descriptor.clone());
                waiting.push_back(Owned::spawn(PART_OF, async move {
                    collect(client.blob_part(&repository, &descriptor, range).await?).await
                }));
            }
            let Some(part) = waiting.pop_front() else { break };
            let chunks = part.finished().await??;
            let written = task::blocking("writing a blob", move || {
                for chunk in chunks {
                    digester.update(&chunk);
                    sink.write(&chunk)?;
                    done += chunk.len() as u64;
                }
                Ok((sink, digester, done))
            });
            (sink, digester, done) = written.await?.map_err(|source| Error::BlobWrite { digest, source })?;
            self.engine().tell(&Event::Bytes { digest, direction: Direction::Download, done, total });
        }
        let actual = digester.finish();
        if done != total {
            return Err(Error::SizeMismatch { request: line, expected: total, actual: done });
        }
        if actual != digest {
            let (expected, actual) = (Box::new(digest), Box::new(actual));
            let error = Error::DigestMismatch { request: line, expected, actual };
            // Elsewhere, over one connection: parts of several servers would be no better.
            let whole = self.unopened(repository, &descriptor, 0, None).await?;
            let (stream, sink) = anew(whole, sink, error).await?;
            return self.stream_into(stream, sink).await;
        }
        self.engine().tell(&Event::Done { digest, direction: Direction::Download });
        Ok(sink)
    }
}

async fn collect(mut stream: BlobStream) -> Result<Vec<Bytes>> {
    let mut chunks = Vec::new();
    while let Some(chunk) = stream.next_chunk().await? {
        chunks.push(chunk);
    }
    Ok(chunks)
}
