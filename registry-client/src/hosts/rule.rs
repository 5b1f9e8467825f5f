//! Rules: for which names which servers are asked.

use image_core::Reference;

use super::{Asked, Mirror};

/// For the names below a prefix: which servers are asked, or that none is.
///
/// ```
/// use registry_client::hosts::{HostRule, HostRules, Mirror};
///
/// let rule = HostRule::new("docker.io").mirror(Mirror::at("mirror.example/hub")?);
/// let rules = HostRules::new().with(rule).with(HostRule::new("evil.example").blocked(true));
/// # let _ = rules;
/// # Ok::<(), registry_client::hosts::HostsError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct HostRule {
    pub(super) prefix: String,
    pub(super) mirrors: Vec<Mirror>,
    /// Where pulls from the registry itself go.
    pub(super) location: Option<Mirror>,
    /// The registry itself, when it is not where its name says.
    pub(super) server: Option<Mirror>,
    pub(super) insecure: bool,
    pub(super) blocked: bool,
    pub(super) replace: bool,
}

impl HostRule {
    /// For references that begin with `prefix`: a host, a host with a namespace or a whole name, `*.example.com` for
    /// all subdomains, or `*` for everything that no other rule is for.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            mirrors: Vec::new(),
            location: None,
            server: None,
            insecure: false,
            blocked: false,
            replace: false,
        }
    }

    /// One more mirror, to be asked after those that are there.
    pub fn mirror(mut self, mirror: Mirror) -> Self {
        self.mirrors.push(mirror);
        self
    }

    /// Pulls from the registry itself go there, with the prefix of the rule replaced by that of the location.
    pub fn location(mut self, location: Mirror) -> Self {
        self.location = Some(location);
        self
    }

    /// The registry itself is there, for pulls, pushes and everything else; names stay as they are.
    pub fn server(mut self, server: Mirror) -> Self {
        self.server = Some(server);
        self
    }

    /// The registry itself is spoken to as [`Mirror::insecure`] says.
    pub fn insecure(mut self, yes: bool) -> Self {
        self.insecure = yes;
        self
    }

    /// Nothing is pulled from or pushed to names below the prefix.
    pub fn blocked(mut self, yes: bool) -> Self {
        self.blocked = yes;
        self
    }

    /// Whether the mirrors replace the registry for pulls: what none of them has is not asked for at the registry.
    /// Default no.
    pub fn replace(mut self, yes: bool) -> Self {
        self.replace = yes;
        self
    }

    /// How many characters of `name` the prefix is; `None` when the rule is not for it.
    pub(super) fn matches(&self, name: &str) -> Option<usize> {
        let ends = |at: usize| match name.as_bytes().get(at) {
            None | Some(b':' | b'/' | b'@') => Some(at),
            Some(_) => None,
        };
        if self.prefix == "*" {
            return Some(0);
        }
        if let Some(suffix) = self.prefix.strip_prefix('*') {
            // `*.example.com/ns`: the wildcard stands for subdomains, not for a path.
            let at = name.find(suffix).filter(|at| *at > 0)?;
            if name.get(..at)?.contains('/') {
                return None;
            }
            return ends(at + suffix.len());
        }
        name.starts_with(&self.prefix).then(|| ends(self.prefix.len())).flatten()
    }
}

/// Rules; of those for a name, the one with the longest prefix counts.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct HostRules {
    rules: Vec<HostRule>,
}

impl HostRules {
    /// None yet: every registry is where its name says.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule; one with the same prefix goes.
    pub fn with(mut self, rule: HostRule) -> Self {
        self.rules.retain(|known| known.prefix != rule.prefix);
        self.rules.push(rule);
        self
    }

    /// Adds all rules of `other`; those here with the same prefixes go.
    pub fn and(self, other: Self) -> Self {
        other.rules.into_iter().fold(self, Self::with)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &HostRule> {
        self.rules.iter()
    }

    /// The rule for `name` with the length of what its prefix matches.
    pub(crate) fn find(&self, name: &str) -> Option<(&HostRule, usize)> {
        let matching = self.rules.iter().filter_map(|rule| Some((rule, rule.matches(name)?)));
        matching.max_by_key(|(rule, _)| rule.prefix.len())
    }
}

impl HostRule {
    /// The name under which the TLS settings of one of its servers are kept. One host may be several of them.
    pub(crate) fn tls_key(&self, server: &Mirror) -> String {
        let Mirror { scheme, authority, repository, path, .. } = server;
        format!("{} {scheme:?} {authority} {repository:?} {path:?}", self.prefix)
    }

    /// The name under which the TLS settings of the registry itself are kept, if it is insecure.
    pub(crate) fn insecure_key(&self) -> String {
        format!("{} insecure", self.prefix)
    }

    /// The host that the prefix begins with.
    pub(crate) fn host(&self) -> &str {
        self.prefix.split('/').next().unwrap_or_default()
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub(crate) fn is_insecure(&self) -> bool {
        self.insecure
    }

    pub(crate) fn own_server(&self) -> Option<&Mirror> {
        self.server.as_ref()
    }

    /// All servers that the rule names.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Mirror> {
        self.mirrors.iter().chain(&self.location).chain(&self.server)
    }

    /// The servers that are asked for `reference` when it is pulled, in order, each with the repository's name there.
    /// `None` stands for the registry itself. `matched` is what [`HostRules::find`] gave.
    pub(crate) fn pulls(
        &self,
        reference: &Reference,
        asked: Asked,
        matched: usize,
    ) -> Vec<(Option<&Mirror>, String)> {
        let by_digest = reference.digest().is_some();
        let used = |mirror: &&Mirror| mirror.usage.covers(by_digest, asked);
        let renamed = |mirror: &Mirror| renamed(mirror, reference, matched);
        let mut pulls: Vec<_> =
            self.mirrors.iter().filter(used).map(|mirror| (Some(mirror), renamed(mirror))).collect();
        if !self.replace || self.mirrors.is_empty() {
            match &self.location {
                Some(location) => pulls.push((Some(location), renamed(location))),
                None => pulls.push((None, reference.path().to_owned())),
            }
        }
        pulls
    }
}

/// What the repository of `reference` is called at `mirror`: a namespace that the prefix matched is replaced.
fn renamed(mirror: &Mirror, reference: &Reference, matched: usize) -> String {
    let repository = reference.repository();
    let rest = repository.get(matched..).unwrap_or_default();
    let path = reference.path();
    // A prefix of the host alone, or of no fixed text, leaves the whole path.
    let kept = if matched <= reference.domain().len() { path } else { rest.trim_start_matches('/') };
    match &mirror.repository {
        Some(front) if kept.is_empty() => front.clone(),
        Some(front) => format!("{front}/{kept}"),
        None => kept.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for (prefix, name, matched) in [
            ("docker.io", "docker.io/library/x", Some(9)),
            ("docker.io", "docker.io", Some(9)),
            ("docker.io", "docker.iox/y", None),
            ("a.example/foo", "a.example/foo/bar", Some(13)),
            ("a.example/foo", "a.example/foobar", None),
            ("a.example/foo", "a.example/foo:tag", Some(13)),
            ("a.example/foo", "a.example/foo@sha256:x", Some(13)),
            ("a.example", "a.example:5000/x", Some(9)),
            ("*.example", "a.example/x", Some(9)),
            ("*.example", "a.b.example:5000/x", Some(11)),
            ("*.example", "example/x", None),
            ("*.example", "other/a.example/x", None),
            ("*.example", "a.examples/x", None),
            ("*", "anything/x", Some(0)),
        ] {
            assert_eq!(HostRule::new(prefix).matches(name), matched, "{prefix} {name}");
        }
    }

    #[test]
    fn the_longest_prefix_counts() {
        let rules = ["*", "a.example", "a.example/x/y", "a.example/x"].map(HostRule::new);
        let rules = rules.into_iter().fold(HostRules::new(), HostRules::with);
        for (name, prefix) in
            [("a.example/x/y/z", "a.example/x/y"), ("a.example/x/z", "a.example/x"), ("b/z", "*")]
        {
            assert_eq!(rules.find(name).unwrap().0.prefix, prefix);
        }
    }

    #[test]
    fn names_at_mirrors() {
        for (prefix, location, name, expected) in [
            ("docker.io", "m.example", "docker.io/library/x", "library/x"),
            ("docker.io", "m.example/hub", "docker.io/library/x", "hub/library/x"),
            ("docker.io/library", "m.example/hub", "docker.io/library/x", "hub/x"),
            ("docker.io/library", "m.example", "docker.io/library/x", "x"),
            ("docker.io/library/x", "m.example/y", "docker.io/library/x", "y"),
            ("*.example", "m.example/y", "a.example/x", "y/x"),
            ("*", "m.example", "a.example/x", "x"),
        ] {
            let rule = HostRule::new(prefix).mirror(Mirror::at(location).unwrap());
            let reference = Reference::parse(name).unwrap();
            let matched = rule.matches(&reference.repository()).unwrap();
            assert_eq!(
                rule.pulls(&reference, Asked::Manifest, matched)[0].1,
                expected,
                "{prefix} {location} {name}"
            );
        }
    }
}
