//! Parser directives: `# syntax=`, `# escape=`, `# check=` at the top of a file.

use crate::source::Span;

/// A parser directive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Directive {
    /// `syntax`, `escape` or `check`.
    pub name: &'static str,
    /// The text behind the equals sign.
    pub value: String,
    /// The line.
    pub span: Span,
    /// Its 1-based number.
    pub line: u32,
}

const NAMES: [&str; 3] = ["syntax", "escape", "check"];

/// Reads directives line by line until the first line that is none.
#[derive(Default)]
pub(crate) struct Reader {
    seen: Vec<&'static str>,
    done: bool,
}

impl Reader {
    /// The directive of a line, without its place.
    ///
    /// # Errors
    ///
    /// With the text of the error when a directive is given twice.
    pub(crate) fn line(&mut self, line: &str) -> Result<Option<(&'static str, String)>, String> {
        if self.done {
            return Ok(None);
        }
        let found = line.strip_prefix('#').and_then(|text| assignment(text.trim_start()));
        let known = found.and_then(|(name, value)| {
            NAMES.into_iter().find(|known| known.eq_ignore_ascii_case(name)).map(|known| (known, value))
        });
        let Some((name, value)) = known else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&name) {
            return Err(format!("only one {name} parser directive can be used"));
        }
        self.seen.push(name);
        Ok(Some((name, value.to_owned())))
    }
}

/// `name = value`, where the value is not empty.
pub(crate) fn assignment(text: &str) -> Option<(&str, &str)> {
    const BLANKS: [char; 5] = ['\t', '\n', '\u{c}', '\r', ' '];
    if !text.starts_with(|ch: char| ch.is_ascii_alphabetic()) {
        return None;
    }
    let end = text.find(|ch: char| !ch.is_ascii_alphanumeric())?;
    let (name, tail) = text.split_at_checked(end)?;
    let tail = tail.trim_start_matches(BLANKS).strip_prefix('=')?;
    let value = tail.trim_matches(BLANKS);
    if !value.is_empty() {
        return Some((name, value));
    }
    // A value of blanks alone is the last blank.
    let last = tail.char_indices().last()?.0;
    tail.get(last..).map(|blank| (name, blank))
}

/// The value of a directive in a whole text, found as the tools find it that do not parse the file: behind a
/// byte order mark and a `#!` line, and only in lines that begin with `#`.
pub(crate) fn find(text: &str, name: &str) -> Option<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = match text.strip_prefix("#!") {
        Some(tail) => tail.split_once('\n').map_or("", |(_, rest)| rest),
        None => text,
    };
    let mut reader = Reader::default();
    for line in text.split('\n') {
        match reader.line(line.strip_suffix('\r').unwrap_or(line)) {
            Ok(Some((found, value))) if found == name => {
                return Some(value.split_once(' ').map_or(value.as_str(), |(word, _)| word).to_owned());
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives() {
        let mut reader = Reader::default();
        assert_eq!(
            reader.line("# Syntax = docker/dockerfile:1 ").unwrap().unwrap(),
            ("syntax", "docker/dockerfile:1".into())
        );
        assert_eq!(reader.line("#escape=`").unwrap().unwrap(), ("escape", "`".into()));
        assert!(reader.line("# syntax=x").is_err());
        assert_eq!(reader.line("# other=1").unwrap(), None);
        assert_eq!(reader.line("# check=skip=all").unwrap(), None);
        assert_eq!(
            find("#!/bin/x\n# check=skip=A;error=true trailing\n", "check").unwrap(),
            "skip=A;error=true"
        );
    }
}
