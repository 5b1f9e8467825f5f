//! What came of a batch.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::batch::CallId;
use crate::launch::Served;
use crate::plan::wire::Call;

/// Size of `struct statx`.
pub(super) const STATX: usize = 256;

/// A batch in the helper's format.
pub(super) struct Encoded<'a> {
    pub(super) bytes: Vec<u8>,
    pub(super) given: Vec<BorrowedFd<'a>>,
    pub(super) calls: u32,
    /// Length of the records, which are answered in place.
    pub(super) records: usize,
    /// Call, place in the memory and length of each answer.
    pub(super) rooms: Vec<(usize, usize, usize)>,
}

impl Encoded<'_> {
    /// Reads the answers from what the memory holds now.
    pub(super) fn outcome(
        self,
        served: Served,
        records: &[u8],
        read: impl Fn(usize, usize) -> io::Result<Vec<u8>>,
    ) -> io::Result<Outcome> {
        let Served { failure, fds } = served;
        let done = failure.map_or(self.calls, |(at, _)| at) as usize;
        let results: Vec<i64> = records.chunks_exact(size_of::<Call>()).take(done).map(result_in).collect();
        let mut answers = Vec::with_capacity(self.rooms.len());
        for (call, at, length) in self.rooms {
            // A length for the calls that give one; statx answers with 0 and fills its room.
            let Some(result) = results.get(call).and_then(|result| usize::try_from(*result).ok()) else {
                continue;
            };
            let used = if length == STATX { STATX } else { result.min(length) };
            answers.push((call, read(at, used)?));
        }
        let failure = failure.map(|(at, errno)| (CallId(at as usize), io::Error::from_raw_os_error(errno)));
        Ok(Outcome { results, failure, fds, answers })
    }
}

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    results: Vec<i64>,
    failure: Option<(CallId, io::Error)>,
    fds: Vec<OwnedFd>,
    /// By call, ascending.
    answers: Vec<(usize, Vec<u8>)>,
}

impl Outcome {
    /// The call that ended the batch early, and why.
    #[must_use]
    pub fn failure(&self) -> Option<(CallId, &io::Error)> {
        self.failure.as_ref().map(|(call, error)| (*call, error))
    }

    /// What `call` answered: a length or 0; an error when it failed or was not reached.
    ///
    /// # Errors
    /// The kernel's.
    pub fn result(&self, call: CallId) -> io::Result<u64> {
        match self.results.get(call.0) {
            Some(result) => u64::try_from(*result)
                .map_err(|_| io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO))),
            None => match &self.failure {
                Some((at, error)) if *at == call => Err(error
                    .raw_os_error()
                    .map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error)),
                _ => Err(io::Error::from_raw_os_error(libc::ECANCELED)),
            },
        }
    }

    /// The descriptors that were handed back, in the order of their calls. A second time there are none.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// The bytes that `call` gave; none when it failed.
    #[must_use]
    pub fn bytes(&self, call: CallId) -> Option<&[u8]> {
        let at = self.answers.binary_search_by_key(&call.0, |(call, _)| *call).ok()?;
        self.answers.get(at).map(|(_, bytes)| bytes.as_slice())
    }

    /// The answer of [`FileBatch::stat`](crate::FileBatch::stat).
    #[must_use]
    pub fn stat(&self, call: CallId) -> Option<FileStat> {
        self.bytes(call).and_then(FileStat::parse)
    }

    /// The answer of [`FileBatch::list`](crate::FileBatch::list), without `.` and `..`; empty at the end of the directory.
    #[must_use]
    pub fn names(&self, call: CallId) -> Vec<DirectoryEntry> {
        let mut rest = self.bytes(call).unwrap_or_default();
        let mut found = Vec::new();
        // `struct linux_dirent64`: inode, offset, length of the record, type, name with a zero behind.
        while let Some(length) = number::<2>(rest, 16).map(|bytes| usize::from(u16::from_ne_bytes(bytes))) {
            let Some(record) = rest.get(..length).filter(|record| record.len() > 19) else { break };
            let name = record.get(19..).unwrap_or_default();
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            if !matches!(name, b"." | b"..") {
                let kind = record.get(18).copied().unwrap_or(0);
                let directory = match kind {
                    libc::DT_UNKNOWN => None,
                    kind => Some(kind == libc::DT_DIR),
                };
                found.push(DirectoryEntry { name: name.to_vec(), directory });
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        found
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DirectoryEntry {
    /// The name.
    pub name: Vec<u8>,
    /// Whether it is a directory; not every filesystem says so.
    pub directory: Option<bool>,
}

/// What a file is, with ids of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileStat {
    /// `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// Inode.
    pub inode: u64,
    /// Names of it.
    pub links: u64,
    /// Device number of a device.
    pub rdev: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl FileStat {
    /// From a `struct statx`.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let u16_at = |at| number::<2>(bytes, at).map(u16::from_ne_bytes);
        let u32_at = |at| number::<4>(bytes, at).map(u32::from_ne_bytes);
        let u64_at = |at| number::<8>(bytes, at).map(u64::from_ne_bytes);
        Some(Self {
            links: u32_at(16)?.into(),
            uid: u32_at(20)?,
            gid: u32_at(24)?,
            mode: u16_at(28)?.into(),
            inode: u64_at(32)?,
            size: u64_at(40)?,
            blocks: u64_at(48)?,
            mtime: (u64_at(112)?.cast_signed(), u32_at(120)?),
            rdev: libc::makedev(u32_at(128)?, u32_at(132)?),
        })
    }
}

/// The result in a record that the helper has worked off.
fn result_in(record: &[u8]) -> i64 {
    number::<8>(record, std::mem::offset_of!(Call, result)).map_or(-i64::from(libc::EIO), i64::from_ne_bytes)
}
