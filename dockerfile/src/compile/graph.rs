//! The stages and images of a file, and which of them needs which.

use std::collections::BTreeMap;

use super::node::{Given, Node, Task};
use super::{Refusal, Work};
use crate::error::{Diagnostic, ErrorKind};
use crate::instruction::{Kind, MountSpec};
use crate::quote::quote;
use crate::suggest;
use crate::syntax::Instruction;

/// All nodes, and the stages among them by name.
#[derive(Default)]
pub(super) struct Graph<'a> {
    /// A node that is worked on is elsewhere meanwhile.
    pub(super) all: Vec<Option<Box<Node<'a>>>>,
    by_name: BTreeMap<String, usize>,
}

impl<'a> Graph<'a> {
    /// Adds a node; a base name that is a stage's makes it built from that stage.
    pub(super) fn add(&mut self, node: Node<'a>) -> usize {
        let mut node = Box::new(node);
        let index = self.all.len();
        if node.context.is_none() {
            node.base = self.by_name.get(&node.base_name).copied();
        }
        if let Some(name) = node.name() {
            self.by_name.insert(name.to_owned(), index);
        }
        self.all.push(Some(node));
        index
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).or_else(|| self.by_name.get(&name.to_lowercase())).copied()
    }

    pub(super) fn find_exact(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Node<'a>> {
        self.all.get(index)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Node<'a>> {
        self.all.get_mut(index)?.as_deref_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Node<'a>> {
        self.all.iter().flatten().map(|node| &**node)
    }

    /// Takes a node out to work on it; [`Graph::put`] puts it back.
    pub(super) fn take(&mut self, index: usize) -> Box<Node<'a>> {
        self.all.get_mut(index).and_then(Option::take).unwrap_or_default()
    }

    pub(super) fn put(&mut self, index: usize, node: Box<Node<'a>>) {
        if let Some(slot) = self.all.get_mut(index) {
            *slot = Some(node);
        }
    }

    /// Titles of the stages, for suggestions.
    pub(super) fn titles(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|node| node.title.as_str()).filter(|title| !title.is_empty())
    }

    /// The nodes that `target` needs, itself included.
    pub(super) fn reachable(&self, target: usize) -> Vec<bool> {
        let mut seen = vec![false; self.all.len()];
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            let (Some(slot), Some(node)) = (seen.get_mut(index), self.get(index)) else { continue };
            if !std::mem::replace(slot, true) {
                open.extend(node.base);
                open.extend(&node.deps);
            }
        }
        seen
    }

    /// A node that needs itself by what its instructions read.
    fn circle(&self) -> Option<usize> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            Open,
            Done,
        }
        let mut marks = vec![Mark::New; self.all.len()];
        for start in 0..self.all.len() {
            // Each entry: a node and how many of its dependencies were visited.
            let mut stack = vec![(start, 0)];
            if marks.get(start) != Some(&Mark::New) {
                continue;
            }
            while let Some((index, next)) = stack.pop() {
                let (Some(mark), Some(node)) = (marks.get_mut(index), self.get(index)) else { continue };
                *mark = Mark::Open;
                match node.deps.get(next) {
                    None => *mark = Mark::Done,
                    Some(dep) => {
                        stack.push((index, next + 1));
                        match marks.get(*dep) {
                            Some(Mark::Open) => return Some(*dep),
                            Some(Mark::New) => stack.push((*dep, 0)),
                            _ => {}
                        }
                    }
                }
            }
        }
        None
    }
}

impl<'a> Work<'a> {
    /// The node that is asked for.
    pub(super) fn find_target(&mut self) -> Result<usize, Diagnostic> {
        let Some(name) = &self.options.target else { return Ok(self.nodes.all.len().saturating_sub(1)) };
        self.nodes.find(name).ok_or_else(|| {
            let hint =
                suggest::nearest(name, self.nodes.titles()).map(|hint| format!("did you mean {hint}?"));
            Diagnostic::request(ErrorKind::UnknownTarget(quote(name))).hint(hint)
        })
    }

    /// Gives every stage its tasks and their sources.
    pub(super) fn link(&mut self) {
        for index in 0..self.nodes.all.len() {
            let Some(stage) = self.nodes.get(index).and_then(|node| node.stage) else { continue };
            for instruction in stage.body {
                match self.task(Given::File(instruction), false) {
                    Ok(task) => self.add_task(index, task),
                    Err((kind, hint)) => {
                        self.fail(Diagnostic::new(kind, instruction.span, instruction.lines).hint(hint));
                    }
                }
            }
        }
        if let Some(index) = self.nodes.circle()
            && let Some(node) = self.nodes.get(index)
        {
            let kind = ErrorKind::Circular(node.title.clone());
            let (span, lines) = (node.span, node.lines);
            self.fail(Diagnostic::new(kind, span, lines));
            self.lost = true;
        }
        if let [Some(only)] = self.nodes.all.as_mut_slice() {
            only.title.clear();
        }
    }

    pub(super) fn add_task(&mut self, index: usize, task: Task<'a>) {
        if let Some(node) = self.nodes.get_mut(index) {
            for source in &task.sources {
                if node.dep_set.insert(*source) {
                    node.deps.push(*source);
                }
            }
            node.tasks.push(task);
        }
    }

    /// An instruction with what it reads.
    pub(super) fn task(&mut self, instruction: Given<'a>, onbuild: bool) -> Result<Task<'a>, Refusal> {
        let sources = match &instruction.kind {
            Kind::Copy(copy) => match &copy.from {
                Some(from) => vec![self.copy_source(from, &instruction)?],
                None => Vec::new(),
            },
            Kind::Run(run) => {
                let mut sources = Vec::with_capacity(run.mounts.len());
                for mount in &run.mounts {
                    let from =
                        MountSpec::from_of(mount).map_err(|(text, hint)| (ErrorKind::Mount(text), hint))?;
                    let from = if from.is_empty() { "scratch" } else { from.as_str() };
                    let known = self.nodes.find(from);
                    sources.push(known.unwrap_or_else(|| self.nodes.add(outside(from, None))));
                }
                sources
            }
            _ => Vec::new(),
        };
        Ok(Task { instruction, sources, onbuild })
    }

    fn copy_source(&mut self, from: &str, instruction: &Instruction) -> Result<usize, Refusal> {
        let expanded = self
            .expander
            .word_within(from, &(), &self.budget)
            .map_err(|cause| (ErrorKind::Expand { word: quote(from), cause: Box::new(cause) }, None))?;
        if expanded.text != from {
            return Err((ErrorKind::VariableInFrom, None));
        }
        match from.parse::<i64>() {
            Ok(number) => usize::try_from(number)
                .ok()
                .filter(|number| *number < self.nodes.all.len())
                .ok_or((ErrorKind::StageIndex(number), None)),
            Err(_) => {
                Ok(self.nodes.find(from).unwrap_or_else(|| self.nodes.add(outside(from, Some(instruction)))))
            }
        }
    }
}

/// An image or named context that is no stage.
fn outside<'a>(name: &str, instruction: Option<&Instruction>) -> Node<'a> {
    Node {
        base_name: name.to_owned(),
        span: instruction.map(|one| one.span).unwrap_or_default(),
        lines: instruction.map(|one| one.lines).unwrap_or_default(),
        ..Node::default()
    }
}
