//! A foreign tar stream to index and tree.
//!
//! The tree is made in a private staging directory; every path is taken apart here and resolved against what this
//! layer has made so far (and, read-only, against what is below), never by the kernel through a link. Whiteouts are
//! applied last, so their place in the stream does not matter: they hide what is below, never what is in the layer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::fd::BorrowedFd;

use image_core::whiteout::{self, Name};
use image_core::{Algorithm, DiffId, Digest, Digester};

use crate::authority::{BatchError, FileAuthority, Op, Owners, Reply};
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::index::{Entry, Index, Kind};
use crate::tar_reader::{Member, TarReader, Type};
use crate::view::{View, components};

const LINK_LIMIT: usize = 40;
const BUFFER: usize = 256 << 10;
const CHARACTER_DEVICE: u32 = 0o020_000;
const BLOCK_DEVICE: u32 = 0o060_000;
const FIFO: u32 = 0o010_000;

/// Something of a layer that the host could not take; the index has it all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Degradation {
    /// The entry, lossy.
    pub path: String,
    /// What is missing from the tree: an attribute's name, `device`, `owner`.
    pub what: String,
}

/// What came of a stream.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) index: Index,
    /// The paths at which it looked at what is below.
    pub(crate) looked_up: BTreeSet<Vec<u8>>,
    pub(crate) degraded: Vec<Degradation>,
}

pub(crate) fn unpack(
    source: impl std::io::Read,
    algorithm: Algorithm,
    below: &View,
    root: BorrowedFd<'_>,
    authority: &dyn FileAuthority,
    budget: Budget,
) -> Result<Unpacked> {
    let mut reader = TarReader::new(source, algorithm, budget);
    let mut unpacking = Unpacking {
        below,
        root,
        authority,
        depth: budget.depth,
        entries: BTreeMap::new(),
        whiteouts: BTreeSet::new(),
        opaque: BTreeSet::new(),
        looked_up: BTreeSet::new(),
        degraded: Vec::new(),
        buffer: vec![0; BUFFER],
    };
    while let Some(member) = reader.next()? {
        unpacking.member(member, &mut reader)?;
    }
    let diff_id = DiffId::new(reader.finish()?);
    unpacking.finish(diff_id)
}

struct Unpacking<'a> {
    below: &'a View,
    root: BorrowedFd<'a>,
    authority: &'a dyn FileAuthority,
    depth: u64,
    entries: BTreeMap<Vec<u8>, Entry>,
    whiteouts: BTreeSet<Vec<u8>>,
    opaque: BTreeSet<Vec<u8>>,
    looked_up: BTreeSet<Vec<u8>>,
    degraded: Vec<Degradation>,
    buffer: Vec<u8>,
}

fn failed(error: BatchError) -> Error {
    Error::Io { action: "unpack", path: error.path.into(), source: error.source }
}

impl Unpacking<'_> {
    fn member<R: std::io::Read>(&mut self, member: Member, reader: &mut TarReader<R>) -> Result<()> {
        let names: Vec<&[u8]> = components(&member.path).collect();
        if names.contains(&b"..".as_slice()) {
            return Err(Error::layer(&member.path, "it leads out of the layer"));
        }
        Budget::check(self.depth, names.len() as u64, "components of a path")?;
        let Some((last, parents)) = names.split_last() else {
            return self.root_entry(member);
        };
        let parent = self.parent(parents, member.mtime)?;
        match whiteout::read(last) {
            Name::Plain => {}
            Name::Whiteout(name) => {
                self.whiteouts.insert(join(&parent, name));
                return Ok(());
            }
            Name::Opaque => {
                self.opaque.insert(parent);
                return Ok(());
            }
            _ => return Err(Error::layer(&member.path, "a reserved whiteout name")),
        }
        let path = join(&parent, last);
        self.make_room(&path, &member)?;
        let kind = match member.kind {
            Type::Directory => {
                if !self.entries.contains_key(&path) {
                    self.perform(Op::Directory(path.clone()))?;
                }
                Kind::Directory { opaque: false }
            }
            Type::File => self.file(&path, member.size, reader)?,
            Type::Link(ref target) => return self.link(path, target),
            Type::Symlink(target) => {
                self.perform(Op::Symlink(path.clone(), target.clone()))?;
                Kind::Symlink { target }
            }
            Type::Char(device) => self.node(&path, CHARACTER_DEVICE, device)?,
            Type::Block(device) => self.node(&path, BLOCK_DEVICE, device)?,
            Type::Fifo => {
                self.perform(Op::Node(path.clone(), FIFO, 0))?;
                Kind::Fifo
            }
        };
        let entry = Entry {
            kind,
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime,
            xattrs: member.xattrs,
        };
        // Directories are stamped at the end: making things in them changes their time.
        if !entry.is_directory() {
            self.stamp(&path, &entry)?;
        }
        self.entries.insert(path, entry);
        Ok(())
    }

    fn root_entry(&mut self, member: Member) -> Result<()> {
        if member.kind != Type::Directory {
            return Err(Error::layer(&member.path, "the root must be a directory"));
        }
        let kind = Kind::Directory { opaque: false };
        let entry = Entry {
            kind,
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime,
            xattrs: member.xattrs,
        };
        self.entries.insert(Vec::new(), entry);
        Ok(())
    }

    fn perform(&self, op: Op) -> Result<Reply> {
        let replies = self.authority.perform(self.root, &[op]).map_err(failed)?;
        Ok(replies.into_iter().next().unwrap_or(Reply::Done))
    }

    fn stamp(&mut self, path: &[u8], entry: &Entry) -> Result<()> {
        let owned = self.authority.owners() == Owners::True;
        if let Reply::Without(names) = self.perform(Op::Stamp(path.to_vec(), entry.stamp(owned)))? {
            let shown = String::from_utf8_lossy(path);
            let lost = names.iter().map(|name| String::from_utf8_lossy(name).into_owned());
            self.degraded.extend(lost.map(|what| Degradation { path: shown.clone().into_owned(), what }));
        }
        Ok(())
    }

    /// The real path of the directory that `names` leads to, made where it is missing.
    fn parent(&mut self, names: &[&[u8]], mtime: (i64, u32)) -> Result<Vec<u8>> {
        let mut rest: Vec<Vec<u8>> = names.iter().rev().map(|name| name.to_vec()).collect();
        let mut at = Vec::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == b".." {
                let cut = at.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                at.truncate(cut);
                continue;
            }
            let here = join(&at, &name);
            let own = self.entries.get(&here).map(|entry| entry.kind.clone());
            let kind = match own {
                Some(kind) => kind,
                None => self.borrow_directory(&here, mtime)?,
            };
            match kind {
                Kind::Directory { .. } => at = here,
                Kind::Symlink { target } => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Err(Error::layer(&here, "too many symbolic links"));
                    }
                    if target.first() == Some(&b'/') {
                        at.clear();
                    }
                    rest.extend(components(&target).rev().map(<[u8]>::to_vec));
                }
                _ => return Err(Error::layer(&here, "a parent that is no directory")),
            }
        }
        Ok(at)
    }

    /// A parent directory without an entry in this layer: it looks like the one below, or is made 0755.
    fn borrow_directory(&mut self, path: &[u8], mtime: (i64, u32)) -> Result<Kind> {
        let found = self.below.find(path).map(|(entry, _)| entry.clone());
        self.looked_up.insert(path.to_vec());
        if let Some(entry) = &found
            && !entry.is_directory()
        {
            return Ok(entry.kind.clone());
        }
        let mut entry =
            found.unwrap_or_else(|| Entry::new(Kind::Directory { opaque: false }, 0o755, 0, 0, mtime));
        entry.kind = Kind::Directory { opaque: false };
        self.perform(Op::Directory(path.to_vec()))?;
        self.entries.insert(path.to_vec(), entry);
        Ok(Kind::Directory { opaque: false })
    }

    /// Removes what an earlier entry of the same layer made at `path`, unless both are directories.
    fn make_room(&mut self, path: &[u8], member: &Member) -> Result<()> {
        let Some(old) = self.entries.get(path) else { return Ok(()) };
        if old.is_directory() && member.kind == Type::Directory {
            return Ok(());
        }
        let mut below = path.to_vec();
        below.push(b'/');
        let mut doomed = vec![path.to_vec()];
        doomed.extend(
            self.entries
                .range(below.clone()..)
                .take_while(|(name, _)| name.starts_with(&below))
                .map(|(name, _)| name.clone()),
        );
        for name in &doomed {
            if let Some(entry) = self.entries.remove(name)
                && matches!(entry.kind, Kind::File { .. })
            {
                self.inherit(name, entry);
            }
        }
        self.perform(Op::Remove(path.to_vec()))?;
        Ok(())
    }

    /// The file `name` goes; the first of its other names, if there is one, becomes the file.
    fn inherit(&mut self, name: &[u8], file: Entry) {
        let is_link = |entry: &Entry| matches!(&entry.kind, Kind::Hardlink { target } if target == name);
        let links: Vec<Vec<u8>> =
            self.entries.iter().filter(|(_, entry)| is_link(entry)).map(|(path, _)| path.clone()).collect();
        let Some((heir, others)) = links.split_first() else { return };
        for other in others {
            if let Some(entry) = self.entries.get_mut(other) {
                entry.kind = Kind::Hardlink { target: heir.clone() };
            }
        }
        self.entries.insert(heir.clone(), file);
    }

    fn file<R: std::io::Read>(&mut self, path: &[u8], size: u64, reader: &mut TarReader<R>) -> Result<Kind> {
        let io = |source| Error::Io {
            action: "write",
            path: String::from_utf8_lossy(path).into_owned().into(),
            source,
        };
        let Reply::File(fd) = self.perform(Op::File(path.to_vec()))? else {
            return Err(io(std::io::Error::other("the authority gave no file")));
        };
        let mut file = std::fs::File::from(fd);
        let mut digester = Digester::new(Algorithm::Sha256);
        loop {
            let count = reader.content(&mut self.buffer)?;
            if count == 0 {
                break;
            }
            let chunk = self.buffer.get(..count).unwrap_or_default();
            digester.update(chunk);
            file.write_all(chunk).map_err(io)?;
        }
        Ok(Kind::File { size, digest: digester.finish() })
    }

    fn node(&mut self, path: &[u8], kind: u32, device: u64) -> Result<Kind> {
        if self.authority.owners() == Owners::True {
            self.perform(Op::Node(path.to_vec(), kind, device))?;
        } else {
            // Nobody but root makes devices: an empty file keeps the place, the index keeps the truth.
            self.perform(Op::File(path.to_vec()))?;
            self.degraded.push(Degradation {
                path: String::from_utf8_lossy(path).into_owned(),
                what: "device".to_owned(),
            });
        }
        Ok(if kind == CHARACTER_DEVICE { Kind::CharDevice(device) } else { Kind::BlockDevice(device) })
    }

    fn link(&mut self, path: Vec<u8>, target: &[u8]) -> Result<()> {
        let names: Vec<&[u8]> = components(target).collect();
        let Some((last, parents)) = names.split_last() else {
            return Err(Error::layer(&path, "a hard link to the root"));
        };
        if names.contains(&b"..".as_slice()) {
            return Err(Error::layer(&path, "a hard link that leads out of the layer"));
        }
        let resolved = join(&self.parent(parents, (0, 0))?, last);
        if resolved == path {
            return Err(Error::layer(&path, "a hard link to itself"));
        }
        let Some(entry) = self.entries.get(&resolved).cloned() else { return self.copy_up(path, &resolved) };
        match &entry.kind {
            Kind::Directory { .. } | Kind::Whiteout => Err(Error::layer(&path, "a hard link to a directory")),
            Kind::Hardlink { .. } | Kind::File { .. } => {
                let target =
                    if let Kind::Hardlink { target } = &entry.kind { target.clone() } else { resolved };
                self.perform(Op::Link(path.clone(), target.clone()))?;
                self.entries.insert(path, Entry { kind: Kind::Hardlink { target }, ..entry });
                Ok(())
            }
            _ => {
                self.perform(Op::Link(path.clone(), resolved))?;
                self.entries.insert(path, entry);
                Ok(())
            }
        }
    }

    /// A hard link to a file below: the layer gets a copy, as an overlay would make.
    fn copy_up(&mut self, path: Vec<u8>, target: &[u8]) -> Result<()> {
        let Some((entry, layer)) = self.below.file(target) else {
            return Err(Error::layer(&path, "a hard link to nothing"));
        };
        let Kind::File { size, .. } = entry.kind else {
            return Err(Error::layer(&path, "a hard link to something below that is no file"));
        };
        self.looked_up.insert(target.to_vec());
        let source = match self.below.find(target) {
            Some((Entry { kind: Kind::Hardlink { target }, .. }, _)) => target.clone(),
            _ => target.to_vec(),
        };
        let mut from = layer.open_file(self.authority, &source)?;
        let entry = entry.clone();
        let io = |source| Error::Io {
            action: "copy",
            path: String::from_utf8_lossy(&path).into_owned().into(),
            source,
        };
        let Reply::File(fd) = self.perform(Op::File(path.clone()))? else {
            return Err(io(std::io::Error::other("the authority gave no file")));
        };
        let copied = std::io::copy(&mut from, &mut std::fs::File::from(fd)).map_err(io)?;
        if copied != size {
            return Err(Error::SizeMismatch {
                what: String::from_utf8_lossy(&source).into_owned(),
                expected: size,
                actual: copied,
            });
        }
        self.stamp(&path, &entry)?;
        self.entries.insert(path, entry);
        Ok(())
    }

    fn finish(mut self, diff_id: DiffId) -> Result<Unpacked> {
        for path in std::mem::take(&mut self.opaque) {
            let missing = || Entry::new(Kind::Directory { opaque: true }, 0o755, 0, 0, (0, 0));
            let entry = self.entries.entry(path).or_insert_with(missing);
            if entry.is_directory() {
                entry.kind = Kind::Directory { opaque: true };
            }
        }
        for path in std::mem::take(&mut self.whiteouts) {
            match self.entries.get_mut(&path) {
                // The layer has its own: only what is below goes.
                Some(entry) if entry.is_directory() => entry.kind = Kind::Directory { opaque: true },
                Some(_) => {}
                None => {
                    self.perform(Op::Node(path.clone(), CHARACTER_DEVICE, 0))?;
                    self.entries.insert(path, Entry::whiteout());
                }
            }
        }
        let directories: Vec<_> = self
            .entries
            .iter()
            .filter(|(path, entry)| entry.is_directory() && !path.is_empty())
            .rev()
            .map(|(path, entry)| (path.clone(), entry.clone()))
            .collect();
        for (path, entry) in directories {
            self.stamp(&path, &entry)?;
        }
        let allocated = self.entries.values().map(Entry::allocated).sum();
        let index = Index { diff_id, packed: false, allocated, entries: self.entries };
        Ok(Unpacked { index, looked_up: self.looked_up, degraded: self.degraded })
    }
}

/// The digest of what `below` has at `paths`: two stacks with the same one give a layer that looked there the same
/// tree.
pub(crate) fn borrowed(paths: &BTreeSet<Vec<u8>>, below: &View) -> Option<Digest> {
    if paths.is_empty() {
        return None;
    }
    let mut digester = Digester::new(Algorithm::Sha256);
    for path in paths {
        let found = format!("{:?}", below.file(path).map(|(entry, _)| entry));
        for field in [path.as_slice(), found.as_bytes()] {
            digester.update(&(field.len() as u64).to_be_bytes());
            digester.update(field);
        }
    }
    Some(digester.finish())
}

pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}
