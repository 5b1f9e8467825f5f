//! Drawing an error or a finding into the text that it is about.

use std::fmt::Write as _;

use super::{Diagnostic, Diagnostics};
use crate::lint::Warning;
use crate::source::{Lines, Source, Span};

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
        let note = self.hint.as_deref().map(|hint| ("hint", hint));
        let marks = marks(self.span, self.lines, source);
        Picture { kind: "error", paint: "\x1b[31;1m", lines: self.lines, marks, note }.draw(
            &self.kind.with_cause(),
            name,
            source,
            color,
        )
    }
}

impl Warning {
    /// The finding with the lines that it is about and the address of its rule.
    pub fn render(&self, name: &str, source: &Source, color: bool) -> String {
        let note = (!self.url.is_empty()).then_some(("see", self.url));
        let text = format!("{}: {}", self.rule, self.message);
        let marks = None;
        Picture { kind: "warning", paint: "\x1b[33;1m", lines: self.lines, marks, note }
            .draw(&text, name, source, color)
    }
}

/// What is drawn around a text.
struct Picture<'a> {
    kind: &'static str,
    paint: &'static str,
    lines: Lines,
    marks: Option<(usize, usize)>,
    note: Option<(&'static str, &'a str)>,
}

impl Picture<'_> {
    fn draw(&self, text: &str, name: &str, source: &Source, color: bool) -> String {
        let (paint, blue, bold, off) =
            if color { (self.paint, "\x1b[34;1m", "\x1b[1m", "\x1b[0m") } else { ("", "", "", "") };
        let mut out = format!("{paint}{}{off}{bold}: {text}{off}\n", self.kind);
        let width = self.lines.last.to_string().len().max(2);
        if self.lines.first > 0 {
            let column = self.marks.map_or(1, |(from, _)| from + 1);
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
                if let (0, Some((from, len))) = (index, self.marks) {
                    let _ = writeln!(
                        out,
                        "{blue}{:>width$} |{off} {:from$}{paint}{}{off}",
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
        if let Some((label, note)) = self.note {
            let _ = writeln!(out, "{blue}{:>width$} ={off} {bold}{label}{off}: {note}", "");
        }
        out
    }
}

/// Column (from 0) and length in characters of the part of the first line that the span covers.
fn marks(span: Span, lines: Lines, source: &Source) -> Option<(usize, usize)> {
    let line = source.lines(Lines::new(lines.first, lines.first));
    if span.start < line.start || span.start >= line.end || span.is_empty() {
        return None;
    }
    let before = source.slice(Span::new(line.start, span.start)).chars().count();
    let len = source.slice(Span::new(span.start, span.end.min(line.end))).chars().count();
    (before < MAX_COLUMNS).then(|| (before, len.clamp(1, MAX_COLUMNS - before)))
}

impl Diagnostics {
    /// All errors, each with its snippet.
    pub fn render(&self, name: &str, source: &Source, color: bool) -> String {
        let all: Vec<String> = self.iter().map(|one| one.render(name, source, color)).collect();
        all.join("\n")
    }
}
