//! Makes a layer entry by entry: what COPY, ADD and WORKDIR do, without mounting anything.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use image_core::{Algorithm, DiffId, Digester, Timestamp};

use crate::authority::{Op, Owners, Reply};
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::index::{Entry, Index, Kind};
use crate::layer::{Layer, LayerKey, TREE};
use crate::transaction::Transaction;
use crate::view::{View, ancestors};

const BUFFER: usize = 256 << 10;

/// A layer in the making. Paths are relative to the root, without links in their parents: resolve them with
/// [`View::resolve`] first.
///
/// A parent that is missing is taken over from below with its metadata, or made 0755 for root.
#[derive(Debug)]
pub struct Composer {
    transaction: Transaction,
    work: Dir,
    tree: Dir,
    below: View,
    entries: BTreeMap<Vec<u8>, Entry>,
    default_mtime: (i64, u32),
    buffer: Vec<u8>,
}

impl Composer {
    pub(crate) fn new(transaction: Transaction, work: Dir, below: View) -> Result<Self> {
        let tree = work.make_dir(TREE, 0o755)?;
        let entries = BTreeMap::new();
        Ok(Self { transaction, work, tree, below, entries, default_mtime: (0, 0), buffer: vec![0; BUFFER] })
    }

    /// The time of parents that are made because they are missing; the Unix epoch unless set.
    pub fn set_default_mtime(&mut self, time: Timestamp) {
        self.default_mtime = (time.seconds(), time.nanoseconds());
    }

    /// What `path` is so far: in this layer, or below.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<&Entry> {
        if let Some(entry) = self.entries.get(path) {
            return (entry.kind != Kind::Whiteout).then_some(entry);
        }
        let hidden = ancestors(path).any(|parent| {
            self.entries
                .get(parent)
                .is_some_and(|entry| !matches!(entry.kind, Kind::Directory { opaque: false }))
        });
        if hidden { None } else { self.below.find(path).map(|(entry, _)| entry) }
    }

    /// What is below.
    #[must_use]
    pub const fn below(&self) -> &View {
        &self.below
    }

    fn perform(&self, op: Op) -> Result<Reply> {
        let authority = self.transaction.store().authority();
        let replies = authority.perform(self.tree.as_fd(), &[op]);
        Ok(replies.map_err(failed)?.into_iter().next().unwrap_or(Reply::Done))
    }

    fn parents(&mut self, path: &[u8]) -> Result<()> {
        let parents: Vec<Vec<u8>> = ancestors(path).map(<[u8]>::to_vec).collect();
        for parent in parents.into_iter().rev() {
            match self.entries.get(&parent) {
                Some(entry) if entry.is_directory() => continue,
                Some(_) => return Err(Error::layer(&parent, "a parent that is no directory")),
                None => {}
            }
            let entry = match self.below.find(&parent) {
                Some((entry, _)) if entry.is_directory() => {
                    Entry { kind: Kind::Directory { opaque: false }, ..entry.clone() }
                }
                Some(_) => return Err(Error::layer(&parent, "a parent that is no directory")),
                None => Entry::new(Kind::Directory { opaque: false }, 0o755, 0, 0, self.default_mtime),
            };
            self.perform(Op::Directory(parent.clone()))?;
            self.entries.insert(parent, entry);
        }
        Ok(())
    }

    /// Makes way for an entry at `path`; `true` when a directory is there already and may stay.
    fn make_room(&mut self, path: &[u8], is_directory: bool) -> Result<bool> {
        self.parents(path)?;
        let Some(old) = self.entries.get(path) else { return Ok(false) };
        if old.is_directory() && is_directory {
            return Ok(true);
        }
        let mut prefix = path.to_vec();
        prefix.push(b'/');
        let doomed: Vec<_> = self
            .entries
            .range(prefix.clone()..)
            .take_while(|(name, _)| name.starts_with(&prefix))
            .map(|(name, _)| name.clone())
            .collect();
        for name in doomed {
            self.entries.remove(&name);
        }
        self.entries.remove(path);
        self.perform(Op::Remove(path.to_vec()))?;
        Ok(false)
    }

    /// A directory. Over one that is there, its metadata replace the old ones; over something else, it replaces it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Layer`].
    pub fn directory(&mut self, path: &[u8], mut entry: Entry) -> Result<()> {
        let replaces = self.find(path).is_some_and(|old| !old.is_directory());
        let stays = self.make_room(path, true)?;
        if !stays {
            self.perform(Op::Directory(path.to_vec()))?;
        }
        entry.kind = Kind::Directory { opaque: replaces };
        self.entries.insert(path.to_vec(), entry);
        Ok(())
    }

    /// A regular file with the bytes of `content`. The kind of `entry` does not count.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Layer`].
    pub fn file(&mut self, path: &[u8], content: &mut dyn Read, mut entry: Entry) -> Result<()> {
        self.make_room(path, false)?;
        let fail = |source| Error::Io {
            action: "write",
            path: String::from_utf8_lossy(path).into_owned().into(),
            source,
        };
        let Reply::File(fd) = self.perform(Op::File(path.to_vec()))? else {
            return Err(fail(std::io::Error::other("the authority gave no file")));
        };
        let mut file = std::fs::File::from(fd);
        let mut digester = Digester::new(Algorithm::Sha256);
        let mut size = 0;
        loop {
            let count = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(fail(error)),
            };
            let chunk = self.buffer.get(..count).unwrap_or_default();
            digester.update(chunk);
            file.write_all(chunk).map_err(fail)?;
            size += count as u64;
        }
        entry.kind = Kind::File { size, digest: digester.finish() };
        self.entries.insert(path.to_vec(), entry);
        Ok(())
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Layer`].
    pub fn symlink(&mut self, path: &[u8], target: &[u8], mut entry: Entry) -> Result<()> {
        self.make_room(path, false)?;
        self.perform(Op::Symlink(path.to_vec(), target.to_vec()))?;
        entry.kind = Kind::Symlink { target: target.to_vec() };
        self.entries.insert(path.to_vec(), entry);
        Ok(())
    }

    /// Another name of the file `target`, which is in this layer.
    ///
    /// # Errors
    /// [`Error::Layer`] when `target` is not a file of this layer.
    pub fn hardlink(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        self.make_room(path, false)?;
        let Some(entry) =
            self.entries.get(target).filter(|entry| matches!(entry.kind, Kind::File { .. })).cloned()
        else {
            return Err(Error::layer(path, "a hard link to something that is no file of the layer"));
        };
        self.perform(Op::Link(path.to_vec(), target.to_vec()))?;
        self.entries
            .insert(path.to_vec(), Entry { kind: Kind::Hardlink { target: target.to_vec() }, ..entry });
        Ok(())
    }

    /// A device or fifo, as `entry` says.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for anything else.
    pub fn node(&mut self, path: &[u8], entry: Entry) -> Result<()> {
        self.make_room(path, false)?;
        let devices = self.transaction.store().authority().makes_devices();
        let op = match entry.kind {
            Kind::Fifo => Op::Node(path.to_vec(), 0o010_000, 0),
            Kind::CharDevice(device) if devices => Op::Node(path.to_vec(), 0o020_000, device),
            Kind::BlockDevice(device) if devices => Op::Node(path.to_vec(), 0o060_000, device),
            Kind::CharDevice(_) | Kind::BlockDevice(_) => Op::File(path.to_vec()),
            _ => return Err(Error::Unsupported { what: "this kind of node".to_owned() }),
        };
        self.perform(op)?;
        self.entries.insert(path.to_vec(), entry);
        Ok(())
    }

    /// What is below at `path` goes.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Layer`].
    pub fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        self.make_room(path, false)?;
        if self.below.find(path).is_some() {
            self.perform(Op::Node(path.to_vec(), 0o020_000, 0))?;
            self.entries.insert(path.to_vec(), Entry::whiteout());
        }
        Ok(())
    }

    /// Ends the layer: times later than `latest` become `latest`, the tree is stamped, the diff ID computed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self, latest: Option<Timestamp>) -> Result<Layer> {
        clamp(&mut self.entries, latest);
        let authority = self.transaction.store().authority();
        let owned = authority.owners() == Owners::True;
        // Children before parents, so that no directory changes after its stamp. Other names of a file share its inode.
        let is_stamped = |entry: &Entry| !matches!(entry.kind, Kind::Whiteout | Kind::Hardlink { .. });
        let batch: Vec<Op> = self
            .entries
            .iter()
            .rev()
            .filter(|(path, entry)| is_stamped(entry) && !path.is_empty())
            .map(|(path, entry)| Op::Stamp(path.clone(), entry.stamp(owned)))
            .collect();
        let replies = authority.perform(self.tree.as_fd(), &batch).map_err(failed)?;
        let blocks = |reply: &Reply| if let Reply::Stamped { blocks, .. } = reply { *blocks } else { 0 };
        let allocated = replies.iter().map(blocks).sum::<u64>() * 512;
        seal(&self.transaction, &self.work, &self.tree, self.entries, allocated, false)
    }
}

pub(crate) fn clamp(entries: &mut BTreeMap<Vec<u8>, Entry>, latest: Option<Timestamp>) {
    let Some(latest) = latest else { return };
    let latest = (latest.seconds(), latest.nanoseconds());
    for entry in entries.values_mut() {
        entry.mtime = entry.mtime.min(latest);
    }
}

pub(crate) fn failed(error: crate::authority::BatchError) -> Error {
    Error::Io { action: "make", path: error.path.into(), source: error.source }
}

/// Computes the diff ID of `entries` over `tree` and stages the layer in `work`. With `hash`, the digests of contents
/// are computed as well.
pub(crate) fn seal(
    transaction: &Transaction,
    work: &Dir,
    tree: &Dir,
    mut entries: BTreeMap<Vec<u8>, Entry>,
    allocated: u64,
    hash: bool,
) -> Result<Layer> {
    crate::pack::first_name_is_the_file(&mut entries);
    let mut digester = Digester::new(Algorithm::Sha256);
    let authority = transaction.store().authority();
    let digests = crate::pack::pack(&entries, tree.as_fd(), authority, &mut digester, hash)
        .map_err(|source| Error::Io { action: "read", path: tree.path().to_owned(), source })?;
    for (path, found) in digests {
        if let Some(Entry { kind: Kind::File { digest, .. }, .. }) = entries.get_mut(&path) {
            *digest = found;
        }
    }
    let diff_id = DiffId::new(digester.finish());
    let index = Index { diff_id, packed: true, allocated, entries };
    transaction.stage(work, LayerKey::new(&diff_id, None), index)
}
