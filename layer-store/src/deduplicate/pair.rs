//! Two files of the same content: the one that all others share with, and one more.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use image_core::{Algorithm, Digester};
use rustix::io::Errno;

use super::{Content, Run, Unshared};
use crate::check::{Damage, Finding, Object};
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::extents::{Compared, Layout, layout, share};
use crate::layer::{LayerKey, TREE};

/// Trees that are held open at most.
const TREES: usize = 64;

/// A file that is open, and where it stands.
struct Opened<'a> {
    layer: usize,
    path: &'a [u8],
    file: File,
    blocks: u64,
    inode: (u64, u64),
}

/// What came of opening one.
enum Opening<'a> {
    Is(Opened<'a>),
    Not(Unshared),
    Damaged(Damage),
}

impl Run<'_> {
    /// Makes the file at `path` of the layer in place `at` share with the one that is known of its content.
    pub(super) fn pair(&mut self, content: Content, size: u64, at: usize, path: &[u8]) -> Result<()> {
        let copy = match self.open(at, path, size)? {
            Opening::Is(copy) => copy,
            Opening::Not(reason) => return self.skip(reason),
            Opening::Damaged(damage) => return self.damaged(at, path, damage),
        };
        let Some((layer, name, verified)) = self.known(&content) else { return Ok(()) };
        let first = match self.open(layer, &name, size)? {
            Opening::Is(first) => first,
            Opening::Not(_) => return self.instead(content, &copy, false),
            Opening::Damaged(damage) => {
                self.damaged(layer, &name, damage)?;
                return self.instead(content, &copy, false);
            }
        };
        if first.inode == copy.inode {
            return Ok(());
        }
        if first.blocks != copy.blocks {
            return self.skip(Unshared::OtherBlocks);
        }
        // Of a copy that shares already and a first one that does not, the first one follows: else all others that the
        // copy shares with would have to be compared anew.
        let (mut from, mut to) = (&first, &copy);
        match (layout(&first.file), layout(&copy.file)) {
            (Ok(Layout::Inline), _) | (_, Ok(Layout::Inline)) => return self.skip(Unshared::Inline),
            (Ok(Layout::Runs { runs, shared }), Ok(Layout::Runs { runs: others, shared: copy_shares })) => {
                if runs == others {
                    self.done.already += 1;
                    self.done.already_bytes += size;
                    return Ok(());
                }
                if copy_shares && !shared {
                    (from, to) = (&copy, &first);
                }
            }
            // Without an answer the kernel compares.
            _ => {}
        }
        self.store.places.root.disk().change("share", &self.at(to.layer, to.path))?;
        self.done.compared += size;
        match share(&from.file, &to.file, size) {
            Ok(Compared::Equal(bytes)) => {
                self.done.shared += 1;
                self.done.shared_bytes += bytes;
                if from.layer == copy.layer && from.path == copy.path {
                    return self.instead(content, &copy, verified);
                }
                Ok(())
            }
            Ok(Compared::Differs(bytes)) => {
                self.done.shared_bytes += bytes;
                self.judge(content, &first, verified, &copy)
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::PERM | Errno::ACCESS) => self.skip(Unshared::NotPermitted),
                // One of the two cannot be read.
                Some(Errno::IO) => self.judge(content, &first, verified, &copy),
                Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS) => {
                    Err(Error::Io { action: "share", path: self.at(to.layer, to.path), source: error })
                }
                _ => self.skip(Unshared::Refused),
            },
        }
    }

    fn known(&self, content: &Content) -> Option<(usize, Box<[u8]>, bool)> {
        self.known.get(content).map(|known| (known.layer, known.path.clone(), known.verified))
    }

    /// From now on others share with this file.
    fn instead(&mut self, content: Content, file: &Opened<'_>, verified: bool) -> Result<()> {
        self.remember(content, file.layer, file.path, verified);
        Ok(())
    }

    fn skip(&mut self, reason: Unshared) -> Result<()> {
        *self.done.skipped.entry(reason).or_default() += 1;
        Ok(())
    }

    /// The two differ: at least one is not what its index says, and is told. The other is the known one from now on.
    fn judge(
        &mut self,
        content: Content,
        first: &Opened<'_>,
        verified: bool,
        copy: &Opened<'_>,
    ) -> Result<()> {
        let wrong_first = if verified { None } else { wrong(&first.file, &content) };
        let wrong_copy = wrong(&copy.file, &content);
        let is_wrong = (wrong_first.is_some(), wrong_copy.is_some());
        for (file, damage) in [(first, wrong_first), (copy, wrong_copy)] {
            if let Some(damage) = damage {
                self.damaged(file.layer, file.path, damage)?;
            }
        }
        match is_wrong {
            // Only when one of them was mended just now.
            (false, false) => self.skip(Unshared::Refused),
            (false, true) => self.instead(content, first, true),
            (true, false) => self.instead(content, copy, true),
            (true, true) => {
                self.known.remove(&content);
                Ok(())
            }
        }
    }

    fn at(&self, layer: usize, path: &[u8]) -> PathBuf {
        let name = self.names.get(layer).map_or("", String::as_str);
        PathBuf::from("layers").join(name).join(TREE).join(std::ffi::OsStr::from_bytes(path))
    }

    fn damaged(&mut self, layer: usize, path: &[u8], damage: Damage) -> Result<()> {
        let name = self.names.get(layer).map_or("", String::as_str);
        let object = Object::Layer(LayerKey::from_name(name));
        self.done.damaged.push(Finding { object, path: self.at(layer, path), damage });
        Ok(())
    }

    /// Opens the file at `path` of a layer, which must be a file of this size.
    fn open<'p>(&mut self, layer: usize, path: &'p [u8], size: u64) -> Result<Opening<'p>> {
        let Some(tree) = self.tree(layer)? else { return Ok(Opening::Not(Unshared::Gone)) };
        let opened = crate::pack::open(tree.authority(), tree.as_fd(), path);
        let found = opened.and_then(|file| file.metadata().map(|found| (file, found)));
        let (file, found) = match found {
            Ok(found) => found,
            Err(error) => return Ok(Opening::Not(reason(&error))),
        };
        if !found.is_file() {
            return Ok(Opening::Damaged(Damage::Attribute("type".to_owned())));
        }
        if found.len() != size {
            return Ok(Opening::Damaged(Damage::Attribute("size".to_owned())));
        }
        let (blocks, inode) = (found.blocks(), (found.dev(), found.ino()));
        Ok(Opening::Is(Opened { layer, path, file, blocks, inode }))
    }

    /// The tree of a layer; `None` when the layer is gone.
    fn tree(&mut self, layer: usize) -> Result<Option<Dir>> {
        if let Some(tree) = self.trees.get(&layer) {
            return Ok(Some(tree.clone()));
        }
        let Some(name) = self.names.get(layer) else { return Ok(None) };
        let tree = match self.store.places.layers.dir(name).and_then(|dir| dir.dir(TREE)) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        if self.trees.len() >= TREES {
            self.trees.clear();
        }
        self.trees.insert(layer, tree.clone());
        Ok(Some(tree))
    }
}

/// What the error of an authority comes down to.
fn reason(error: &io::Error) -> Unshared {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(here) = cause {
        match here.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::NotFound) => return Unshared::Gone,
            Some(io::ErrorKind::PermissionDenied) => return Unshared::NotPermitted,
            _ => cause = here.source(),
        }
    }
    Unshared::Refused
}

/// What is wrong with the bytes of a file that must have this digest.
fn wrong(file: &File, content: &Content) -> Option<Damage> {
    let mut digester = Digester::new(Algorithm::Sha256);
    match crate::snapshot::digest_into(&mut &*file, &mut digester) {
        Ok(_) if digester.finish().as_bytes() == content => None,
        Ok(_) => Some(Damage::Content),
        Err(error) => Some(Damage::Unreadable(error.to_string())),
    }
}
