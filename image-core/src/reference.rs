//! Image names: `[registry/][org/]name[:tag][@digest]`.
//!
//! The language and the normalisation are those of docker (`distribution/reference`): `alpine` is
//! `docker.io/library/alpine`, and the first component is a host when it holds a dot, a colon or an upper-case
//! letter, or is `localhost`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;
use crate::error::{ReferenceError, excerpt};

/// The registry of names that do not say one.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag of names that do not say one, see [`Reference::with_default_tag`].
pub const DEFAULT_TAG: &str = "latest";

const OFFICIAL: &str = "library/";
const ALIAS: &str = "index.docker.io";
/// The longest repository path, in characters.
const PATH_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A normalised image name.
///
/// Invariants, by construction:
/// - `domain` is a host (DNS name, IPv4, bracketed IPv6), with a port where one was given;
/// - `path` is lower case and at most 255 characters;
/// - a digest is of a known algorithm; tag and digest may both be there.
///
/// ```
/// use image_core::Reference;
/// let name = Reference::parse("alpine")?;
/// assert_eq!((name.domain(), name.path()), ("docker.io", "library/alpine"));
/// assert_eq!(name.familiar(), "alpine");
/// assert_eq!(name.with_default_tag().canonical(), "docker.io/library/alpine:latest");
/// assert_eq!(Reference::parse("[::1]:5000/a/b:v1")?.domain(), "[::1]:5000");
/// # Ok::<(), image_core::ReferenceError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises `input`.
    ///
    /// # Errors
    /// [`ReferenceError`] when `input` is outside the grammar.
    pub fn parse(input: &str) -> Result<Self, ReferenceError> {
        let format = || ReferenceError::Format { input: excerpt(input) };
        if input.len() == 64 && input.bytes().all(|b| matches!(b, b'a'..=b'f' | b'0'..=b'9')) {
            return Err(ReferenceError::Identifier { input: input.to_owned() });
        }
        let (domain, remainder) = split_domain(input);
        let remote = remainder.split(':').next().unwrap_or_default();
        if remote.chars().any(char::is_uppercase) {
            return Err(ReferenceError::Uppercase { name: excerpt(remote) });
        }
        let (name, digest) = match remainder.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (name, None),
        };
        // A first component that is no host may still be the first of a path: then there is no host at all.
        let (domain, path) = if is_domain(domain) {
            (domain.to_owned(), path.to_owned())
        } else {
            (String::new(), format!("{domain}/{path}"))
        };
        if !is_path(&path) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(format());
        }
        let digest = match digest {
            None => None,
            Some(text) => Some(
                text.parse().map_err(|source| ReferenceError::Digest { input: excerpt(input), source })?,
            ),
        };
        if path.len() > PATH_MAX {
            return Err(ReferenceError::TooLong { input: excerpt(input) });
        }
        Ok(Self { domain, path, tag: tag.map(str::to_owned), digest })
    }

    /// The registry host, with its port where one was given.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository below the host: `library/alpine`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The repository with its host: `docker.io/library/alpine`.
    #[must_use]
    pub fn repository(&self) -> String {
        if self.domain.is_empty() { self.path.clone() } else { [&*self.domain, "/", &*self.path].concat() }
    }

    /// The repository as docker's tables write it: `alpine`.
    #[must_use]
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole normalised name.
    #[must_use]
    pub fn canonical(&self) -> String {
        self.complete(self.repository())
    }

    /// The short form that means the same.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.complete(self.familiar_repository())
    }

    /// The same name, with `:latest` where it had neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(&self) -> Self {
        let mut named = self.clone();
        if named.tag.is_none() && named.digest.is_none() {
            named.tag = Some(DEFAULT_TAG.to_owned());
        }
        named
    }

    /// The same repository at `digest`, without a tag.
    #[must_use]
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same repository with `tag`, without a digest.
    ///
    /// # Errors
    /// [`ReferenceError::Format`] when `tag` is no tag.
    pub fn at_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format { input: excerpt(tag) });
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    fn complete(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.reserve_exact(tag.len() + 1);
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name = name + "@" + &digest.to_string();
        }
        name
    }
}

fn split_domain(input: &str) -> (&str, String) {
    let (domain, remainder) = match input.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, input),
    };
    let domain = if domain == ALIAS { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain, [OFFICIAL, remainder].concat());
    }
    (domain, remainder.to_owned())
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((inner, port)) => {
                if inner.is_empty() || !inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
                    return false;
                }
                (None, port)
            }
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, _)) => (Some(host), text.get(host.len()..).unwrap_or_default()),
            None => (Some(text), ""),
        },
    };
    if let Some(host) = host
        && !host.split('.').all(is_domain_component)
    {
        return false;
    }
    match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()),
    }
}

fn is_domain_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

/// Alphanumeric runs joined by one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let is_word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    bytes.split(is_word).all(|separator| match separator {
        b"" | b"." | b"_" | b"__" => true,
        dashes => dashes.iter().all(|b| *b == b'-'),
    })
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    (1..=TAG_MAX).contains(&bytes.len())
        && bytes.first().copied().is_some_and(is_word)
        && bytes.iter().all(|b| is_word(*b) || matches!(b, b'.' | b'-'))
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reference({self})")
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
