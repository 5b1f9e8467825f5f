//! Variable expansion and word splitting, as BuildKit's `shell` package does them.
//!
//! The language is a small part of the shell's: `$v`, `${v}` and the modifiers `:- - :+ + :? ?`,
//! `# ## % %%` and `/ //`; single quotes, double quotes and one escape character. Nothing is
//! executed. Reference: "Environment replacement" in the Dockerfile reference.

mod pattern;
mod scan;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeSet;

use crate::bytes;
use crate::limits::{MAX_EXPANSION, MAX_EXPANSION_WORK};

/// Where the values of variables come from.
pub trait Variables {
    /// The value of `name`, or nothing when it is not set.
    fn value(&self, name: &str) -> Option<&str>;
}

impl Variables for () {
    fn value(&self, _: &str) -> Option<&str> {
        None
    }
}

impl Variables for std::collections::BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// Why a word could not be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandError {
    /// A quote is not closed.
    #[error("unexpected end of statement while looking for matching {0}-quote")]
    UnclosedQuote(&'static str),
    /// `${` is not closed.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${v/pattern` has no second slash.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${{` or `${:…}`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// A modifier that the language does not have.
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// `${v:?message}` of a variable that has no value.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The message given in the file, or a default one.
        message: String,
    },
    /// A pattern escapes a character that needs no escape.
    #[error("invalid pattern ({pattern}) in substitution: invalid escape '\\{escaped}'")]
    InvalidPattern {
        /// The pattern.
        pattern: String,
        /// The character behind the backslash.
        escaped: String,
    },
    /// The result or the work is beyond the bounds of [`crate::limits`].
    #[error("expansion is larger than {0}")]
    TooLarge(&'static str),
}

/// The result of expanding a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expansion<'a> {
    /// The expanded text.
    pub text: Cow<'a, str>,
    /// Variables that were looked up and had a value.
    pub matched: BTreeSet<String>,
    /// Variables that were looked up and had none.
    pub unmatched: BTreeSet<String>,
}

/// How words are expanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expander {
    /// The escape character: backslash, or a backtick when the file says so.
    pub escape: char,
    /// Keep quotes in the result.
    pub raw_quotes: bool,
    /// Keep escape characters in the result.
    pub raw_escapes: bool,
    /// Treat quotes as ordinary characters (bodies of heredocs).
    pub skip_quotes: bool,
    /// Leave variables without a value as they are written.
    pub keep_unset: bool,
}

impl Default for Expander {
    fn default() -> Self {
        Self::new('\\')
    }
}

impl Expander {
    /// The ordinary rules with the given escape character.
    pub const fn new(escape: char) -> Self {
        Self { escape, raw_quotes: false, raw_escapes: false, skip_quotes: false, keep_unset: false }
    }

    /// Expands `word` as one word: blanks are kept.
    ///
    /// # Errors
    ///
    /// When quotes or braces are not closed, a modifier is unknown, `${v:?}` finds no value, or a bound is hit.
    pub fn word<'a>(&self, word: &'a str, variables: &dyn Variables) -> Result<Expansion<'a>, ExpandError> {
        self.word_within(word, variables, &Budget::default()).map(|found| Expansion {
            text: found.text,
            matched: found.matched.into_iter().map(str::to_owned).collect(),
            unmatched: found.unmatched.into_iter().map(str::to_owned).collect(),
        })
    }

    /// As [`Expander::word`], as long as the budget lasts.
    pub(crate) fn word_within<'a>(
        &self,
        word: &'a str,
        variables: &dyn Variables,
        budget: &Budget,
    ) -> Result<Found<'a>, ExpandError> {
        let word = word.strip_prefix('\u{feff}').unwrap_or(word);
        let special = bytes::any(word.as_bytes(), |byte| self.is_special(byte));
        if !special && self.escape.is_ascii() {
            return Ok(Found { text: Cow::Borrowed(word), matched: Vec::new(), unmatched: Vec::new() });
        }
        let mut scan = scan::Scan::new(self, variables, word, false, budget);
        let text = scan.run(None, self.raw_escapes)?;
        Ok(Found { text: Cow::Owned(text), matched: names(scan.matched), unmatched: names(scan.unmatched) })
    }

    /// The text alone, when it is not `word` as it stands.
    pub(crate) fn text_within(
        &self,
        word: &str,
        variables: &dyn Variables,
        budget: &Budget,
    ) -> Result<String, ExpandError> {
        let word = word.strip_prefix('\u{feff}').unwrap_or(word);
        scan::Scan::new(self, variables, word, false, budget).run(None, self.raw_escapes)
    }

    /// Expands `word` and splits the result at blanks that are not quoted.
    ///
    /// # Errors
    ///
    /// As [`Expander::word`].
    pub fn words(&self, word: &str, variables: &dyn Variables) -> Result<Vec<String>, ExpandError> {
        self.words_within(word, variables, &Budget::default())
    }

    /// As [`Expander::words`], as long as the budget lasts.
    pub(crate) fn words_within(
        &self,
        word: &str,
        variables: &dyn Variables,
        budget: &Budget,
    ) -> Result<Vec<String>, ExpandError> {
        let word = word.strip_prefix('\u{feff}').unwrap_or(word);
        let mut scan = scan::Scan::new(self, variables, word, true, budget);
        scan.run(None, self.raw_escapes)?;
        Ok(scan.into_words())
    }

    fn is_special(&self, byte: u8) -> bool {
        (byte == b'$') | (byte == b'\'') | (byte == b'"') | (u32::from(byte) == self.escape as u32)
    }
}

/// What a run comes to; the names are in order, each once.
pub(crate) struct Found<'a> {
    pub(crate) text: Cow<'a, str>,
    pub(crate) matched: Vec<&'a str>,
    pub(crate) unmatched: Vec<&'a str>,
}

fn names(mut seen: Vec<&str>) -> Vec<&str> {
    seen.sort_unstable();
    seen.dedup();
    seen
}

/// What expansions may cost together: bytes that are made, at any depth, and characters that patterns look at.
///
/// Nested replacements multiply both, in ways that the result does not show.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    spent: Cell<usize>,
}

impl Budget {
    fn work(&self, steps: usize) -> Result<(), ExpandError> {
        self.spent.set(self.spent.get().saturating_add(steps));
        if self.spent.get() > MAX_EXPANSION_WORK {
            return Err(ExpandError::TooLarge("2^26 steps"));
        }
        Ok(())
    }

    /// `made` more bytes, in a text that now has `len`.
    fn text(&self, made: usize, len: usize) -> Result<(), ExpandError> {
        if len > MAX_EXPANSION {
            return Err(ExpandError::TooLarge("16 MiB"));
        }
        self.work(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> std::collections::BTreeMap<String, String> {
        [("A", "abc/def"), ("EMPTY", ""), ("P", "aXbXc")]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn forms() {
        for (word, want) in [
            ("$A", "abc/def"),
            ("${A}x", "abc/defx"),
            ("$NO", ""),
            ("${NO:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${EMPTY:-d}", "d"),
            ("${A:+set}", "set"),
            ("${A#*/}", "def"),
            ("${A%/*}", "abc"),
            ("${P##*X}", "c"),
            ("${P%%X*}", "a"),
            ("${P/X/-}", "a-bXc"),
            ("${P//X/-}", "a-b-c"),
            ("'$A'", "$A"),
            ("\"$A\"", "abc/def"),
            ("\\$A", "$A"),
        ] {
            assert_eq!(Expander::default().word(word, &variables()).unwrap().text, want, "{word}");
        }
    }

    #[test]
    fn words_split_after_expansion() {
        let words = Expander::default().words("a 'b c' $A", &variables()).unwrap();
        assert_eq!(words, ["a", "b c", "abc/def"]);
    }
}
