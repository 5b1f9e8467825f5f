//! A blob of another registry as the source of an upload: it passes through here and is kept nowhere.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use image_core::{BlobSource, Descriptor, Digester, Reference};
use tokio::runtime::Handle;

use super::BlobStream;
use crate::client::Client;
use crate::endpoint::{Place, Source};
use crate::error::Error;

/// A blob that is somewhere else. Its readers block on the network: only threads that may block read from them.
#[derive(Clone)]
pub(crate) struct RemoteBlob {
    client: Client,
    repository: Reference,
    descriptor: Descriptor,
    seen: Arc<Mutex<Seen>>,
}

/// The bytes that have come, in order; those that an upload asks for a second time count once.
struct Seen {
    digester: Option<Digester>,
    upto: u64,
    /// Who sent them.
    senders: Vec<Source>,
    /// Mirrors that sent another blob than they should.
    passed: BTreeSet<Place>,
    /// Somebody else can be asked for what turned out to be wrong.
    again: bool,
}

impl RemoteBlob {
    pub(crate) fn new(client: &Client, repository: &Reference, descriptor: &Descriptor) -> Self {
        let digester = Some(Digester::new(descriptor.digest.algorithm()));
        let seen = Seen { digester, upto: 0, senders: Vec::new(), passed: BTreeSet::new(), again: false };
        Self {
            client: client.clone(),
            repository: repository.clone(),
            descriptor: descriptor.clone(),
            seen: Arc::new(Mutex::new(seen)),
        }
    }

    /// Whether an upload that failed may succeed with what others send. Each time some mirror is left out, so this ends.
    pub(crate) fn again(&self) -> bool {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner).again)
    }
}

impl BlobSource for RemoteBlob {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn open_range(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        let runtime = Handle::try_current().map_err(io::Error::other)?;
        let at = range.start;
        let seen = Arc::clone(&self.seen);
        let passed = seen.lock().unwrap_or_else(PoisonError::into_inner).passed.clone();
        let opened = self.client.blob_part_without(&self.repository, &self.descriptor, range, &passed);
        let stream = runtime.block_on(opened).map_err(io::Error::other)?;
        let client = self.client.clone();
        Ok(Box::new(RemoteReader { client, runtime, stream, rest: Bytes::new(), at, seen }))
    }
}

struct RemoteReader {
    client: Client,
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
            let sender = self.stream.source();
            if seen.senders.iter().all(|other| other.place() != sender.place()) {
                seen.senders.push(sender.clone());
            }
        }
        if seen.upto == descriptor.size
            && let Some(digester) = seen.digester.take()
        {
            let (expected, actual) = (descriptor.digest, digester.finish());
            if actual != expected {
                let mismatch = || Error::DigestMismatch {
                    request: self.stream.line().clone(),
                    expected: Box::new(expected),
                    actual: Box::new(actual),
                };
                for sender in std::mem::take(&mut seen.senders) {
                    if self.client.pass_over(&sender, mismatch()).is_ok() {
                        seen.again |= seen.passed.insert(sender.place());
                    }
                }
                (seen.digester, seen.upto) = (Some(Digester::new(expected.algorithm())), 0);
                return Err(io::Error::other(mismatch()));
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
