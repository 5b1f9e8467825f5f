//! Several layers as one, over what is below them.

use std::collections::BTreeMap;

use image_core::Timestamp;

use crate::compose::clamp;
use crate::error::Result;
use crate::index::{Entry, Kind};
use crate::layer::Layer;
use crate::materialise::clone_or_copy;
use crate::merged::Merged;
use crate::transaction::Transaction;
use crate::view::{View, ancestors};

/// What is there in the end is taken from the whole stack; what was below and is not there any more is a whiteout.
pub(crate) fn squash(
    work: &Transaction,
    below: &[Layer],
    upper: &[Layer],
    latest: Option<Timestamp>,
) -> Result<Layer> {
    let stack: Vec<Layer> = below.iter().chain(upper).cloned().collect();
    let (before, after) = (View::of(below), View::of(&stack));
    let shown = after.below(b"");
    let merged = Merged::of(&after);
    let from_upper = |path: &[u8]| {
        shown.get(path).is_some_and(|(_, layer)| upper.iter().any(|own| own.key() == layer.key()))
    };
    let own = merged.entries.iter().filter(|(path, _)| from_upper(path));
    let mut entries: BTreeMap<Vec<u8>, Entry> =
        own.map(|(path, entry)| (path.clone(), entry.clone())).collect();
    for (path, entry) in &mut entries {
        // A directory that took the place of something else hides it.
        let replaces = before.find(path).is_some_and(|(old, _)| !old.is_directory());
        if entry.is_directory() && replaces {
            entry.kind = Kind::Directory { opaque: true };
        }
    }
    for path in before.below(b"").into_keys().filter(|path| !shown.contains_key(path)) {
        let hides = |entry: &Entry| !matches!(entry.kind, Kind::Directory { opaque: false });
        let hidden = ancestors(&path)
            .any(|parent| !shown.contains_key(parent) || entries.get(parent).is_some_and(hides));
        if hidden {
            continue;
        }
        // Parents of a whiteout look as they do in the end.
        for parent in ancestors(&path) {
            if let Some(entry) = merged.entries.get(parent) {
                entries.entry(parent.to_vec()).or_insert_with(|| entry.clone());
            }
        }
        entries.insert(path, Entry::whiteout());
    }
    clamp(&mut entries, latest);
    let authority = work.store().authority();
    work.layer_of(entries, |path, file| clone_or_copy(&mut merged.open(authority, path)?, file))
}
