//! A stream on its way to the parser: through threads, of which one reads (and so decompresses) it and one hashes it,
//! or read and hashed by who parses it.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use image_core::{Algorithm, Digest, Digester};

use crate::authority::Content;
use crate::budget::Budget;
use crate::compress::Source;
use crate::error::{Error, Result};

const CHUNK: usize = 256 << 10;
/// What is read at once where no thread waits for it: it stays in the processor's cache.
const SIP: usize = 64 << 10;
/// Chunks that may wait for each stage: what bounds memory.
const WAITING: usize = 12;

/// With no more processors than this a thread that only hashes would wait for one: who reads hashes, while what it read
/// is in the cache.
const FEW: usize = 2;

/// Some of the stream. Its buffer goes back to be filled again when nobody holds on to it: neither a stage nor a file
/// that lies in it.
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

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
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
pub(super) enum Stream<'a> {
    Piped(Piped),
    Alone(Box<Alone<'a>>),
}

/// Who hashes the stream.
pub(super) type Hashing<'scope> = ScopedJoinHandle<'scope, Digest>;

/// Chunks that threads have read.
pub(super) struct Piped {
    pieces: Receiver<Piece>,
    current: Option<Arc<Chunk>>,
    at: usize,
    /// Where in the stream the current chunk begins.
    begin: u64,
    failure: Option<Error>,
}

/// A stream that is read and hashed as it is parsed.
pub(super) struct Alone<'a> {
    intake: Intake<'a>,
    digester: Digester,
    data: Vec<u8>,
    filled: usize,
    at: usize,
    /// Where in the stream `data` begins.
    begin: u64,
    failure: Option<Error>,
}

/// A source within its budget.
struct Intake<'a> {
    source: Source<'a>,
    budget: Budget,
    total: u64,
}

impl Intake<'_> {
    /// Fills `data` as far as the stream goes.
    fn fill(&mut self, data: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        loop {
            let rest = data.get_mut(filled..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            match self.source.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Stream { format: "compressed", source }),
            }
        }
        self.total = self.total.saturating_add(filled as u64);
        Budget::check(self.budget.bytes, self.total, "bytes")?;
        if let Some(read) = self.source.consumed() {
            self.budget.check_ratio(read, self.total)?;
        }
        Ok(filled)
    }
}

/// `source`, read and hashed by the parser.
pub(super) fn alone(source: Source<'_>, algorithm: Algorithm, budget: Budget) -> Stream<'_> {
    let intake = Intake { source, budget, total: 0 };
    let digester = Digester::new(algorithm);
    let data = vec![0; SIP];
    Stream::Alone(Box::new(Alone { intake, digester, data, filled: 0, at: 0, begin: 0, failure: None }))
}

/// Starts reading and hashing `source`. The digest is of everything up to its end.
pub(super) fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    source: Source<'env>,
    algorithm: Algorithm,
    budget: Budget,
) -> (Stream<'env>, Hashing<'scope>) {
    let (to_parser, pieces) = sync_channel(WAITING);
    let intake = Intake { source, budget, total: 0 };
    let mut digester = Digester::new(algorithm);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let hashing = if processors > FEW {
        let (to_digester, chunks) = sync_channel::<Arc<Chunk>>(WAITING);
        scope.spawn(move || read(intake, &to_parser, |chunk| drop(to_digester.send(chunk.clone()))));
        scope.spawn(move || {
            while let Ok(chunk) = chunks.recv() {
                digester.update(chunk.bytes());
            }
            digester.finish()
        })
    } else {
        scope.spawn(move || {
            read(intake, &to_parser, |chunk| digester.update(chunk.bytes()));
            digester.finish()
        })
    };
    (Stream::Piped(Piped { pieces, current: None, at: 0, begin: 0, failure: None }), hashing)
}

/// Gives all of the stream to the parser, and to `hash` before.
fn read(mut intake: Intake<'_>, parser: &SyncSender<Piece>, mut hash: impl FnMut(&Arc<Chunk>)) {
    let (back, pool) = channel::<Vec<u8>>();
    loop {
        let mut data = pool.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
        let filled = match intake.fill(&mut data) {
            Ok(0) => return,
            Ok(filled) => filled,
            Err(error) => {
                // The parser may have given up already.
                drop(parser.send(Err(error)));
                return;
            }
        };
        let chunk = Arc::new(Chunk { data, filled, back: back.clone() });
        hash(&chunk);
        if parser.send(Ok(chunk)).is_err() {
            return;
        }
    }
}

impl Stream<'_> {
    /// Why the stream failed, when that was not the parser's doing.
    pub(super) const fn failure(&mut self) -> Option<Error> {
        match self {
            Self::Piped(piped) => piped.failure.take(),
            Self::Alone(alone) => alone.failure.take(),
        }
    }

    /// The next `count` bytes as a file's content, when they are at hand and stay so while it is in use.
    pub(super) fn share(&self, count: usize) -> Option<Content> {
        let Self::Piped(Piped { current: Some(chunk), at, .. }) = self else { return None };
        let end = at.checked_add(count).filter(|end| count > 0 && *end <= chunk.filled)?;
        Some(Content::part(chunk.clone(), *at..end))
    }

    /// How many bytes were read of it.
    pub(super) const fn position(&self) -> u64 {
        match self {
            Self::Piped(piped) => piped.begin + piped.at as u64,
            Self::Alone(alone) => alone.begin + alone.at as u64,
        }
    }

    /// The digest of all that was read, when no thread has it.
    pub(super) fn digest(self) -> Option<Digest> {
        match self {
            Self::Piped(_) => None,
            Self::Alone(alone) => Some(alone.digester.finish()),
        }
    }
}

impl Piped {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let spent = self.current.as_ref().is_none_or(|chunk| self.at >= chunk.filled);
        if spent {
            self.begin += self.current.take().map_or(0, |chunk| chunk.filled as u64);
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
}

impl Alone<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at >= self.filled {
            self.begin += self.filled as u64;
            self.at = 0;
            self.filled = 0;
            match self.intake.fill(&mut self.data) {
                Ok(filled) => self.filled = filled,
                Err(error) => {
                    self.failure = Some(error);
                    return Err(io::Error::other("the stream failed"));
                }
            }
            self.digester.update(self.data.get(..self.filled).unwrap_or_default());
        }
        Ok(self.data.get(self.at..self.filled).unwrap_or_default())
    }
}

impl BufRead for Stream<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Piped(piped) => piped.fill_buf(),
            Self::Alone(alone) => alone.fill_buf(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Self::Piped(piped) => piped.at += count,
            Self::Alone(alone) => alone.at += count,
        }
    }
}

impl Read for Stream<'_> {
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
