//! Scopes of tokens: `repository:NAME:pull,push`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Scopes kept from one challenge.
const MAX_SCOPES: usize = 32;

/// What a request does to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// Resources (`repository:NAME`, `registry:catalog`) with their actions; equal sets print equally.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ScopeSet {
    resources: BTreeMap<String, BTreeSet<String>>,
}

impl ScopeSet {
    pub(crate) fn repository(name: &str, actions: &[Action]) -> Self {
        let mut set = Self::default();
        set.add_repository(name, actions);
        set
    }

    pub(crate) fn catalog() -> Self {
        let mut set = Self::default();
        set.add_text("registry:catalog:*");
        set
    }

    pub(crate) fn add_repository(&mut self, name: &str, actions: &[Action]) {
        let entry = self.resources.entry(format!("repository:{name}")).or_default();
        entry.extend(actions.iter().map(|action| action.name().to_owned()));
    }

    /// Adds what a challenge asks for: scopes separated by blanks.
    pub(crate) fn add_text(&mut self, text: &str) {
        for scope in text.split_ascii_whitespace().take(MAX_SCOPES) {
            if let Some((resource, actions)) = scope.rsplit_once(':') {
                let entry = self.resources.entry(resource.to_owned()).or_default();
                let actions = actions.split(',').filter(|action| !action.is_empty());
                entry.extend(actions.take(MAX_SCOPES).map(str::to_owned));
            }
        }
    }

    /// Whether a token for this set is good for `other`.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.resources.iter().all(|(resource, actions)| {
            self.resources.get(resource).is_some_and(|own| own.contains("*") || actions.is_subset(own))
        })
    }

    /// One text per resource.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> {
        self.resources.iter().map(|(resource, actions)| {
            // Registries that compare texts expect the customary order.
            let order = ["pull", "push", "delete"];
            let known = order.into_iter().filter(|name| actions.contains(*name));
            let other = actions.iter().map(String::as_str).filter(|name| !order.contains(name));
            let list: Vec<&str> = known.chain(other).collect();
            format!("{resource}:{}", list.join(","))
        })
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, text) in self.texts().enumerate() {
            if position > 0 {
                f.write_str(" ")?;
            }
            f.write_str(&text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn union_cover_and_text() {
        let mut set = ScopeSet::repository("a/b", &[Action::Push, Action::Pull]);
        assert_eq!(set.to_string(), "repository:a/b:pull,push");
        assert!(set.covers(&ScopeSet::repository("a/b", &[Action::Pull])));
        assert!(!set.covers(&ScopeSet::repository("a/c", &[Action::Pull])));
        set.add_text("repository:other:pull registry:catalog:*");
        assert_eq!(set.to_string(), "registry:catalog:* repository:a/b:pull,push repository:other:pull");
        assert!(set.covers(&ScopeSet::default()));
        assert!(!ScopeSet::default().covers(&set));
    }

    #[test]
    fn a_host_port_in_a_resource_stays_whole() {
        let mut set = ScopeSet::default();
        set.add_text("repository:host:5000/x:pull");
        assert_eq!(set.to_string(), "repository:host:5000/x:pull");
    }
}
