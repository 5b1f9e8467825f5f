//! The JSON in which BuildKit's frontend answers `frontend.lint`, `frontend.outline` and `frontend.targets`, as
//! `docker buildx build --call=…,format=json` prints it.
//!
//! Source: `frontend/subrequests/{lint,outline,targets}` and `solver/pb` of BuildKit.

use serde::Serialize;

use crate::source::{Lines, Source};

/// `pb.Location`. A `sourceIndex` of 0 is left out, as protobuf leaves zeros out.
#[derive(Serialize)]
pub(crate) struct Location {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    start: Position,
    end: Position,
}

#[derive(Serialize)]
struct Position {
    line: u32,
}

/// `pb.SourceInfo`.
#[derive(Serialize)]
pub(crate) struct SourceInfo<'a> {
    filename: &'a str,
    data: String,
    language: &'static str,
}

impl Location {
    /// One range a line, as BuildKit's parser makes them.
    pub(crate) fn of(lines: Lines) -> Self {
        let all = if lines.first == 0 { 0..=0 } else { lines.first..=lines.last.max(lines.first) };
        let range = |line| Range { start: Position { line }, end: Position { line } };
        Self { ranges: all.filter(|line| *line > 0).map(range).collect() }
    }

    /// None where there is no place.
    pub(crate) fn known(lines: Lines) -> Option<Self> {
        (lines.first > 0).then(|| Self::of(lines))
    }
}

impl<'a> SourceInfo<'a> {
    pub(crate) fn new(filename: &'a str, source: &Source) -> Self {
        Self { filename, data: base64(source.bytes()), language: "Dockerfile" }
    }
}

/// The text as people read it; there is nothing in it that cannot be written.
pub(crate) fn pretty(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Base64 with padding, as Go writes bytes.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut word = 0_usize;
        for place in 0..3 {
            word = word << 8 | usize::from(chunk.get(place).copied().unwrap_or(0));
        }
        for place in 0..4 {
            let digit = DIGITS.get(word >> (18 - 6 * place) & 63).copied().unwrap_or(b'=');
            out.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        for (text, want) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(text.as_bytes()), want);
        }
    }
}
