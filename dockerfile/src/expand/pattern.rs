//! The globs of `${v#p}`, `${v%p}` and `${v/p/r}`: `*` and `?`, no bracket classes.

use super::{Budget, ExpandError};

/// A parsed glob. Neither wildcard matches a line feed.
pub(super) struct Pattern<'a> {
    /// Runs of characters between stars; `None` in a run is `?`.
    runs: Vec<Vec<Option<char>>>,
    budget: &'a Budget,
}

impl<'a> Pattern<'a> {
    /// Parses a glob; `reversed` gives the one that matches reversed text.
    pub(super) fn parse(text: &str, reversed: bool, budget: &'a Budget) -> Result<Self, ExpandError> {
        budget.work(text.len())?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut runs = vec![Vec::new()];
        let mut chars = text.chars().peekable();
        while let Some(ch) = chars.next() {
            let item = match ch {
                '*' => {
                    runs.push(Vec::new());
                    continue;
                }
                '?' => None,
                '\\' => match chars.peek() {
                    Some('}' | '/') => continue,
                    Some('*' | '?' | '\\') => chars.next(),
                    other => {
                        let escaped = other.map(char::to_string).unwrap_or_default();
                        return Err(ExpandError::InvalidPattern { pattern: text.to_owned(), escaped });
                    }
                },
                ch => Some(ch),
            };
            if let Some(run) = runs.last_mut() {
                run.push(item);
            }
        }
        if reversed {
            runs.reverse();
            runs.iter_mut().for_each(|run| run.reverse());
        }
        Ok(Self { runs, budget })
    }

    /// `value` without the shortest or longest prefix that matches.
    pub(super) fn trim_start(&self, value: &str, longest: bool) -> Result<String, ExpandError> {
        self.budget.work(value.len())?;
        let chars: Vec<char> = value.chars().collect();
        let end = self.end_at(&chars, 0, longest)?.unwrap_or(0);
        Ok(chars.get(end..).unwrap_or(&[]).iter().collect())
    }

    /// `value` without the shortest or longest suffix that matches; the pattern is a reversed one.
    pub(super) fn trim_end(&self, value: &str, longest: bool) -> Result<String, ExpandError> {
        self.budget.work(value.len())?;
        let chars: Vec<char> = value.chars().rev().collect();
        let end = self.end_at(&chars, 0, longest)?.unwrap_or(0);
        Ok(chars.get(end..).unwrap_or(&[]).iter().rev().collect())
    }

    /// `value` with the first, or every, longest match replaced.
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool) -> Result<String, ExpandError> {
        self.budget.work(value.len())?;
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let (mut at, mut copied, mut last_end) = (0, 0, None);
        while at <= chars.len() {
            let Some((start, end)) = self.find(&chars, at)? else { break };
            let matched = chars.get(start..end).unwrap_or(&[]);
            out.extend(chars.get(copied..start).unwrap_or(&[]));
            // An empty match directly behind a match does not count.
            if start != end || last_end != Some(end) {
                let before = out.len();
                if all {
                    template(&mut out, replacement, matched);
                } else {
                    out.push_str(replacement);
                }
                self.budget.text(replacement.len() + out.len() - before, out.len())?;
            }
            copied = end;
            last_end = Some(end);
            if !all {
                break;
            }
            if end > at {
                at = end;
            } else {
                out.extend(chars.get(at));
                at += 1;
                copied = at;
            }
        }
        out.extend(chars.get(copied.min(chars.len())..).unwrap_or(&[]));
        Ok(out)
    }

    /// The leftmost match at or after `from`, longest first.
    fn find(&self, chars: &[char], from: usize) -> Result<Option<(usize, usize)>, ExpandError> {
        for start in from..=chars.len() {
            if let Some(end) = self.end_at(chars, start, true)? {
                return Ok(Some((start, end)));
            }
        }
        Ok(None)
    }

    /// Where a match that begins at `start` ends.
    ///
    /// Taking the first place for every run but the last is enough: a star cannot reach farther from
    /// a later place than from an earlier one on the same line.
    fn end_at(&self, chars: &[char], start: usize, longest: bool) -> Result<Option<usize>, ExpandError> {
        let mut at = start;
        for (index, run) in self.runs.iter().enumerate() {
            let found = if index == 0 {
                self.matches_at(chars, at, run)?.then_some(at)
            } else {
                let last = index + 1 == self.runs.len();
                self.place(chars, at, run, last && longest)?
            };
            let Some(place) = found else { return Ok(None) };
            at = place + run.len();
        }
        Ok(Some(at))
    }

    /// The first or last place of `run` that a star from `at` reaches.
    fn place(
        &self,
        chars: &[char],
        at: usize,
        run: &[Option<char>],
        last: bool,
    ) -> Result<Option<usize>, ExpandError> {
        let tail = chars.get(at..).unwrap_or(&[]);
        let line = tail.iter().position(|ch| *ch == '\n').unwrap_or(tail.len());
        self.budget.work(line)?;
        for offset in 0..=line {
            let place = at + if last { line - offset } else { offset };
            if self.matches_at(chars, place, run)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    fn matches_at(&self, chars: &[char], at: usize, run: &[Option<char>]) -> Result<bool, ExpandError> {
        let Some(part) = chars.get(at..at + run.len()) else { return Ok(false) };
        let same = part.iter().zip(run).take_while(|(ch, want)| match want {
            None => **ch != '\n',
            Some(want) => *ch == want,
        });
        let same = same.count();
        self.budget.work(same + 1)?;
        Ok(same == run.len())
    }
}

/// Appends a replacement in which `$0` stands for the match, other groups for nothing, `$$` for a dollar.
fn template(out: &mut String, replacement: &str, matched: &[char]) {
    let mut rest = replacement;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let braced = after.strip_prefix('{');
        let tail = braced.unwrap_or(after);
        let len = tail.find(|ch: char| !ch.is_alphanumeric() && ch != '_').unwrap_or(tail.len());
        let (name, tail) = tail.split_at_checked(len).unwrap_or(("", tail));
        let tail = if braced.is_some() { tail.strip_prefix('}') } else { Some(tail) };
        match tail {
            Some(tail) if !name.is_empty() => {
                if name == "0" {
                    out.extend(matched);
                }
                rest = tail;
            }
            _ => {
                out.push('$');
                rest = after;
            }
        }
    }
    out.push_str(rest);
}
