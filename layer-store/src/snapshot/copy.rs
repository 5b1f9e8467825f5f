//! The copy driver: every snapshot is a whole tree of its own, for hosts without overlayfs.
//!
//! What was changed is found by comparing the tree with the indexes of the layers: metadata, then, where they are
//! the same, the digest of the content. So nothing that a process does to times can hide a change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use image_core::Digester;
use serde::{Deserialize, Serialize};

use crate::authority::{Op, Owners};
use crate::compose::failed;
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::index::{Entry, Kind, is_applied};
use crate::layer::{Layer, TREE};
use crate::materialise::{Lost, clone_or_copy, materialise};
use crate::merged::Merged;
use crate::view::{View, ancestors};

use super::overlay::stamp_root;
use super::tree::{digest_into, duplicate, read_tree};
use super::{Changes, Mount, Snapshotter, Workspace};

pub(crate) const NAME: &str = "copy";
const ROOT: &str = "rootfs";
const NOTES: &str = "notes.json";
const READ_ONLY: &str = "read-only";

/// A copy of all that the layers show; the files share their blocks with the layers where the file system can.
///
/// ```text
///  rootfs/      the whole tree
///  notes.json   what of the layers the host could not take, and which mount points were made
///  read-only    of a view
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CopyDriver;

/// What the tree alone does not tell. Paths and names in hex.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Notes {
    /// Attributes that were not set.
    lost: Vec<(String, String)>,
    /// Mount points that were made, and whether each is a directory.
    stubs: BTreeMap<String, bool>,
}

impl CopyDriver {
    fn make(place: &Workspace<'_>, layers: &[Layer]) -> Result<()> {
        let tree = place.dir.make_dir(ROOT, 0o755)?;
        let merged = Merged::of(&View::of(layers));
        let made = materialise(place.authority, &merged.entries, &tree, |path, _, file| {
            clone_or_copy(&mut merged.open(place.authority, path)?, file)?;
            Ok(true)
        })?;
        stamp_root(place, ROOT, layers)?;
        let hex = |(path, name): Lost| (image_core::hex(&path), image_core::hex(&name));
        let lost = made.into_iter().flatten().map(hex).collect();
        place.dir.replace_json(NOTES, &Notes { lost, stubs: BTreeMap::new() })
    }
}

impl Snapshotter for CopyDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<()> {
        Self::make(place, layers)
    }

    fn view(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<()> {
        Self::make(place, layers)?;
        place.dir.write(READ_ONLY, b"")
    }

    fn mount(&self, place: &Workspace<'_>, _layers: &[Layer]) -> Result<Mount> {
        let directory = duplicate(place.dir.dir(ROOT)?.as_fd())?;
        Ok(Mount::Bind { directory, read_only: place.dir.exists(READ_ONLY) })
    }

    fn mount_points(&self, place: &Workspace<'_>, points: &[(Vec<u8>, bool)]) -> Result<()> {
        let tree = place.dir.dir(ROOT)?;
        let mut notes = notes(place)?;
        let found = walk(place, &tree)?;
        let there: BTreeMap<&[u8], &crate::authority::Found> =
            found.iter().map(|found| (found.path.as_slice(), found)).collect();
        let mut made = BTreeSet::new();
        let mut ops = Vec::new();
        let root = rustix::fs::fstat(tree.as_fd()).map_err(Error::io("stat", tree.path()))?;
        let mut touched: BTreeMap<Vec<u8>, (i64, u32)> = BTreeMap::new();
        for (point, is_directory) in points {
            let parents: Vec<&[u8]> = ancestors(point).collect();
            let missing = parents.into_iter().rev().map(|path| (path, true)).chain([(point.as_slice(), *is_directory)]);
            for (path, is_directory) in missing {
                if there.contains_key(path) || made.contains(path) {
                    continue;
                }
                let parent = ancestors(path).next().unwrap_or_default();
                match there.get(parent) {
                    Some(found) if found.mode & 0o170_000 == 0o040_000 => {
                        touched.insert(parent.to_vec(), found.mtime);
                    }
                    // A link or a file is in the way: whoever mounts there will say so.
                    Some(_) => break,
                    None => {}
                }
                ops.push(if is_directory { Op::Directory(path.to_vec()) } else { Op::File(path.to_vec()) });
                made.insert(path.to_vec());
                notes.stubs.insert(image_core::hex(path), is_directory);
            }
        }
        // Making something in a directory is no change to it that anybody asked for.
        let own = touched.into_iter().filter(|(path, _)| !path.is_empty());
        ops.extend(own.map(|(path, (seconds, nanoseconds))| Op::Touch(path, seconds, nanoseconds)));
        // First the note: a stub that nobody knows of would end in a layer.
        place.dir.replace_json(NOTES, &notes)?;
        place.authority.perform(tree.as_fd(), &ops).map_err(failed)?;
        let nanoseconds = u32::try_from(root.st_mtime_nsec).unwrap_or(0);
        let op = Op::Touch(ROOT.as_bytes().to_vec(), root.st_mtime, nanoseconds);
        place.authority.perform(place.dir.as_fd(), &[op]).map(drop).map_err(failed)
    }

    fn changes(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<Changes> {
        let tree = place.dir.dir(ROOT)?;
        let view = View::of(layers);
        let (now, _) = read_tree(&tree, &view, place.authority)?;
        let below = Merged::of(&view).entries;
        let notes = notes(place)?;
        let mut compared = Compared { place, now, below, lost: BTreeSet::new(), changed: BTreeMap::new() };
        for (path, name) in &notes.lost {
            compared.lost.extend(unhex(path).zip(unhex(name)));
        }
        compared.drop_stubs(&notes.stubs);
        compared.files()?;
        compared.others();
        compared.removed();
        compared.parents();
        let changes = Changes::new(compared.changed, 0);
        Ok(Changes { allocated: changes.size(), ..changes })
    }

    fn written(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<u64> {
        // By size and time alone: a list must not read every file.
        let (now, _) = read_tree(&place.dir.dir(ROOT)?, &View::of(layers), place.authority)?;
        let below = Merged::of(&View::of(layers)).entries;
        let sizes = now.iter().map(|(path, entry)| match (&entry.kind, below.get(path)) {
            (Kind::File { size, .. }, Some(Entry { kind: Kind::File { size: old, .. }, mtime, .. }))
                if size == old && *mtime == entry.mtime =>
            {
                0
            }
            (Kind::File { size, .. }, _) => *size,
            _ => 0,
        });
        Ok(sizes.sum())
    }

    fn open(&self, place: &Workspace<'_>, path: &[u8]) -> Result<File> {
        super::open_in(place, ROOT, path)
    }

    fn commit(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<Changes> {
        let Changes { entries, .. } = self.changes(place, layers)?;
        let tree = place.dir.make_dir(TREE, 0o755)?;
        let from = place.dir.dir(ROOT)?;
        materialise(place.authority, &entries, &tree, |path, _, file| {
            clone_or_copy(&mut crate::pack::open(place.authority, from.as_fd(), path)?, file)?;
            Ok(true)
        })?;
        for name in [ROOT, NOTES, READ_ONLY] {
            place.dir.remove_tree(name)?;
        }
        let allocated = tree.disk_usage()?.saturating_sub(place.dir.allocated(TREE));
        Ok(Changes { entries, allocated })
    }
}

fn notes(place: &Workspace<'_>) -> Result<Notes> {
    place.dir.read_json(NOTES).map(Option::unwrap_or_default)
}

fn walk(place: &Workspace<'_>, tree: &Dir) -> Result<Vec<crate::authority::Found>> {
    let fail = |source| Error::Io { action: "read", path: tree.path().to_owned(), source };
    place.authority.walk(tree.as_fd()).map_err(fail)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    crate::transaction::unhex(text)
}

/// A tree beside what it was made from.
struct Compared<'a> {
    place: &'a Workspace<'a>,
    now: BTreeMap<Vec<u8>, Entry>,
    below: BTreeMap<Vec<u8>, Entry>,
    lost: BTreeSet<Lost>,
    changed: BTreeMap<Vec<u8>, Entry>,
}

impl Compared<'_> {
    /// Mount points that are as they were made are not there.
    fn drop_stubs(&mut self, stubs: &BTreeMap<String, bool>) {
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
        let mut file = super::open_in(self.place, ROOT, path)?;
        digest_into(&mut file, &mut digester).map_err(|source| Error::Io {
            action: "read",
            path: String::from_utf8_lossy(path).into_owned().into(),
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
        let single = self.place.authority.owners() == Owners::Single;
        for (path, names) in names {
            let Some(file) = self.now.get(&path).cloned() else { continue };
            // Where nobody may make devices, an empty file keeps the place of one.
            let is_device = |entry: &Entry| matches!(entry.kind, Kind::CharDevice(_) | Kind::BlockDevice(_));
            let empty = matches!(file.kind, Kind::File { size: 0, .. });
            if single && empty && names.len() == 1 && self.below.get(&path).is_some_and(is_device) {
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
                let kind = if name == path {
                    file.kind.clone()
                } else {
                    Kind::Hardlink { target: path.clone() }
                };
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
