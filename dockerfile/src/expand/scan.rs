//! One pass over a word.

use std::collections::BTreeSet;

use super::pattern::Pattern;
use super::{ExpandError, Expander, Variables};
use crate::limits::{MAX_EXPANSION, MAX_EXPANSION_DEPTH};

/// The state of expanding one word: what is left of it, and what was found.
pub(super) struct Scan<'a> {
    rules: &'a Expander,
    variables: &'a dyn Variables,
    rest: &'a str,
    raw_escapes: bool,
    depth: usize,
    /// Set by every nested run, for the sake of [`Words`].
    nested: bool,
    words: Option<Words>,
    pub(super) matched: BTreeSet<String>,
    pub(super) unmatched: BTreeSet<String>,
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

impl<'a> Scan<'a> {
    pub(super) fn new(rules: &'a Expander, variables: &'a dyn Variables, word: &'a str, words: bool) -> Self {
        Self {
            rules,
            variables,
            rest: word,
            raw_escapes: rules.raw_escapes,
            depth: 0,
            nested: false,
            words: words.then(Words::default),
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
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
        let mut out = String::new();
        while let Some(ch) = self.peek() {
            if out.len() > MAX_EXPANSION {
                return Err(ExpandError::TooLarge("16 MiB"));
            }
            if Some(ch) == stop {
                self.next();
                return Ok(out);
            }
            if words.is_none() {
                // Ordinary characters in one piece.
                let escape = self.rules.escape;
                let ends = |ch: char| matches!(ch, '$' | '\'' | '"') || ch == escape || Some(ch) == stop;
                let len = self.rest.find(ends).unwrap_or(self.rest.len());
                if let Some((text, rest)) = self.rest.split_at_checked(len)
                    && len > 0
                {
                    out.push_str(text);
                    self.rest = rest;
                    continue;
                }
            }
            match ch {
                '$' => {
                    let text = self.dollar()?;
                    if let Some(words) = &mut words {
                        if std::mem::take(&mut self.nested) {
                            words.current.clear();
                        }
                        text.chars().for_each(|ch| words.add(ch));
                    }
                    out.push_str(&text);
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
                    let text = if ch == '"' { self.double_quote()? } else { self.single_quote()? };
                    if let Some(words) = &mut words {
                        if std::mem::take(&mut self.nested) {
                            words.current.clear();
                        }
                        words.current.push_str(&text);
                        words.inside = true;
                    }
                    out.push_str(&text);
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

    fn single_quote(&mut self) -> Result<String, ExpandError> {
        let tail = self.rest.get(1..).unwrap_or("");
        let Some(end) = tail.find('\'') else { return Err(ExpandError::UnclosedQuote("single")) };
        let (text, quoted) = (tail.get(..end).unwrap_or(""), self.rest.get(..end + 2).unwrap_or(""));
        let text = if self.rules.raw_quotes { quoted } else { text };
        self.rest = tail.get(end + 1..).unwrap_or("");
        Ok(text.to_owned())
    }

    fn double_quote(&mut self) -> Result<String, ExpandError> {
        let mut out = String::new();
        self.next();
        if self.rules.raw_quotes {
            out.push('"');
        }
        loop {
            if out.len() > MAX_EXPANSION {
                return Err(ExpandError::TooLarge("16 MiB"));
            }
            match self.peek() {
                None => return Err(ExpandError::UnclosedQuote("double")),
                Some('"') => {
                    self.next();
                    if self.rules.raw_quotes {
                        out.push('"');
                    }
                    return Ok(out);
                }
                Some('$') => out.push_str(&self.dollar()?),
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

    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name) {
                Some(value) => value.to_owned(),
                None if self.rules.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(ExpandError::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandError::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => Ok(match self.value(&name) {
                Some(value) => value.to_owned(),
                None if self.rules.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(':') => {
                let modifier = self.next();
                self.modified(&name, true, modifier)
            }
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => self.modified(&name, false, Some(modifier)),
            Some('/') => self.replaced(&name),
            other => Err(ExpandError::UnsupportedModifier(shown(other))),
        }
    }

    fn modified(
        &mut self,
        name: &str,
        null_is_unset: bool,
        modifier: Option<char>,
    ) -> Result<String, ExpandError> {
        let written = || format!("{}{}", if null_is_unset { ":" } else { "" }, shown(modifier));
        let trims = matches!(modifier, Some('#' | '%'));
        if null_is_unset && trims {
            return Err(ExpandError::UnsupportedModifier(written()));
        }
        let word = self.run(Some('}'), trims)?;
        let value = self.value(name);
        let Some(modifier) = modifier else { return Err(ExpandError::MissingBrace) };
        if self.rules.keep_unset && value.is_none() {
            return Ok(format!("${{{name}{}{word}}}", written()));
        }
        let missing = value.is_none() || (null_is_unset && value == Some(""));
        match modifier {
            '-' => Ok(if missing { word } else { value.unwrap_or_default().to_owned() }),
            '+' => Ok(if missing { String::new() } else { word }),
            '?' if missing => {
                let default =
                    if value.is_none() { "is not allowed to be unset" } else { "is not allowed to be empty" };
                let message = if word.is_empty() { default.to_owned() } else { word };
                Err(ExpandError::Required { name: name.to_owned(), message })
            }
            '?' => Ok(value.unwrap_or_default().to_owned()),
            '#' | '%' => {
                let doubled = word.strip_prefix(modifier);
                let pattern = Pattern::parse(doubled.unwrap_or(&word), modifier == '%')?;
                let value = value.unwrap_or_default();
                let longest = doubled.is_some();
                if modifier == '#' {
                    pattern.trim_start(value, longest)
                } else {
                    pattern.trim_end(value, longest)
                }
            }
            _ => Err(ExpandError::UnsupportedModifier(written())),
        }
    }

    fn replaced(&mut self, name: &str) -> Result<String, ExpandError> {
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
        Pattern::parse(&pattern, false)?.replace(value.unwrap_or_default(), &replacement, all)
    }

    fn name(&mut self) -> String {
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
        name.to_owned()
    }

    fn value(&mut self, name: &str) -> Option<&'a str> {
        let value = self.variables.value(name);
        let seen = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        if !seen.contains(name) {
            seen.insert(name.to_owned());
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
