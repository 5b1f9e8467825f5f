//! COPY, ADD and WORKDIR: layers made without running anything.

use dockerfile::plan::{Copy, CopySource, FileAction, Files, Input, Mode, Owner, Principal};
use image_core::Timestamp;
use layer_store::{Component, Composer, Entry, Kind, Layer, Transaction, View};

use super::glob;
use super::solve::Trees;
use super::tree::{Content, Node, NodeKind, Tree, components};
use crate::error::{Error, Result};
use crate::user;

/// One thing to copy: where to, relative to the destination, and what.
struct Item<'a> {
    /// Path below the destination; empty for the source itself.
    relative: Vec<u8>,
    node: &'a Node,
}

/// One source, taken apart.
struct Found<'a> {
    /// The last component of the source.
    name: Vec<u8>,
    /// The source, then, for a directory, what is in it.
    items: Vec<Item<'a>>,
}

fn sources<'a>(copy: &Copy, tree: &'a Tree) -> Result<Vec<Found<'a>>> {
    if copy.parents || !copy.include.is_empty() {
        return Err(Error::unsupported("COPY --parents"));
    }
    let pattern = copy.source.as_bytes();
    let paths = if copy.wildcard && glob::is_pattern(pattern) {
        glob::expand(tree, pattern)
    } else {
        let plain: Vec<u8> = components(pattern).collect::<Vec<_>>().join(&b'/');
        if tree.resolve(&plain).is_none() {
            return Err(not_found(&copy.source, &plain, tree));
        }
        vec![plain]
    };
    let exclude = if copy.exclude.is_empty() {
        None
    } else {
        let invalid =
            |error: dockerfile::IgnoreError| Error::unsupported(format!("this --exclude pattern ({error})"));
        Some(dockerfile::Ignore::parse(&copy.exclude.join("\n")).map_err(invalid)?)
    };
    let mut found = Vec::new();
    for path in paths {
        let Some(real) = tree.resolve(&path) else { return Err(not_found(&copy.source, &path, tree)) };
        let Some(node) = tree.nodes.get(&real) else { continue };
        let name = components(&path).next_back().unwrap_or_default().to_vec();
        let mut items = vec![Item { relative: Vec::new(), node }];
        if matches!(node.kind, NodeKind::Directory) {
            items.extend(tree.below(&real).into_iter().map(|(relative, node)| Item { relative, node }));
        }
        if let Some(exclude) = &exclude {
            let is_kept = |item: &Item<'_>| {
                item.relative.is_empty() || !exclude.matches(&String::from_utf8_lossy(&item.relative))
            };
            items.retain(is_kept);
        }
        found.push(Found { name, items });
    }
    Ok(found)
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

/// What the step reads, part by part: names, modes, contents; owners where they count; never times.
pub(super) fn content(files: &Files, trees: &Trees, store: &layer_store::Store) -> Result<Vec<Component>> {
    let mut parts = Vec::new();
    for (number, action) in files.actions.iter().enumerate() {
        let FileAction::Copy(copy) = action else { continue };
        let CopySource::Tree(input) = copy.from else { continue };
        let tree = trees.get(input)?;
        for source in sources(copy, &tree)? {
            for item in &source.items {
                let path = [source.name.as_slice(), item.relative.as_slice()].join(&b'/');
                let node = item.node;
                let value = match &node.kind {
                    NodeKind::Directory => "directory".to_owned(),
                    NodeKind::File(content) => content.digest(store)?.to_string(),
                    NodeKind::Symlink(target) => format!("link {}", String::from_utf8_lossy(target)),
                    NodeKind::Other => continue,
                };
                let name = String::from_utf8_lossy(&path).trim_end_matches('/').to_owned();
                let hex =
                    if std::str::from_utf8(&path).is_ok() { String::new() } else { image_core::hex(&path) };
                parts.push(Component::new(format!("file.{number}.{name}{hex}"), value));
                if copy.mode.is_none() {
                    parts.push(Component::new(
                        format!("mode.{number}.{name}{hex}"),
                        format!("{:04o}", node.mode),
                    ));
                }
                if copy.owner.is_none() && !tree.is_context {
                    parts.push(Component::new(
                        format!("owner.{number}.{name}{hex}"),
                        format!("{}:{}", node.uid, node.gid),
                    ));
                }
            }
        }
    }
    Ok(parts)
}

/// Makes the layer. `time` is when the step happens.
pub(super) fn perform(
    files: &Files,
    trees: &Trees,
    work: &Transaction,
    below: &[Layer],
    time: Timestamp,
) -> Result<Layer> {
    let view = View::of(below);
    let mut composer = work.compose(view.clone())?;
    composer.set_default_mtime(time);
    for action in &files.actions {
        match action {
            FileAction::Mkdir(mkdir) => {
                let path = resolve(&composer, mkdir.path.as_bytes())?;
                if path.is_empty() || composer.find(&path).is_some_and(Entry::is_directory) {
                    continue;
                }
                let (uid, gid) = owner(mkdir.owner.as_ref(), &view, work)?.unwrap_or((0, 0));
                let kind = Kind::Directory { opaque: false };
                composer.directory(
                    &path,
                    Entry::new(kind, mkdir.mode, uid, gid, (time.seconds(), time.nanoseconds())),
                )?;
            }
            FileAction::Copy(copy) => self::copy(copy, trees, work, &view, &mut composer, time)?,
            _ => return Err(Error::unsupported("this file operation")),
        }
    }
    Ok(composer.finish(Some(time))?)
}

fn copy(
    copy: &Copy,
    trees: &Trees,
    work: &Transaction,
    view: &View,
    composer: &mut Composer,
    time: Timestamp,
) -> Result<()> {
    let owner = owner(copy.owner.as_ref(), view, work)?;
    let mode = match &copy.mode {
        None => None,
        Some(Mode::Octal(bits)) => Some(*bits),
        Some(Mode::Symbolic(_)) => return Err(Error::unsupported("symbolic --chmod")),
    };
    let says_directory = copy.dest.ends_with('/') || copy.dest.ends_with("/.");
    let tree = match &copy.from {
        CopySource::Tree(input) => trees.get(*input)?,
        CopySource::Inline { name, data } => std::sync::Arc::new(inline(name, data)),
        _ => return Err(Error::unsupported("this source of COPY")),
    };
    let source;
    let copy = match &copy.from {
        CopySource::Inline { name, .. } => {
            let mut inline = Copy::clone(copy);
            inline.source = format!("/{name}");
            inline.wildcard = false;
            source = inline;
            &source
        }
        _ => copy,
    };
    for found in sources(copy, &tree)? {
        let dest = resolve(composer, copy.dest.as_bytes())?;
        let is_directory = dest.is_empty() || composer.find(&dest).is_some_and(Entry::is_directory);
        for item in &found.items {
            let whole = item.relative.is_empty();
            let is_source_directory = matches!(item.node.kind, NodeKind::Directory);
            let target = match (whole, is_source_directory) {
                (true, true) => dest.clone(),
                (true, false) if says_directory || is_directory => join(&dest, &found.name),
                (true, false) => dest.clone(),
                (false, _) => join(&dest, &item.relative),
            };
            if target.is_empty() {
                continue;
            }
            put(composer, &target, item.node, (owner, mode), &tree, (copy, time), work)?;
        }
    }
    Ok(())
}

fn put(
    composer: &mut Composer,
    target: &[u8],
    node: &Node,
    (owner, mode): (Option<(u32, u32)>, Option<u32>),
    tree: &Tree,
    (copy, time): (&Copy, Timestamp),
    work: &Transaction,
) -> Result<()> {
    let (uid, gid) = owner.unwrap_or((node.uid, node.gid));
    // A time of the caller's directory is an accident of the checkout: it would make equal inputs unequal images.
    let mtime = if tree.is_context { (time.seconds(), time.nanoseconds()) } else { node.mtime };
    let mut entry = Entry::new(Kind::Fifo, mode.unwrap_or(node.mode), uid, gid, mtime);
    entry.xattrs.clone_from(&node.xattrs);
    match &node.kind {
        NodeKind::Directory => {
            if !composer.find(target).is_some_and(Entry::is_directory) {
                composer.directory(target, entry)?;
            }
        }
        NodeKind::File(content) => {
            if composer.find(target).is_some_and(Entry::is_directory) {
                let reason = format!("cannot copy to non-directory: /{}", String::from_utf8_lossy(target));
                return Err(Error::Step { step: format!("COPY {}", copy.source), reason });
            }
            let mut reader = content.open(work.store())?;
            if copy.unpack && is_archive(content, work)? {
                return Err(Error::unsupported("ADD of a local archive"));
            }
            composer.file(target, &mut reader, entry)?;
        }
        NodeKind::Symlink(link) => {
            entry.mode = 0o777;
            composer.symlink(target, link, entry)?;
        }
        NodeKind::Other => {}
    }
    Ok(())
}

/// ADD unpacks what begins like an archive.
fn is_archive(content: &Content, work: &Transaction) -> Result<bool> {
    use std::io::Read;
    let mut head = Vec::new();
    let read = content.open(work.store())?.take(512).read_to_end(&mut head);
    read.map_err(|source| Error::Io { path: "a source of ADD".into(), source })?;
    let magics: [&[u8]; 4] =
        [&[0x1f, 0x8b], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z'], &[0x28, 0xb5, 0x2f, 0xfd]];
    Ok(magics.iter().any(|magic| head.starts_with(magic)) || head.get(257..262) == Some(b"ustar"))
}

fn inline(name: &str, data: &str) -> Tree {
    let kind = NodeKind::File(Content::Inline(data.into()));
    let node =
        Node { kind, mode: 0o644, uid: 0, gid: 0, mtime: (0, 0), xattrs: std::collections::BTreeMap::new() };
    Tree::new([(name.as_bytes().to_vec(), node)].into(), true)
}

/// The real path of a destination: links of the root are followed, what is made in this step counts.
fn resolve(composer: &Composer, path: &[u8]) -> Result<Vec<u8>> {
    let too_many = || Error::Step {
        step: String::from_utf8_lossy(path).into_owned(),
        reason: "too many symbolic links".to_owned(),
    };
    composer.below().resolve(path).ok_or_else(too_many)
}

/// `--chown` in numbers. A user without a group has its own primary group, or the same number.
fn owner(owner: Option<&Owner>, view: &View, work: &Transaction) -> Result<Option<(u32, u32)>> {
    let Some(owner) = owner else { return Ok(None) };
    let authority = work.store().authority();
    let text = match &owner.group {
        Some(group) => format!("{}:{group}", owner.user),
        None => owner.user.to_string(),
    };
    if let (Principal::Id(id), None) = (&owner.user, &owner.group) {
        return Ok(Some((*id, *id)));
    }
    let user = user::resolve(&text, view, authority)?;
    Ok(Some((user.uid, user.gid)))
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// The trees that a step reads.
pub(super) fn inputs(files: &Files) -> impl Iterator<Item = Input> {
    files.actions.iter().filter_map(FileAction::from)
}
