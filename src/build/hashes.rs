//! Digests of context files that were read before, so that an unchanged context is not read again.
//!
//! A digest is trusted only when device, inode, size, mtime *and ctime* are those of the time when the file was read,
//! and when the file had already been left alone for a while then: a change that comes within the file system's
//! resolution of time would not move the ctime. Nobody can set a ctime back, so a file that was replaced by one of the
//! same size and mtime is always read again.
//!
//! One file for each context directory, rewritten by rename when something new was read. Numbers are little-endian:
//!
//! ```text
//!  <state>/contexts/<sha256 of the path>
//!
//!   8  "coopctx2"
//!   …  device 8 │ inode 8 │ size 8 │ mtime 8, ns 4 │ ctime 8, ns 4 │ sha256 32       for each file
//!  32  sha256 of all that is before it
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use image_core::{Algorithm, Digest};
use rustix::fs::Statx;

const MAGIC: &[u8; 8] = b"coopctx2";
/// Bytes of one file, and of a digest.
const RECORD: usize = 80;
const SUM: usize = 32;
/// How long a file must have been left alone when it is read. Far above the resolution of any file system's times.
const SETTLED: Duration = Duration::from_secs(2);
/// The largest file of digests that is read, in bytes.
const LIMIT: u64 = 256 << 20;

/// What identifies the content of a file on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    device: u64,
    inode: u64,
    size: u64,
    mtime: Time,
    ctime: Time,
}

/// Seconds and nanoseconds since 1970.
type Time = (i64, u32);

impl Stat {
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn of(stat: &Statx) -> Self {
        Self {
            device: (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        }
    }

    /// Two names with the same identity are one file.
    pub(super) const fn identity(self) -> Identity {
        (self.device, self.inode)
    }

    fn is_settled(self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let settled = i64::try_from(now.saturating_sub(SETTLED.as_secs())).unwrap_or(0);
        self.ctime.0 < settled
    }
}

/// Size, mtime, ctime, and the digest.
#[derive(Clone, Copy, Debug)]
struct Known(u64, Time, Time, Digest);

/// Device and inode.
type Identity = (u64, u64);

/// The next `N` bytes of `bytes`.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (found, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*found)
}

fn time(bytes: &mut &[u8]) -> Option<Time> {
    Some((i64::from_le_bytes(take(bytes)?), u32::from_le_bytes(take(bytes)?)))
}

fn record(mut bytes: &[u8]) -> Option<(Identity, Known)> {
    let mut number = || take(&mut bytes).map(u64::from_le_bytes);
    let (identity, size) = ((number()?, number()?), number()?);
    let (mtime, ctime) = (time(&mut bytes)?, time(&mut bytes)?);
    Some((identity, Known(size, mtime, ctime, Digest::from_bytes(Algorithm::Sha256, bytes)?)))
}

fn decode(bytes: &[u8]) -> Option<HashMap<Identity, (Known, bool)>> {
    let (known, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
    let records = known.strip_prefix(MAGIC)?;
    if Digest::sha256(known).as_bytes() != sum {
        return None;
    }
    records.chunks(RECORD).map(|bytes| record(bytes).map(|(name, known)| (name, (known, false)))).collect()
}

fn encode(files: BTreeMap<Identity, Known>) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    for ((device, inode), Known(size, mtime, ctime, digest)) in files {
        for number in [device, inode, size] {
            bytes.extend(number.to_le_bytes());
        }
        for (seconds, nanoseconds) in [mtime, ctime] {
            bytes.extend(seconds.to_le_bytes());
            bytes.extend(nanoseconds.to_le_bytes());
        }
        bytes.extend(digest.as_bytes());
    }
    let sum = Digest::sha256(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

/// The digests that are known for one context.
#[derive(Debug)]
pub(super) struct Hashes {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is known, and whether somebody asked for it: what nobody does is forgotten with the next write.
    files: HashMap<Identity, (Known, bool)>,
    fresh: bool,
}

impl Hashes {
    /// Those of the context at `context`. A file that cannot be read is as good as none.
    pub(super) fn load(state: &Path, context: &Path) -> Self {
        let absolute = std::path::absolute(context).unwrap_or_else(|_| context.to_owned());
        let name = Digest::sha256(absolute.as_os_str().as_encoded_bytes()).hex();
        let path = state.join("contexts").join(name);
        let files = super::read(&path, LIMIT).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { path, state: Mutex::new(State { files, fresh: false }) }
    }

    /// The digest of the file that looked like `stat`, if it is known.
    pub(super) fn find(&self, stat: Stat) -> Option<Digest> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, used) = state.files.get_mut(&stat.identity())?;
        if (known.0, known.1, known.2) != (stat.size, stat.mtime, stat.ctime) {
            return None;
        }
        *used = true;
        Some(known.3)
    }

    /// The file that looked like `stat` before and after it was read had this digest.
    pub(super) fn remember(&self, stat: Stat, digest: Digest) {
        if !stat.is_settled(SystemTime::now()) {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = Known(stat.size, stat.mtime, stat.ctime, digest);
        state.files.insert(stat.identity(), (known, true));
        state.fresh = true;
    }

    /// Writes down what is new. Losing it costs only time.
    pub(super) fn save(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut state.fresh) {
            return;
        }
        let used = state.files.iter().filter(|(_, (_, used))| *used);
        let bytes = encode(used.map(|(identity, (known, _))| (*identity, *known)).collect());
        drop(state);
        let write = || -> std::io::Result<()> {
            let directory = self.path.parent().unwrap_or(&self.path);
            std::fs::create_dir_all(directory)?;
            let temporary = directory.join(format!(".{}", std::process::id()));
            std::fs::write(&temporary, bytes)?;
            std::fs::rename(&temporary, &self.path)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "digests of the context are not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(ctime: i64) -> Stat {
        Stat { device: 1, inode: 2, size: 3, mtime: (4, 0), ctime: (ctime, 0) }
    }

    #[test]
    fn any_difference_forgets() {
        let dir = tempfile::tempdir().unwrap();
        let hashes = Hashes::load(dir.path(), Path::new("/nowhere"));
        let digest = Digest::sha256(b"x");
        hashes.remember(stat(5), digest);
        assert_eq!(hashes.find(stat(5)), Some(digest));
        assert_eq!(hashes.find(stat(6)), None);
        assert_eq!(hashes.find(Stat { size: 4, ..stat(5) }), None);
        hashes.save();
        let again = Hashes::load(dir.path(), Path::new("/nowhere"));
        assert_eq!(again.find(stat(5)), Some(digest));
        // One byte that is wrong, or is not there, and nothing is believed.
        let bytes = std::fs::read(&again.path).unwrap();
        assert_eq!(bytes.len(), 8 + RECORD + SUM);
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(decode(&wrong).is_none() && decode(&bytes[..at]).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_file_that_just_changed_is_not_trusted() {
        let hashes = Hashes::load(Path::new("/nowhere"), Path::new("/nowhere"));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let young = stat(i64::try_from(now).unwrap());
        hashes.remember(young, Digest::sha256(b"x"));
        assert_eq!(hashes.find(young), None);
    }
}
