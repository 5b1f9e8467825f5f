//! Files to copy from, wherever they come from.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use image_core::{Algorithm, Descriptor, Digest, Digester};
use layer_store::{Kind, Layer, LayerKey, Transaction, View};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::hashes::{Hashes, Stat};
use crate::error::{Error, Result};

const LINK_LIMIT: usize = 40;
const BUFFER: usize = 128 << 10;

/// The bytes of a file.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A file of the host, below an open directory.
    Disk(Arc<Disk>),
    /// A file of a layer; its digest is known.
    Layer { layer: Layer, path: Vec<u8>, digest: Digest },
    /// A blob of the store or of the running build; its digest is known.
    Blob(Box<Descriptor>),
    /// Bytes of the caller, or text of the Dockerfile.
    Memory(Arc<[u8]>),
}

/// A file of the host, as it was when its directory was listed.
#[derive(Debug)]
pub(super) struct Disk {
    root: Arc<OwnedFd>,
    path: Vec<u8>,
    seen: Stat,
    hashes: Arc<Hashes>,
    digest: OnceLock<Digest>,
}

#[derive(Clone, Debug)]
pub(super) enum NodeKind {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    /// A device or fifo of a layer.
    Special(Kind),
    /// What no layer can hold.
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
    /// Nodes with the same value are names of one file.
    pub(super) link: Option<(u64, u64)>,
}

/// A tree to copy from. Paths have no leading slash; the root is the empty path.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<Vec<u8>, Node>,
    /// It is the caller's directory: owners and times of its files do not count.
    pub(super) is_context: bool,
    /// What has to stay on disk as long as the tree is read.
    pub(super) held: Option<Arc<Scratch>>,
    /// The commit that it is a checkout of.
    pub(super) commit: Option<String>,
}

/// A directory of the host that goes when nobody reads it any more.
#[derive(Debug)]
pub(super) struct Scratch(pub(super) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(%error, "a directory of a build stays behind");
        }
    }
}

impl Disk {
    pub(super) fn new(root: Arc<OwnedFd>, path: Vec<u8>, seen: Stat, hashes: Arc<Hashes>) -> Self {
        Self { root, path, seen, hashes, digest: OnceLock::new() }
    }

    fn fail(&self, source: std::io::Error) -> Error {
        Error::Io { path: String::from_utf8_lossy(&self.path).into_owned().into(), source }
    }

    fn open(&self) -> Result<std::fs::File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.root, self.path.as_slice(), flags, Mode::empty(), resolve) {
                Ok(fd) => return Ok(fd.into()),
                // The kernel asks to try again when something was renamed meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(self.fail(errno.into())),
            }
        }
    }

    /// Read once, or known from an earlier build.
    fn digest(&self) -> Result<Digest> {
        if let Some(digest) = self.digest.get() {
            return Ok(*digest);
        }
        let digest = match self.hashes.find(self.seen) {
            Some(digest) => digest,
            None => {
                let file = self.open()?;
                let look = || -> Result<Stat> {
                    let found = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
                    Ok(Stat::of(&found.map_err(|errno| self.fail(errno.into()))?))
                };
                let before = look()?;
                let digest = sum(&file).map_err(|source| self.fail(source))?;
                if before == look()? {
                    self.hashes.remember(before, digest);
                }
                digest
            }
        };
        Ok(*self.digest.get_or_init(|| digest))
    }
}

fn sum(mut file: impl Read) -> std::io::Result<Digest> {
    let (mut digester, mut buffer) = (Digester::new(Algorithm::Sha256), vec![0; BUFFER]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digester.finish()),
            Ok(count) => digester.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl Content {
    pub(super) fn open(&self, work: &Transaction) -> Result<Box<dyn Read + Send>> {
        match self {
            Self::Layer { layer, path, .. } => Ok(Box::new(layer.open_file(work.store().authority(), path)?)),
            Self::Blob(blob) => Ok(Box::new(work.open_blob(blob)?)),
            other => other.open_plain(),
        }
    }

    /// Opens content that is not in the store.
    pub(super) fn open_plain(&self) -> Result<Box<dyn Read + Send>> {
        match self {
            Self::Disk(file) => Ok(Box::new(file.open()?)),
            Self::Memory(bytes) => Ok(Box::new(std::io::Cursor::new(bytes.clone()))),
            Self::Layer { .. } | Self::Blob(_) => {
                Err(Error::unsupported("a file of the store as a file of a context"))
            }
        }
    }

    /// How many bytes it is, without reading it.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Disk(file) => file.seen.size(),
            Self::Layer { layer, path, .. } => match layer.index().entries.get(path).map(|entry| &entry.kind)
            {
                Some(Kind::File { size, .. }) => *size,
                _ => 0,
            },
            Self::Blob(blob) => blob.size,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    pub(super) fn digest(&self) -> Result<Digest> {
        match self {
            Self::Disk(file) => file.digest(),
            Self::Layer { digest, .. } => Ok(*digest),
            Self::Blob(blob) => Ok(blob.digest),
            Self::Memory(bytes) => Ok(Digest::sha256(bytes)),
        }
    }
}

impl Node {
    /// A node of root's without a time of its own.
    pub(super) fn plain(kind: NodeKind, mode: u32) -> Self {
        Self { kind, mode, uid: 0, gid: 0, mtime: (0, 0), xattrs: BTreeMap::new(), link: None }
    }
}

impl Tree {
    pub(super) fn new(mut nodes: BTreeMap<Vec<u8>, Node>, is_context: bool) -> Self {
        nodes.entry(Vec::new()).or_insert_with(|| Node::plain(NodeKind::Directory, 0o755));
        Self { nodes, is_context, held: None, commit: None }
    }

    /// The tree that a stack of layers shows.
    pub(super) fn of_view(view: &View) -> Self {
        let mut nodes = BTreeMap::new();
        let mut links: BTreeMap<(LayerKey, Vec<u8>), u64> = BTreeMap::new();
        for (path, (entry, layer)) in view.below(b"") {
            let (entry, at, is_link) = match &entry.kind {
                Kind::Hardlink { target } => match layer.index().entries.get(target) {
                    Some(file) => (file, target.clone(), true),
                    None => continue,
                },
                _ => (entry, path.clone(), false),
            };
            let link = is_link.then(|| {
                let fresh = links.len() as u64 + 1;
                (0, *links.entry((layer.key().clone(), at.clone())).or_insert(fresh))
            });
            let kind = match &entry.kind {
                Kind::Directory { .. } => NodeKind::Directory,
                Kind::File { digest, .. } => {
                    NodeKind::File(Content::Layer { layer: layer.clone(), path: at, digest: *digest })
                }
                Kind::Symlink { target } => NodeKind::Symlink(target.clone()),
                Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo => {
                    NodeKind::Special(entry.kind.clone())
                }
                _ => NodeKind::Other,
            };
            let node = Node {
                kind,
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
                mtime: entry.mtime,
                xattrs: entry.xattrs.clone(),
                link,
            };
            nodes.insert(path, node);
        }
        // The first name of a linked file is an ordinary entry: it joins those that name it.
        for ((layer, path), number) in links {
            if let Some(Node { kind: NodeKind::File(Content::Layer { layer: owner, .. }), link, .. }) =
                nodes.get_mut(&path)
                && *owner.key() == layer
            {
                *link = Some((0, number));
            }
        }
        Self::new(nodes, false)
    }

    /// A digest of all that is in it but times, which do not count, and owners where they do not.
    pub(super) fn digest(&self) -> Result<Digest> {
        let mut digester = Digester::new(Algorithm::Sha256);
        let mut field = |bytes: &[u8]| {
            digester.update(&(bytes.len() as u64).to_be_bytes());
            digester.update(bytes);
        };
        for (path, node) in &self.nodes {
            let (kind, content) = match &node.kind {
                NodeKind::Directory => ("directory", Vec::new()),
                NodeKind::File(content) => ("file", content.digest()?.to_string().into_bytes()),
                NodeKind::Symlink(target) => ("link", target.clone()),
                NodeKind::Special(kind) => ("special", format!("{kind:?}").into_bytes()),
                NodeKind::Other => continue,
            };
            field(path);
            field(kind.as_bytes());
            field(&content);
            field(format!("{:o}", node.mode).as_bytes());
            if !self.is_context {
                field(format!("{}:{}", node.uid, node.gid).as_bytes());
            }
            for (name, value) in &node.xattrs {
                field(name);
                field(value);
            }
        }
        Ok(digester.finish())
    }

    /// Where `path` leads when links are followed, inside the tree; nothing when there is nothing.
    pub(super) fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        let link = |path: &[u8]| match &self.nodes.get(path)?.kind {
            NodeKind::Symlink(target) => Some(target.clone()),
            _ => None,
        };
        follow(path, link).filter(|path| self.nodes.contains_key(path))
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

/// Where `path` leads when every link is followed, never above the root. `link` gives the target of a path that is a
/// link. Nothing: there are too many.
pub(super) fn follow(path: &[u8], link: impl Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
    let mut at: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == b".." {
            at.pop();
            continue;
        }
        at.push(name);
        if let Some(target) = link(&at.join(&b'/')) {
            links += 1;
            if links > LINK_LIMIT {
                return None;
            }
            at.pop();
            if target.first() == Some(&b'/') {
                at.clear();
            }
            rest.extend(components(&target).rev().map(<[u8]>::to_vec));
        }
    }
    Some(at.join(&b'/'))
}

pub(super) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}
