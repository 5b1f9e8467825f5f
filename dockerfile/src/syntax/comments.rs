//! The comments above an instruction, in one text.

/// Comments without `#` and the blanks around them, each one line. None is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comments(String);

impl Comments {
    pub(crate) const NONE: Self = Self(String::new());

    /// The comments from the top.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split_terminator('\n')
    }

    /// The one directly above the instruction.
    pub fn last(&self) -> Option<&str> {
        self.iter().next_back()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a line, which is not empty.
    pub(crate) fn push(&mut self, line: &str) {
        if self.0.is_empty() {
            self.0.reserve(2 * line.len());
        } else {
            self.0.push('\n');
        }
        self.0.push_str(line);
    }

    /// Takes the last one away.
    pub(crate) fn pop(&mut self) {
        let end = self.0.rfind('\n').unwrap_or(0);
        self.0.truncate(end);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_and_go() {
        let mut comments = Comments::default();
        assert_eq!((comments.last(), comments.is_empty()), (None, true));
        comments.push("a");
        comments.push("b c");
        assert_eq!((comments.iter().collect::<Vec<_>>(), comments.last()), (vec!["a", "b c"], Some("b c")));
        comments.pop();
        assert_eq!(comments.iter().collect::<Vec<_>>(), ["a"]);
        comments.pop();
        assert!(comments.is_empty());
    }
}
