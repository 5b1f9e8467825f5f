//! The variables of a stage: a persistent map.
//!
//! Every RUN keeps the variables that it sees. Copies would make a file with many ENV and RUN
//! lines quadratic, so the map is a balanced tree that shares what two versions have in common.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::expand::Variables;
use crate::limits::MAX_SUGGESTIONS;

/// Where a variable came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Origin {
    /// The base image's config, or the default `PATH`.
    Image,
    /// ENV: part of the image's config.
    Env,
    /// ARG: seen by RUN, not part of the image.
    Arg,
}

/// One variable.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Variable {
    /// The name.
    pub name: Arc<str>,
    /// The value.
    pub value: Arc<str>,
    /// Who set it last.
    pub origin: Origin,
    #[serde(skip)]
    order: u32,
}

/// Variables by name. Cloning is cheap.
#[derive(Clone, Default)]
pub struct Env {
    root: Link,
    len: usize,
    next: u32,
}

type Link = Option<Arc<Node>>;

#[derive(Clone)]
struct Node {
    variable: Variable,
    left: Link,
    right: Link,
    height: u8,
}

impl Env {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many variables there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The variable of that name.
    pub fn get(&self, name: &str) -> Option<&Variable> {
        let mut link = &self.root;
        while let Some(node) = link {
            link = match name.cmp(&node.variable.name) {
                Ordering::Less => &node.left,
                Ordering::Greater => &node.right,
                Ordering::Equal => return Some(&node.variable),
            };
        }
        None
    }

    /// Sets a variable.
    pub fn set(&mut self, name: impl Into<Arc<str>>, value: impl Into<Arc<str>>, origin: Origin) {
        let variable = Variable { name: name.into(), value: value.into(), origin, order: self.next };
        self.next = self.next.saturating_add(1);
        self.len += usize::from(insert(&mut self.root, variable));
    }

    /// Variables in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Variable> {
        let mut stack = Vec::new();
        let mut link = &self.root;
        std::iter::from_fn(move || {
            while let Some(node) = link {
                stack.push(node);
                link = &node.left;
            }
            let node = stack.pop()?;
            link = &node.right;
            Some(&node.variable)
        })
    }

    /// Names in the order in which they were last set.
    pub(crate) fn names_by_age(&self) -> Vec<&str> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_by_key(|variable| variable.order);
        all.into_iter().map(|variable| &*variable.name).collect()
    }

    /// The same, for spelling suggestions: none when there are more than are looked at.
    pub(crate) fn suggestions(&self) -> Vec<&str> {
        if self.len > MAX_SUGGESTIONS { Vec::new() } else { self.names_by_age() }
    }

    /// `NAME=value` for every variable, by name.
    pub fn to_strings(&self) -> Vec<String> {
        self.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect()
    }
}

impl Variables for Env {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(|variable| &*variable.value)
    }
}

impl PartialEq for Env {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self
                .iter()
                .zip(other.iter())
                .all(|(a, b)| a.name == b.name && a.value == b.value && a.origin == b.origin)
    }
}

impl Eq for Env {}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter().map(|variable| (&variable.name, &variable.value))).finish()
    }
}

impl serde::Serialize for Env {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

fn height(link: &Link) -> u8 {
    link.as_ref().map_or(0, |node| node.height)
}

fn node(variable: Variable, left: Link, right: Link) -> Arc<Node> {
    let height = 1 + height(&left).max(height(&right));
    Arc::new(Node { variable, left, right, height })
}

/// Puts a variable into a tree; whether it is a new one. Nodes that no other version has are changed in place.
fn insert(link: &mut Link, variable: Variable) -> bool {
    let Some(shared) = link else {
        *link = Some(node(variable, None, None));
        return true;
    };
    let at = Arc::make_mut(shared);
    let added = match variable.name.cmp(&at.variable.name) {
        Ordering::Equal => {
            at.variable = variable;
            return false;
        }
        Ordering::Less => insert(&mut at.left, variable),
        Ordering::Greater => insert(&mut at.right, variable),
    };
    if added {
        let (left, right) = (height(&at.left), height(&at.right));
        if left.abs_diff(right) > 1 {
            *shared = balance(at.variable.clone(), at.left.take(), at.right.take());
        } else {
            at.height = 1 + left.max(right);
        }
    }
    added
}

/// An AVL step: the two subtrees differ by at most two in height.
fn balance(variable: Variable, left: Link, right: Link) -> Arc<Node> {
    let (l, r) = (height(&left), height(&right));
    if l > r + 1
        && let Some(pivot) = &left
    {
        if height(&pivot.left) >= height(&pivot.right) {
            let lowered = node(variable, pivot.right.clone(), right);
            return node(pivot.variable.clone(), pivot.left.clone(), Some(lowered));
        }
        if let Some(top) = &pivot.right {
            let a = node(pivot.variable.clone(), pivot.left.clone(), top.left.clone());
            let b = node(variable, top.right.clone(), right);
            return node(top.variable.clone(), Some(a), Some(b));
        }
    }
    if r > l + 1
        && let Some(pivot) = &right
    {
        if height(&pivot.right) >= height(&pivot.left) {
            let lowered = node(variable, left, pivot.left.clone());
            return node(pivot.variable.clone(), Some(lowered), pivot.right.clone());
        }
        if let Some(top) = &pivot.left {
            let a = node(variable, left, top.left.clone());
            let b = node(pivot.variable.clone(), top.right.clone(), pivot.right.clone());
            return node(top.variable.clone(), Some(a), Some(b));
        }
    }
    node(variable, left, right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_independent_and_balanced() {
        let mut env = Env::new();
        let mut old = None;
        for index in 0..1000 {
            env.set(format!("V{index:04}"), index.to_string(), Origin::Env);
            if index == 499 {
                old = Some(env.clone());
            }
        }
        env.set("V0007", "seven", Origin::Arg);
        assert_eq!(env.len(), 1000);
        assert_eq!(env.value("V0007"), Some("seven"));
        let old = old.unwrap();
        assert_eq!((old.len(), old.value("V0007")), (500, Some("7")));
        assert!(env.iter().map(|v| v.name.clone()).is_sorted());
        assert_eq!(env.names_by_age().last(), Some(&"V0007"));
        assert!(height(&env.root) <= 14);
    }
}
