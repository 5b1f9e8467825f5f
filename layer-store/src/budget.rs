//! What a foreign layer may cost.

use crate::error::{Error, Result};

/// Limits on one layer. The defaults take every real image and stop a bomb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Budget {
    /// Bytes of the uncompressed stream.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of one path or link target.
    pub path: u64,
    /// Components of one path.
    pub depth: u64,
    /// Bytes of one PAX header, attributes included.
    pub pax: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: 256 << 30, entries: 4_000_000, path: 4_096, depth: 512, pax: 1 << 20 }
    }
}

impl Budget {
    pub(crate) fn check(limit: u64, value: u64, unit: &'static str) -> Result<()> {
        if value > limit { Err(Error::Budget { limit, unit }) } else { Ok(()) }
    }
}
