//! COPY, ADD and WORKDIR: layers made without running anything.
//!
//! The rules are BuildKit's: a directory source gives its content; a destination with a slash at the end, or one that
//! is a directory, takes files under their own names; what is copied into a directory that is there replaces the
//! metadata of the directories below it, not its own; names of one file stay names of one file.

use std::collections::BTreeMap;
use std::sync::Arc;

use dockerfile::plan::{Copy, CopySource, FileAction, Files, Mkdir, Mode, Owner, Principal};
use image_core::Timestamp;
use layer_store::{Component, Composer, Entry, Kind, Layer, Transaction, View};

use super::select::{self, Found};
use super::solve::Trees;
use super::tree::{Content, Node, NodeKind, Tree, components, follow};
use super::{archive, chmod};
use crate::error::{Error, Result};
use crate::user;

/// What a file system gives a file at least, in bytes.
const BLOCK: u64 = 4096;

/// What the step reads, part by part: names, modes, contents; owners where they count; never times.
///
/// What `--chown` and `--chmod` hide is left out: it cannot matter.
pub(super) fn content(
    files: &Files,
    trees: &Trees,
    below: &View,
    work: &Transaction,
) -> Result<Vec<Component>> {
    let mut parts = Vec::new();
    for (number, action) in files.actions.iter().enumerate() {
        // Without the base in the key, what a name of a user means has to be.
        if files.link
            && let Some(owner) = action_owner(action)
            && let Some((uid, gid)) = ids(Some(owner), below, work)?
        {
            parts.push(Component::new(format!("chown.{number}"), format!("{uid}:{gid}")));
        }
        let FileAction::Copy(copy) = action else { continue };
        let CopySource::Tree(input) = copy.from else { continue };
        let tree = trees.get(input)?;
        for source in select::sources(copy, &tree)? {
            for item in &source.items {
                let mut path = source.name.clone();
                if !item.relative.is_empty() {
                    path.push(b'/');
                    path.extend_from_slice(&item.relative);
                }
                let node = item.node;
                let value = match &node.kind {
                    NodeKind::Directory => "directory".to_owned(),
                    NodeKind::File(content) => content.digest()?.to_string(),
                    NodeKind::Symlink(target) => match std::str::from_utf8(target) {
                        Ok(target) => format!("link {target}"),
                        Err(_) => format!("link hex {}", image_core::hex(target)),
                    },
                    NodeKind::Special(kind) => format!("{kind:?}"),
                    NodeKind::Other => continue,
                };
                // A name that is no text is told apart by its bytes.
                let name = match std::str::from_utf8(&path) {
                    Ok(name) => name.to_owned(),
                    Err(_) => format!("{}\0{}", String::from_utf8_lossy(&path), image_core::hex(&path)),
                };
                parts.push(Component::new(format!("file.{number}.{name}"), value));
                let is_link = matches!(node.kind, NodeKind::Symlink(_));
                if !is_link && !matches!(copy.mode, Some(Mode::Octal(_))) {
                    parts.push(Component::new(format!("mode.{number}.{name}"), format!("{:04o}", node.mode)));
                }
                if copy.owner.is_none() && !tree.is_context {
                    let owner = format!("{}:{}", node.uid, node.gid);
                    parts.push(Component::new(format!("owner.{number}.{name}"), owner));
                }
                for (attribute, value) in &node.xattrs {
                    let attribute = String::from_utf8_lossy(attribute);
                    parts.push(Component::new(
                        format!("xattr.{number}.{name}.{attribute}"),
                        image_core::hex(value),
                    ));
                }
            }
        }
    }
    Ok(parts)
}

/// How much the step writes at most: the files that it copies, in blocks; an archive counts as what it is packed.
pub(super) fn size(files: &Files, trees: &Trees) -> Result<u64> {
    let mut bytes: u64 = 0;
    for action in &files.actions {
        let FileAction::Copy(copy) = action else { continue };
        let CopySource::Tree(input) = copy.from else { continue };
        let tree = trees.get(input)?;
        for source in select::sources(copy, &tree)? {
            for item in &source.items {
                if let NodeKind::File(content) = &item.node.kind {
                    bytes = bytes.saturating_add(content.size().div_ceil(BLOCK).saturating_mul(BLOCK));
                }
            }
        }
    }
    Ok(bytes)
}

fn action_owner(action: &FileAction) -> Option<&Owner> {
    match action {
        FileAction::Mkdir(mkdir) => mkdir.owner.as_ref(),
        FileAction::Copy(copy) => copy.owner.as_ref(),
        _ => None,
    }
}

/// Makes the layer. `time` is when the step happens.
pub(super) fn perform(
    files: &Files,
    trees: &Trees,
    work: &Transaction,
    below: &[Layer],
    time: Timestamp,
) -> Result<Layer> {
    let users = View::of(below);
    // `--link`: nothing below is looked at, so the layer is the same over any base.
    let view = if files.link { View::default() } else { users.clone() };
    let mut composer = work.compose(view)?;
    composer.set_default_mtime(time);
    let mut copier = Copier { composer, users, work, time };
    for action in &files.actions {
        match action {
            FileAction::Mkdir(mkdir) => copier.mkdir(mkdir)?,
            FileAction::Copy(copy) => copier.copy(copy, trees)?,
            _ => return Err(Error::unsupported("this file operation")),
        }
    }
    Ok(copier.composer.finish(Some(time))?)
}

struct Copier<'a> {
    composer: Composer,
    users: View,
    work: &'a Transaction,
    time: Timestamp,
}

/// What holds for everything that one action copies.
struct Manner<'a> {
    owner: Option<(u32, u32)>,
    mode: Option<&'a Mode>,
    is_context: bool,
    source: &'a str,
}

impl Copier<'_> {
    fn now(&self) -> (i64, u32) {
        (self.time.seconds(), self.time.nanoseconds())
    }

    fn mkdir(&mut self, mkdir: &Mkdir) -> Result<()> {
        let path = resolve(&self.composer, mkdir.path.as_bytes())?;
        let owner = ids(mkdir.owner.as_ref(), &self.users, self.work)?;
        self.directories(&path, mkdir.mode, owner, &mkdir.path)
    }

    /// Makes `path` and its parents where they are missing.
    fn directories(&mut self, path: &[u8], mode: u32, owner: Option<(u32, u32)>, shown: &str) -> Result<()> {
        let names: Vec<&[u8]> = components(path).collect();
        for length in 1..=names.len() {
            let path = names.get(..length).unwrap_or_default().join(&b'/');
            match self.composer.find(&path) {
                Some(entry) if entry.is_directory() => {}
                Some(_) => return Err(not_a_directory(&path, shown)),
                None => {
                    let (uid, gid) = owner.unwrap_or((0, 0));
                    let kind = Kind::Directory { opaque: false };
                    self.composer.directory(&path, Entry::new(kind, mode, uid, gid, self.now()))?;
                }
            }
        }
        Ok(())
    }

    fn copy(&mut self, copy: &Copy, trees: &Trees) -> Result<()> {
        let owner = ids(copy.owner.as_ref(), &self.users, self.work)?;
        let tree = match &copy.from {
            CopySource::Tree(input) => trees.get(*input)?,
            CopySource::Inline { name, data } => Arc::new(inline(name, data)),
            _ => return Err(Error::unsupported("this source of COPY")),
        };
        let inline;
        let copy = match &copy.from {
            CopySource::Inline { name, .. } => {
                let mut plain = Copy::clone(copy);
                (plain.source, plain.wildcard) = (format!("/{name}"), false);
                inline = plain;
                &inline
            }
            _ => copy,
        };
        let manner =
            Manner { owner, mode: copy.mode.as_ref(), is_context: tree.is_context, source: &copy.source };
        for found in select::sources(copy, &tree)? {
            if copy.unpack && self.unpack(copy, &found, owner)? {
                continue;
            }
            self.source(copy, &found, &manner)?;
        }
        Ok(())
    }

    /// Unpacks the source, if it is an archive.
    fn unpack(&mut self, copy: &Copy, found: &Found<'_>, owner: Option<(u32, u32)>) -> Result<bool> {
        let Some(Node { kind: NodeKind::File(content), .. }) = found.items.first().map(|item| item.node)
        else {
            return Ok(false);
        };
        let Some(entries) = archive::open(content.open(self.work)?, &copy.source)? else { return Ok(false) };
        let dest = resolve(&self.composer, copy.dest.as_bytes())?;
        self.directories(&dest, 0o755, owner, &copy.dest)?;
        archive::extract(entries, &mut self.composer, &dest, &copy.source)?;
        Ok(true)
    }

    fn source(&mut self, copy: &Copy, found: &Found<'_>, manner: &Manner<'_>) -> Result<()> {
        let says_directory = copy.dest.ends_with('/') || copy.dest.ends_with("/.");
        let mut dest = resolve(&self.composer, copy.dest.as_bytes())?;
        let is_directory = found.is_directory();
        let there = dest.is_empty() || self.composer.find(&dest).is_some_and(Entry::is_directory);
        if says_directory && !there {
            self.directories(&dest, 0o755, manner.owner, &copy.dest)?;
        }
        if !is_directory && (says_directory || there) {
            dest = join(&dest, &found.name);
        }
        // Parents that are missing get the owner of `--chown`.
        let parent = match dest.iter().rposition(|byte| *byte == b'/') {
            Some(at) => dest.get(..at).unwrap_or_default().to_vec(),
            None => Vec::new(),
        };
        self.directories(&parent, 0o755, manner.owner, &copy.dest)?;
        if is_directory && found.is_partial {
            self.directories(&dest, 0o755, manner.owner, &copy.dest)?;
        }
        let mut links: BTreeMap<(u64, u64), Vec<u8>> = BTreeMap::new();
        for item in &found.items {
            let target = if item.relative.is_empty() { dest.clone() } else { join(&dest, &item.relative) };
            if target.is_empty() {
                continue;
            }
            // Whose metadata a directory that is there keeps: the destination's own, and with patterns everybody's.
            let keeps = item.relative.is_empty() || found.is_partial;
            if let Some(link) = item.node.link
                && let Some(first) = links.get(&link)
            {
                self.make_way(&target)?;
                self.composer.hardlink(&target, first)?;
                continue;
            }
            self.put(&target, item.node, manner, keeps)?;
            if let (Some(link), NodeKind::File(_)) = (item.node.link, &item.node.kind) {
                links.insert(link, target);
            }
        }
        Ok(())
    }

    /// A directory is never replaced by something else.
    fn make_way(&self, target: &[u8]) -> Result<()> {
        if self.composer.find(target).is_some_and(Entry::is_directory) {
            let reason =
                format!("cannot replace to directory /{} with file", String::from_utf8_lossy(target));
            return Err(Error::Step { step: "COPY".to_owned(), reason });
        }
        Ok(())
    }

    fn put(&mut self, target: &[u8], node: &Node, manner: &Manner<'_>, keeps: bool) -> Result<()> {
        let (uid, gid) = manner.owner.unwrap_or((node.uid, node.gid));
        let is_directory = matches!(node.kind, NodeKind::Directory);
        let mode = match manner.mode {
            None => node.mode,
            Some(Mode::Octal(bits)) => *bits,
            Some(Mode::Symbolic(clauses)) => chmod::apply(clauses, node.mode, is_directory),
        };
        // A time of the caller's directory is an accident of the checkout: it would make equal inputs unequal images.
        let mtime = if manner.is_context { self.now() } else { node.mtime };
        let mut entry = Entry::new(Kind::Fifo, mode, uid, gid, mtime);
        entry.xattrs.clone_from(&node.xattrs);
        if !is_directory {
            self.make_way(target)?;
        }
        match &node.kind {
            NodeKind::Directory => match self.composer.find(target) {
                Some(there) if !there.is_directory() => return Err(not_a_directory(target, manner.source)),
                Some(_) if keeps => {}
                _ => self.composer.directory(target, entry)?,
            },
            NodeKind::File(content) => self.file(target, content, entry)?,
            NodeKind::Symlink(link) => {
                entry.mode = 0o777;
                self.composer.symlink(target, link, entry)?;
            }
            NodeKind::Special(kind) => {
                entry.kind = kind.clone();
                self.composer.node(target, entry)?;
            }
            NodeKind::Other => {}
        }
        Ok(())
    }

    /// Copies the bytes, and checks that they are those that the step's key was computed from.
    fn file(&mut self, target: &[u8], content: &Content, entry: Entry) -> Result<()> {
        let expected = content.digest()?;
        self.composer.file(target, &mut content.open(self.work)?, entry)?;
        match self.composer.find(target).map(|entry| &entry.kind) {
            Some(Kind::File { digest, .. }) if *digest != expected => Err(Error::Step {
                step: "COPY".to_owned(),
                reason: format!("/{}: the file changed while it was read", String::from_utf8_lossy(target)),
            }),
            _ => Ok(()),
        }
    }
}

fn not_a_directory(path: &[u8], shown: &str) -> Error {
    let reason = format!("cannot copy to non-directory: /{}", String::from_utf8_lossy(path));
    Error::Step { step: format!("COPY {shown}"), reason }
}

fn inline(name: &str, data: &str) -> Tree {
    let node = Node::plain(NodeKind::File(Content::Memory(data.as_bytes().into())), 0o644);
    Tree::new([(name.as_bytes().to_vec(), node)].into(), true)
}

/// The real path of a destination: links of the root and of what this step made are followed.
pub(super) fn resolve(composer: &Composer, path: &[u8]) -> Result<Vec<u8>> {
    let link = |path: &[u8]| match &composer.find(path)?.kind {
        Kind::Symlink { target } => Some(target.clone()),
        _ => None,
    };
    follow(path, link).ok_or_else(|| Error::Step {
        step: String::from_utf8_lossy(path).into_owned(),
        reason: "too many symbolic links".to_owned(),
    })
}

/// `--chown` in numbers. A user without a group has its own primary group, or the same number.
fn ids(owner: Option<&Owner>, view: &View, work: &Transaction) -> Result<Option<(u32, u32)>> {
    let Some(owner) = owner else { return Ok(None) };
    let text = match &owner.group {
        Some(group) => format!("{}:{group}", owner.user),
        None => owner.user.to_string(),
    };
    match (&owner.user, &owner.group) {
        (Principal::Id(id), None) => return Ok(Some((*id, *id))),
        (Principal::Id(user), Some(Principal::Id(group))) => return Ok(Some((*user, *group))),
        _ => {}
    }
    let user = user::resolve(&text, view, work.store().authority())?;
    Ok(Some((user.uid, user.gid)))
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}
