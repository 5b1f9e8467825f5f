//! Cache mounts: directories that builds keep for themselves (`RUN --mount=type=cache`).
//!
//! ```text
//!  mounts/<sha256 of id>/record.json   id, when it was made and last used, how often
//!                        0/  1/  …     data/ and lock: shared and locked use 0; private takes the first free one
//! ```
//!
//! Who uses one holds a lock (flock), which dies with its process. Nothing removes one that is held.

use std::io::{BufWriter, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use image_core::{Algorithm, Descriptor, DiffId, Digest, Digester, Timestamp};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::compress::GzipWriter;
use crate::disk::{Dir, unique};
use crate::encode::Encoder;
use crate::error::{Error, Result};
use crate::pack::pack;
use crate::store::Store;
use crate::transaction::Transaction;
use crate::view::View;

const RECORD: &str = "record.json";
const LOCK: &str = "lock";
const DATA: &str = "data";
/// How many private directories one cache may have.
const PRIVATE: usize = 64;
const BUFFER: usize = 256 << 10;

/// Who may use a cache mount at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// Everybody.
    #[default]
    Shared,
    /// Each use has a directory of its own; a free one is taken again.
    Private,
    /// One after the other.
    Locked,
}

/// What the store knows of a cache mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CacheMountRecord {
    /// By what it is found.
    pub id: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last used.
    pub used: Timestamp,
    /// How often.
    pub uses: u64,
}

/// A cache mount in use.
#[derive(Debug)]
pub struct CacheMount {
    data: Dir,
    fresh: bool,
    _lock: OwnedFd,
}

impl CacheMount {
    /// Its directory, open, to be mounted.
    ///
    /// # Errors
    /// [`Error::Io`] when there are no descriptors left.
    pub fn directory(&self) -> Result<OwnedFd> {
        crate::snapshot::duplicate(self.data.as_fd())
    }

    /// Its directory by path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    /// It was made by this call: owner, mode and first content (`from`, `uid`, `gid`, `mode`) are to be set.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.fresh
    }
}

impl Transaction {
    /// What is in a cache mount, as a layer that leaves the store: its blob, and the digest of its tar stream.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Stream`]; also when somebody changes a file while it is read.
    pub fn pack_cache_mount(&self, mount: &CacheMount) -> Result<(Descriptor, DiffId)> {
        let authority = self.store().authority();
        let (entries, _) = crate::snapshot::read_tree(&mount.data, &View::default(), authority)?;
        let fail = |source| Error::Stream { format: "gzip", source };
        let ingest = BufWriter::with_capacity(BUFFER, self.ingest_unknown(Encoder::Gzip.media_type())?);
        let mut out =
            Summed { inner: GzipWriter::new(ingest).map_err(fail)?, sum: Digester::new(Algorithm::Sha256) };
        pack(&entries, mount.data.as_fd(), authority, &mut out, false).map_err(fail)?;
        let ingest = out.inner.finish().map_err(fail)?;
        let ingest = ingest.into_inner().map_err(|error| fail(error.into_error()))?;
        Ok((ingest.finish()?, DiffId::new(out.sum.finish())))
    }
}

/// Sums what passes through.
struct Summed<W> {
    inner: W,
    sum: Digester,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(data)?;
        self.sum.update(data.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl Store {
    /// The cache mount `id`, made when it is not there. `None`: it is `Locked` and somebody has it; try again later,
    /// so that a caller can be cancelled while it waits.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn try_cache_mount(&self, id: &str, sharing: Sharing, now: Timestamp) -> Result<Option<CacheMount>> {
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockShared)?;
        let dir = self.places.mounts.make_dir(&Digest::sha256(id.as_bytes()).hex(), 0o700)?;
        let known = dir.read_json::<CacheMountRecord>(RECORD)?;
        let mut record =
            known.unwrap_or_else(|| CacheMountRecord { id: id.to_owned(), created: now, used: now, uses: 0 });
        (record.used, record.uses) = (now, record.uses + 1);
        let (operation, slots) = match sharing {
            Sharing::Shared => (FlockOperation::NonBlockingLockShared, 1),
            Sharing::Locked => (FlockOperation::NonBlockingLockExclusive, 1),
            Sharing::Private => (FlockOperation::NonBlockingLockExclusive, PRIVATE),
        };
        for slot in 0..slots {
            let place = dir.make_dir(&slot.to_string(), 0o700)?;
            match place.lock(LOCK, operation) {
                Ok(lock) => {
                    let fresh = !place.exists(DATA);
                    let data = place.make_dir(DATA, 0o755)?;
                    dir.replace_json(RECORD, &record)?;
                    return Ok(Some(CacheMount { data, fresh, _lock: lock }));
                }
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(Error::io("lock", place.at(LOCK))(errno)),
            }
        }
        Ok(None)
    }

    /// The cache mount `id` as it is, for reading beside others. `None`: somebody has it alone.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none, or nobody has used it yet.
    pub fn try_open_cache_mount(&self, id: &str) -> Result<Option<CacheMount>> {
        let missing = |_| Error::NotFound { kind: "cache mount", name: id.to_owned() };
        let name = format!("{}/0", Digest::sha256(id.as_bytes()).hex());
        let place = self.places.mounts.dir(&name).map_err(missing)?;
        match place.lock(LOCK, FlockOperation::NonBlockingLockShared) {
            Ok(lock) => {
                let data = place.dir(DATA).map_err(missing)?;
                Ok(Some(CacheMount { data, fresh: false, _lock: lock }))
            }
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(Error::io("lock", place.at(LOCK))(errno)),
        }
    }

    /// All cache mounts with the bytes that each takes on disk.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn cache_mounts(&self) -> Result<Vec<(CacheMountRecord, u64)>> {
        let mut found = Vec::new();
        for name in self.places.mounts.names()? {
            let Ok(dir) = self.places.mounts.dir(&name) else { continue };
            if let Some(record) = dir.read_json(RECORD)? {
                found.push((record, dir.disk_usage()?));
            }
        }
        Ok(found)
    }

    /// Removes the cache mount `id` and gives the bytes that it took on disk.
    ///
    /// # Errors
    /// [`Error::InUse`] while somebody holds it; [`Error::NotFound`].
    pub fn remove_cache_mount(&self, id: &str) -> Result<u64> {
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockExclusive)?;
        let name = Digest::sha256(id.as_bytes()).hex();
        let missing = |_| Error::NotFound { kind: "cache mount", name: id.to_owned() };
        let dir = self.places.mounts.dir(&name).map_err(missing)?;
        let mut locks = Vec::new();
        for slot in dir.names()?.into_iter().filter(|slot| slot != RECORD) {
            match dir.dir(&slot)?.lock(LOCK, FlockOperation::NonBlockingLockExclusive) {
                Ok(lock) => locks.push(lock),
                Err(Errno::WOULDBLOCK) => {
                    let by = "a build".to_owned();
                    return Err(Error::InUse { kind: "cache mount", name: id.to_owned(), by });
                }
                Err(errno) => return Err(Error::io("lock", dir.at(&slot))(errno)),
            }
        }
        let size = dir.disk_usage()?;
        let doomed = format!("{name}-{}", unique());
        self.places.mounts.rename(&name, &self.places.trash, &doomed)?;
        self.places.mounts.sync()?;
        self.places.trash.remove_tree(&doomed)?;
        Ok(size)
    }
}
