//! The pieces of a source, kept small: a hostile file has millions.

use crate::source::Span;

/// A piece of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Where it is, with the end of its last line.
    pub span: Span,
}

/// What a piece of the source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ItemKind {
    /// A parser directive: its index in [`Dockerfile::directives`](crate::Dockerfile::directives).
    Directive(usize),
    /// A comment line.
    Comment,
    /// Lines of blanks, as many as there are together.
    Blank,
    /// An instruction with its continuation lines and heredocs: its index in
    /// [`Dockerfile::instructions`](crate::Dockerfile::instructions).
    Instruction(usize),
}

/// All pieces. They stand one behind the other, so the end of each is enough; sources are shorter than 4 GiB
/// ([`crate::limits::MAX_SOURCE`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Items(Vec<Piece>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    end: u32,
    /// 0 a comment, 1 blank, else 2 + twice the index, and one more for an instruction.
    kind: u32,
}

impl Items {
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    /// Adds a piece that ends at `end`.
    pub(crate) fn push(&mut self, kind: ItemKind, end: usize) {
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let kind = match kind {
            ItemKind::Comment => 0,
            ItemKind::Blank => 1,
            ItemKind::Directive(index) => small(2 + 2 * index),
            ItemKind::Instruction(index) => small(3 + 2 * index),
        };
        match self.0.last_mut() {
            Some(last) if kind == 1 && last.kind == 1 => last.end = small(end),
            _ => self.0.push(Piece { end: small(end), kind }),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Item> {
        let mut start = 0;
        self.0.iter().map(move |piece| {
            let index = (piece.kind / 2).saturating_sub(1) as usize;
            let kind = match piece.kind {
                0 => ItemKind::Comment,
                1 => ItemKind::Blank,
                even if even % 2 == 0 => ItemKind::Directive(index),
                _ => ItemKind::Instruction(index),
            };
            let span = Span::new(start, piece.end as usize);
            start = span.end;
            Item { kind, span }
        })
    }
}
