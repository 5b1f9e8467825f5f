//! Changing a file and leaving the rest of it untouched.

use crate::error::Diagnostics;
use crate::instruction::Kind;
use crate::quote::quote;
use crate::source::Span;
use crate::syntax::{Dockerfile, Stage};

/// Edits of one file. Places are those of the file as it was parsed.
///
/// ```
/// let file: dockerfile::Dockerfile = "FROM  alpine:3.20  AS a\nRUN x\n".parse()?;
/// let mut edit = dockerfile::Edit::new(&file);
/// edit.set_base(0, "alpine:3.21");
/// edit.add_label(0, "version", "1 $x");
/// assert_eq!(edit.finish()?.source().text(), "FROM  alpine:3.21  AS a\nRUN x\nLABEL version=\"1 \\$x\"\n");
/// # Ok::<(), dockerfile::Diagnostics>(())
/// ```
#[derive(Clone, Debug)]
pub struct Edit<'a> {
    file: &'a Dockerfile,
    changes: Vec<(Span, String)>,
}

impl<'a> Edit<'a> {
    /// No change yet.
    pub const fn new(file: &'a Dockerfile) -> Self {
        Self { file, changes: Vec::new() }
    }

    /// Replaces a part of the source.
    pub fn replace(&mut self, span: Span, text: impl Into<String>) -> &mut Self {
        self.changes.push((span, text.into()));
        self
    }

    /// Replaces the image of a stage's FROM; false when there is no such stage, or the name is split over lines.
    pub fn set_base(&mut self, stage: usize, image: &str) -> bool {
        let Some(stage) = self.stage(stage) else { return false };
        let text = self.file.source().slice(stage.instruction.span);
        let base = stage.from.base.as_str();
        // Behind the keyword and the flags.
        let mut from = 0;
        for word in text.split_inclusive(char::is_whitespace) {
            if word.trim_end() == base && from > 0 {
                let start = stage.instruction.span.start + from;
                self.replace(Span::new(start, start + base.len()), image);
                return true;
            }
            from += word.len();
        }
        false
    }

    /// Adds a LABEL at the end of a stage; false when there is no such stage.
    pub fn add_label(&mut self, stage: usize, name: &str, value: &str) -> bool {
        let Some(stage) = self.stage(stage) else { return false };
        let escaped = quote(value).replace('$', "\\$");
        let value = if self.file.escape() == '`' { escaped.replace('\\', "`") } else { escaped };
        self.append(stage, &format!("LABEL {name}={value}"));
        true
    }

    /// Adds a line at the end of a stage; false when there is no such stage.
    pub fn add_line(&mut self, stage: usize, line: &str) -> bool {
        let Some(stage) = self.stage(stage) else { return false };
        self.append(stage, line);
        true
    }

    /// The changed file.
    ///
    /// # Errors
    ///
    /// When what the changes make is no Dockerfile.
    pub fn finish(&self) -> Result<Dockerfile, Diagnostics> {
        let mut changes = self.changes.clone();
        changes.sort_by_key(|(span, _)| *span);
        let source = self.file.source();
        let mut out = Vec::new();
        let mut at = 0;
        for (span, text) in &changes {
            out.extend_from_slice(source.bytes_of(Span::new(at, span.start.max(at))));
            out.extend_from_slice(text.as_bytes());
            at = at.max(span.end);
        }
        out.extend_from_slice(source.bytes_of(Span::new(at, source.text().len())));
        Dockerfile::parse(&out)
    }

    fn stage(&self, number: usize) -> Option<Stage<'a>> {
        self.file.stages().nth(number)
    }

    fn append(&mut self, stage: Stage<'_>, line: &str) {
        let last = stage.body.last().unwrap_or(stage.instruction);
        let end = last.span.end;
        self.replace(Span::new(end, end), format!("\n{line}"));
    }
}

impl Kind {
    /// Whether an instruction of this kind can make a layer.
    pub const fn makes_layer(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Copy(_) | Self::Add(_) | Self::Workdir(_))
    }
}
