//! Steps and entries of the history: how they are added, and the texts that name them.

use std::borrow::Cow;

use super::node::{Node, Task};
use super::{Refusal, Work};
use crate::error::ErrorKind;
use crate::expand::Expander;
use crate::limits::MAX_PLAN_TEXT;
use crate::plan::{HistoryEntry, Input, Op, StepIndex};
use crate::quote::{push_all, push_number};

impl<'a> Work<'a> {
    /// Counts text of the plan; past its limit the file is refused.
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.text += bytes;
        if self.text > MAX_PLAN_TEXT {
            return Err((ErrorKind::Limit { what: "the text of the plan", limit: MAX_PLAN_TEXT }, None));
        }
        Ok(())
    }

    /// The tree of a node that an instruction of `node` reads; nothing when it has none yet.
    ///
    /// A trigger can make a stage read itself: that is what it is so far.
    pub(super) fn tree_of(&self, node: &Node<'a>, source: usize) -> Option<Input> {
        if source == self.working {
            return Some(node.root);
        }
        self.nodes.get(source).filter(|other| other.dispatched).map(|other| other.root)
    }

    /// Adds a history entry.
    pub(super) fn commit(
        &mut self,
        node: &mut Node<'a>,
        task: &Task<'a>,
        created_by: String,
        step: Option<StepIndex>,
    ) -> Result<(), Refusal> {
        self.spend(created_by.len())?;
        node.history.push(HistoryEntry { created_by, step, lines: task.instruction.lines });
        Ok(())
    }

    /// Adds a step over the stage's root, which it becomes.
    pub(super) fn step(&mut self, node: &mut Node<'a>, task: &Task<'a>, op: Op, shown: &str) -> StepIndex {
        let name = self.progress(node, task.onbuild, shown);
        let at = &task.instruction;
        let step = self.steps.add(op, node.root, at.span, at.lines);
        self.steps.describe(step, node.stage.map(|stage| stage.number), task.onbuild);
        self.steps.name(Input::Step(step), name, node.ordinal, node.total);
        node.root = Input::Step(step);
        step
    }

    /// The place of the next step and its text: `[build 2/5] RUN make`.
    pub(super) fn progress(&self, node: &mut Node<'a>, onbuild: bool, text: &str) -> String {
        use std::fmt::Write as _;
        node.ordinal += 1;
        let mut out = String::with_capacity(node.title.len() + text.len() + 24);
        out.push('[');
        if self.options.multi_platform
            && let Some(platform) = &node.platform
        {
            let _ = write!(out, "{platform} ");
        }
        if !node.title.is_empty() {
            push_all(&mut out, &[&node.title, " "]);
        }
        let width = node.total.checked_ilog10().unwrap_or(0);
        for _ in node.ordinal.checked_ilog10().unwrap_or(0)..width {
            out.push(' ');
        }
        push_number(&mut out, node.ordinal.into());
        out.push('/');
        push_number(&mut out, node.total.into());
        out.push_str("] ");
        if onbuild {
            out.push_str("ONBUILD ");
        }
        out.push_str(text);
        out
    }

    /// An instruction's text with its variables, for progress.
    pub(super) fn shown<'t>(&self, node: &Node<'a>, text: &'t str, raw: bool) -> Cow<'t, str> {
        let rules = Expander { raw_quotes: raw, keep_unset: raw, ..self.expander };
        let text = if memchr::memchr(b'$', text.as_bytes()).is_some() {
            rules.text_within(text, &node.env, &self.budget).map_or(Cow::Borrowed(text), Cow::Owned)
        } else {
            Cow::Borrowed(text)
        };
        let (word, rest) = match memchr::memchr(b' ', text.as_bytes()) {
            Some(end) => text.split_at_checked(end).unwrap_or((&text, "")),
            None => (&*text, ""),
        };
        if word.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return text;
        }
        Cow::Owned(word.to_uppercase() + rest)
    }
}
