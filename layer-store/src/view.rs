//! What a stack of layers shows: the merged tree, from the indexes alone.

use std::collections::BTreeMap;

use crate::index::{Entry, Kind};
use crate::layer::Layer;

/// How many symbolic links one path may lead through.
const LINK_LIMIT: usize = 40;

/// A stack of layers, lowest first, seen as one tree.
#[derive(Clone, Debug, Default)]
pub struct View {
    layers: Vec<Layer>,
}

impl View {
    /// The view of `layers`, lowest first.
    #[must_use]
    pub fn of(layers: &[Layer]) -> Self {
        Self { layers: layers.to_vec() }
    }

    /// The layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The entry at `path` and the layer that has it. Symbolic links are not followed.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<(&Entry, &Layer)> {
        for layer in self.layers.iter().rev() {
            let entries = &layer.index().entries;
            if let Some(entry) = entries.get(path) {
                return (entry.kind != Kind::Whiteout).then_some((entry, layer));
            }
            // Something above the path in this layer may hide what lower layers have.
            let hidden = ancestors(path).any(|parent| match entries.get(parent) {
                Some(entry) => !matches!(entry.kind, Kind::Directory { opaque: false }),
                None => false,
            });
            let emptied = matches!(
                entries.get(b"".as_slice()),
                Some(Entry { kind: Kind::Directory { opaque: true }, .. })
            );
            if hidden || emptied {
                return None;
            }
        }
        None
    }

    /// The entry at `path`, with a hard link replaced by the file that it names.
    #[must_use]
    pub fn file(&self, path: &[u8]) -> Option<(&Entry, &Layer)> {
        let (entry, layer) = self.find(path)?;
        match &entry.kind {
            Kind::Hardlink { target } => Some((layer.index().entries.get(target)?, layer)),
            _ => Some((entry, layer)),
        }
    }

    /// The path that `path` leads to when every symbolic link is followed, inside this tree. A last component that
    /// does not exist is kept. `None`: too many links.
    #[must_use]
    pub fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.follow(path, true)
    }

    /// As [`Self::resolve`], but a link in the last place stays.
    #[must_use]
    pub fn resolve_parent(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.follow(path, false)
    }

    fn follow(&self, path: &[u8], last: bool) -> Option<Vec<u8>> {
        let mut rest: Vec<Vec<u8>> = components(path).map(<[u8]>::to_vec).rev().collect();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                at.pop();
                continue;
            }
            at.push(name);
            if rest.is_empty() && !last {
                break;
            }
            let here = at.join(&b'/');
            if let Some((Entry { kind: Kind::Symlink { target }, .. }, _)) = self.find(&here) {
                links += 1;
                if links > LINK_LIMIT {
                    return None;
                }
                at.pop();
                if target.first() == Some(&b'/') {
                    at.clear();
                }
                rest.extend(components(target).map(<[u8]>::to_vec).rev());
            }
        }
        Some(at.join(&b'/'))
    }

    /// Everything at and below `path`, sorted; hard links as they stand.
    #[must_use]
    pub fn below(&self, path: &[u8]) -> BTreeMap<Vec<u8>, (&Entry, &Layer)> {
        let mut merged: BTreeMap<Vec<u8>, (&Entry, &Layer)> = BTreeMap::new();
        for layer in &self.layers {
            for (name, entry) in range(&layer.index().entries, path) {
                match &entry.kind {
                    Kind::Whiteout => remove_below(&mut merged, name, true),
                    Kind::Directory { opaque } => {
                        let replaces = merged.get(name).is_some_and(|(old, _)| !old.is_directory());
                        if *opaque || replaces {
                            remove_below(&mut merged, name, true);
                        }
                        merged.insert(name.clone(), (entry, layer));
                    }
                    _ => {
                        remove_below(&mut merged, name, true);
                        merged.insert(name.clone(), (entry, layer));
                    }
                }
            }
            // A layer may also hide everything from above the path.
            let hides = |parent| match layer.index().entries.get(parent) {
                Some(entry) => !matches!(entry.kind, Kind::Directory { opaque: false }),
                None => false,
            };
            if ancestors(path).any(hides) {
                merged.retain(|_, (_, owner)| owner.key() == layer.key());
            }
        }
        merged
    }
}

/// The entries at and below `path`; all for the empty path.
fn range<'a>(
    entries: &'a BTreeMap<Vec<u8>, Entry>,
    path: &[u8],
) -> impl Iterator<Item = (&'a Vec<u8>, &'a Entry)> + use<'a> {
    let path = path.to_vec();
    let start = path.clone();
    entries
        .range(start..)
        .take_while({
            let path = path.clone();
            move |(name, _)| name.starts_with(&path)
        })
        .filter(move |(name, _)| {
            path.is_empty() || name.len() == path.len() || name.get(path.len()) == Some(&b'/')
        })
}

fn remove_below<V>(map: &mut BTreeMap<Vec<u8>, V>, path: &[u8], itself: bool) {
    if path.is_empty() {
        map.clear();
        return;
    }
    if itself {
        map.remove(path);
    }
    let mut prefix = path.to_vec();
    prefix.push(b'/');
    let doomed: Vec<_> = map
        .range(prefix.clone()..)
        .take_while(|(name, _)| name.starts_with(&prefix))
        .map(|(name, _)| name.clone())
        .collect();
    for name in doomed {
        map.remove(&name);
    }
}

/// The paths above `path`, nearest first, without the root.
pub(crate) fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = path;
    std::iter::from_fn(move || {
        let at = rest.iter().rposition(|byte| *byte == b'/')?;
        rest = rest.get(..at)?;
        Some(rest)
    })
}

/// The names in `path`, without empty ones and `.`.
pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}
