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

use image_core::BlobSink;
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
    /// Writes what `stream` has left to `sink`, and verifies the whole.
    pub(super) async fn stream_into<S: BlobSink + 'static>(
        &self,
        mut stream: BlobStream,
        mut sink: S,
    ) -> Result<S> {
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
        read??.verify(digester)?;
        Ok(sink)
    }
}
