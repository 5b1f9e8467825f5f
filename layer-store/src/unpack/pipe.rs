//! A stream on its way through threads: one reads (and so decompresses) it, one hashes it, the caller parses it.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use image_core::{Algorithm, Digest, Digester};

use crate::budget::Budget;
use crate::compress::Source;
use crate::error::{Error, Result};

const CHUNK: usize = 256 << 10;
/// Chunks that may wait for each stage: what bounds memory.
const WAITING: usize = 12;

/// Some of the stream. Its buffer goes back to be filled again.
struct Chunk {
    /// As long as a chunk can be: it is made once and never cleared.
    data: Vec<u8>,
    filled: usize,
    back: Sender<Vec<u8>>,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        self.data.get(..self.filled).unwrap_or_default()
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // The reader may have ended.
        drop(self.back.send(std::mem::take(&mut self.data)));
    }
}

type Piece = Result<Arc<Chunk>>;

/// The parser's end.
pub(super) struct Piped {
    pieces: Receiver<Piece>,
    current: Option<Arc<Chunk>>,
    at: usize,
    failure: Option<Error>,
}

/// Starts reading and hashing `source`. The digest is of everything up to its end.
pub(super) fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    source: Source<'env>,
    algorithm: Algorithm,
    budget: Budget,
) -> (Piped, ScopedJoinHandle<'scope, Digest>) {
    let (to_parser, pieces) = sync_channel(WAITING);
    let (to_digester, chunks) = sync_channel::<Arc<Chunk>>(WAITING);
    scope.spawn(move || read(source, budget, &to_parser, &to_digester));
    let digest = scope.spawn(move || {
        let mut digester = Digester::new(algorithm);
        while let Ok(chunk) = chunks.recv() {
            digester.update(chunk.bytes());
        }
        digester.finish()
    });
    (Piped { pieces, current: None, at: 0, failure: None }, digest)
}

fn read(
    mut source: Source<'_>,
    budget: Budget,
    parser: &SyncSender<Piece>,
    digester: &SyncSender<Arc<Chunk>>,
) {
    let (back, pool) = channel::<Vec<u8>>();
    let mut total = 0_u64;
    loop {
        let mut data = pool.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
        let mut filled = 0;
        let failure = loop {
            let rest = data.get_mut(filled..).unwrap_or_default();
            if rest.is_empty() {
                break None;
            }
            match source.read(rest) {
                Ok(0) => break None,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => break Some(Error::Stream { format: "compressed", source }),
            }
        };
        total = total.saturating_add(filled as u64);
        let failure = failure
            .or_else(|| Budget::check(budget.bytes, total, "bytes").err())
            .or_else(|| source.consumed().and_then(|read| budget.check_ratio(read, total).err()));
        if let Some(error) = failure {
            // The parser may have given up already.
            drop(parser.send(Err(error)));
            return;
        }
        if filled == 0 {
            return;
        }
        let chunk = Arc::new(Chunk { data, filled, back: back.clone() });
        if digester.send(chunk.clone()).is_err() || parser.send(Ok(chunk)).is_err() {
            return;
        }
    }
}

impl Piped {
    /// Why the stream failed, when that was not the parser's doing.
    pub(super) const fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }
}

impl BufRead for Piped {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let spent = self.current.as_ref().is_none_or(|chunk| self.at >= chunk.filled);
        if spent {
            self.current = None;
            self.at = 0;
            match self.pieces.recv() {
                Ok(Ok(chunk)) => self.current = Some(chunk),
                Ok(Err(error)) => {
                    self.failure = Some(error);
                    return Err(io::Error::other("the stream failed"));
                }
                // The reader has ended: so has the stream.
                Err(_) => {}
            }
        }
        Ok(self.current.as_ref().and_then(|chunk| chunk.bytes().get(self.at..)).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for Piped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let found = self.fill_buf()?;
        let count = found.len().min(buffer.len());
        for (out, byte) in buffer.iter_mut().zip(found) {
            *out = *byte;
        }
        self.consume(count);
        Ok(count)
    }
}
