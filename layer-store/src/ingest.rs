//! Blobs on their way in: hashed while they are written, kept when digest and size are right.
//!
//! An ingest that can be resumed writes to `partial/<digest>`, which outlives the transaction and the process; it is
//! flocked by whoever writes it. Going on reads what is there and hashes it: what a power cut made of it cannot pass
//! for the blob. Partial blobs that nobody holds go with [`Store::gc`](crate::Store::gc), by age where
//! [`GcPolicy`](crate::GcPolicy) says so.

use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;

use image_core::{Algorithm, BlobSink, Descriptor, Digest, Digester, MediaType};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::arrival::Arrival;
use crate::blob::file_name;
use crate::disk::{Dir, unique};
use crate::error::{Error, Result};
use crate::store::Places;

/// Takes the bytes of one blob; [`Self::finish`] verifies and keeps it.
///
/// Dropped before, it leaves nothing, or what came so far when it can be resumed.
#[derive(Debug)]
pub struct Ingest {
    expected: Option<Descriptor>,
    media_type: MediaType,
    digester: Digester,
    size: u64,
    file: Arc<std::fs::File>,
    name: String,
    /// Where the file is, and where the blob goes.
    place: Dir,
    staging: Dir,
    offset: u64,
    /// What to do with the file when this is dropped.
    end: End,
    /// Who reads along.
    arrival: Option<Arc<Arrival>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Remove,
    KeepPartial,
    Kept,
}

impl Ingest {
    /// `expected`: what the bytes must turn out to be.
    pub(crate) fn new(staging: Dir, expected: Option<Descriptor>, media_type: MediaType) -> Result<Self> {
        let name = format!("part-{}", unique());
        let file = Arc::new(staging.create(&name)?);
        let algorithm =
            expected.as_ref().map_or(Algorithm::Sha256, |descriptor| descriptor.digest.algorithm());
        let digester = Digester::new(algorithm);
        let (place, offset, end) = (staging.clone(), 0, End::Remove);
        let (size, arrival) = (0, None);
        Ok(Self { expected, media_type, digester, size, file, name, place, staging, offset, end, arrival })
    }

    /// As [`Self::new`] with nothing expected; the digest will be by `algorithm`.
    pub(crate) fn by(staging: Dir, algorithm: Algorithm, media_type: MediaType) -> Result<Self> {
        let mut ingest = Self::new(staging, None, media_type)?;
        ingest.digester = Digester::new(algorithm);
        Ok(ingest)
    }

    /// Goes on with what is at `partial/`; begins there when nothing is. When another process is at the same blob, this
    /// one begins anew beside it and cannot be resumed.
    pub(crate) fn resume(places: &Places, staging: Dir, expected: &Descriptor) -> Result<Self> {
        let name = file_name(&expected.digest);
        let place = places.partial.clone();
        // Under the shared lock: a sweep must not take the file between its opening and its lock.
        let guard = crate::lease::guard(&places.root, FlockOperation::LockShared)?;
        let locked = loop {
            match place.lock(&name, FlockOperation::NonBlockingLockExclusive) {
                // Between its opening and its lock somebody finished the blob or gave it up, and the name may be
                // another's by now: what is verified here must be what is renamed at the end.
                Ok(fd) if !place.is(&name, &fd) => {}
                locked => break locked,
            }
        };
        drop(guard);
        let mut file = match locked {
            Ok(fd) => std::fs::File::from(fd),
            Err(Errno::WOULDBLOCK) => {
                return Self::new(staging, Some(expected.clone()), expected.media_type.clone());
            }
            Err(errno) => return Err(Error::io("lock", place.at(&name))(errno)),
        };
        let fail = |source| Error::Io { action: "read", path: place.at(&name), source };
        let mut digester = Digester::new(expected.digest.algorithm());
        let mut offset = crate::snapshot::digest_into(&mut file, &mut digester).map_err(fail)?;
        let is_wrong = offset == expected.size && digester.clone().finish() != expected.digest;
        if offset > expected.size || is_wrong {
            file.set_len(0).map_err(fail)?;
            file.seek(SeekFrom::Start(0)).map_err(fail)?;
            (offset, digester) = (0, Digester::new(expected.digest.algorithm()));
        }
        Ok(Self {
            expected: Some(expected.clone()),
            media_type: expected.media_type.clone(),
            digester,
            size: offset,
            file: Arc::new(file),
            name,
            place,
            staging,
            offset,
            end: End::KeepPartial,
            arrival: None,
        })
    }

    /// How many bytes were there when it began: the next byte to write is that one.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// A digester that has seen all bytes so far, for whoever verifies the rest on its way here.
    #[must_use]
    pub fn digester(&self) -> Digester {
        self.digester.clone()
    }

    /// What the bytes must turn out to be.
    pub(crate) const fn expected(&self) -> Option<&Descriptor> {
        self.expected.as_ref()
    }

    /// Tells `arrival` of every byte from now on.
    pub(crate) fn tell(&mut self, arrival: Arc<Arrival>) {
        arrival.reach(&self.file, self.size);
        self.arrival = Some(arrival);
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
        let digester = std::mem::replace(&mut self.digester, Digester::new(Algorithm::Sha256));
        let digest = digester.finish();
        let is_short = self.expected.as_ref().is_some_and(|expected| self.size < expected.size);
        // What has all its bytes and is something else is no beginning of the blob.
        let end = std::mem::replace(&mut self.end, End::Remove);
        if is_short {
            self.end = end;
        }
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
            self.place.rename(&self.name, &self.staging, &file_name(&digest))?;
            self.end = End::Kept;
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
        self.file.as_ref().write_all(data)?;
        self.size = size;
        if let Some(arrival) = &self.arrival {
            arrival.reach(&self.file, size);
        }
        self.digester.update(data);
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

    fn restart(&mut self) -> std::io::Result<bool> {
        // Who reads along has read it.
        if self.arrival.is_some() {
            return Ok(false);
        }
        self.file.set_len(0)?;
        self.file.as_ref().seek(SeekFrom::Start(0))?;
        self.digester = Digester::new(self.digester.algorithm());
        (self.size, self.offset) = (0, 0);
        Ok(true)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.end != End::Kept
            && let Some(arrival) = &self.arrival
        {
            arrival.fail();
        }
        if self.end == End::Remove || (self.end == End::KeepPartial && self.size == 0) {
            // Best effort: what stays goes with the transaction's staging directory, or with the next gc.
            drop(self.place.unlink(&self.name));
        }
    }
}
