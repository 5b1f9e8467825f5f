//! The text of a file and places in it.

use std::fmt;
use std::sync::Arc;

/// A half-open range of bytes in a [`Source`]'s text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset after the last byte.
    pub end: usize,
}

impl Span {
    /// The range from `start` to `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// How many bytes the range covers.
    pub const fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Whether the range covers nothing.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Physical lines, 1-based and inclusive. BuildKit reports places in this form; `0..0` means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Lines {
    /// First line.
    pub first: u32,
    /// Last line.
    pub last: u32,
}

impl Lines {
    /// The lines from `first` to `last`.
    pub const fn new(first: u32, last: u32) -> Self {
        Self { first, last }
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// The bytes of a file and the text that the language sees.
///
/// For valid UTF-8 the two are the same. Otherwise every byte that is not part of a character
/// stands as U+FFFD in the text, as BuildKit's scanner has it, and [`Source::bytes`] still gives
/// back exactly what was read.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    text: Arc<str>,
    /// The bytes, when they are not the text's.
    bytes: Option<Arc<[u8]>>,
}

impl Source {
    /// Takes the bytes of a file.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { text: text.into(), bytes: None },
            Err(_) => {
                let mut text = String::with_capacity(bytes.len());
                for chunk in bytes.utf8_chunks() {
                    text.push_str(chunk.valid());
                    text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
                }
                Self { text: text.into(), bytes: Some(bytes.into()) }
            }
        }
    }

    /// The text that spans refer to.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The bytes as they were given.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or(self.text.as_bytes())
    }

    /// The text of a span; empty when the span is not one of this source.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or("")
    }

    /// The bytes of a span of the text, as they were given.
    pub fn bytes_of(&self, span: Span) -> &[u8] {
        match &self.bytes {
            None => self.text.as_bytes().get(span.start..span.end).unwrap_or(&[]),
            Some(bytes) => {
                let from = self.byte_offset(span.start);
                let to = from + original_len(self.slice(span), bytes.get(from..).unwrap_or(&[]));
                bytes.get(from..to).unwrap_or(&[])
            }
        }
    }

    fn byte_offset(&self, offset: usize) -> usize {
        match &self.bytes {
            None => offset,
            Some(bytes) => original_len(self.slice(Span::new(0, offset)), bytes),
        }
    }

    /// The 1-based line and column (in characters) of an offset.
    pub fn position(&self, offset: usize) -> (u32, u32) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }

    /// The span of physical lines, without the last line's end.
    pub fn lines(&self, lines: Lines) -> Span {
        let first = usize::try_from(lines.first.max(1)).unwrap_or(usize::MAX) - 1;
        let count = usize::try_from(lines.last.saturating_sub(lines.first)).unwrap_or(0) + 1;
        let mut offset: usize = self.text.split_inclusive('\n').take(first).map(str::len).sum();
        let mut span: Option<Span> = None;
        for line in self.text.get(offset..).unwrap_or("").split_inclusive('\n').take(count) {
            let start = span.map_or(offset, |span| span.start);
            span = Some(Span::new(start, offset + line.trim_end_matches(['\r', '\n']).len()));
            offset += line.len();
        }
        span.unwrap_or(Span::new(self.text.len(), self.text.len()))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("len", &self.bytes().len()).finish()
    }
}

/// How many of `bytes` the characters of `text` stand for.
fn original_len(text: &str, bytes: &[u8]) -> usize {
    let mut len = 0;
    for ch in text.chars() {
        let whole =
            ch != char::REPLACEMENT_CHARACTER || bytes.get(len..len + 3) == Some("\u{fffd}".as_bytes());
        len += if whole { ch.len_utf8() } else { 1 };
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive() {
        let raw = b"FROM a\xff\xfe\nRUN \xe2\x82 x\n";
        let source = Source::new(raw);
        assert_eq!(source.bytes(), raw);
        assert_eq!(source.text().matches('\u{fffd}').count(), 4);
        assert_eq!(source.bytes_of(Span::new(0, source.text().len())), raw);
    }

    #[test]
    fn places() {
        let source = Source::new("a\nbé\nc".as_bytes());
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(5), (2, 3));
        assert_eq!(source.slice(source.lines(Lines::new(2, 3))), "bé\nc");
    }
}
