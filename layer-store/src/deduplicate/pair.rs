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
use crate::extents::{Compared, Layout, layout, read_ahead, share};
use crate::layer::{LayerKey, TREE};

/// In what file systems give room, in bytes.
const BLOCK: u64 = 4_096;
/// Trees that are held open at most.
const TREES: usize = 64;

/// Bytes of a file that are asked of the disk before its turn comes.
const AHEAD: u64 = 1 << 20;

/// A file that is open, and where it stands.
struct Opened {
    layer: usize,
    path: Box<[u8]>,
    file: File,
    /// Of 512 bytes, up to its end.
    blocks: u64,
    inode: (u64, u64),
}

/// What came of opening one.
enum Opening {
    Is(Opened),
    Not(Unshared),
    Damaged(Damage),
}

/// Two files of the same content that do not share, on their way from the disk.
pub(super) struct Pair {
    content: Content,
    size: u64,
    first: Opened,
    copy: Opened,
    /// The copy shares with others and the first one does not: then the first one follows, else all others that the copy
    /// shares with would have to be compared anew.
    first_follows: bool,
}

impl Run<'_> {
    /// Opens the file at `path` of the layer in place `at` and the one that is known of its content, and begins to read
    /// them; `None` when there is nothing to compare.
    pub(super) fn prepare(
        &mut self,
        content: Content,
        size: u64,
        at: usize,
        path: &[u8],
    ) -> Result<Option<Pair>> {
        let copy = match self.open(at, path, size)? {
            Opening::Is(copy) => copy,
            Opening::Not(reason) => {
                self.skip(reason);
                return Ok(None);
            }
            Opening::Damaged(damage) => {
                self.damaged(at, path, damage);
                return Ok(None);
            }
        };
        let known = self.known.get(&content).map(|known| (known.layer, known.path.clone()));
        let first = match &known {
            None => Opening::Not(Unshared::Gone),
            Some((layer, path)) => self.open(*layer, path, size)?,
        };
        let first = match (first, known) {
            (Opening::Is(first), _) => first,
            (first, known) => {
                if let (Opening::Damaged(damage), Some((layer, path))) = (first, known) {
                    self.damaged(layer, &path, damage);
                }
                self.remember(content, at, path, false);
                return Ok(None);
            }
        };
        if first.inode == copy.inode {
            return Ok(None);
        }
        if first.blocks != copy.blocks {
            self.skip(Unshared::OtherBlocks);
            return Ok(None);
        }
        let first_follows = match (layout(&first.file), layout(&copy.file)) {
            (Ok(Layout::Inline), _) | (_, Ok(Layout::Inline)) => {
                self.skip(Unshared::Inline);
                return Ok(None);
            }
            (Ok(Layout::Runs { runs, shared }), Ok(Layout::Runs { runs: others, shared: copy_shares })) => {
                if runs == others {
                    self.done.already += 1;
                    self.done.already_bytes += size;
                    return Ok(None);
                }
                copy_shares && !shared
            }
            // Without an answer the kernel compares.
            _ => false,
        };
        for file in [&first.file, &copy.file] {
            read_ahead(file, 0, size.min(AHEAD));
        }
        Ok(Some(Pair { content, size, first, copy, first_follows }))
    }

    /// Makes the two share.
    pub(super) fn finish(&mut self, pair: Pair) -> Result<()> {
        let Pair { content, size, first, copy, first_follows } = pair;
        let known = self.known.get(&content);
        let verified = known.is_some_and(|known| known.verified);
        if known.is_none_or(|known| known.layer != first.layer || known.path != first.path) {
            // Another one is the first meanwhile.
            return match self.prepare(content, size, copy.layer, &copy.path)? {
                Some(pair) => self.finish(pair),
                None => Ok(()),
            };
        }
        let (from, to) = if first_follows { (&copy, &first) } else { (&first, &copy) };
        self.store.places.root.disk().change("share", &self.at(to.layer, &to.path))?;
        self.done.compared += size;
        match share(&from.file, &to.file, size) {
            Ok(Compared::Equal(bytes)) => {
                self.done.shared += 1;
                self.done.shared_bytes += bytes;
                if first_follows {
                    self.remember(content, copy.layer, &copy.path, verified);
                }
            }
            Ok(Compared::Differs(bytes)) => {
                self.done.shared_bytes += bytes;
                self.judge(content, &first, verified, &copy);
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::PERM | Errno::ACCESS) => self.skip(Unshared::NotPermitted),
                // One of the two cannot be read.
                Some(Errno::IO) => self.judge(content, &first, verified, &copy),
                Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS) => {
                    let path = self.at(to.layer, &to.path);
                    return Err(Error::Io { action: "share", path, source: error });
                }
                _ => self.skip(Unshared::Refused),
            },
        }
        Ok(())
    }

    fn skip(&mut self, reason: Unshared) {
        *self.done.skipped.entry(reason).or_default() += 1;
    }

    fn damaged(&mut self, layer: usize, path: &[u8], damage: Damage) {
        let name = self.names.get(layer).map_or("", String::as_str);
        let object = Object::Layer(LayerKey::from_name(name));
        self.done.damaged.push(Finding { object, path: self.at(layer, path), damage });
    }

    /// The two differ: at least one is not what its index says, and is told. The other is the known one from now on.
    fn judge(&mut self, content: Content, first: &Opened, verified: bool, copy: &Opened) {
        let wrong_first = if verified { None } else { wrong(&first.file, &content) };
        let wrong_copy = wrong(&copy.file, &content);
        match (wrong_first.is_some(), wrong_copy.is_some()) {
            // Only when one of them was mended just now.
            (false, false) => self.skip(Unshared::Refused),
            (false, true) => self.remember(content, first.layer, &first.path, true),
            (true, false) => self.remember(content, copy.layer, &copy.path, true),
            (true, true) => drop(self.known.remove(&content)),
        }
        for (file, damage) in [(first, wrong_first), (copy, wrong_copy)] {
            if let Some(damage) = damage {
                self.damaged(file.layer, &file.path, damage);
            }
        }
    }

    fn at(&self, layer: usize, path: &[u8]) -> PathBuf {
        let name = self.names.get(layer).map_or("", String::as_str);
        PathBuf::from("layers").join(name).join(TREE).join(std::ffi::OsStr::from_bytes(path))
    }

    /// Opens the file at `path` of a layer, which must be a file of this size.
    fn open(&mut self, layer: usize, path: &[u8], size: u64) -> Result<Opening> {
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
        // What XFS has in store behind the end of a file that was just written goes by itself.
        let blocks = found.blocks().min(size.div_ceil(BLOCK) * (BLOCK / 512));
        let inode = (found.dev(), found.ino());
        Ok(Opening::Is(Opened { layer, path: path.into(), file, blocks, inode }))
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
