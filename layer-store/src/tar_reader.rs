//! Reads a foreign tar stream strictly: one entry at a time, everything bounded, nothing guessed.
//!
//! ustar, GNU and v7 headers; PAX (`x`, `g`) and GNU long names (`L`, `K`). A PAX `size` governs the framing. What
//! readers are known to disagree on is refused: a malformed PAX record, a wrong checksum, an unknown type, data
//! after the end of the archive. Sparse files are not supported yet, by name.

use std::collections::BTreeMap;
use std::io::{self, Read};

use image_core::{Algorithm, Digest, Digester};
use tar::Header;

use crate::budget::Budget;
use crate::error::{Error, Result};

const BLOCK: usize = 512;

/// What a header describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    File,
    Link(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u64),
    Block(u64),
    Directory,
    Fifo,
}

/// One entry's header, with PAX and long names applied.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Type,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// The reader. After each [`Self::next`] the member's content is read through [`Self::content`].
pub(crate) struct TarReader<R> {
    inner: R,
    digester: Digester,
    budget: Budget,
    bytes: u64,
    entries: u64,
    /// Content and padding of the current member that are not read yet.
    left: u64,
    padding: u64,
    global: Records,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(inner: R, algorithm: Algorithm, budget: Budget) -> Self {
        let digester = Digester::new(algorithm);
        Self { inner, digester, budget, bytes: 0, entries: 0, left: 0, padding: 0, global: Records::new() }
    }

    fn stream(source: io::Error) -> Error {
        Error::Stream { format: "tar", source }
    }

    fn take(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(Self::stream)?,
            }
        };
        self.bytes += count as u64;
        Budget::check(self.budget.bytes, self.bytes, "bytes")?;
        self.digester.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// Fills `buffer`; `false` when the stream ends before its first byte.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut at = 0;
        while at < buffer.len() {
            match self.take(buffer.get_mut(at..).unwrap_or_default())? {
                0 if at == 0 => return Ok(false),
                0 => return Err(Self::stream(io::ErrorKind::UnexpectedEof.into())),
                count => at += count,
            }
        }
        Ok(true)
    }

    /// Reads some of the current member's content; 0 at its end.
    pub(crate) fn content(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let count = self.take(buffer.get_mut(..want).unwrap_or_default())?;
        if count == 0 {
            return Err(Self::stream(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= count as u64;
        Ok(count)
    }

    fn skip(&mut self) -> Result<()> {
        let mut buffer = [0; 8 * BLOCK];
        while self.content(&mut buffer)? > 0 {}
        let padding = usize::try_from(self.padding).unwrap_or(0);
        self.padding = 0;
        let rest = buffer.get_mut(..padding).unwrap_or_default();
        if !rest.is_empty() && !self.fill(rest)? {
            return Err(Self::stream(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn frame(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// The whole content of a PAX or long-name member.
    fn text(&mut self, size: u64) -> Result<Vec<u8>> {
        Budget::check(self.budget.pax, size, "bytes of a PAX header or long name")?;
        self.frame(size);
        let mut text = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut at = 0;
        while at < text.len() {
            at += self.content(text.get_mut(at..).unwrap_or_default())?;
        }
        self.skip()?;
        Ok(text)
    }

    /// The next member, or `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        let (mut pax, mut long_name, mut long_link): (Option<Records>, _, _) = (None, None, None);
        loop {
            self.skip()?;
            let mut block = [0; BLOCK];
            if !self.fill(&mut block)? || block.iter().all(|byte| *byte == 0) {
                if pax.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(Error::layer(b"", "a PAX header or long name without its entry"));
                }
                return Ok(None);
            }
            self.entries += 1;
            Budget::check(self.budget.entries, self.entries, "entries")?;
            let header = Header::from_byte_slice(&block);
            check_sum(header)?;
            let size = number(header.entry_size())?;
            match header.entry_type().as_byte() {
                b'x' if pax.is_none() => pax = Some(records(&self.text(size)?)?),
                b'x' => return Err(Error::layer(b"", "two PAX headers for one entry")),
                b'g' => {
                    let text = self.text(size)?;
                    self.global.extend(records(&text)?);
                }
                b'L' => long_name = Some(cut(self.text(size)?)),
                b'K' => long_link = Some(cut(self.text(size)?)),
                _ => {
                    let mut records = self.global.clone();
                    records.extend(pax.unwrap_or_default());
                    let member = member(header, size, records, long_name, long_link)?;
                    let length = member.path.len() as u64;
                    Budget::check(self.budget.path, length, "bytes of a path")?;
                    self.frame(if member.kind == Type::File { member.size } else { 0 });
                    return Ok(Some(member));
                }
            }
        }
    }

    /// Reads to the end of the stream, which must be zeros, and gives the digest of everything.
    pub(crate) fn finish(mut self) -> Result<Digest> {
        let mut buffer = [0; 8 * BLOCK];
        loop {
            match self.take(&mut buffer)? {
                0 => return Ok(self.digester.finish()),
                count if buffer.iter().take(count).all(|byte| *byte == 0) => {}
                _ => return Err(Error::layer(b"", "data after the end of the archive")),
            }
        }
    }
}

fn check_sum(header: &Header) -> Result<()> {
    let said = header.cksum().map_err(|_| Error::layer(b"", "a header's checksum is no number"))?;
    let bytes = header.as_bytes();
    let field = 148..156;
    let each = |(at, byte): (usize, &u8)| if field.contains(&at) { b' ' } else { *byte };
    let unsigned: u32 = bytes.iter().enumerate().map(|pair| u32::from(each(pair))).sum();
    // Old programs summed signed bytes.
    let signed: i32 = bytes.iter().enumerate().map(|pair| i32::from(each(pair).cast_signed())).sum();
    if said == unsigned || i64::from(said) == i64::from(signed) {
        return Ok(());
    }
    Err(Error::layer(b"", "a header's checksum is wrong"))
}

fn number(value: io::Result<u64>) -> Result<u64> {
    value.map_err(|_| Error::layer(b"", "a header's number is malformed"))
}

/// A long name ends at its first NUL.
fn cut(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

/// The records of a PAX header, strictly: `length name=value\n`, one after the other, nothing else.
fn records(mut text: &[u8]) -> Result<Records> {
    let malformed = || Error::layer(b"", "a malformed PAX record");
    let mut records = Records::new();
    while !text.is_empty() {
        let space = text.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
        let digits =
            text.get(..space).filter(|digits| digits.iter().all(u8::is_ascii_digit)).ok_or_else(malformed)?;
        let length: usize =
            std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or_else(malformed)?;
        let record = text.get(space + 1..length).ok_or_else(malformed)?;
        let Some((b'\n', record)) = record.split_last() else { return Err(malformed()) };
        let equals =
            record.iter().position(|byte| *byte == b'=').filter(|at| *at > 0).ok_or_else(malformed)?;
        let name = record.get(..equals).unwrap_or_default();
        let value = record.get(equals + 1..).unwrap_or_default();
        let is_binary = name.starts_with(b"SCHILY.xattr.") || name.starts_with(b"LIBARCHIVE.xattr.");
        if !is_binary && value.contains(&0) {
            return Err(malformed());
        }
        records.insert(name.to_vec(), value.to_vec());
        text = text.get(length..).unwrap_or_default();
    }
    Ok(records)
}

fn member(
    header: &Header,
    size: u64,
    mut pax: Records,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
) -> Result<Member> {
    let path = pax.remove(b"path".as_slice()).filter(|path| !path.is_empty()).or(long_name);
    let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
    let refuse = |reason| Error::layer(&path, reason);
    if pax.keys().any(|name| name.starts_with(b"GNU.sparse.")) {
        return Err(Error::Unsupported { what: "sparse files in layers".to_owned() });
    }
    let mut value = |name: &[u8]| {
        pax.remove(name)
            .map(|text| String::from_utf8(text).map_err(|_| refuse("a malformed PAX value")))
            .transpose()
    };
    let bad = |_| refuse("a malformed PAX value");
    let size = match value(b"size")? {
        Some(text) => text.parse::<u64>().map_err(bad)?,
        None => size,
    };
    let id = |text: Option<String>, field: io::Result<u64>| -> Result<u32> {
        let value = match text {
            Some(text) => text.parse::<u64>().map_err(bad)?,
            None => number(field)?,
        };
        // The last value means "no change" to the kernel.
        u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or_else(|| refuse("an owner out of range"))
    };
    let uid = id(value(b"uid")?, header.uid())?;
    let gid = id(value(b"gid")?, header.gid())?;
    let mtime = match value(b"mtime")? {
        Some(text) => time(&text).ok_or_else(|| refuse("a malformed PAX time"))?,
        None => (i64::try_from(number(header.mtime())?).unwrap_or(i64::MAX), 0),
    };
    let mut xattrs = BTreeMap::new();
    let linkpath = pax.remove(b"linkpath".as_slice());
    for (name, value) in pax {
        if let Some(name) = name.strip_prefix(b"SCHILY.xattr.") {
            xattrs.insert(name.to_vec(), value);
        }
    }
    let link = || {
        let link = linkpath
            .or(long_link)
            .unwrap_or_else(|| header.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default());
        if link.is_empty() || link.contains(&0) {
            Err(Error::layer(&path, "a link without a target"))
        } else {
            Ok(link)
        }
    };
    let device = || -> Result<u64> {
        let part = |value: io::Result<Option<u32>>| {
            value.ok().flatten().ok_or_else(|| Error::layer(&path, "a malformed device number"))
        };
        Ok(rustix::fs::makedev(part(header.device_major())?, part(header.device_minor())?))
    };
    let kind = match header.entry_type().as_byte() {
        // Before POSIX, a name that ends in a slash was a directory.
        b'0' | 0 if path.ends_with(b"/") => Type::Directory,
        b'0' | 0 | b'7' => Type::File,
        b'1' => Type::Link(link()?),
        b'2' => Type::Symlink(link()?),
        b'3' => Type::Char(device()?),
        b'4' => Type::Block(device()?),
        b'5' => Type::Directory,
        b'6' => Type::Fifo,
        b'S' => return Err(Error::Unsupported { what: "sparse files in layers".to_owned() }),
        _ => return Err(refuse("an unknown type of entry")),
    };
    if path.contains(&0) {
        return Err(refuse("a NUL in its path"));
    }
    let mode = header.mode().map_err(|_| refuse("a malformed mode"))? & 0o7777;
    Ok(Member { path, kind, size, mode, uid, gid, mtime, xattrs })
}

/// `[-]seconds[.fraction]`, rounded down to the nanosecond.
fn time(text: &str) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nanoseconds: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records_are_read_strictly() {
        let read = records(b"9 a=b=cd\n6 x=y\n").unwrap();
        assert_eq!(read.get(b"a".as_slice()).unwrap(), b"b=cd");
        assert_eq!(read.get(b"x".as_slice()).unwrap(), b"y");
        for bad in [
            &b"5 a=b\n"[..],
            b"6 a=b",
            b"x a=b\n",
            b"6 =ab\n",
            b"99 a=b\n",
            b"0 a=b\n",
            b"6 a\0b\n",
            b"-6 a=b\n",
            b"7 p=\0a\n",
        ] {
            assert!(records(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time("1.5"), Some((1, 500_000_000)));
        assert_eq!(time("-0.5"), Some((-1, 500_000_000)));
        assert_eq!(time("-1.75"), Some((-2, 250_000_000)));
        assert_eq!(time("1."), Some((1, 0)));
        for bad in ["", "-", ".5", "1.x", "+1", "1e3", "99999999999999999999"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}
