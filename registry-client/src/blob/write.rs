//! From a connection to a sink: hashing and writing happen on a thread that may block, beside the connection.
//!
//! ```text
//!   connection ─▶ reader ══ full buffers ══▶ writer ─▶ hash, sink
//!                   ▲                           │
//!                   └═════ empty buffers ═══════┘
//! ```
//!
//! The bytes are copied once, into buffers that are used again. That saves more than it costs: the connection has its
//! own buffer back at once, while it is in the cache, and memory is not given to the system and asked back with every
//! piece.

use std::sync::{Arc, Mutex, PoisonError};

use image_core::{BlobSink, Digester};
use tokio::sync::mpsc;

use super::fetch::BlobStream;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::task::{self, Owned};

/// Full buffers that wait for the sink. Each is as long as one read of a connection, some 400 KiB at most.
const PIPE: usize = 8;

/// Empty buffers. The last one that was given back is the next one to be filled: it is in the cache.
#[derive(Clone, Default)]
struct Spare(Arc<Mutex<Vec<Vec<u8>>>>);

impl Spare {
    fn filled(&self, bytes: &[u8]) -> Vec<u8> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = spare.unwrap_or_default();
        buffer.reserve_exact(bytes.len());
        buffer.extend_from_slice(bytes);
        buffer
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

impl Client {
    /// Writes what `stream` has left to `sink`, and verifies the whole. What a mirror sends and is another blob is
    /// asked for elsewhere, from its first byte.
    pub(super) async fn stream_into<S: BlobSink + 'static>(
        &self,
        mut stream: BlobStream,
        mut sink: S,
    ) -> Result<S> {
        loop {
            let digester;
            (stream, sink, digester) = pump(stream, sink).await?;
            let Err(error) = stream.verify(digester) else { return Ok(sink) };
            (stream, sink) = anew(stream, sink, error).await?;
        }
    }
}

/// Makes `stream` and `sink` begin at the first byte again, at another server, because of `error`; or ends with it.
pub(super) async fn anew<S: BlobSink + 'static>(
    mut stream: BlobStream,
    mut sink: S,
    error: Error,
) -> Result<(BlobStream, S)> {
    if !stream.has_others() {
        return Err(error);
    }
    let digest = stream.descriptor().digest;
    let restarted = task::blocking("emptying a blob", move || sink.restart().map(|can| can.then_some(sink)));
    let Some(sink) = restarted.await?.map_err(|source| Error::BlobWrite { digest, source })? else {
        return Err(error);
    };
    stream.begin_anew(error)?;
    Ok((stream, sink))
}

/// Everything that `stream` has left, to `sink`. The digester has seen all of it, and what came before.
async fn pump<S: BlobSink + 'static>(
    mut stream: BlobStream,
    mut sink: S,
) -> Result<(BlobStream, S, Digester)> {
    let digest = stream.descriptor().digest;
    let mut digester = stream.take_digester();
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(PIPE);
    let spare = Spare::default();
    let emptied = spare.clone();
    let writer = task::blocking("writing a blob", move || {
        while let Some(chunk) = receiver.blocking_recv() {
            digester.update(&chunk);
            sink.write(&chunk)?;
            emptied.give_back(chunk);
        }
        Ok((sink, digester))
    });
    // A task of its own runs on the thread of the connection: no other has to be woken for every piece.
    let reader = Owned::spawn("reading a blob", async move {
        while let Some(chunk) = stream.next_chunk().await? {
            let buffer = spare.filled(&chunk);
            // Before the next read, which would need a new buffer otherwise.
            drop(chunk);
            if sender.send(buffer).await.is_err() {
                // The writer has failed and says why.
                break;
            }
        }
        Ok(stream)
    });
    let (read, written) = tokio::join!(reader.finished(), writer);
    let (sink, digester) = written?.map_err(|source| Error::BlobWrite { digest, source })?;
    Ok((read??, sink, digester))
}
