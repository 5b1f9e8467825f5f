//! Blobs: bytes by digest, as they came or as they go out.

use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;

use image_core::{BlobSink, BlobSource, Descriptor, Digest, Digester, MediaType};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::store::Store;

/// The name of a blob's file: `sha256-9f86…`.
pub(crate) fn file_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// How a layer's tar stream was encoded once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Encoding {
    /// The encoded blob.
    pub blob: Descriptor,
    /// Which encoder made it: our own by name, or `as pulled`.
    pub encoder: String,
}

impl Store {
    /// A blob to read; its digest is checked by whoever needs to, see [`BlobSource`].
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn blob(&self, descriptor: &Descriptor) -> Result<StoredBlob> {
        let name = file_name(&descriptor.digest);
        let file = self.places.blobs.open(&name)?;
        let file =
            file.ok_or_else(|| Error::NotFound { kind: "blob", name: descriptor.digest.to_string() })?;
        let size = file
            .metadata()
            .map_err(|source| Error::Io { action: "stat", path: self.places.blobs.at(&name), source })?
            .len();
        let mut descriptor = descriptor.clone();
        descriptor.size = size;
        Ok(StoredBlob { descriptor, file })
    }

    /// The blob is in the store.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.places.blobs.exists(&file_name(digest))
    }

    /// All bytes of a small blob, verified.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::DigestMismatch`] when the file was damaged.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let name = file_name(digest);
        let bytes = self.places.blobs.read(&name)?;
        let bytes = bytes.ok_or_else(|| Error::NotFound { kind: "blob", name: digest.to_string() })?;
        let actual = Digest::of(digest.algorithm(), &bytes);
        if actual != *digest {
            let what = self.places.blobs.at(&name).display().to_string();
            return Err(Error::DigestMismatch {
                what,
                expected: digest.to_string(),
                actual: actual.to_string(),
            });
        }
        Ok(bytes)
    }

    /// How the layer `diff_id` was encoded before, newest last.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn encodings(&self, diff_id: &image_core::DiffId) -> Result<Vec<Encoding>> {
        let known: Option<Vec<Encoding>> = self.places.encodings.read_json(&file_name(diff_id.digest()))?;
        let mut known = known.unwrap_or_default();
        known.retain(|encoding| self.has_blob(&encoding.blob.digest));
        Ok(known)
    }

    pub(crate) fn add_encoding(&self, diff_id: &image_core::DiffId, encoding: Encoding) -> Result<()> {
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockShared)?;
        let mut known = self.encodings(diff_id)?;
        known.retain(|other| other.blob.digest != encoding.blob.digest);
        known.push(encoding);
        self.places.encodings.replace_json(&file_name(diff_id.digest()), &known)
    }
}

/// A blob of the store, open.
#[derive(Debug)]
pub struct StoredBlob {
    descriptor: Descriptor,
    file: std::fs::File,
}

impl StoredBlob {
    /// A reader of all its bytes that fails at the end when they do not have the digest.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn verified(&self) -> std::io::Result<impl Read + Send + use<>> {
        let inner = self.open_range(0..self.descriptor.size)?;
        let digester = Some(Digester::new(self.descriptor.digest.algorithm()));
        Ok(Verified { inner, digester, expected: self.descriptor.digest })
    }
}

impl BlobSource for StoredBlob {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn open_range(&self, range: Range<u64>) -> std::io::Result<Box<dyn Read + Send>> {
        // A descriptor of its own, so that readers do not share a position.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file));
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(range.start))?;
        Ok(Box::new(file.take(range.end.saturating_sub(range.start))))
    }
}

struct Verified<R> {
    inner: R,
    digester: Option<Digester>,
    expected: Digest,
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count > 0 {
            if let Some(digester) = &mut self.digester {
                digester.update(buffer.get(..count).unwrap_or_default());
            }
        } else if let Some(digester) = self.digester.take()
            && !buffer.is_empty()
        {
            let actual = digester.finish();
            if actual != self.expected {
                let message = format!("the blob {} was damaged on disk: it is {actual}", self.expected);
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, message));
            }
        }
        Ok(count)
    }
}

/// Takes the bytes of one blob; [`Self::finish`] verifies and keeps it. Dropped before, it leaves nothing.
#[derive(Debug)]
pub struct Ingest {
    expected: Option<Descriptor>,
    media_type: MediaType,
    digester: Digester,
    size: u64,
    file: std::fs::File,
    name: String,
    staging: Dir,
    done: bool,
}

impl Ingest {
    /// `expected`: what the bytes must turn out to be.
    pub(crate) fn new(staging: Dir, expected: Option<Descriptor>, media_type: MediaType) -> Result<Self> {
        let name = format!("part-{}", crate::disk::unique());
        let file = staging.create(&name)?;
        let algorithm = expected
            .as_ref()
            .map_or(image_core::Algorithm::Sha256, |descriptor| descriptor.digest.algorithm());
        Ok(Self {
            expected,
            media_type,
            digester: Digester::new(algorithm),
            size: 0,
            file,
            name,
            staging,
            done: false,
        })
    }

    /// Verifies digest and size and keeps the blob with the transaction.
    ///
    /// # Errors
    /// [`Error::SizeMismatch`], [`Error::DigestMismatch`].
    pub fn finish(self) -> Result<Descriptor> {
        self.finish_if(|_| true).map(|(descriptor, _)| descriptor)
    }

    /// As [`Self::finish`], but the blob is kept only if `wanted` says so of its digest.
    pub(crate) fn finish_if(mut self, wanted: impl FnOnce(&Digest) -> bool) -> Result<(Descriptor, bool)> {
        let digester = std::mem::replace(&mut self.digester, Digester::new(image_core::Algorithm::Sha256));
        let digest = digester.finish();
        if let Some(expected) = &self.expected {
            let what = format!("blob {}", expected.digest);
            if expected.size != self.size {
                return Err(Error::SizeMismatch { what, expected: expected.size, actual: self.size });
            }
            if expected.digest != digest {
                return Err(Error::DigestMismatch {
                    what,
                    expected: expected.digest.to_string(),
                    actual: digest.to_string(),
                });
            }
        }
        let kept = wanted(&digest);
        if kept {
            self.staging.rename(&self.name, &self.staging, &file_name(&digest))?;
            self.done = true;
        }
        let descriptor = match self.expected.take() {
            Some(expected) => expected,
            None => Descriptor::new(self.media_type.clone(), digest, self.size),
        };
        Ok((descriptor, kept))
    }
}

impl Write for Ingest {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let size = self.size + data.len() as u64;
        if let Some(expected) = &self.expected
            && size > expected.size
        {
            return Err(std::io::Error::other(format!("more bytes than the {} promised", expected.size)));
        }
        self.file.write_all(data)?;
        self.digester.update(data);
        self.size = size;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl BlobSink for Ingest {
    fn write(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        self.write_all(chunk)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: what stays goes with the transaction's staging directory.
            drop(self.staging.unlink(&self.name));
        }
    }
}
