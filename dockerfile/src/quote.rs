//! Text forms that image history is written in: Go's quoted strings and durations.
//!
//! `CMD ["a" "b"]` and `HEALTHCHECK {… Interval:1m30s …}` are compared byte by byte by the tools
//! that read history, so the forms are reproduced exactly.

use std::fmt::Write as _;

use crate::bytes;

/// Appends texts.
pub(crate) fn push_all(out: &mut String, parts: &[&str]) {
    out.reserve(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.push_str(part));
}

/// Appends a number in decimal digits.
pub(crate) fn push_number(out: &mut String, number: u64) {
    if number >= 10 {
        push_number(out, number / 10);
    }
    out.push(char::from(b'0' + (number % 10) as u8));
}

/// Appends `text` in Go's interpreted string form (`strconv.Quote`).
pub(crate) fn quote_into(out: &mut String, text: &str) {
    out.push('"');
    // Most texts are plain.
    if !bytes::any(text.as_bytes(), |byte| !matches!(byte, b' '..=b'~') | (byte == b'"') | (byte == b'\\')) {
        push_all(out, &[text, "\""]);
        return;
    }
    for ch in text.chars() {
        match ch {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            ch if is_printable(ch) => out.push(ch),
            ch if (ch as u32) < 0x20 || ch as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", ch as u32);
            }
            ch if (ch as u32) < 0x1_0000 => {
                let _ = write!(out, "\\u{:04x}", ch as u32);
            }
            ch => {
                let _ = write!(out, "\\U{:08x}", ch as u32);
            }
        }
    }
    out.push('"');
}

/// `text` in Go's interpreted string form.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    quote_into(&mut out, text);
    out
}

/// `["a" "b"]` behind a head: Go's `%q` of a list of strings.
pub(crate) fn quote_list(head: &str, words: &[String]) -> String {
    let len: usize = words.iter().map(|word| word.len() + 3).sum();
    let mut out = String::with_capacity(head.len() + len + 2);
    push_all(&mut out, &[head, "["]);
    for (index, word) in words.iter().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        quote_into(&mut out, word);
    }
    out.push(']');
    out
}

/// Letters, marks, numbers, punctuation, symbols and the ASCII blank.
fn is_printable(ch: char) -> bool {
    let code = ch as u32;
    match code {
        0x20..=0x7e => true,
        0..=0xa0 | 0xad => false,
        // Format characters, separators, surrogates' neighbours, private use, non-characters.
        0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x890 | 0x891 | 0x8e2 => false,
        0x1680 | 0x180e | 0x2000..=0x200f | 0x2028..=0x202f | 0x205f..=0x206f | 0x3000 => false,
        0xe000..=0xf8ff | 0xfeff | 0xfff0..=0xfffb | 0xfffe | 0xffff => false,
        0x110bd | 0x110cd | 0x13430..=0x1343f | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a => false,
        0xe0000..=0xe00ff | 0xe01f0..=0x10ffff => false,
        _ => true,
    }
}

/// Nanoseconds as Go prints a `time.Duration`: `0s`, `1.5s`, `2m0s`, `100ms`.
pub(crate) fn duration(nanos: i64) -> String {
    let mut out = String::new();
    if nanos < 0 {
        out.push('-');
    }
    let mut left = nanos.unsigned_abs();
    if left == 0 {
        return "0s".to_owned();
    }
    if left < 1_000_000_000 {
        let (unit, digits, name) = match left {
            0..=999 => (1, 0, "ns"),
            1_000..=999_999 => (1_000, 3, "µs"),
            _ => (1_000_000, 6, "ms"),
        };
        decimal(&mut out, left, unit, digits);
        out.push_str(name);
        return out;
    }
    let hours = left / 3_600_000_000_000;
    left %= 3_600_000_000_000;
    let minutes = left / 60_000_000_000;
    left %= 60_000_000_000;
    if hours > 0 {
        let _ = write!(out, "{hours}h");
    }
    if hours > 0 || minutes > 0 {
        let _ = write!(out, "{minutes}m");
    }
    decimal(&mut out, left, 1_000_000_000, 9);
    out.push('s');
    out
}

fn decimal(out: &mut String, value: u64, unit: u64, digits: usize) {
    let _ = write!(out, "{}", value / unit);
    let rest = value % unit;
    if rest > 0 {
        let text = format!("{rest:0digits$}");
        let _ = write!(out, ".{}", text.trim_end_matches('0'));
    }
}

/// Reads a duration as Go's `time.ParseDuration` does, into nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let whole_len = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, tail) = rest.split_at_checked(whole_len)?;
        let (fraction, tail) = match tail.strip_prefix('.') {
            Some(tail) => tail.split_at_checked(tail.bytes().take_while(u8::is_ascii_digit).count())?,
            None => ("", tail),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_len = tail.bytes().take_while(|byte| *byte != b'.' && !byte.is_ascii_digit()).count();
        let (unit, tail) = tail.split_at_checked(unit_len)?;
        let unit: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let mut value = whole.checked_mul(unit)?;
        // Digits beyond 18 cannot change a nanosecond.
        let (mut scaled, mut scale) = (0_u64, 1_u64);
        for digit in fraction.bytes().take(18) {
            scaled = scaled * 10 + u64::from(digit - b'0');
            scale *= 10;
        }
        if scaled > 0 {
            value = value.checked_add(
                u64::try_from(u128::from(scaled) * u128::from(unit) / u128::from(scale)).ok()?,
            )?;
        }
        total = total.checked_add(value)?;
        rest = tail;
    }
    if negative {
        return if total == 1 << 63 { Some(i64::MIN) } else { i64::try_from(total).ok().map(|total| -total) };
    }
    i64::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round() {
        for (text, nanos, printed) in [
            ("30s", 30_000_000_000, "30s"),
            ("1m30s", 90_000_000_000, "1m30s"),
            ("5m", 300_000_000_000, "5m0s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("100ms", 100_000_000, "100ms"),
            ("1.5ms", 1_500_000, "1.5ms"),
            ("2us", 2_000, "2µs"),
            ("0", 0, "0s"),
            (".5s", 500_000_000, "500ms"),
        ] {
            assert_eq!(parse_duration(text), Some(nanos), "{text}");
            assert_eq!(duration(nanos), printed);
        }
        for text in ["", "5", "s", "1x", "-", ".s", "1.s2"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn quotes() {
        assert_eq!(quote("a\"b\\c\n\u{1}é"), r#""a\"b\\c\n\x01é""#);
        assert_eq!(quote_list("X ", &["a".into(), "b c".into()]), r#"X ["a" "b c"]"#);
    }
}
