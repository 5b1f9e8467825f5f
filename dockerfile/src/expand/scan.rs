//! One pass over a word.

use super::pattern::Pattern;
use super::{Budget, ExpandError, Expander, Variables};
use crate::bytes;
use crate::limits::MAX_EXPANSION_DEPTH;
use crate::quote::push_all;

/// The state of expanding one word: what is left of it, and what was found.
pub(super) struct Scan<'a, 'v> {
    rules: &'v Expander,
    variables: &'v dyn Variables,
    rest: &'a str,
    raw_escapes: bool,
    depth: usize,
    /// Set by every nested run, for the sake of [`Words`].
    nested: bool,
    words: Option<Words>,
    budget: &'v Budget,
    /// Names that were looked up and had a value, as often as they were.
    pub(super) matched: Vec<&'a str>,
    /// Those that had none.
    pub(super) unmatched: Vec<&'a str>,
}

/// Words as they come to be. A substitution with a modifier empties `current`: the reference shares
/// one buffer between nesting levels, and words have come out that way ever since.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
    inside: bool,
}

impl Words {
    fn add(&mut self, ch: char) {
        if !ch.is_whitespace() {
            self.add_raw(ch);
        } else if self.inside && !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
            self.inside = false;
        }
    }

    fn add_raw(&mut self, ch: char) {
        self.current.push(ch);
        self.inside = true;
    }
}

impl<'a, 'v> Scan<'a, 'v> {
    pub(super) fn new(
        rules: &'v Expander,
        variables: &'v dyn Variables,
        word: &'a str,
        words: bool,
        budget: &'v Budget,
    ) -> Self {
        Self {
            budget,
            rules,
            variables,
            rest: word,
            raw_escapes: rules.raw_escapes,
            depth: 0,
            nested: false,
            words: words.then(Words::default),
            matched: Vec::new(),
            unmatched: Vec::new(),
        }
    }

    pub(super) fn into_words(self) -> Vec<String> {
        let Some(words) = self.words else { return Vec::new() };
        let mut done = words.done;
        if !words.current.is_empty() {
            done.push(words.current);
        }
        done
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let ch = chars.next();
        self.rest = chars.as_str();
        ch
    }

    /// Expands up to `stop` (which is consumed), or to the end.
    pub(super) fn run(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<String, ExpandError> {
        if self.depth > MAX_EXPANSION_DEPTH {
            return Err(ExpandError::TooLarge("128 levels"));
        }
        let outer = self.depth == 0;
        self.nested |= !outer;
        self.depth += 1;
        let kept = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let words = if outer { self.words.take() } else { None };
        let result = self.run_inner(stop, words);
        self.raw_escapes = kept;
        self.depth -= 1;
        result
    }

    fn run_inner(&mut self, stop: Option<char>, mut words: Option<Words>) -> Result<String, ExpandError> {
        let mut out = String::with_capacity(if stop.is_none() { self.rest.len() + 16 } else { 0 });
        while let Some(ch) = self.peek() {
            if Some(ch) == stop {
                self.next();
                return Ok(out);
            }
            if words.is_none() {
                // Ordinary characters in one piece.
                let len = self.ordinary(stop);
                if let Some((text, rest)) = self.rest.split_at_checked(len)
                    && len > 0
                {
                    self.push(&mut out, text)?;
                    self.rest = rest;
                    continue;
                }
            }
            match ch {
                '$' => {
                    let start = out.len();
                    self.dollar(&mut out)?;
                    let text = out.get(start..).unwrap_or("");
                    if let Some(words) = &mut words {
                        if std::mem::take(&mut self.nested) {
                            words.current.clear();
                        }
                        text.chars().for_each(|ch| words.add(ch));
                    }
                    self.budget.text(text.len(), out.len())?;
                }
                '<' => {
                    let text = self.less();
                    if let Some(words) = &mut words {
                        words.current.push_str(text);
                        words.inside = true;
                    }
                    out.push_str(text);
                }
                '\'' | '"' if !self.rules.skip_quotes => {
                    let start = out.len();
                    if ch == '"' {
                        self.double_quote(&mut out)?;
                    } else {
                        out.push_str(self.single_quote()?);
                    }
                    let text = out.get(start..).unwrap_or("");
                    if let Some(words) = &mut words {
                        if std::mem::take(&mut self.nested) {
                            words.current.clear();
                        }
                        words.current.push_str(text);
                        words.inside = true;
                    }
                    self.budget.text(text.len(), out.len())?;
                }
                _ => {
                    self.next();
                    if ch != self.rules.escape {
                        if let Some(words) = &mut words {
                            words.add(ch);
                        }
                        out.push(ch);
                        continue;
                    }
                    if self.raw_escapes {
                        if let Some(words) = &mut words {
                            words.add_raw(ch);
                        }
                        out.push(ch);
                    }
                    let Some(escaped) = self.next() else { break };
                    if let Some(words) = &mut words {
                        words.add_raw(escaped);
                    }
                    out.push(escaped);
                }
            }
        }
        if words.is_some() {
            self.words = words;
        }
        match stop {
            None => Ok(out),
            Some(_) => Err(ExpandError::MissingBrace),
        }
    }

    /// How many bytes come before the next character that means something.
    fn ordinary(&self, stop: Option<char>) -> usize {
        let escape = self.rules.escape;
        let special = |ch: char| matches!(ch, '$' | '\'' | '"') || ch == escape || Some(ch) == stop;
        if !escape.is_ascii() {
            return self.rest.find(special).unwrap_or(self.rest.len());
        }
        // All of them are one byte, which is part of no longer character.
        let stop = stop.and_then(|stop| u8::try_from(stop).ok()).unwrap_or(b'$');
        let escape = u8::try_from(escape).unwrap_or(b'$');
        let special =
            |byte: u8| (byte == b'$') | (byte == b'\'') | (byte == b'"') | (byte == escape) | (byte == stop);
        bytes::position(self.rest.as_bytes(), special).unwrap_or(self.rest.len())
    }

    fn push(&self, out: &mut String, text: &str) -> Result<(), ExpandError> {
        out.push_str(text);
        self.budget.text(text.len(), out.len())
    }

    /// `<` alone, or `<<` with the blanks behind it, which belong to the same word.
    fn less(&mut self) -> &'a str {
        let rest = self.rest;
        let len = match rest.strip_prefix("<<") {
            None => 1,
            Some(tail) => rest.len() - tail.trim_start_matches(['\t', '\r', ' ']).len(),
        };
        let (text, tail) = rest.split_at_checked(len).unwrap_or((rest, ""));
        self.rest = tail;
        text
    }

    fn single_quote(&mut self) -> Result<&'a str, ExpandError> {
        let tail = self.rest.get(1..).unwrap_or("");
        let Some(end) = memchr::memchr(b'\'', tail.as_bytes()) else {
            return Err(ExpandError::UnclosedQuote("single"));
        };
        let (text, quoted) = (tail.get(..end).unwrap_or(""), self.rest.get(..end + 2).unwrap_or(""));
        let text = if self.rules.raw_quotes { quoted } else { text };
        self.rest = tail.get(end + 1..).unwrap_or("");
        Ok(text)
    }

    /// Appends what stands between double quotes.
    fn double_quote(&mut self, out: &mut String) -> Result<(), ExpandError> {
        let start = out.len();
        self.next();
        if self.rules.raw_quotes {
            out.push('"');
        }
        loop {
            let len = self.ordinary(None);
            if let Some((text, rest)) = self.rest.split_at_checked(len)
                && len > 0
            {
                out.push_str(text);
                self.rest = rest;
                self.budget.text(len, out.len() - start)?;
            }
            match self.peek() {
                None => return Err(ExpandError::UnclosedQuote("double")),
                Some('"') => {
                    self.next();
                    if self.rules.raw_quotes {
                        out.push('"');
                    }
                    return Ok(());
                }
                Some('$') => {
                    let before = out.len();
                    self.dollar(out)?;
                    self.budget.text(out.len() - before, out.len() - start)?;
                }
                Some(ch) => {
                    self.next();
                    if ch != self.rules.escape {
                        out.push(ch);
                        continue;
                    }
                    if self.raw_escapes {
                        out.push(ch);
                    }
                    match self.peek() {
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == self.rules.escape => {
                            self.next();
                            out.push(next);
                        }
                        Some(_) => out.push(ch),
                    }
                }
            }
        }
    }

    /// Appends what a variable comes to.
    fn dollar(&mut self, out: &mut String) -> Result<(), ExpandError> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                out.push('$');
                return Ok(());
            }
            match self.value(name) {
                Some(value) => out.push_str(value),
                None if self.rules.keep_unset => push_all(out, &["$", name]),
                None => {}
            }
            return Ok(());
        }
        self.next();
        match self.peek() {
            None => return Err(ExpandError::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandError::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => {
                match self.value(name) {
                    Some(value) => out.push_str(value),
                    None if self.rules.keep_unset => push_all(out, &["${", name, "}"]),
                    None => {}
                }
                Ok(())
            }
            Some(':') => {
                let modifier = self.next();
                self.modified(out, name, true, modifier)
            }
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => self.modified(out, name, false, Some(modifier)),
            Some('/') => {
                let text = self.replaced(name)?;
                out.push_str(&text);
                Ok(())
            }
            other => Err(ExpandError::UnsupportedModifier(shown(other))),
        }
    }

    fn modified(
        &mut self,
        out: &mut String,
        name: &'a str,
        null_is_unset: bool,
        modifier: Option<char>,
    ) -> Result<(), ExpandError> {
        let written = || format!("{}{}", if null_is_unset { ":" } else { "" }, shown(modifier));
        let trims = matches!(modifier, Some('#' | '%'));
        if null_is_unset && trims {
            return Err(ExpandError::UnsupportedModifier(written()));
        }
        let word = self.run(Some('}'), trims)?;
        let value = self.value(name);
        let Some(modifier) = modifier else { return Err(ExpandError::MissingBrace) };
        if self.rules.keep_unset && value.is_none() {
            push_all(out, &["${", name, &written(), &word, "}"]);
            return Ok(());
        }
        let missing = value.is_none() || (null_is_unset && value == Some(""));
        match modifier {
            '-' => out.push_str(if missing { &word } else { value.unwrap_or_default() }),
            '+' => out.push_str(if missing { "" } else { &word }),
            '?' if missing => {
                let default =
                    if value.is_none() { "is not allowed to be unset" } else { "is not allowed to be empty" };
                let message = if word.is_empty() { default.to_owned() } else { word };
                return Err(ExpandError::Required { name: name.to_owned(), message });
            }
            '?' => out.push_str(value.unwrap_or_default()),
            '#' | '%' => {
                let doubled = word.strip_prefix(modifier);
                let pattern = Pattern::parse(doubled.unwrap_or(&word), modifier == '%', self.budget)?;
                let value = value.unwrap_or_default();
                let longest = doubled.is_some();
                out.push_str(&if modifier == '#' {
                    pattern.trim_start(value, longest)?
                } else {
                    pattern.trim_end(value, longest)?
                });
            }
            _ => return Err(ExpandError::UnsupportedModifier(written())),
        }
        Ok(())
    }

    fn replaced(&mut self, name: &'a str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = self.run(Some('/'), true).map_err(|error| match error {
            ExpandError::MissingBrace if self.rest.is_empty() => ExpandError::MissingSlash,
            error => error,
        })?;
        let replacement = self.run(Some('}'), true)?;
        let value = self.value(name);
        if self.rules.keep_unset && value.is_none() {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        Pattern::parse(&pattern, false, self.budget)?.replace(value.unwrap_or_default(), &replacement, all)
    }

    fn name(&mut self) -> &'a str {
        let mut chars = self.rest.char_indices();
        let len = match chars.next() {
            None => 0,
            Some((_, first)) if is_digit(first) => {
                self.rest.find(|ch: char| !is_digit(ch)).unwrap_or(self.rest.len())
            }
            Some((_, '@' | '*' | '#' | '?' | '-' | '$' | '!')) => 1,
            Some(_) => self
                .rest
                .find(|ch: char| !is_letter(ch) && !is_digit(ch) && ch != '_')
                .unwrap_or(self.rest.len()),
        };
        let (name, rest) = self.rest.split_at_checked(len).unwrap_or(("", self.rest));
        self.rest = rest;
        name
    }

    fn value(&mut self, name: &'a str) -> Option<&'v str> {
        let value = self.variables.value(name);
        let seen = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        // The same name over and over is remembered once.
        if seen.last() != Some(&name) {
            seen.push(name);
        }
        value
    }
}

fn shown(ch: Option<char>) -> String {
    ch.unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
}

fn is_letter(ch: char) -> bool {
    ch.is_alphabetic()
}

/// Decimal digits; other numerals (`½`, `Ⅷ`) end a name.
fn is_digit(ch: char) -> bool {
    ch.is_ascii_digit() || (!ch.is_ascii() && ch.is_numeric() && is_decimal(ch))
}

/// Decimal digits stand in runs of ten; these are the ones that people write numbers with.
fn is_decimal(ch: char) -> bool {
    const ZEROS: [u32; 20] = [
        0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50,
        0xed0, 0xf20, 0x1040, 0x17e0, 0x1810, 0xff10,
    ];
    ZEROS.iter().any(|zero| (*zero..*zero + 10).contains(&(ch as u32)))
}
