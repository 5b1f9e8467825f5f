//! `.dockerignore`: which paths of a context the build does not see.
//!
//! The last pattern that matches a path or one of its parents decides; `!` brings back. Source:
//! "dockerignore files" in docker's reference; behaviour of moby/patternmatcher.

mod pattern;

use pattern::Pattern;

use crate::path;

/// A parsed ignore file.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    lines: Vec<String>,
    patterns: Vec<Pattern>,
}

/// A pattern that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in ignore pattern {pattern:?} of line {line}")]
#[non_exhaustive]
pub struct IgnoreError {
    /// The pattern.
    pub pattern: String,
    /// Its place among the patterns, from 1.
    pub line: usize,
}

/// What is known of a directory while a tree is walked: which patterns match it or a parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirState {
    matched: Vec<bool>,
}

/// What the patterns say of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// Whether the entry is ignored.
    pub ignored: bool,
    /// Whether nothing below it can be brought back, so that a walker need not enter it.
    pub prune: bool,
    /// For the entries below it.
    pub state: DirState,
}

impl Ignore {
    /// Parses the text of an ignore file.
    ///
    /// # Errors
    ///
    /// When a pattern is malformed or is a lone `!`.
    pub fn parse(text: &str) -> Result<Self, IgnoreError> {
        let mut ignore = Self::default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for line in text.split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line);
            let trimmed = line.trim();
            if line.starts_with('#') || trimmed.is_empty() {
                continue;
            }
            let (bang, rest) = match trimmed.strip_prefix('!') {
                Some(rest) => ("!", rest.trim()),
                None => ("", trimmed),
            };
            let mut cleaned = if rest.is_empty() { String::new() } else { path::clean(rest).into_owned() };
            if cleaned.len() > 1 && cleaned.starts_with('/') {
                cleaned.remove(0);
            }
            ignore.lines.push(format!("{bang}{cleaned}"));
        }
        for (index, line) in ignore.lines.iter().enumerate() {
            let wrong = || IgnoreError { pattern: line.clone(), line: index + 1 };
            // The reference cleans once more, the exclamation mark included.
            let cleaned = path::clean(line.trim());
            let (exception, text) = match cleaned.strip_prefix('!') {
                Some("") => return Err(wrong()),
                Some(rest) => (true, rest),
                None => (false, &*cleaned),
            };
            let pattern = Pattern::parse(text, exception).ok_or_else(wrong)?;
            // The reference finds this only when it asks the pattern, which it rarely does of an exception.
            if pattern.is_broken() && !exception {
                return Err(wrong());
            }
            ignore.patterns.push(pattern);
        }
        Ok(ignore)
    }

    /// The patterns as they were understood.
    pub fn patterns(&self) -> &[String] {
        &self.lines
    }

    /// Whether any pattern begins with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }

    /// Whether a pattern hides everything.
    pub(crate) fn is_total(&self) -> bool {
        self.patterns
            .iter()
            .any(|pattern| !pattern.exception && matches!(pattern.text.as_str(), "*" | "**" | "**/*"))
    }

    /// Whether a slash-separated path relative to the context is ignored, by itself or by a parent.
    ///
    /// An exception whose expression cannot be matches nothing; [`Ignore::try_matches`] reports it.
    pub fn matches(&self, path: &str) -> bool {
        let mut ignored = false;
        for pattern in &self.patterns {
            if pattern.exception == ignored && pattern.matches_or_parent(path) {
                ignored = !pattern.exception;
            }
        }
        ignored
    }

    /// As [`Ignore::matches`].
    ///
    /// # Errors
    ///
    /// When the answer hangs on an exception whose expression cannot be, which the reference refuses at this point.
    pub fn try_matches(&self, path: &str) -> Result<bool, IgnoreError> {
        let mut ignored = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            if pattern.exception != ignored {
                continue;
            }
            if pattern.is_broken() {
                return Err(IgnoreError { pattern: pattern.text.clone(), line: index + 1 });
            }
            if pattern.matches_or_parent(path) {
                ignored = !pattern.exception;
            }
        }
        Ok(ignored)
    }

    /// What holds for an entry of a directory, given what holds for the directory.
    ///
    /// A walker starts with `DirState::default()` at the context's root and does not enter what is to be pruned.
    ///
    /// An exception whose expression cannot be matches nothing; [`Ignore::try_enter`] reports it.
    pub fn enter(&self, parent: &DirState, path: &str) -> Verdict {
        self.judge(parent, path).0
    }

    /// As [`Ignore::enter`].
    ///
    /// # Errors
    ///
    /// When the answer hangs on an exception whose expression cannot be, as in [`Ignore::try_matches`].
    pub fn try_enter(&self, parent: &DirState, path: &str) -> Result<Verdict, IgnoreError> {
        let (verdict, broken) = self.judge(parent, path);
        let pattern = broken.and_then(|index| Some((index, self.patterns.get(index)?)));
        match pattern {
            None => Ok(verdict),
            Some((index, pattern)) => Err(IgnoreError { pattern: pattern.text.clone(), line: index + 1 }),
        }
    }

    /// The verdict, and the first pattern that was asked and cannot answer.
    fn judge(&self, parent: &DirState, path: &str) -> (Verdict, Option<usize>) {
        let mut ignored = false;
        let mut broken = None;
        let mut state = DirState { matched: vec![false; self.patterns.len()] };
        for (index, (pattern, slot)) in self.patterns.iter().zip(&mut state.matched).enumerate() {
            let inherited = parent.matched.get(index) == Some(&true);
            if pattern.exception == ignored && pattern.is_broken() {
                broken = broken.or(Some(index));
            }
            *slot = inherited || pattern.matches(path);
            if *slot {
                ignored = !pattern.exception;
            }
        }
        let below = |pattern: &&Pattern| pattern.exception && pattern.may_match_below(path);
        let prune = ignored && !self.patterns.iter().any(|pattern| below(&pattern));
        (Verdict { ignored, prune, state }, broken)
    }
}
