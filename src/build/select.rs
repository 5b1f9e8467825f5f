//! Which files of a tree a COPY means.

use std::collections::BTreeSet;

use dockerfile::Ignore;
use dockerfile::plan::Copy;

use super::glob;
use super::tree::{Node, NodeKind, Tree, components};
use crate::error::{Error, Result};

/// One thing to copy: where to, relative to the destination, and what.
pub(super) struct Item<'a> {
    /// Path below the destination; empty for the source itself.
    pub(super) relative: Vec<u8>,
    pub(super) node: &'a Node,
}

/// One source, taken apart.
pub(super) struct Found<'a> {
    /// The last component of the source.
    pub(super) name: Vec<u8>,
    /// The source, then, for a directory, what is in it.
    pub(super) items: Vec<Item<'a>>,
    /// `--parents`: patterns choose among what is in the directory; the directory itself is not copied.
    pub(super) is_partial: bool,
    is_directory: bool,
}

impl Found<'_> {
    pub(super) const fn is_directory(&self) -> bool {
        self.is_directory
    }
}

/// The sources of `copy` in `tree`.
pub(super) fn sources<'a>(copy: &Copy, tree: &'a Tree) -> Result<Vec<Found<'a>>> {
    for path in &copy.required {
        let plain = plain(path);
        if tree.resolve(&plain).is_none() {
            return Err(not_found(path, &plain, tree));
        }
    }
    let pattern = copy.source.as_bytes();
    let paths = if copy.wildcard && glob::is_pattern(pattern) {
        glob::expand(tree, pattern)
    } else {
        let plain = plain(&copy.source);
        if tree.resolve(&plain).is_none() {
            return Err(not_found(&copy.source, &plain, tree));
        }
        vec![plain]
    };
    let exclude = patterns(&copy.exclude, "--exclude")?;
    let include = patterns(&copy.include, "--parents")?;
    let mut found = Vec::new();
    for path in paths {
        let Some(real) = tree.resolve(&path) else { return Err(not_found(&copy.source, &path, tree)) };
        let Some(node) = tree.nodes.get(&real) else { continue };
        let name = components(&path).next_back().unwrap_or_default().to_vec();
        let is_directory = matches!(node.kind, NodeKind::Directory);
        let mut items = vec![Item { relative: Vec::new(), node }];
        if is_directory {
            items.extend(tree.below(&real).into_iter().map(|(relative, node)| Item { relative, node }));
        }
        if include.is_some() || exclude.is_some() {
            choose(&mut items, include.as_ref(), exclude.as_ref(), &copy.source)?;
        }
        if include.is_some() {
            items.retain(|item| !item.relative.is_empty());
        }
        found.push(Found { name, items, is_partial: include.is_some(), is_directory });
    }
    Ok(found)
}

fn plain(path: &str) -> Vec<u8> {
    components(path.as_bytes()).collect::<Vec<_>>().join(&b'/')
}

fn patterns(patterns: &[String], flag: &str) -> Result<Option<Ignore>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    // These are patterns, not lines of a file: a number sign does not begin a comment.
    let line =
        |pattern: &String| if pattern.starts_with('#') { format!("./{pattern}") } else { pattern.clone() };
    let text: Vec<String> = patterns.iter().map(line).collect();
    let invalid =
        |error: dockerfile::IgnoreError| Error::Step { step: flag.to_owned(), reason: error.to_string() };
    Ignore::parse(&text.join("\n")).map(Some).map_err(invalid)
}

/// Keeps what `include` matches and `exclude` does not, and the directories that lead to it.
fn choose(
    items: &mut Vec<Item<'_>>,
    include: Option<&Ignore>,
    exclude: Option<&Ignore>,
    source: &str,
) -> Result<()> {
    let mut kept: BTreeSet<Vec<u8>> = BTreeSet::new();
    for item in items.iter().filter(|item| !item.relative.is_empty()) {
        let path = String::from_utf8_lossy(&item.relative);
        let asks = |ignore: &Ignore| {
            ignore
                .try_matches(&path)
                .map_err(|error| Error::Step { step: format!("COPY {source}"), reason: error.to_string() })
        };
        let included = include.map_or(Ok(true), asks)?;
        let excluded = exclude.map_or(Ok(false), asks)?;
        if included && !excluded {
            let mut parent = item.relative.as_slice();
            while let Some(at) = parent.iter().rposition(|byte| *byte == b'/') {
                parent = parent.get(..at).unwrap_or_default();
                if !kept.insert(parent.to_vec()) {
                    break;
                }
            }
            kept.insert(item.relative.clone());
        }
    }
    items.retain(|item| item.relative.is_empty() || kept.contains(&item.relative));
    Ok(())
}

/// The error, with the path that looks most like the missing one.
fn not_found(source: &str, path: &[u8], tree: &Tree) -> Error {
    let last = components(path).next_back().unwrap_or_default().to_ascii_lowercase();
    let alike = |candidate: &&Vec<u8>| {
        components(candidate).next_back().is_some_and(|name| name.to_ascii_lowercase() == last)
    };
    let hint = tree.nodes.keys().find(alike).map(|path| String::from_utf8_lossy(path).into_owned());
    Error::SourceNotFound { path: source.to_owned(), hint }
}
