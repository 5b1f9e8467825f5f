//! Short names: what people write without a registry.

use image_core::Reference;

/// What a name without a registry may mean (containers-registries.conf(5), "Short-Name Aliasing").
///
/// Nothing in this crate guesses: a program that wants this asks for it and chooses, or asks its user. Whoever owns a
/// name in the first registry of a list decides what the others' users get.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ShortName {
    /// The name has a registry, so it is no short name.
    Full(Reference),
    /// An alias says what it means.
    Alias(Reference),
    /// It could be any of these, one per search registry, in order; none when there is no search registry.
    Candidates(Vec<Reference>),
}

/// Whether `name` says which registry it is of: the first part has a dot or a port, or is `localhost`.
pub(super) fn has_registry(name: &str) -> bool {
    match name.split_once('/') {
        Some((first, _)) => first == "localhost" || first.contains(['.', ':']),
        None => false,
    }
}

/// `name`, `:tag` and `@digest` taken apart after the repository.
pub(super) fn split(name: &str) -> (&str, &str) {
    let digest = name.find('@').unwrap_or(name.len());
    let slash = name.get(..digest).and_then(|text| text.rfind('/')).map_or(0, |at| at + 1);
    let tag = name.get(slash..digest).and_then(|text| text.find(':')).map_or(digest, |at| slash + at);
    name.split_at(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        assert_eq!(split("fedora"), ("fedora", ""));
        assert_eq!(split("fedora:40"), ("fedora", ":40"));
        assert_eq!(split("a/b:1@sha256:x"), ("a/b", ":1@sha256:x"));
        assert_eq!(split("a.example:5000/b@sha256:x"), ("a.example:5000/b", "@sha256:x"));
        assert!(has_registry("a.example/b") && has_registry("localhost/b") && has_registry("a:5000/b"));
        assert!(!has_registry("library/b") && !has_registry("b") && !has_registry("b:tag"));
    }
}
