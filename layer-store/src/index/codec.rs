//! Bytes of an index; the format is drawn in the parent module.

use std::collections::BTreeMap;

use image_core::{Digest, Digester};

use super::{Entry, Index, Kind, Summary};

const MAGIC: &[u8; 5] = b"CPIX\x02";
const SUM: usize = 32;
const HEAD_SUM: usize = 8;
/// A path, link target or attribute longer than this is no longer one.
const TEXT_LIMIT: u64 = 1 << 20;
const XATTR_COUNT_LIMIT: u64 = 4_096;

pub(super) fn encode(index: &Index) -> Vec<u8> {
    close(encode_head(index), &encode_entries(index))
}

pub(super) fn encode_counted(index: &mut Index, block: u64) -> Vec<u8> {
    let entries = encode_entries(index);
    let length = encode_head(index).len() + entries.len() + SUM;
    index.allocated += (length as u64).next_multiple_of(block);
    close(encode_head(index), &entries)
}

fn close(mut out: Vec<u8>, entries: &[u8]) -> Vec<u8> {
    out.extend_from_slice(entries);
    let sum = Digest::sha256(&out);
    out.extend_from_slice(sum.as_bytes());
    out
}

fn encode_head(index: &Index) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(MAGIC);
    out.push(u8::from(index.packed));
    text(&mut out, index.diff_id.to_string().as_bytes());
    number(&mut out, index.size());
    number(&mut out, index.allocated);
    number(&mut out, index.entries.len() as u64);
    let sum = Digest::sha256(&out);
    out.extend_from_slice(sum.as_bytes().get(..HEAD_SUM).unwrap_or_default());
    out
}

fn encode_entries(index: &Index) -> Vec<u8> {
    let mut out = Vec::with_capacity(index.entries.len() * 96);
    for (path, entry) in &index.entries {
        text(&mut out, path);
        out.push(match entry.kind {
            Kind::Directory { opaque: false } => b'd',
            Kind::Directory { opaque: true } => b'D',
            Kind::File { .. } => b'f',
            Kind::Symlink { .. } => b'l',
            Kind::Hardlink { .. } => b'h',
            Kind::CharDevice(_) => b'c',
            Kind::BlockDevice(_) => b'b',
            Kind::Fifo => b'p',
            Kind::Whiteout => b'w',
        });
        for value in [entry.mode, entry.uid, entry.gid] {
            number(&mut out, value.into());
        }
        number(&mut out, zigzag(entry.mtime.0));
        number(&mut out, entry.mtime.1.into());
        number(&mut out, entry.xattrs.len() as u64);
        for (name, value) in &entry.xattrs {
            text(&mut out, name);
            text(&mut out, value);
        }
        match &entry.kind {
            Kind::File { size, digest } => {
                number(&mut out, *size);
                out.extend_from_slice(digest.as_bytes());
            }
            Kind::Symlink { target } | Kind::Hardlink { target } => text(&mut out, target),
            Kind::CharDevice(device) | Kind::BlockDevice(device) => number(&mut out, *device),
            Kind::Directory { .. } | Kind::Fifo | Kind::Whiteout => {}
        }
    }
    out
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

struct Reader<'a>(&'a [u8]);

type Read<T> = Result<T, &'static str>;

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Read<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length).ok_or("it ends early")?;
        self.0 = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Read<u8> {
        self.take(1).and_then(|bytes| bytes.first().copied().ok_or("it ends early"))
    }

    fn number(&mut self) -> Read<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is too large")
    }

    fn small(&mut self) -> Read<u32> {
        u32::try_from(self.number()?).map_err(|_| "a number is too large")
    }

    fn text(&mut self) -> Read<&'a [u8]> {
        let length = self.number()?;
        if length > TEXT_LIMIT {
            return Err("a text is too long");
        }
        self.take(usize::try_from(length).map_err(|_| "a text is too long")?)
    }

    fn digest(&mut self) -> Read<Digest> {
        Digest::from_bytes(image_core::Algorithm::Sha256, self.take(SUM)?).ok_or("a digest is malformed")
    }
}

pub(super) fn summary(bytes: &[u8]) -> Read<Summary> {
    head(&mut Reader(bytes), bytes)
}

fn head(reader: &mut Reader<'_>, whole: &[u8]) -> Read<Summary> {
    if reader.take(MAGIC.len())? != MAGIC {
        return Err("it is no index of a known version");
    }
    let packed = match reader.byte()? {
        0 => false,
        1 => true,
        _ => return Err("it has unknown flags"),
    };
    let diff_id = std::str::from_utf8(reader.text()?)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or("its diff ID is malformed")?;
    let (size, allocated, entries) = (reader.number()?, reader.number()?, reader.number()?);
    let read = whole.len() - reader.0.len();
    let sum = Digest::sha256(whole.get(..read).unwrap_or_default());
    if sum.as_bytes().get(..HEAD_SUM) != Some(reader.take(HEAD_SUM)?) {
        return Err("the checksum of its head is wrong");
    }
    Ok(Summary { diff_id, packed, size, allocated, entries })
}

pub(super) fn decode(bytes: &[u8]) -> Read<Index> {
    let (body, sum) =
        bytes.len().checked_sub(SUM).and_then(|at| bytes.split_at_checked(at)).ok_or("it is too short")?;
    let mut digester = Digester::new(image_core::Algorithm::Sha256);
    digester.update(body);
    if digester.finish().as_bytes() != sum {
        return Err("its checksum is wrong");
    }
    let mut reader = Reader(body);
    let Summary { diff_id, packed, allocated, entries: count, .. } = head(&mut reader, body)?;
    let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    for _ in 0..count {
        let path = reader.text()?.to_vec();
        if entries.last_key_value().is_some_and(|(last, _)| *last >= path) {
            return Err("its entries are out of order");
        }
        entries.insert(path, entry(&mut reader)?);
    }
    if !reader.0.is_empty() {
        return Err("it has bytes after its end");
    }
    Ok(Index { diff_id, packed, allocated, entries })
}

fn entry(reader: &mut Reader<'_>) -> Read<Entry> {
    let letter = reader.byte()?;
    let (mode, uid, gid) = (reader.small()?, reader.small()?, reader.small()?);
    let mtime = (unzigzag(reader.number()?), reader.small()?);
    let count = reader.number()?;
    if count > XATTR_COUNT_LIMIT {
        return Err("an entry has too many attributes");
    }
    let mut xattrs = BTreeMap::new();
    for _ in 0..count {
        xattrs.insert(reader.text()?.to_vec(), reader.text()?.to_vec());
    }
    let kind = match letter {
        b'd' => Kind::Directory { opaque: false },
        b'D' => Kind::Directory { opaque: true },
        b'f' => Kind::File { size: reader.number()?, digest: reader.digest()? },
        b'l' => Kind::Symlink { target: reader.text()?.to_vec() },
        b'h' => Kind::Hardlink { target: reader.text()?.to_vec() },
        b'c' => Kind::CharDevice(reader.number()?),
        b'b' => Kind::BlockDevice(reader.number()?),
        b'p' => Kind::Fifo,
        b'w' => Kind::Whiteout,
        _ => return Err("an entry is of an unknown kind"),
    };
    Ok(Entry { kind, mode, uid, gid, mtime, xattrs })
}

#[cfg(test)]
mod tests {
    use image_core::DiffId;

    use super::*;

    fn sample() -> Index {
        let digest = Digest::sha256(b"x");
        let mut entries = BTreeMap::new();
        let mut put = |path: &[u8], kind| {
            let mut entry = Entry::new(kind, 0o4755, 1000, u32::MAX - 1, (-5, 999_999_999));
            entry.xattrs.insert(b"user.k".to_vec(), vec![0, 255]);
            entries.insert(path.to_vec(), entry);
        };
        put(b"a", Kind::Directory { opaque: true });
        put(b"a/\xff", Kind::File { size: u64::MAX - 7, digest });
        put(b"b", Kind::Symlink { target: b"/a".to_vec() });
        put(b"c", Kind::Hardlink { target: b"a/\xff".to_vec() });
        put(b"d", Kind::CharDevice(0x0103));
        put(b"e", Kind::Fifo);
        put(b"f", Kind::Whiteout);
        put(b"g", Kind::File { size: 7, digest });
        Index { diff_id: DiffId::new(digest), packed: true, allocated: 4096, entries }
    }

    #[test]
    fn reads_back() {
        assert_eq!(decode(&encode(&sample())), Ok(sample()));
    }

    #[test]
    fn what_is_counted_is_what_is_written() {
        let mut index = sample();
        let bytes = encode_counted(&mut index, 64);
        assert_eq!(index.allocated, 4096 + (bytes.len() as u64).next_multiple_of(64));
        assert_eq!(bytes, encode(&index));
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let bytes = encode(&sample());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
            let head = summary(&damaged);
            assert!(head.is_err() || head == summary(&bytes), "head, byte {at}");
        }
    }
}
