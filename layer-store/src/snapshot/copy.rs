//! The copy driver: every snapshot is a whole tree of its own, for hosts without overlayfs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use serde::{Deserialize, Serialize};

use crate::authority::Op;
use crate::compose::failed;
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::index::{Entry, Kind};
use crate::layer::{Layer, TREE};
use crate::materialise::{Lost, clone_or_copy, materialise};
use crate::merged::Merged;
use crate::transaction::unhex;
use crate::view::{View, ancestors};

use super::compare::Compared;
use super::overlay::stamp_root;
use super::tree::{duplicate, read_tree};
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
            let missing =
                parents.into_iter().rev().map(|path| (path, true)).chain([(point.as_slice(), *is_directory)]);
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
        let notes = notes(place)?;
        let mut compared = Compared::of(&tree, place.authority, &View::of(layers))?;
        for (path, name) in &notes.lost {
            compared.lost.extend(unhex(path).zip(unhex(name)));
        }
        compared.drop_stubs(&notes.stubs);
        let changes = Changes::new(compared.changes()?, 0);
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
