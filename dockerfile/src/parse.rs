//! From bytes to a [`Dockerfile`].

pub(crate) mod words;

use std::borrow::Cow;

use crate::directive::{self, Directive};
use crate::error::{Diagnostic, Diagnostics, ErrorKind};
use crate::heredoc;
use crate::instruction::{self, Kind, Line};
use crate::limits::{MAX_DIAGNOSTICS, MAX_INSTRUCTIONS, MAX_LINE, MAX_SOURCE};
use crate::lint;
use crate::quote::quote;
use crate::source::{Lines, Source, Span};
use crate::syntax::{Comments, Dockerfile, Finding, Instruction, ItemKind, Items};

impl Dockerfile {
    /// Parses a file.
    ///
    /// ```
    /// let file = dockerfile::Dockerfile::parse(b"FROM alpine\nRUN echo \\\n  hello\n")?;
    /// assert_eq!(file.instructions()[1].text, "RUN echo   hello");
    /// assert_eq!(file.source().bytes(), b"FROM alpine\nRUN echo \\\n  hello\n");
    /// # Ok::<(), dockerfile::Diagnostics>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Everything that the parser finds wrong, in the order of the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Diagnostics> {
        let Partial { file, errors, .. } = partial(bytes)?;
        if errors.is_empty() {
            return Ok(file);
        }
        let warnings = lint::findings(&file);
        Err(Diagnostics::new(errors, warnings))
    }
}

/// A file as far as it could be read.
pub(crate) struct Partial {
    /// What could be read.
    pub(crate) file: Dockerfile,
    /// Why the rest could not.
    pub(crate) errors: Vec<Diagnostic>,
    /// Whether the stages are not those of the text: a FROM could not be read, or the end.
    pub(crate) lost_stage: bool,
}

/// Reads a file as far as it can be read.
///
/// # Errors
///
/// When nothing of it can be.
pub(crate) fn partial(bytes: &[u8]) -> Result<Partial, Diagnostics> {
    if bytes.len() > MAX_SOURCE {
        let kind = ErrorKind::Limit { what: "the file", limit: MAX_SOURCE };
        return Err(Diagnostic::request(kind).into());
    }
    if bytes.is_empty() {
        return Err(Diagnostic::request(ErrorKind::EmptyFile).into());
    }
    let source = Source::new(bytes);
    let mut parser = Parser::new(source.text());
    parser.run();
    let Parser { escape, directives, items, instructions, findings, mut errors, line, stopped, .. } = parser;
    let mut lost_stage = parser.lost_stage || stopped;
    if errors.is_empty() {
        let end = Span::new(source.text().len(), source.text().len());
        let missing = if instructions.is_empty() {
            Some(ErrorKind::NoInstructions)
        } else {
            let stages = instructions.iter().any(|one| matches!(one.kind, Kind::From(_)));
            (!stages).then_some(ErrorKind::NoStages)
        };
        if let Some(kind) = missing {
            let hint = "a Dockerfile needs a FROM: `FROM scratch` or the name of an image".to_owned();
            errors.push(Diagnostic::new(kind, end, Lines::new(line, line)).hint(hint));
            lost_stage = true;
        }
    }
    let file = Dockerfile { source, escape, directives, items, instructions, findings };
    lost_stage |= file.stages().next().is_none();
    Ok(Partial { file, errors, lost_stage })
}

impl std::str::FromStr for Dockerfile {
    type Err = Diagnostics;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text.as_bytes())
    }
}

/// The instructions of a trigger's text. Their places are of that text.
pub(crate) fn trigger(text: &str) -> Result<Vec<Instruction>, Diagnostic> {
    let mut parser = Parser::new(text);
    parser.in_stage = true;
    parser.run();
    match parser.errors.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(parser.instructions),
    }
}

struct Parser<'a> {
    text: &'a str,
    pos: usize,
    line: u32,
    escape: char,
    reader: directive::Reader,
    directives: Vec<Directive>,
    comments: Comments,
    items: Items,
    instructions: Vec<Instruction>,
    findings: Vec<Finding>,
    errors: Vec<Diagnostic>,
    in_stage: bool,
    /// Whether there was a FROM that could not be read.
    lost_stage: bool,
    stopped: bool,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            pos: 0,
            line: 0,
            escape: '\\',
            reader: directive::Reader::default(),
            directives: Vec::new(),
            comments: Comments::default(),
            // Real files have one of each in some fifty bytes.
            items: Items::with_capacity((text.len() / 32).min(256)),
            instructions: Vec::with_capacity((text.len() / 64).min(64)),
            findings: Vec::new(),
            errors: Vec::new(),
            in_stage: false,
            lost_stage: false,
            stopped: false,
        }
    }

    /// The next physical line with its end.
    fn next_line(&mut self) -> Option<&'a str> {
        let rest = self.text.get(self.pos..).filter(|rest| !rest.is_empty() && !self.stopped)?;
        let len = memchr::memchr(b'\n', rest.as_bytes()).map_or(rest.len(), |at| at + 1);
        let line = rest.get(..len)?;
        let content = line.strip_suffix('\n').unwrap_or(line);
        if content.len() > MAX_LINE {
            // Bytes that are no characters count as one each, as they do in the file, and are three here.
            let replaced = if content.len() > 3 * MAX_LINE {
                0
            } else {
                content.matches(char::REPLACEMENT_CHARACTER).count()
            };
            if content.len() - 2 * replaced > MAX_LINE {
                let lines = Lines::new(self.line + 1, self.line + 1);
                let kind = ErrorKind::Limit { what: "a line", limit: MAX_LINE };
                self.fail(Diagnostic::new(kind, Span::new(self.pos, self.pos + len), lines));
                self.stopped = true;
                return None;
            }
        }
        self.pos += len;
        self.line += 1;
        Some(line)
    }

    fn fail(&mut self, error: Diagnostic) {
        self.errors.push(error);
        if self.errors.len() >= MAX_DIAGNOSTICS {
            self.stopped = true;
        }
    }

    fn item(&mut self, kind: ItemKind) {
        self.items.push(kind, self.pos);
    }

    fn run(&mut self) {
        while let Some(raw) = self.next_line() {
            let raw = if self.line == 1 { raw.strip_prefix('\u{feff}').unwrap_or(raw) } else { raw };
            let line = raw.trim_end_matches(['\r', '\n']).trim_start();
            if line.starts_with('#') {
                self.comment(raw, line);
                continue;
            }
            // Ends the block of directives.
            drop(self.reader.line(line));
            let (first, continues) = continuation(line, self.escape);
            if !continues && first.is_empty() {
                self.item(ItemKind::Blank);
                continue;
            }
            self.instruction(raw, first, continues);
        }
    }

    fn comment(&mut self, raw: &str, line: &str) {
        // The reference cuts the first byte, whatever it is.
        let text = raw.get(1..).unwrap_or(raw).trim();
        if text.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(text);
        }
        let span = Span::new(self.pos - raw.len(), self.pos - raw.len() + raw.trim_end().len());
        let lines = Lines::new(self.line, self.line);
        match self.reader.line(line) {
            Ok(None) => self.item(ItemKind::Comment),
            Ok(Some((name, value))) => {
                self.comments.pop();
                if name == "escape" {
                    match value.as_str() {
                        "\\" => self.escape = '\\',
                        "`" => self.escape = '`',
                        other => {
                            let text = format!("invalid escape token '{other}' does not match ` or \\");
                            self.fail(Diagnostic::new(ErrorKind::Directive(text), span, lines));
                        }
                    }
                }
                self.item(ItemKind::Directive(self.directives.len()));
                self.directives.push(Directive { name, value, span, line: self.line });
            }
            Err(text) => self.fail(Diagnostic::new(ErrorKind::Directive(text), span, lines)),
        }
    }

    fn instruction(&mut self, raw: &'a str, first: &'a str, mut continues: bool) {
        let first_line = self.line;
        let begin = self.pos - raw.len() + (raw.len() - raw.trim_start().len());
        let mut text = Cow::Borrowed(first);
        let mut empty_continuation = false;
        while continues {
            let Some(raw) = self.next_line() else { break };
            let line = raw.trim_end_matches(['\r', '\n']);
            let trimmed = line.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                empty_continuation = true;
                continue;
            }
            let (part, more) = continuation(line, self.escape);
            if let Cow::Borrowed(first) = text {
                // Most go on for some lines.
                let mut whole = String::with_capacity(2 * (first.len() + part.len()));
                whole.push_str(first);
                text = Cow::Owned(whole);
            }
            text.to_mut().push_str(part);
            continues = more;
        }
        if empty_continuation {
            let warning = lint::NO_EMPTY_CONTINUATION
                .warning("Empty continuation line".to_owned(), self.lines(self.line));
            self.findings.push(Finding { warning, instruction: None });
        }
        let command = words::command(&text, self.escape);
        let comments = std::mem::take(&mut self.comments);
        let head_end = self.pos;
        let heredocs = if announces(&text) && instruction::takes_heredocs(&command, self.escape) {
            self.heredocs(&text, Span::new(begin, head_end), first_line)
        } else {
            Vec::new()
        };
        let lines = Lines::new(first_line, self.line);
        let end = begin + self.text.get(begin..self.pos).unwrap_or("").trim_end_matches(['\r', '\n']).len();
        let span = Span::new(begin, end);
        let line = Line {
            command: &command,
            text: &text,
            heredocs: &heredocs,
            comments: &comments,
            escape: self.escape,
        };
        self.item(ItemKind::Instruction(self.instructions.len()));
        if self.instructions.len() >= MAX_INSTRUCTIONS {
            let kind = ErrorKind::Limit { what: "the number of instructions", limit: MAX_INSTRUCTIONS };
            self.fail(Diagnostic::new(kind, span, lines));
            self.stopped = true;
            return;
        }
        match instruction::read(&line) {
            Err((kind, hint)) => {
                let at = match kind {
                    ErrorKind::UnknownInstruction(_) => Span::new(begin, begin + command.keyword.len()),
                    _ => span,
                };
                self.fail(Diagnostic::new(kind, at, lines).hint(hint));
                let stage = instruction::keyword(command.keyword) == Some("FROM");
                self.in_stage |= stage;
                self.lost_stage |= stage;
            }
            Ok(kind) => {
                self.in_stage |= matches!(kind, Kind::From(_));
                if !self.in_stage && !matches!(kind, Kind::Arg(_)) {
                    let hint = "put FROM before it; only ARG may stand above the first FROM".to_owned();
                    self.fail(Diagnostic::new(ErrorKind::OutsideStage, span, lines).hint(hint));
                    self.in_stage = true;
                }
                let keyword = command.keyword.to_owned();
                let flags = command.flags;
                let text = match text {
                    Cow::Owned(text) if text.trim().len() == text.len() => text,
                    text => text.trim().to_owned(),
                };
                let instruction = Instruction { keyword, kind, flags, text, comments, span, lines, heredocs };
                lint::syntax(&instruction, self.instructions.len(), &mut self.findings);
                self.instructions.push(instruction);
            }
        }
    }

    /// Reads the bodies of the heredocs that a line announces.
    fn heredocs(&mut self, text: &str, span: Span, first_line: u32) -> Vec<heredoc::Heredoc> {
        let lines = Lines::new(first_line, self.line);
        let mut docs = match heredoc::heads(text) {
            Ok(docs) => docs,
            Err(cause) => {
                let kind = ErrorKind::Expand { word: quote(text), cause: Box::new(cause) };
                self.fail(Diagnostic::new(kind, span, lines));
                return Vec::new();
            }
        };
        for doc in &mut docs {
            let begin = self.pos;
            let mut ended = None;
            while ended.is_none() {
                let Some(raw) = self.next_line() else { break };
                let line = raw.trim_end_matches(['\r', '\n']);
                let line = if doc.chomp { line.trim_start_matches('\t') } else { line };
                if line == doc.name {
                    ended = Some(self.pos - raw.len());
                }
            }
            let Some(end) = ended else {
                let hint = format!("end it with a line that holds {} alone", doc.name);
                self.fail(Diagnostic::new(ErrorKind::UnterminatedHeredoc, span, lines).hint(hint));
                return Vec::new();
            };
            self.text.get(begin..end).unwrap_or("").clone_into(&mut doc.content);
        }
        docs
    }

    const fn lines(&self, line: u32) -> Lines {
        Lines::new(line, line)
    }
}

/// Whether there is a `<<` in a text.
fn announces(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'<', bytes).any(|at| bytes.get(at + 1) == Some(&b'<'))
}

/// A line without its continuation character, and whether there was one.
///
/// An escape character in front of it makes it an ordinary one; how many there are does not matter.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continuation_characters() {
        assert_eq!(continuation("a \\", '\\'), ("a ", true));
        assert_eq!(continuation("a \\ \t", '\\'), ("a ", true));
        assert_eq!(continuation("\\", '\\'), ("", true));
        assert_eq!(continuation("a \\\\", '\\'), ("a \\\\", false));
        assert_eq!(continuation("a `", '`'), ("a ", true));
        assert_eq!(continuation("a  ", '\\'), ("a  ", false));
    }

    #[test]
    fn every_error_is_reported() {
        let errors = Dockerfile::parse(b"FROM a\nRUM x\nCOPY y\n").unwrap_err();
        assert_eq!(errors.len(), 2);
        let first = errors.first().unwrap();
        assert_eq!((first.lines, first.hint.as_deref()), (Lines::new(2, 2), Some("did you mean RUN?")));
    }

    #[test]
    fn items_cover_the_source() {
        let text = "\u{feff}# escape=`\n\n# c\nFROM a\nRUN <<X `\n  y\nbody\nX\n  # end";
        let file: Dockerfile = text.parse().unwrap();
        let mut at = 0;
        for item in file.items() {
            assert_eq!(item.span.start, at);
            at = item.span.end;
        }
        assert_eq!(at, text.len());
        assert_eq!(file.instructions()[1].heredocs[0].content, "body\n");
    }
}
