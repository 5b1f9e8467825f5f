//! Files with their bytes, and devices.

use std::os::unix::fs::FileExt;

use image_core::{Algorithm, Digester};

use crate::authority::{Op, Owners, Reply};
use crate::error::{Error, Result};
use crate::index::{Entry, Kind};
use crate::tar_reader::Segment;

use super::{Degradation, Reader, Stream, Unpacking};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Unpacking<'_> {
    pub(super) fn whole_file(
        &mut self,
        parent: &[u8],
        path: &[u8],
        size: u64,
        entry: &mut Entry,
        reader: &mut Reader<'_>,
    ) -> Result<()> {
        let content = reader.whole(Stream::share)?;
        // The crew tells the digest later.
        entry.kind = Kind::File { size, digest: self.unknown };
        let stamp = entry.stamp(self.authority.owners() == Owners::True);
        let number = self.given;
        self.given = number.checked_add(1).ok_or_else(|| Error::layer(path, "too many files"))?;
        self.numbers.insert(path.to_vec(), number);
        let bytes = content.len();
        let at = reader.inner().position();
        self.crew.file(parent, Op::Put(path.to_vec(), content, stamp), number, bytes, at)
    }

    pub(super) fn large_file(
        &mut self,
        path: &[u8],
        size: u64,
        segments: Option<Vec<Segment>>,
        reader: &mut Reader<'_>,
    ) -> Result<Kind> {
        let io = |source| Error::Io {
            action: "write",
            path: String::from_utf8_lossy(path).into_owned().into(),
            source,
        };
        let file = self.new_file(path)?;
        let mut digester = Digester::new(Algorithm::Sha256);
        let is_sparse = segments.is_some();
        let segments = segments.unwrap_or_else(|| vec![Segment { offset: 0, length: size }]);
        let mut at = 0;
        for segment in segments {
            holes(&mut digester, segment.offset - at);
            at = segment.offset;
            let end = segment.offset + segment.length;
            while at < end {
                let found = reader.content(end - at)?;
                digester.update(found);
                file.write_all_at(found, at).map_err(io)?;
                let count = found.len();
                reader.consume(count);
                at += count as u64;
                self.crew.wrote(count);
            }
        }
        holes(&mut digester, size - at);
        if is_sparse {
            file.set_len(size).map_err(io)?;
        }
        Ok(Kind::File { size, digest: digester.finish() })
    }

    pub(super) fn new_file(&self, path: &[u8]) -> Result<std::fs::File> {
        match self.crew.now(&[Op::File(path.to_vec())])?.pop() {
            Some(Reply::File(fd)) => Ok(fd.into()),
            _ => Err(Error::Unsupported { what: "an authority that gives no files".to_owned() }),
        }
    }

    pub(super) fn node(
        &mut self,
        parent: &[u8],
        path: &[u8],
        kind: u32,
        device: u64,
        entry: &Entry,
    ) -> Result<()> {
        let make = if self.authority.makes_devices() {
            Op::Node(path.to_vec(), kind, device)
        } else {
            // Nobody but root makes devices: an empty file keeps the place, the index keeps the truth.
            self.degraded.push(Degradation {
                path: String::from_utf8_lossy(path).into_owned(),
                what: "device".to_owned(),
            });
            Op::File(path.to_vec())
        };
        self.crew.ops(parent, [make, self.stamp(path, entry)])
    }
}

fn holes(digester: &mut Digester, mut count: u64) {
    while count > 0 {
        let part = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
        digester.update(ZEROS.get(..part).unwrap_or_default());
        count -= part as u64;
    }
}
