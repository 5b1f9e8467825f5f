//! The seam between where blobs live and how they travel.
//!
//! A store gives sources and takes sinks; a client reads from the one and writes to the other. Neither knows the
//! other. Both traits are synchronous: the side that is async moves the calls off its threads.

use std::io;
use std::ops::Range;

use crate::descriptor::Descriptor;

/// A blob that can be read, from any byte on, more than once.
pub trait BlobSource: Send {
    /// What it is. The size is exact: `0..size` is the whole blob.
    fn descriptor(&self) -> &Descriptor;

    /// Reads the bytes of `range`; fewer when the blob ends before.
    ///
    /// # Errors
    /// When the blob cannot be opened there.
    fn open_range(&self, range: Range<u64>) -> io::Result<Box<dyn io::Read + Send>>;
}

/// Takes the bytes of a blob in order.
///
/// Who writes also verifies digest and size; a sink that is dropped without its owner's commit leaves nothing.
pub trait BlobSink: Send {
    /// Takes the next bytes, all of them.
    ///
    /// # Errors
    /// When they cannot be kept; the transfer ends then.
    fn write(&mut self, chunk: &[u8]) -> io::Result<()>;

    /// Throws away what was written: the blob comes again, from its first byte, because what came was another.
    /// `false` when that cannot be done; the transfer ends then.
    ///
    /// # Errors
    /// When it should have been possible.
    fn restart(&mut self) -> io::Result<bool> {
        Ok(false)
    }
}

/// A blob in memory.
#[derive(Clone, Debug)]
pub struct MemoryBlob {
    descriptor: Descriptor,
    bytes: std::sync::Arc<[u8]>,
}

impl MemoryBlob {
    /// `bytes`, described as `descriptor`. Digest and size are not checked here.
    #[must_use]
    pub fn new(descriptor: Descriptor, bytes: impl Into<std::sync::Arc<[u8]>>) -> Self {
        Self { descriptor, bytes: bytes.into() }
    }
}

struct MemoryReader {
    bytes: std::sync::Arc<[u8]>,
    at: usize,
    end: usize,
}

impl io::Read for MemoryReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.bytes.get(self.at..self.end).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        for (out, byte) in buffer.iter_mut().zip(rest) {
            *out = *byte;
        }
        self.at += count;
        Ok(count)
    }
}

impl BlobSource for MemoryBlob {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn open_range(&self, range: Range<u64>) -> io::Result<Box<dyn io::Read + Send>> {
        let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.bytes.len());
        Ok(Box::new(MemoryReader {
            bytes: self.bytes.clone(),
            at: clamp(range.start),
            end: clamp(range.end),
        }))
    }
}

impl BlobSink for Vec<u8> {
    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.extend_from_slice(chunk);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<bool> {
        self.clear();
        Ok(true)
    }
}
