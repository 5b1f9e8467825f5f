//! Blobs: bytes by digest, as they came or as they go out.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use image_core::{BlobSource, Descriptor, Digest, Digester};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

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
        let file = self.open_blob(&name)?;
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
        let name = file_name(digest);
        self.blob_shelves().any(|blobs| blobs.exists(&name))
    }

    pub(crate) fn open_blob(&self, name: &str) -> Result<Option<std::fs::File>> {
        self.search(&self.places.blobs, |shelf| &shelf.blobs, |blobs| blobs.open(name))
    }

    /// All bytes of a small blob, verified.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::DigestMismatch`] when the file was damaged.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let name = file_name(digest);
        let bytes = self.search(&self.places.blobs, |shelf| &shelf.blobs, |blobs| blobs.read(&name))?;
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
        let mut known: Vec<Encoding> = Vec::new();
        for dir in self.shelves(&self.places.encodings, |shelf| &shelf.encodings) {
            let found: Option<Vec<Encoding>> = dir.read_json(&file_name(diff_id.digest()))?;
            for encoding in found.unwrap_or_default() {
                if !known.iter().any(|other| other.blob.digest == encoding.blob.digest) {
                    known.push(encoding);
                }
            }
        }
        known.retain(|encoding| self.has_blob(&encoding.blob.digest));
        Ok(known)
    }

    pub(crate) fn add_encoding(&self, diff_id: &image_core::DiffId, encoding: &Encoding) -> Result<()> {
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockShared)?;
        let _alone = crate::lease::alone(&self.places.encodings)?;
        let mut known = self.encodings(diff_id)?;
        remember(&mut known, encoding);
        self.places.encodings.replace_json(&file_name(diff_id.digest()), &known)
    }
}

/// Makes `encoding` the newest of `known`, which has each blob once.
pub(crate) fn remember(known: &mut Vec<Encoding>, encoding: &Encoding) {
    known.retain(|other| other.blob.digest != encoding.blob.digest);
    known.push(encoding.clone());
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
