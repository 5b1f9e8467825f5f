//! PAX records: `length name=value\n`, one after the other, nothing else.
//!
//! Source: POSIX.1-2024 `pax`, *pax Extended Header*.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Before the name of an extended attribute.
const XATTR: &[u8] = b"SCHILY.xattr.";
const LIBARCHIVE_XATTR: &[u8] = b"LIBARCHIVE.xattr.";
pub(super) const SPARSE: &[u8] = b"GNU.sparse.";
/// The pairs of an old sparse map: the only records that may come more than once.
pub(super) const OFFSET: &[u8] = b"GNU.sparse.offset";
pub(super) const NUMBYTES: &[u8] = b"GNU.sparse.numbytes";

#[derive(Default)]
pub(super) struct Records {
    by_name: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Offset, length, offset, length … of a sparse map in its first form.
    pub(super) map: Vec<(bool, Vec<u8>)>,
}

fn malformed() -> Error {
    Error::layer(b"", "a malformed PAX record")
}

/// Decimal digits alone: other readers take signs, spaces or underscores, each in its own way.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Records {
    pub(super) fn read(mut text: &[u8]) -> Result<Self> {
        let mut records = Self::default();
        while !text.is_empty() {
            let space = text.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length = text.get(..space).and_then(number).and_then(|length| usize::try_from(length).ok());
            let length = length.ok_or_else(malformed)?;
            let record = text.get(space + 1..length).ok_or_else(malformed)?;
            let Some((b'\n', record)) = record.split_last() else { return Err(malformed()) };
            let equals = record.iter().position(|byte| *byte == b'=').filter(|at| *at > 0);
            let (name, value) = record.split_at(equals.ok_or_else(malformed)?);
            records.put(name, value.get(1..).unwrap_or_default())?;
            text = text.get(length..).unwrap_or_default();
        }
        Ok(records)
    }

    fn put(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        let is_attribute = name.starts_with(XATTR) || name.starts_with(LIBARCHIVE_XATTR);
        if (!is_attribute && value.contains(&0)) || name.contains(&0) || name.contains(&b'\n') {
            return Err(malformed());
        }
        if name == OFFSET || name == NUMBYTES {
            self.map.push((name == OFFSET, value.to_vec()));
            return Ok(());
        }
        // An empty value takes a record back in one reader and sets it to nothing in another.
        let matters = matters(name);
        if matters && value.is_empty() {
            return Err(Error::layer(value, "an empty PAX record"));
        }
        if name == b"hdrcharset" && value != b"BINARY" && value != b"ISO-IR 10646 2000 UTF-8" {
            return Err(Error::layer(value, "names in an unknown character set"));
        }
        if self.by_name.insert(name.to_vec(), value.to_vec()).is_some() && (matters || is_attribute) {
            return Err(Error::layer(name, "the same PAX record twice"));
        }
        Ok(())
    }

    /// A global header may say nothing of entries: some readers apply it, some do not.
    pub(super) fn refuse_global(&self) -> Result<()> {
        let odd = self.by_name.keys().find(|name| matters(name) || name.starts_with(XATTR));
        match odd {
            None if self.map.is_empty() => Ok(()),
            odd => {
                Err(Error::layer(odd.map_or(b"", Vec::as_slice), "a global PAX record that changes entries"))
            }
        }
    }

    pub(super) fn text(&mut self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.by_name.remove(name))
    }

    pub(super) fn number(&mut self, name: &[u8]) -> Result<Option<u64>> {
        match self.by_name.remove(name) {
            None => Ok(None),
            Some(value) => number(&value).map(Some).ok_or_else(malformed),
        }
    }

    pub(super) fn time(&mut self, name: &[u8], path: &[u8]) -> Result<Option<(i64, u32)>> {
        let Some(value) = self.by_name.remove(name) else { return Ok(None) };
        let value = std::str::from_utf8(&value).ok().and_then(time);
        value.map(Some).ok_or_else(|| Error::layer(path, "a malformed PAX time"))
    }

    pub(super) fn refuse_sparse(&self, path: &[u8]) -> Result<()> {
        let odd = !self.map.is_empty() || self.by_name.keys().any(|name| name.starts_with(SPARSE));
        if odd { Err(Error::layer(path, "two sparse maps")) } else { Ok(()) }
    }

    pub(super) fn xattrs(self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let named = self.by_name.into_iter();
        named
            .filter_map(|(name, value)| name.strip_prefix(XATTR).map(|name| (name.to_vec(), value)))
            .collect()
    }
}

/// The record changes what an entry is.
fn matters(name: &[u8]) -> bool {
    matches!(name, b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime" | b"hdrcharset")
        || name.starts_with(SPARSE)
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
    fn records_are_read_strictly() {
        let read = Records::read(b"9 a=b=cd\n6 x=y\n").unwrap().by_name;
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
            b"+6 a=b\n",
            b"7 p=\0a\n",
            b"8 path=\n",
            b"10 path=a\n10 path=b\n",
        ] {
            assert!(Records::read(bad).is_err(), "{bad:?}");
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
