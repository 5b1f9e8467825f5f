//! What was changed in a tree, found without having watched: by comparing it with the indexes of the layers.
//!
//! Metadata first, then, where they are the same, the digest of the content: so nothing that a process does to times
//! can hide a change.

use std::collections::{BTreeMap, BTreeSet};

use image_core::Digester;

use crate::authority::FileAuthority;
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::index::{Entry, Kind, is_applied};
use crate::materialise::Lost;
use crate::merged::Merged;
use crate::transaction::unhex;
use crate::view::{View, ancestors};

use super::tree::{digest_into, read_tree};

/// A tree beside the layers under it.
pub(crate) struct Compared<'a> {
    tree: &'a Dir,
    authority: &'a dyn FileAuthority,
    now: BTreeMap<Vec<u8>, Entry>,
    below: BTreeMap<Vec<u8>, Entry>,
    /// Attributes that the host could not take, and whose absence is no change.
    pub(super) lost: BTreeSet<Lost>,
    changed: BTreeMap<Vec<u8>, Entry>,
}

impl<'a> Compared<'a> {
    pub(crate) fn of(tree: &'a Dir, authority: &'a dyn FileAuthority, view: &View) -> Result<Self> {
        let (now, _) = read_tree(tree, view, authority)?;
        let below = Merged::of(view).entries;
        Ok(Self { tree, authority, now, below, lost: BTreeSet::new(), changed: BTreeMap::new() })
    }

    /// The entries, with whiteouts, that make the tree of the layers. Digests of contents are left open.
    pub(crate) fn changes(mut self) -> Result<BTreeMap<Vec<u8>, Entry>> {
        self.files()?;
        self.others();
        self.removed();
        self.parents();
        Ok(self.changed)
    }

    /// Mount points that are as they were made are not there.
    pub(super) fn drop_stubs(&mut self, stubs: &BTreeMap<String, bool>) {
        // Children first: a directory that holds nothing but stubs is one.
        for (path, is_directory) in stubs.iter().rev() {
            let Some(path) = unhex(path) else { continue };
            let untouched = match self.now.get(&path).map(|entry| &entry.kind) {
                Some(Kind::Directory { .. }) => *is_directory && !self.has_children(&path),
                Some(Kind::File { size, .. }) => !is_directory && *size == 0,
                _ => false,
            };
            if untouched {
                self.now.remove(&path);
            }
        }
    }

    fn has_children(&self, path: &[u8]) -> bool {
        let prefix = [path, b"/"].concat();
        self.now.range(prefix.clone()..).next().is_some_and(|(name, _)| name.starts_with(&prefix))
    }

    /// Mode, owner, time and attributes are those of `before`.
    fn same_metadata(&self, path: &[u8], entry: &Entry, before: &Entry) -> bool {
        let applied = |entry: &Entry| -> BTreeMap<Vec<u8>, Vec<u8>> {
            let kept = |name: &[u8]| is_applied(name) && !self.lost.contains(&(path.to_vec(), name.to_vec()));
            entry.xattrs.iter().filter(|(name, _)| kept(name)).map(|(a, b)| (a.clone(), b.clone())).collect()
        };
        let same_mode = matches!(entry.kind, Kind::Symlink { .. }) || entry.mode == before.mode;
        let same_owner = (entry.uid, entry.gid) == (before.uid, before.gid);
        same_mode && same_owner && entry.mtime == before.mtime && applied(entry) == applied(before)
    }

    fn same_content(&self, path: &[u8], entry: &Entry, before: &Entry) -> Result<bool> {
        let (Kind::File { size, .. }, Kind::File { size: old, digest }) = (&entry.kind, &before.kind) else {
            return Ok(false);
        };
        if size != old {
            return Ok(false);
        }
        let mut digester = Digester::new(digest.algorithm());
        let read = crate::pack::open(self.authority, self.tree.as_fd(), path)
            .and_then(|mut file| digest_into(&mut file, &mut digester));
        read.map_err(|source| Error::Io {
            action: "read",
            path: self.tree.at(&String::from_utf8_lossy(path)),
            source,
        })?;
        Ok(digester.finish() == *digest)
    }

    /// Files with all their names: what has one new name is written with all of them, so that they stay one file.
    fn files(&mut self) -> Result<()> {
        let mut names: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
        for (path, entry) in &self.now {
            match &entry.kind {
                Kind::File { .. } => names.entry(path.clone()).or_default().push(path.clone()),
                Kind::Hardlink { target } => names.entry(target.clone()).or_default().push(path.clone()),
                _ => {}
            }
        }
        let placeholders = !self.authority.makes_devices();
        for (path, names) in names {
            let Some(file) = self.now.get(&path).cloned() else { continue };
            // Where nobody may make devices, an empty file keeps the place of one.
            let is_device = |entry: &Entry| matches!(entry.kind, Kind::CharDevice(_) | Kind::BlockDevice(_));
            let empty = matches!(file.kind, Kind::File { size: 0, .. });
            if placeholders && empty && names.len() == 1 && self.below.get(&path).is_some_and(is_device) {
                continue;
            }
            let origin = |name: &Vec<u8>| match self.below.get(name).map(|entry| &entry.kind) {
                Some(Kind::File { .. }) => Some(name.clone()),
                Some(Kind::Hardlink { target }) => Some(target.clone()),
                _ => None,
            };
            let origins: BTreeSet<Option<Vec<u8>>> = names.iter().map(origin).collect();
            let one = origins.into_iter().collect::<Vec<_>>();
            if let [Some(origin)] = one.as_slice()
                && let Some(before) = self.below.get(origin)
                && self.same_metadata(&path, &file, before)
                && self.same_content(&path, &file, before)?
            {
                continue;
            }
            for name in names {
                let kind =
                    if name == path { file.kind.clone() } else { Kind::Hardlink { target: path.clone() } };
                self.changed.insert(name, Entry { kind, ..file.clone() });
            }
        }
        Ok(())
    }

    fn others(&mut self) {
        let changed = self.now.iter().filter(|(path, entry)| {
            let Some(before) = self.below.get(*path) else { return true };
            let same_kind = match (&entry.kind, &before.kind) {
                (Kind::Directory { .. }, Kind::Directory { .. }) => true,
                (one, other) => one == other,
            };
            !(same_kind && self.same_metadata(path, entry, before))
        });
        let is_file = |entry: &Entry| matches!(entry.kind, Kind::File { .. } | Kind::Hardlink { .. });
        let changed: Vec<_> = changed.filter(|(_, entry)| !is_file(entry)).map(own).collect();
        self.changed.extend(changed);
    }

    /// What is gone, the topmost of it: a whiteout hides all below.
    fn removed(&mut self) {
        let gone = self.below.keys().filter(|path| !path.is_empty() && !self.now.contains_key(*path));
        let in_directory = |path: &Vec<u8>| match ancestors(path).next() {
            None => true,
            Some(parent) => self.now.get(parent).is_some_and(Entry::is_directory),
        };
        let gone: Vec<_> = gone.filter(|path| in_directory(path)).cloned().collect();
        self.changed.extend(gone.into_iter().map(|path| (path, Entry::whiteout())));
    }

    /// A layer says of every directory that it changes something in how it looks.
    fn parents(&mut self) {
        let parents: BTreeSet<Vec<u8>> =
            self.changed.keys().flat_map(|path| ancestors(path)).map(<[u8]>::to_vec).collect();
        for parent in parents {
            if let Some(entry) = self.now.get(&parent) {
                self.changed.entry(parent).or_insert_with(|| entry.clone());
            }
        }
    }
}

fn own((path, entry): (&Vec<u8>, &Entry)) -> (Vec<u8>, Entry) {
    (path.clone(), entry.clone())
}
