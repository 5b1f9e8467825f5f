//! Sparse files: where a file has bytes; everything between is zeros.
//!
//! ```text
//!  GNU    type S, four pairs in the header, 21 in each block that follows it
//!  PAX 0.0  GNU.sparse.size, numblocks, offset, numbytes, offset, numbytes, …
//!  PAX 0.1  GNU.sparse.size, numblocks, map=offset,numbytes,…
//!  PAX 1.0  GNU.sparse.major=1, minor=0, name, realsize; the map stands before the content, in decimal lines
//! ```
//!
//! Source: GNU tar manual, *Storing Sparse Files*.

use std::io::BufRead;

use super::TarReader;
use super::header::{BLOCK, Header, signed};
use super::pax::{Records, number};
use crate::budget::Budget;
use crate::error::{Error, Result};

/// Where a sparse file has bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The sum of the lengths of `segments` when they are ascending and inside a file of `size` bytes.
pub(super) fn check(segments: &[Segment], size: u64) -> Option<u64> {
    let (mut end, mut filled) = (0_u64, 0_u64);
    for segment in segments {
        if segment.offset < end {
            return None;
        }
        end = segment.offset.checked_add(segment.length)?;
        filled = filled.checked_add(segment.length)?;
    }
    (end <= size).then_some(filled)
}

type Map = (u64, Vec<Segment>);

impl<R: BufRead> TarReader<R> {
    pub(super) fn old_sparse(&mut self, header: &Header<'_>, path: &[u8]) -> Result<Map> {
        let bad = || Error::layer(path, "a malformed sparse map");
        if !header.is_gnu() {
            return Err(bad());
        }
        // Times of access and change, offset and long names belong to incremental archives.
        if header.field(345, 41).iter().any(|byte| *byte != 0) {
            return Err(Error::layer(path, "fields of an incremental GNU archive"));
        }
        let size = header.number(483, 12)?;
        let mut segments = Vec::new();
        let mut ended = pairs(header.field(386, 96), &mut segments).ok_or_else(bad)?;
        let mut more = header.field(482, 1) == [1];
        let frame = (self.left, self.padding);
        while more {
            let mut block = [0; BLOCK];
            if ended || !self.fill(&mut block)? {
                return Err(bad());
            }
            Budget::check(self.budget.segments, segments.len() as u64, "segments of a sparse file")?;
            ended = pairs(block.get(..504).unwrap_or_default(), &mut segments).ok_or_else(bad)?;
            more = block.get(504) == Some(&1);
        }
        (self.left, self.padding) = frame;
        Ok((size, segments))
    }

    /// The map that PAX records give, if they do.
    pub(super) fn pax_sparse(&mut self, pax: &mut Records, path: &[u8]) -> Result<Option<Map>> {
        let bad = || Error::layer(path, "a malformed sparse map");
        let version = (pax.number(b"GNU.sparse.major")?, pax.number(b"GNU.sparse.minor")?);
        let old_size = pax.number(b"GNU.sparse.size")?;
        let real_size = pax.number(b"GNU.sparse.realsize")?;
        let count = pax.number(b"GNU.sparse.numblocks")?;
        let list = pax.text(b"GNU.sparse.map")?;
        let pairs = std::mem::take(&mut pax.map);
        let map = match (version, old_size, real_size) {
            ((None, None), None, None) if count.is_none() && list.is_none() && pairs.is_empty() => {
                return Ok(None);
            }
            ((Some(1), Some(0)), None, Some(size))
                if count.is_none() && list.is_none() && pairs.is_empty() =>
            {
                (size, self.leading_map(path)?)
            }
            ((None, None) | (Some(0), Some(0 | 1)), Some(size), None) => {
                let numbers: Vec<u64> = match list {
                    Some(list) if pairs.is_empty() => {
                        list.split(|byte| *byte == b',').map(number).collect::<Option<_>>().ok_or_else(bad)?
                    }
                    None if pairs.iter().enumerate().all(|(at, (first, _))| *first == (at % 2 == 0)) => {
                        pairs.iter().map(|(_, text)| number(text)).collect::<Option<_>>().ok_or_else(bad)?
                    }
                    _ => return Err(bad()),
                };
                let segments = segments(&numbers).ok_or_else(bad)?;
                if count != Some(segments.len() as u64) {
                    return Err(bad());
                }
                (size, segments)
            }
            _ => return Err(bad()),
        };
        Budget::check(self.budget.segments, map.1.len() as u64, "segments of a sparse file")?;
        pax.refuse_sparse(path)?;
        Ok(Some(map))
    }

    /// The map in front of the content: a count, then offsets and lengths, each on a line; padded to whole blocks.
    fn leading_map(&mut self, path: &[u8]) -> Result<Vec<Segment>> {
        let bad = || Error::layer(path, "a malformed sparse map");
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        let mut wanted = None;
        while wanted != Some(numbers.len() as u64) {
            let mut block = [0; BLOCK];
            self.content_exact(&mut block)?;
            for byte in block {
                if wanted == Some(numbers.len() as u64) {
                    break;
                }
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(bad());
                    }
                    continue;
                }
                let value = number(&line).ok_or_else(bad)?;
                line.clear();
                if wanted.is_none() {
                    Budget::check(self.budget.segments, value, "segments of a sparse file")?;
                    wanted = Some(value * 2);
                } else {
                    numbers.push(value);
                }
            }
        }
        segments(&numbers).ok_or_else(bad)
    }
}

fn segments(numbers: &[u64]) -> Option<Vec<Segment>> {
    let pairs = numbers.chunks(2).map(|pair| match pair {
        [offset, length] => Some(Segment { offset: *offset, length: *length }),
        _ => None,
    });
    pairs.collect()
}

/// Pairs of twelve-byte numbers; `true` when an empty one ended the list. After that, nothing may follow.
fn pairs(field: &[u8], segments: &mut Vec<Segment>) -> Option<bool> {
    let mut ended = false;
    for pair in field.chunks_exact(24) {
        let (offset, length) = pair.split_at(12);
        if offset.first() == Some(&0) || length.first() == Some(&0) {
            if pair.iter().any(|byte| *byte != 0) {
                return None;
            }
            ended = true;
            continue;
        }
        if ended {
            return None;
        }
        let value = |field| signed(field).and_then(|value| u64::try_from(value).ok());
        segments.push(Segment { offset: value(offset)?, length: value(length)? });
    }
    Some(ended)
}
