//! JSON as a text that grows.

use crate::bytes;
use crate::quote::push_number;

/// JSON as it is written. Commas come by themselves.
#[derive(Default)]
pub(super) struct Writer(pub(super) String);

impl Writer {
    pub(super) fn with_capacity(len: usize) -> Self {
        Self(String::with_capacity(len))
    }

    pub(super) fn comma(&mut self) {
        if !matches!(self.0.as_bytes().last(), None | Some(b'{' | b'[' | b':')) {
            self.0.push(',');
        }
    }

    pub(super) fn open(&mut self, bracket: char) {
        self.comma();
        self.0.push(bracket);
    }

    pub(super) fn close(&mut self, bracket: char) {
        self.0.push(bracket);
    }

    pub(super) fn key(&mut self, key: &str) {
        self.comma();
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    pub(super) fn text(&mut self, text: &str) {
        self.comma();
        self.0.push('"');
        self.part(text);
        self.0.push('"');
    }

    /// A part of a string: only quotes, backslashes and control characters need more than themselves.
    pub(super) fn part(&mut self, text: &str) {
        let special = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
        let mut rest = text;
        while let Some(at) = bytes::position(rest.as_bytes(), special) {
            let Some((plain, tail)) = rest.split_at_checked(at) else { break };
            self.0.push_str(plain);
            let mut tail = tail.chars();
            match tail.next() {
                Some('"') => self.0.push_str("\\\""),
                Some('\\') => self.0.push_str("\\\\"),
                Some('\n') => self.0.push_str("\\n"),
                Some('\r') => self.0.push_str("\\r"),
                Some('\t') => self.0.push_str("\\t"),
                Some('\u{8}') => self.0.push_str("\\b"),
                Some('\u{c}') => self.0.push_str("\\f"),
                Some(other) => self.0.push_str(&format!("\\u{:04x}", u32::from(other))),
                None => {}
            }
            rest = tail.as_str();
        }
        self.0.push_str(rest);
    }

    /// A member, unless its text is empty.
    pub(super) fn member(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.key(key);
            self.text(text);
        }
    }

    pub(super) fn yes(&mut self, key: &str, value: bool) {
        if value {
            self.key(key);
            self.0.push_str("true");
        }
    }

    pub(super) fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        push_number(&mut self.0, value);
    }

    pub(super) fn list<'a>(&mut self, key: &str, texts: impl IntoIterator<Item = &'a String>) {
        let mut texts = texts.into_iter().peekable();
        if texts.peek().is_some() {
            self.key(key);
            self.open('[');
            texts.for_each(|text| self.text(text));
            self.close(']');
        }
    }
}
