//! What a build of each stage may be given, collected while the stages are compiled.

use std::collections::{BTreeMap, BTreeSet};

use super::Work;
use super::node::Node;
use crate::instruction::Arg;
use crate::outline::{Outline, OutlineArg, OutlineCache, OutlineSecret};
use crate::source::Lines;

/// What one stage declares and uses.
#[derive(Clone, Default)]
pub(super) struct Capture {
    args: BTreeMap<String, Declared>,
    used: BTreeSet<String>,
    pub(super) secrets: BTreeMap<String, (bool, Lines)>,
    pub(super) ssh: BTreeMap<String, (bool, Lines)>,
    pub(super) caches: BTreeMap<String, Lines>,
}

#[derive(Clone)]
struct Declared {
    value: Option<String>,
    description: Option<String>,
    /// Other global ARGs that its default uses.
    deps: BTreeSet<String>,
    lines: Lines,
}

impl Capture {
    pub(super) fn global(&mut self, arg: &Arg, value: Option<&str>, deps: &[&str], lines: Lines) {
        let mut deps: BTreeSet<String> = deps.iter().map(|name| (*name).to_owned()).collect();
        if deps.remove(&arg.name)
            && let Some(old) = self.args.get(&arg.name)
        {
            deps.extend(old.deps.iter().cloned());
        }
        self.declare(arg, value, deps, lines);
    }

    /// An ARG of a stage; one that only takes over the global value keeps that one's place and description.
    pub(super) fn arg(&mut self, arg: &Arg, value: Option<&str>, inherited: bool, lines: Lines) {
        if !inherited {
            self.declare(arg, value, BTreeSet::new(), lines);
        }
        self.used.insert(arg.name.clone());
    }

    fn declare(&mut self, arg: &Arg, value: Option<&str>, deps: BTreeSet<String>, lines: Lines) {
        let (value, description) = (value.map(str::to_owned), arg.description.clone());
        self.args.insert(arg.name.clone(), Declared { value, description, deps, lines });
    }

    /// The names that are used, also by the defaults of others.
    fn all_used(&self) -> BTreeSet<&str> {
        let mut all = BTreeSet::new();
        let mut open: Vec<&str> = self.used.iter().map(String::as_str).collect();
        while let Some(name) = open.pop() {
            if all.insert(name)
                && let Some(arg) = self.args.get(name)
            {
                open.extend(arg.deps.iter().map(String::as_str));
            }
        }
        all
    }
}

impl Work<'_> {
    /// What a stage begins with: what is global, or what its base stage began with; and what its FROM uses.
    pub(super) fn capture_stage(&mut self, index: usize) {
        let Some(global) = &self.capture else { return };
        let Some(node) = self.nodes.get(index) else { return };
        let base = node.base.and_then(|base| self.nodes.get(base)).and_then(|base| base.capture.clone());
        let mut capture = base.unwrap_or_else(|| global.clone());
        if let Some(node) = self.nodes.get_mut(index) {
            capture.used.extend(std::mem::take(&mut node.used));
            node.capture = Some(capture);
        }
    }

    /// The outline of the target: its own, then its base's, then that of what it reads; the first of a name counts.
    pub(super) fn outline(&self) -> Option<Outline> {
        self.capture.as_ref()?;
        let mut out = Outline::default();
        if let Some(stage) = self.nodes.get(self.target).and_then(|node| node.stage) {
            out.name.clone_from(&stage.from.name);
            out.description.clone_from(&stage.from.description);
        }
        let mut seen = Seen::default();
        let mut open = vec![self.target];
        while let Some(index) = open.pop() {
            let Some(node) = self.nodes.get(index).filter(|_| seen.nodes.insert(index)) else { continue };
            seen.add(&mut out, node);
            open.extend(node.deps.iter().rev());
            open.extend(node.base);
        }
        out.args.sort_by_key(|one| one.lines.first);
        out.secrets.sort_by_key(|one| one.lines.first);
        out.ssh.sort_by_key(|one| one.lines.first);
        out.caches.sort_by_key(|one| one.lines.first);
        Some(out)
    }
}

/// What is in an outline already.
#[derive(Default)]
struct Seen {
    nodes: BTreeSet<usize>,
    args: BTreeSet<String>,
    secrets: BTreeSet<String>,
    ssh: BTreeSet<String>,
    caches: BTreeSet<String>,
}

impl Seen {
    fn add(&mut self, out: &mut Outline, node: &Node<'_>) {
        let Some(capture) = &node.capture else { return };
        for name in capture.all_used() {
            if let Some(arg) = capture.args.get(name)
                && self.args.insert(name.to_owned())
            {
                out.args.push(OutlineArg {
                    name: name.to_owned(),
                    value: arg.value.clone(),
                    description: arg.description.clone(),
                    lines: arg.lines,
                });
            }
        }
        for (id, (required, lines)) in &capture.secrets {
            if self.secrets.insert(id.clone()) {
                out.secrets.push(OutlineSecret { id: id.clone(), required: *required, lines: *lines });
            }
        }
        for (id, (required, lines)) in &capture.ssh {
            if self.ssh.insert(id.clone()) {
                out.ssh.push(OutlineSecret { id: id.clone(), required: *required, lines: *lines });
            }
        }
        for (id, lines) in &capture.caches {
            if self.caches.insert(id.clone()) {
                out.caches.push(OutlineCache { id: id.clone(), lines: *lines });
            }
        }
    }
}
