//! What a foreign layer may cost.

use crate::error::{Error, Result};

/// Limits on one layer. The defaults take every real image and stop a bomb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Budget {
    /// Bytes of the uncompressed stream.
    pub bytes: u64,
    /// Uncompressed bytes for each compressed one, beyond the first [`Self::RATIO_FREE`].
    pub ratio: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of one path or link target.
    pub path: u64,
    /// Components of one path.
    pub depth: u64,
    /// Bytes of one PAX header, attributes included.
    pub pax: u64,
    /// Extended attributes of one entry.
    pub xattrs: u64,
    /// Segments of one sparse file.
    pub segments: u64,
    /// Bytes of all holes of all sparse files together. They cost no disk, but they are hashed.
    pub holes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            bytes: 256 << 30,
            ratio: 200,
            entries: 4_000_000,
            path: 4_096,
            depth: 512,
            pax: 1 << 20,
            xattrs: 1_024,
            segments: 100_000,
            holes: 64 << 30,
        }
    }
}

impl Budget {
    /// Bytes that may come out of a compressed stream whatever the ratio: 128 MiB.
    pub const RATIO_FREE: u64 = 128 << 20;

    pub(crate) fn check(limit: u64, value: u64, unit: &'static str) -> Result<()> {
        if value > limit { Err(Error::Budget { limit, unit }) } else { Ok(()) }
    }

    /// `out` uncompressed bytes came of `read` compressed ones so far.
    pub(crate) fn check_ratio(&self, read: u64, out: u64) -> Result<()> {
        let allowed = Self::RATIO_FREE.saturating_add(read.saturating_mul(self.ratio));
        if out > allowed {
            return Err(Error::Budget { limit: self.ratio, unit: "times its compressed size" });
        }
        Ok(())
    }
}
