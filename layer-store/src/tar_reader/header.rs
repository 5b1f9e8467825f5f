//! One 512-byte header block.
//!
//! ```text
//!  name 100 · mode 8 · uid 8 · gid 8 · size 12 · mtime 12 · checksum 8 · type 1 · link 100 · magic 8
//!  uname 32 · gname 32 · major 8 · minor 8 ·   ustar: prefix 155   GNU: times, sparse map   v7: nothing
//! ```
//!
//! Sources: POSIX.1-2024 `pax`, *ustar Interchange Format*; GNU tar manual, *Basic Tar Format*.

use crate::error::{Error, Result};

pub(super) const BLOCK: usize = 512;
/// The largest number that the size field says in octal.
const OCTAL_11: u64 = 0o77_777_777_777;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Gnu,
}

pub(super) struct Header<'a> {
    block: &'a [u8; BLOCK],
    format: Format,
}

impl<'a> Header<'a> {
    /// Checks magic and checksum.
    pub(super) fn read(block: &'a [u8; BLOCK]) -> Result<Self> {
        let format = match block.get(257..265).unwrap_or_default() {
            b"ustar\x0000" => Format::Ustar,
            b"ustar  \0" => Format::Gnu,
            [0, 0, 0, 0, 0, 0, 0, 0] => Format::V7,
            _ => return Err(Error::layer(b"", "a header of an unknown format")),
        };
        let header = Self { block, format };
        let said = header.number(148, 8)?;
        // Old programs summed signed bytes.
        let is = |sum: i32| u64::try_from(sum) == Ok(said);
        if !is(header.sum(i32::from)) && !is(header.sum(|byte| byte.cast_signed().into())) {
            return Err(Error::layer(b"", "a header's checksum is wrong"));
        }
        // Some readers look at every number of every header, some only at those that count: all must be sound.
        for (at, length) in [(100, 8), (108, 8), (116, 8), (124, 12)] {
            header.number(at, length)?;
        }
        header.mtime()?;
        for at in [329, 337] {
            if header.field(at, 8).iter().any(|byte| *byte != b' ') {
                header.number(at, 8)?;
            }
        }
        // Readers differ in whether the end of a header that is not ustar's is part of the name.
        if format == Format::V7 && header.field(345, 155).iter().any(|byte| *byte != 0) {
            return Err(Error::layer(b"", "a prefix in a header that has none"));
        }
        Ok(header)
    }

    /// The sum of all bytes, those of the checksum taken for spaces.
    fn sum(&self, value: impl Fn(u8) -> i32) -> i32 {
        let all = |bytes: &[u8]| bytes.iter().map(|byte| value(*byte)).sum::<i32>();
        all(self.block) - all(self.field(148, 8)) + 8 * i32::from(b' ')
    }

    pub(super) fn field(&self, at: usize, length: usize) -> &'a [u8] {
        self.block.get(at..at + length).unwrap_or_default()
    }

    fn text(&self, at: usize, length: usize) -> Result<Vec<u8>> {
        let field = self.field(at, length);
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(length);
        Ok(field.get(..end).unwrap_or_default().to_vec())
    }

    pub(super) const fn kind(&self) -> u8 {
        self.block[156]
    }

    /// GNU's own fields at the end: only its sparse type may use them.
    pub(super) fn refuse_extension(&self, path: &[u8]) -> Result<()> {
        if self.format == Format::Gnu && self.field(345, 155).iter().any(|byte| *byte != 0) {
            return Err(Error::layer(path, "fields of an incremental GNU archive"));
        }
        Ok(())
    }

    pub(super) fn is_gnu(&self) -> bool {
        self.format == Format::Gnu
    }

    pub(super) fn is_ustar(&self) -> bool {
        self.format == Format::Ustar
    }

    pub(super) fn path(&self) -> Result<Vec<u8>> {
        let name = self.text(0, 100)?;
        let prefix = if self.format == Format::Ustar { self.text(345, 155)? } else { Vec::new() };
        Ok(if prefix.is_empty() { name } else { [prefix.as_slice(), b"/", &name].concat() })
    }

    pub(super) fn link(&self) -> Result<Vec<u8>> {
        self.text(157, 100)
    }

    pub(super) fn size(&self) -> Result<u64> {
        self.number(124, 12)
    }

    /// The bytes of content in the stream. A PAX size must agree with the header, or be too large for it.
    pub(super) fn stored_size(&self, pax: Option<u64>, path: &[u8]) -> Result<u64> {
        let said = self.size()?;
        match pax {
            Some(size) if size != said && !(size > OCTAL_11 && said == 0) => {
                Err(Error::layer(path, "two different sizes"))
            }
            Some(size) => Ok(size),
            None => Ok(said),
        }
    }

    pub(super) fn mode(&self) -> Result<u32> {
        self.number(100, 8).map(|mode| u32::try_from(mode & 0o7777).unwrap_or(0))
    }

    pub(super) fn uid(&self) -> Result<u64> {
        self.number(108, 8)
    }

    pub(super) fn gid(&self) -> Result<u64> {
        self.number(116, 8)
    }

    pub(super) fn mtime(&self) -> Result<i64> {
        let value = signed(self.field(136, 12)).and_then(|value| i64::try_from(value).ok());
        value.ok_or_else(malformed)
    }

    pub(super) fn device(&self, path: &[u8]) -> Result<u64> {
        let part = |at| {
            let value = self.number(at, 8).ok().and_then(|value| u32::try_from(value).ok());
            value.ok_or_else(|| Error::layer(path, "a malformed device number"))
        };
        // The kernel's own limits: 12 bits and 20 bits.
        let (major, minor) = (part(329)?, part(337)?);
        if major > 0xfff || minor > 0xf_ffff {
            return Err(Error::layer(path, "a device number out of range"));
        }
        Ok(rustix::fs::makedev(major, minor))
    }

    /// The number in the field at `at`.
    pub(super) fn number(&self, at: usize, length: usize) -> Result<u64> {
        signed(self.field(at, length)).and_then(|value| u64::try_from(value).ok()).ok_or_else(malformed)
    }
}

fn malformed() -> Error {
    Error::layer(b"", "a header's number is malformed")
}

/// Octal digits after spaces and before NULs or spaces, nothing else; or base-256. All NUL is 0.
pub(super) fn signed(field: &[u8]) -> Option<i128> {
    let (first, rest) = field.split_first()?;
    if matches!(first, 0x80 | 0xff) {
        let start = if *first == 0xff { -1 } else { 0_i128 };
        let value = rest.iter().fold(start, |value, byte| (value << 8) | i128::from(*byte));
        return i64::try_from(value).ok().map(i128::from);
    }
    let start = field.iter().position(|byte| *byte != b' ')?;
    let text = field.get(start..)?;
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, tail) = text.split_at(end);
    if tail.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    // Only NULs: the field was left empty. Spaces before NULs alone, or digits after a NUL, read differently.
    if digits.is_empty() && (start > 0 || tail.contains(&b' ')) {
        return None;
    }
    digits.iter().try_fold(0_i128, |value, digit| match digit {
        b'0'..=b'7' => Some(value * 8 + i128::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::signed;

    #[test]
    fn numbers() {
        let good: [(&[u8], i128); 8] = [
            (b"0000644\0", 0o644),
            (b"   644 \0", 0o644),
            (b"00000000644 ", 0o644),
            (b"644\0\0\0\0\0", 0o644),
            (b"77777777", 0o7777_7777),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"\x80\0\0\0\0\0\x01\0", 256),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
        ];
        for (field, value) in good {
            assert_eq!(signed(field), Some(value), "{field:?}");
        }
        let bad: [&[u8]; 10] = [
            b"        ",
            b"\x000000644",
            b"644 junk",
            b"0o644\0\0\0",
            b"-0000644",
            b"+0000644",
            b"0000689\0",
            b"\x81\0\0\0\0\0\0\0",
            b"    \0\0\0\0",
            b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for field in bad {
            assert_eq!(signed(field), None, "{field:?}");
        }
    }
}
