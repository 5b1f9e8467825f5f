//! Files to copy from, wherever they come from.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use image_core::{Algorithm, Digest, Digester};
use layer_store::authority::{Direct, FileAuthority, Op, Reply};
use layer_store::{Kind, Layer, Store, View};

use crate::error::{Error, Result};

const LINK_LIMIT: usize = 40;
const BUFFER: usize = 128 << 10;

/// The bytes of a file.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A file of the context, below an open directory.
    Disk { root: Arc<OwnedFd>, path: Vec<u8> },
    /// A file of a layer; its digest is known.
    Layer { layer: Layer, path: Vec<u8>, digest: Digest },
    /// Text of the Dockerfile.
    Inline(Arc<str>),
}

#[derive(Clone, Debug)]
pub(super) enum NodeKind {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A tree to copy from. Paths have no leading slash; the root is the empty path.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<Vec<u8>, Node>,
    /// It is the caller's directory: owners and times of its files do not count.
    pub(super) is_context: bool,
}

impl Content {
    pub(super) fn open(&self, store: &Store) -> Result<Box<dyn Read + Send>> {
        match self {
            Self::Disk { root, path } => {
                let fail =
                    |source| Error::Io { path: String::from_utf8_lossy(path).into_owned().into(), source };
                let replies = Direct::detect().perform(root.as_fd(), &[Op::Open(path.clone())]);
                match replies.map_err(|error| fail(error.source))?.into_iter().next() {
                    Some(Reply::File(fd)) => Ok(Box::new(std::fs::File::from(fd))),
                    _ => Err(fail(std::io::Error::other("it is no file"))),
                }
            }
            Self::Layer { layer, path, .. } => Ok(Box::new(layer.open_file(store.authority(), path)?)),
            Self::Inline(text) => Ok(Box::new(std::io::Cursor::new(text.as_bytes().to_vec()))),
        }
    }

    pub(super) fn digest(&self, store: &Store) -> Result<Digest> {
        match self {
            Self::Layer { digest, .. } => Ok(*digest),
            Self::Inline(text) => Ok(Digest::sha256(text.as_bytes())),
            Self::Disk { path, .. } => {
                let fail =
                    |source| Error::Io { path: String::from_utf8_lossy(path).into_owned().into(), source };
                let (mut file, mut digester) = (self.open(store)?, Digester::new(Algorithm::Sha256));
                let mut buffer = vec![0; BUFFER];
                loop {
                    match file.read(&mut buffer) {
                        Ok(0) => return Ok(digester.finish()),
                        Ok(count) => digester.update(buffer.get(..count).unwrap_or_default()),
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(fail(error)),
                    }
                }
            }
        }
    }
}

impl Tree {
    pub(super) fn new(mut nodes: BTreeMap<Vec<u8>, Node>, is_context: bool) -> Self {
        nodes.entry(Vec::new()).or_insert_with(|| Node {
            kind: NodeKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: BTreeMap::new(),
        });
        Self { nodes, is_context }
    }

    /// The tree that a stack of layers shows.
    pub(super) fn of_view(view: &View) -> Self {
        let mut nodes = BTreeMap::new();
        for (path, (entry, layer)) in view.below(b"") {
            let (entry, at) = match &entry.kind {
                Kind::Hardlink { target } => match layer.index().entries.get(target) {
                    Some(file) => (file, target.clone()),
                    None => continue,
                },
                _ => (entry, path.clone()),
            };
            let kind = match &entry.kind {
                Kind::Directory { .. } => NodeKind::Directory,
                Kind::File { digest, .. } => {
                    NodeKind::File(Content::Layer { layer: layer.clone(), path: at, digest: *digest })
                }
                Kind::Symlink { target } => NodeKind::Symlink(target.clone()),
                _ => NodeKind::Other,
            };
            let node = Node {
                kind,
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
                mtime: entry.mtime,
                xattrs: entry.xattrs.clone(),
            };
            nodes.insert(path, node);
        }
        Self::new(nodes, false)
    }

    /// Where `path` leads when links are followed, inside the tree.
    pub(super) fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                at.pop();
                continue;
            }
            at.push(name);
            if let Some(Node { kind: NodeKind::Symlink(target), .. }) = self.nodes.get(&at.join(&b'/')) {
                links += 1;
                if links > LINK_LIMIT {
                    return None;
                }
                at.pop();
                if target.first() == Some(&b'/') {
                    at.clear();
                }
                rest.extend(components(target).rev().map(<[u8]>::to_vec));
            }
        }
        let path = at.join(&b'/');
        self.nodes.contains_key(&path).then_some(path)
    }

    /// What is below the directory `path`, with the path relative to it.
    pub(super) fn below(&self, path: &[u8]) -> Vec<(Vec<u8>, &Node)> {
        let mut prefix = path.to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let inside = self.nodes.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        inside
            .filter(|(name, _)| name.len() > prefix.len())
            .map(|(name, node)| (name.get(prefix.len()..).unwrap_or_default().to_vec(), node))
            .collect()
    }
}

pub(super) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}
