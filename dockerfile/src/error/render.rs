//! Drawing an error into the text that it is about.

use std::fmt::Write as _;

use super::{Diagnostic, Diagnostics};
use crate::source::Source;

/// Most lines of a snippet.
const MAX_SNIPPET: usize = 8;

/// Most characters of a line that are shown.
const MAX_COLUMNS: usize = 160;

impl Diagnostic {
    /// The error with the lines that it is about, and the bytes marked where they are part of one line.
    ///
    /// ```text
    /// error: unknown instruction: RUM
    ///   --> Dockerfile:3:1
    ///    |
    ///  3 | RUM make
    ///    | ^^^
    ///    = hint: did you mean RUN?
    /// ```
    pub fn render(&self, name: &str, source: &Source, color: bool) -> String {
        let (red, blue, bold, off) =
            if color { ("\x1b[31;1m", "\x1b[34;1m", "\x1b[1m", "\x1b[0m") } else { ("", "", "", "") };
        let mut out = format!("{red}error{off}{bold}: {}{off}\n", self.kind.with_cause());
        let width = self.lines.last.to_string().len().max(2);
        if self.lines.first > 0 {
            let marks = self.marks(source);
            let column = marks.map_or(1, |(from, _)| from + 1);
            let _ = writeln!(out, "{blue}{:>width$}-->{off} {name}:{}:{column}", "", self.lines.first);
            let _ = writeln!(out, "{blue}{:>width$} |{off}", "");
            let text = source.slice(source.lines(self.lines));
            let count = text.split('\n').count();
            for (index, line) in text.split('\n').take(MAX_SNIPPET).enumerate() {
                let number = usize::try_from(self.lines.first).unwrap_or(0) + index;
                let line: String = line
                    .chars()
                    .filter(|ch| *ch != '\r')
                    .map(|ch| if ch.is_control() { ' ' } else { ch })
                    .take(MAX_COLUMNS)
                    .collect();
                let _ = writeln!(out, "{blue}{number:>width$} |{off} {line}");
                if let (0, Some((from, len))) = (index, marks) {
                    let _ = writeln!(
                        out,
                        "{blue}{:>width$} |{off} {:from$}{red}{}{off}",
                        "",
                        "",
                        "^".repeat(len)
                    );
                }
            }
            if count > MAX_SNIPPET {
                let _ = writeln!(out, "{blue}{:>width$} |{off} … {} more lines", "", count - MAX_SNIPPET);
            }
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(out, "{blue}{:>width$} ={off} {bold}hint{off}: {hint}", "");
        }
        out
    }

    /// Column (from 0) and length in characters of the part of the first line that the span covers.
    fn marks(&self, source: &Source) -> Option<(usize, usize)> {
        let line = source.lines(crate::Lines::new(self.lines.first, self.lines.first));
        if self.span.start < line.start || self.span.start >= line.end || self.span.is_empty() {
            return None;
        }
        let before = source.slice(crate::Span::new(line.start, self.span.start)).chars().count();
        let len =
            source.slice(crate::Span::new(self.span.start, self.span.end.min(line.end))).chars().count();
        (before < MAX_COLUMNS).then(|| (before, len.clamp(1, MAX_COLUMNS - before)))
    }
}

impl Diagnostics {
    /// All errors, each with its snippet.
    pub fn render(&self, name: &str, source: &Source, color: bool) -> String {
        let all: Vec<String> = self.iter().map(|one| one.render(name, source, color)).collect();
        all.join("\n")
    }
}
