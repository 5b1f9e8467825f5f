//! What is in a tar file, entry by entry, without unpacking it.

use std::io::{BufReader, Read};

use image_core::{Algorithm, Digester};

use super::{Member, TarReader, Type};
use crate::budget::Budget;
use crate::error::Result;
use crate::index::{Entry, Kind};

const ZEROS: [u8; 4_096] = [0; 4_096];

/// Every entry of the plain tar stream `source` in its order, with its path as it stands there and the digest of its
/// content. Whiteouts are entries of their names here.
///
/// # Errors
/// Whatever unpacking the stream would refuse for its bytes: [`crate::Error::Layer`], [`crate::Error::Budget`],
/// [`crate::Error::Stream`].
pub fn list(source: impl Read, budget: Budget) -> Result<Vec<(Vec<u8>, Entry)>> {
    let mut reader = TarReader::new(BufReader::with_capacity(128 << 10, source), budget);
    let mut found = Vec::new();
    while let Some(member) = reader.next()? {
        let kind = match &member.kind {
            Type::File => sum(&mut reader, &member)?,
            Type::Link(target) => Kind::Hardlink { target: target.clone() },
            Type::Symlink(target) => Kind::Symlink { target: target.clone() },
            Type::Char(device) => Kind::CharDevice(*device),
            Type::Block(device) => Kind::BlockDevice(*device),
            Type::Directory => Kind::Directory { opaque: false },
            Type::Fifo => Kind::Fifo,
        };
        let Member { path, mode, uid, gid, mtime, xattrs, .. } = member;
        found.push((path, Entry { kind, mode, uid, gid, mtime, xattrs }));
    }
    reader.finish()?;
    Ok(found)
}

fn sum<R: std::io::BufRead>(reader: &mut TarReader<R>, member: &Member) -> Result<Kind> {
    let mut digester = Digester::new(Algorithm::Sha256);
    let zeros = |digester: &mut Digester, mut count: u64| {
        while count > 0 {
            let part = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
            digester.update(ZEROS.get(..part).unwrap_or_default());
            count -= part as u64;
        }
    };
    let whole = [super::Segment { offset: 0, length: member.size }];
    let mut at = 0;
    for segment in member.segments.as_deref().unwrap_or(&whole) {
        zeros(&mut digester, segment.offset - at);
        let mut left = segment.length;
        while left > 0 {
            let found = reader.content(left)?;
            digester.update(found);
            let count = found.len();
            reader.consume(count);
            left -= count as u64;
        }
        at = segment.offset + segment.length;
    }
    zeros(&mut digester, member.size - at);
    Ok(Kind::File { size: member.size, digest: digester.finish() })
}
