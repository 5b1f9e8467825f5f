//! A parsed file: every byte of it, and what the bytes mean.

mod comments;
mod item;

pub use comments::Comments;
pub(crate) use item::Items;
pub use item::{Item, ItemKind};

use crate::directive::Directive;
use crate::heredoc::Heredoc;
use crate::instruction::{From, Kind};
use crate::lint::Warning;
use crate::source::{Lines, Source, Span};

/// A parsed Dockerfile.
///
/// Nothing of the source is lost: [`Dockerfile::source`] prints it back byte by byte, and
/// [`Dockerfile::items`] covers it without a gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    pub(crate) source: Source,
    pub(crate) escape: char,
    pub(crate) directives: Vec<Directive>,
    pub(crate) items: Items,
    pub(crate) instructions: Vec<Instruction>,
    /// Findings of the parser, before any `# check=` is applied.
    pub(crate) findings: Vec<Finding>,
}

/// A finding of the parser: a rule's, with the comments that may silence it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) warning: Warning,
    /// Index of the instruction whose comments apply; none when no comment does.
    pub(crate) instruction: Option<usize>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instruction {
    /// The keyword as it is written.
    pub keyword: String,
    /// What it says.
    pub kind: Kind,
    /// The flags as they are written, unquoted: `--platform=linux/arm64`.
    pub flags: Vec<String>,
    /// The line that the physical lines make together, without heredocs.
    pub text: String,
    /// Comments above it, back to the last line that is blank behind its `#`.
    pub comments: Comments,
    /// Its bytes, without the end of its last line.
    pub span: Span,
    /// Its physical lines, heredocs included.
    pub lines: Lines,
    /// Its heredocs.
    pub heredocs: Vec<Heredoc>,
}

/// A stage: a FROM and what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Stage<'a> {
    /// Its place in the file, from 0.
    pub number: usize,
    /// What its FROM says.
    pub from: &'a From,
    /// Its FROM.
    pub instruction: &'a Instruction,
    /// The instructions behind FROM.
    pub body: &'a [Instruction],
    /// Index of FROM in [`Dockerfile::instructions`].
    pub(crate) first: usize,
}

impl Dockerfile {
    /// The source; its bytes are the file's.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The escape character: backslash, or a backtick by `# escape=`.
    pub fn escape(&self) -> char {
        self.escape
    }

    /// The parser directives at the top.
    pub fn directives(&self) -> &[Directive] {
        &self.directives
    }

    /// All instructions in the order of the file.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The pieces of the source; together they are all of it.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        self.items.iter()
    }

    /// Instructions before the first FROM: global ARGs.
    pub fn globals(&self) -> &[Instruction] {
        let end = self.stages().next().map_or(self.instructions.len(), |stage| stage.first);
        self.instructions.get(..end).unwrap_or(&[])
    }

    /// The stages in the order of the file.
    pub fn stages(&self) -> impl Iterator<Item = Stage<'_>> {
        let mut at = 0;
        let mut number = 0;
        std::iter::from_fn(move || {
            let rest = self.instructions.get(at..)?;
            let skip = rest.iter().position(|instruction| matches!(instruction.kind, Kind::From(_)))?;
            let first = at + skip;
            let instruction = self.instructions.get(first)?;
            let Kind::From(from) = &instruction.kind else { return None };
            let rest = self.instructions.get(first + 1..).unwrap_or(&[]);
            let len = rest.iter().position(|next| matches!(next.kind, Kind::From(_))).unwrap_or(rest.len());
            at = first + 1 + len;
            number += 1;
            Some(Stage { number: number - 1, from, instruction, body: rest.get(..len).unwrap_or(&[]), first })
        })
    }
}
