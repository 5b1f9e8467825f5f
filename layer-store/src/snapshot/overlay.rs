//! The overlay driver: changes go to a directory of their own, the kernel shows it over the trees of the layers.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;

use crate::authority::{Op, Owners, Stamp};
use crate::compose::failed;
use crate::error::Result;
use crate::index::{Entry, Kind};
use crate::layer::{Layer, TREE};
use crate::view::View;

use super::tree::{duplicate, read_tree};
use super::{Changes, Mount, Snapshotter, Workspace};

pub(crate) const NAME: &str = "overlay";
const WORK: &str = "work";
/// Below a view, as an overlay wants two directories and shows the whiteouts of a lone one as devices; and below a
/// snapshot of nothing.
const EMPTY: &str = "empty";

/// Overlayfs with `userxattr`: for root, and in a user namespace since Linux 5.11.
///
/// ```text
///  diff/    takes the changes, in overlay form; becomes the tree of the layer
///  work/    overlayfs works here
///  empty/   of a view, in place of both; of a snapshot over no layer
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct OverlayDriver;

impl Snapshotter for OverlayDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<()> {
        place.dir.make_dir(TREE, 0o755)?;
        place.dir.make_dir(WORK, 0o700)?;
        if layers.is_empty() {
            place.dir.make_dir(EMPTY, 0o755)?;
        }
        stamp_root(place, TREE, layers)
    }

    fn view(&self, place: &Workspace<'_>, _layers: &[Layer]) -> Result<()> {
        place.dir.make_dir(EMPTY, 0o755).map(drop)
    }

    fn mount(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<Mount> {
        let mut lower = lower(layers)?;
        if place.dir.exists(TREE) {
            let open = |name| place.dir.dir(name).and_then(|dir| duplicate(dir.as_fd()));
            let upper = (open(TREE)?, open(WORK)?);
            if lower.is_empty() {
                lower.push(open(EMPTY)?);
            }
            return Ok(Mount::Overlay { lower, upper: Some(upper) });
        }
        let empty = duplicate(place.dir.dir(EMPTY)?.as_fd())?;
        if lower.is_empty() {
            return Ok(Mount::Bind { directory: empty, read_only: true });
        }
        lower.push(empty);
        Ok(Mount::Overlay { lower, upper: None })
    }

    fn changes(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<Changes> {
        let tree = place.dir.dir(TREE)?;
        let (entries, allocated) = read_tree(&tree, &View::of(layers), place.authority)?;
        Ok(Changes { entries, allocated })
    }

    fn open(&self, place: &Workspace<'_>, path: &[u8]) -> Result<File> {
        super::open_in(place, TREE, path)
    }

    fn commit(&self, place: &Workspace<'_>, layers: &[Layer]) -> Result<Changes> {
        let changes = self.changes(place, layers)?;
        place.dir.remove_tree(WORK)?;
        place.dir.remove_tree(EMPTY)?;
        Ok(changes)
    }
}

/// The directory `name` looks as the root does below.
pub(super) fn stamp_root(place: &Workspace<'_>, name: &str, layers: &[Layer]) -> Result<()> {
    let view = View::of(layers);
    if let Some((entry, _)) = view.find(b"") {
        let stamp = entry.stamp(place.authority.owners() == Owners::True);
        let op = Op::Stamp(name.as_bytes().to_vec(), Stamp { xattrs: Vec::new(), ..stamp });
        place.authority.perform(place.dir.as_fd(), &[op]).map_err(failed)?;
    }
    Ok(())
}

/// The trees of `layers`, topmost first.
fn lower(layers: &[Layer]) -> Result<Vec<OwnedFd>> {
    // A layer may be in a stack twice (two steps that did nothing); overlayfs takes a directory once. The topmost
    // has everything that the lower ones have, so those can go.
    let mut seen = BTreeSet::new();
    let mut hidden = false;
    let fresh = layers.iter().rev().filter(|layer| {
        let shows = !hidden && seen.insert(layer.key().clone());
        // Overlayfs knows no opaque root: what is below such a layer is left out.
        hidden |= matches!(
            layer.index().entries.get(b"".as_slice()),
            Some(Entry { kind: Kind::Directory { opaque: true }, .. })
        );
        shows
    });
    fresh.map(|layer| duplicate(layer.tree())).collect()
}
