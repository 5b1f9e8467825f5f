//! A blob of another registry as the source of an upload: it passes through here and is kept nowhere.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use image_core::{BlobSource, Descriptor, Digester, Reference};
use tokio::runtime::Handle;

use super::BlobStream;
use crate::client::Client;
use crate::error::Error;

/// A blob that is somewhere else. Its readers block on the network: only threads that may block read from them.
pub(crate) struct RemoteBlob {
    client: Client,
    repository: Reference,
    descriptor: Descriptor,
    seen: Arc<Mutex<Seen>>,
}

/// The digest of the bytes that have come, in order; bytes that an upload asks for a second time count once.
struct Seen {
    digester: Option<Digester>,
    upto: u64,
}

impl RemoteBlob {
    pub(crate) fn new(client: &Client, repository: &Reference, descriptor: &Descriptor) -> Self {
        let digester = Some(Digester::new(descriptor.digest.algorithm()));
        Self {
            client: client.clone(),
            repository: repository.clone(),
            descriptor: descriptor.clone(),
            seen: Arc::new(Mutex::new(Seen { digester, upto: 0 })),
        }
    }
}

impl BlobSource for RemoteBlob {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn open_range(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let at = range.start;
        let opened = self.client.blob_part(&self.repository, &self.descriptor, range);
        let stream = runtime.block_on(opened).map_err(io::Error::other)?;
        let seen = Arc::clone(&self.seen);
        Ok(Box::new(RemoteReader { runtime, stream, rest: Bytes::new(), at, seen }))
    }
}

struct RemoteReader {
    runtime: Handle,
    stream: BlobStream,
    rest: Bytes,
    at: u64,
    seen: Arc<Mutex<Seen>>,
}

impl RemoteReader {
    /// Adds a chunk to the digest; the last one is not given out before the digest is right.
    fn see(&mut self, chunk: &Bytes) -> io::Result<()> {
        let descriptor = self.stream.descriptor();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let new = seen.upto.checked_sub(self.at).and_then(|old| chunk.get(usize::try_from(old).ok()?..));
        self.at += chunk.len() as u64;
        if let (Some(new), Some(digester)) = (new, seen.digester.as_mut()) {
            digester.update(new);
            seen.upto = self.at;
        }
        if seen.upto == descriptor.size
            && let Some(digester) = seen.digester.take()
        {
            let (expected, actual) = (descriptor.digest, digester.finish());
            if actual != expected {
                return Err(io::Error::other(Error::DigestMismatch {
                    request: self.stream.line().clone(),
                    expected: Box::new(expected),
                    actual: Box::new(actual),
                }));
            }
        }
        Ok(())
    }
}

impl Read for RemoteReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.runtime.block_on(self.stream.next_chunk()).map_err(io::Error::other)? {
                Some(chunk) => {
                    self.see(&chunk)?;
                    self.rest = chunk;
                }
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(self.rest.split_to(count)) {
            *to = from;
        }
        Ok(count)
    }
}
