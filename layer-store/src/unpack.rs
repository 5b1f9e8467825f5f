//! A foreign tar stream to index and tree.
//!
//! ```text
//!  source ─▶ read, decompress ─┬─▶ hash: the diff ID          each ─▶ is a bounded queue between threads
//!                              └─▶ parse ─▶ batches ─▶ crew: hash and write files
//!                                    └─ directories and files over 256 KiB at once
//! ```
//!
//! The tree is made in a private staging directory; every path is taken apart here and resolved against what this
//! layer has made so far (and, read-only, against what is below), never by the kernel through a link. Whiteouts are
//! applied last, so their place in the stream does not matter: they hide what is below, never what is in the layer.
//! Hard links are made after the files; an entry that replaces an earlier one waits for everything before it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use image_core::whiteout::{self, Name};
use image_core::{Algorithm, DiffId, Digest, Digester};

use crate::authority::{BatchError, FileAuthority, Op, Owners, Reply};
use crate::budget::Budget;
use crate::compress::Source;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::index::{Entry, Index, Kind};
use crate::lower::Lower;
use crate::tar_reader::{Member, Segment, TarReader, Type};
use crate::view::{View, components};

mod crew;
mod pipe;

use crew::Crew;
use pipe::Piped;

const LINK_LIMIT: usize = 40;
/// A file up to this size is made by the crew, as a whole.
const WHOLE: u64 = 256 << 10;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
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

/// Where a layer goes and who works there.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) root: BorrowedFd<'a>,
    pub(crate) authority: &'a dyn FileAuthority,
    pub(crate) disk: &'a Disk,
}

pub(crate) fn unpack(
    source: Source<'_>,
    algorithm: Algorithm,
    below: &Lower<'_>,
    place: Place<'_>,
    budget: Budget,
) -> Result<Unpacked> {
    std::thread::scope(|scope| {
        let (piped, digest) = pipe::start(scope, source, algorithm, budget);
        let mut unpacking = Unpacking {
            below,
            authority: place.authority,
            crew: Crew::start(scope, place.root, place.authority, place.disk),
            depth: budget.depth,
            entries: BTreeMap::new(),
            given: 0,
            numbers: BTreeMap::new(),
            names: BTreeMap::new(),
            links: Vec::new(),
            last_parent: None,
            whiteouts: BTreeSet::new(),
            opaque: BTreeSet::new(),
            looked_up: BTreeSet::new(),
            degraded: Vec::new(),
        };
        let mut reader = TarReader::new(piped, budget);
        let parsed = loop {
            match reader.next() {
                Ok(Some(member)) => {
                    if let Err(error) = unpacking.member(member, &mut reader) {
                        break Err(error);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        reader.end(parsed, Piped::failure)?;
        let digest = digest.join().map_err(|_| Error::Unsupported { what: "hashing".to_owned() })?;
        unpacking.finish(DiffId::new(digest))
    })
}

struct Unpacking<'a> {
    below: &'a Lower<'a>,
    authority: &'a dyn FileAuthority,
    crew: Crew<'a>,
    depth: u64,
    entries: BTreeMap<Vec<u8>, Entry>,
    /// How many files the crew was given, and as which number it has the file at a path.
    given: u32,
    numbers: BTreeMap<Vec<u8>, u32>,
    /// The other names of a file, by its first.
    names: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// Hard links that are not made yet: path and target.
    links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Parent directories as they stood in the last entry, and where they lead.
    last_parent: Option<(Vec<u8>, Vec<u8>)>,
    whiteouts: BTreeSet<Vec<u8>>,
    opaque: BTreeSet<Vec<u8>>,
    looked_up: BTreeSet<Vec<u8>>,
    degraded: Vec<Degradation>,
}

fn failed(error: BatchError) -> Error {
    Error::Io { action: "unpack", path: error.path.into(), source: error.source }
}

type Reader = TarReader<Piped>;

impl Unpacking<'_> {
    fn member(&mut self, member: Member, reader: &mut Reader) -> Result<()> {
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
        let Member { kind, size, segments, mode, uid, gid, mtime, xattrs, .. } = member;
        let mut entry = Entry { kind: Kind::Fifo, mode, uid, gid, mtime, xattrs };
        match kind {
            Type::Directory => {
                if !self.entries.contains_key(&path) {
                    self.crew.now(&[Op::Directory(path.clone())])?;
                }
                // Directories are stamped at the end: making things in them changes their time.
                entry.kind = Kind::Directory { opaque: false };
            }
            Type::File if size <= WHOLE && segments.is_none() => {
                self.whole_file(&parent, &path, size, &mut entry, reader)?;
            }
            Type::File => {
                entry.kind = self.large_file(&path, size, segments, reader)?;
                self.crew.now(&[self.stamp(&path, &entry)])?;
            }
            Type::Link(target) => return self.link(path, &target),
            Type::Symlink(target) => {
                let op = Op::Symlink(path.clone(), target.clone());
                entry.kind = Kind::Symlink { target };
                self.crew.ops(&parent, [op, self.stamp(&path, &entry)])?;
            }
            Type::Char(device) => {
                entry.kind = Kind::CharDevice(device);
                self.node(&parent, &path, CHARACTER_DEVICE, device, &entry)?;
            }
            Type::Block(device) => {
                entry.kind = Kind::BlockDevice(device);
                self.node(&parent, &path, BLOCK_DEVICE, device, &entry)?;
            }
            Type::Fifo => {
                self.crew.ops(&parent, [Op::Node(path.clone(), FIFO, 0), self.stamp(&path, &entry)])?;
            }
        }
        self.entries.insert(path, entry);
        Ok(())
    }

    fn root_entry(&mut self, member: Member) -> Result<()> {
        if member.kind != Type::Directory {
            return Err(Error::layer(&member.path, "the root must be a directory"));
        }
        let kind = Kind::Directory { opaque: false };
        let Member { mode, uid, gid, mtime, xattrs, .. } = member;
        self.entries.insert(Vec::new(), Entry { kind, mode, uid, gid, mtime, xattrs });
        Ok(())
    }

    fn stamp(&self, path: &[u8], entry: &Entry) -> Op {
        Op::Stamp(path.to_vec(), entry.stamp(self.authority.owners() == Owners::True))
    }

    /// The real path of the directory that `names` leads to, made where it is missing.
    fn parent(&mut self, names: &[&[u8]], mtime: (i64, u32)) -> Result<Vec<u8>> {
        let raw = names.join(&b'/');
        if let Some((last, leads_to)) = &self.last_parent
            && *last == raw
        {
            return Ok(leads_to.clone());
        }
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
            Budget::check(self.depth, (rest.len() + 1) as u64, "components of a path")?;
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
        self.last_parent = Some((raw, at.clone()));
        Ok(at)
    }

    /// A parent directory without an entry in this layer: it looks like the one below, or is made 0755.
    fn borrow_directory(&mut self, path: &[u8], mtime: (i64, u32)) -> Result<Kind> {
        let found = self.below.view()?.find(path).map(|(entry, _)| entry.clone());
        self.looked_up.insert(path.to_vec());
        if let Some(entry) = &found
            && !entry.is_directory()
        {
            return Ok(entry.kind.clone());
        }
        let mut entry =
            found.unwrap_or_else(|| Entry::new(Kind::Directory { opaque: false }, 0o755, 0, 0, mtime));
        entry.kind = Kind::Directory { opaque: false };
        self.crew.now(&[Op::Directory(path.to_vec())])?;
        self.entries.insert(path.to_vec(), entry);
        Ok(Kind::Directory { opaque: false })
    }

    /// Everything so far is in the tree.
    fn settle(&mut self) -> Result<()> {
        self.crew.wait()?;
        let links: Vec<Op> = std::mem::take(&mut self.links)
            .into_iter()
            .map(|(path, target)| Op::Link(path, target))
            .collect();
        self.crew.now(&links)?;
        Ok(())
    }

    /// Removes what an earlier entry of the same layer made at `path`, unless both are directories.
    fn make_room(&mut self, path: &[u8], member: &Member) -> Result<()> {
        let Some(old) = self.entries.get(path) else { return Ok(()) };
        if old.is_directory() && member.kind == Type::Directory {
            return Ok(());
        }
        self.settle()?;
        self.last_parent = None;
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
            match self.entries.remove(name) {
                Some(Entry { kind: Kind::Hardlink { target }, .. }) => {
                    if let Some(names) = self.names.get_mut(&target) {
                        names.remove(name);
                    }
                }
                Some(entry) if matches!(entry.kind, Kind::File { .. }) => self.inherit(name, entry),
                _ => {}
            }
        }
        self.crew.now(&[Op::Remove(path.to_vec())])?;
        Ok(())
    }

    /// The file `name` goes; the first of its other names, if there is one, becomes the file.
    fn inherit(&mut self, name: &[u8], file: Entry) {
        let number = self.numbers.remove(name);
        let mut others = self.names.remove(name).unwrap_or_default();
        let Some(heir) = others.pop_first() else { return };
        for other in &others {
            if let Some(entry) = self.entries.get_mut(other) {
                entry.kind = Kind::Hardlink { target: heir.clone() };
            }
        }
        if let Some(number) = number {
            self.numbers.insert(heir.clone(), number);
        }
        self.entries.insert(heir.clone(), file);
        self.names.insert(heir, others);
    }

    fn whole_file(
        &mut self,
        parent: &[u8],
        path: &[u8],
        size: u64,
        entry: &mut Entry,
        reader: &mut Reader,
    ) -> Result<()> {
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        loop {
            let found = reader.content(u64::MAX)?;
            if found.is_empty() {
                break;
            }
            content.extend_from_slice(found);
            let count = found.len();
            reader.consume(count);
        }
        // The crew tells the digest later.
        entry.kind = Kind::File { size, digest: Digest::sha256(b"") };
        let stamp = entry.stamp(self.authority.owners() == Owners::True);
        let number = self.given;
        self.given = number.checked_add(1).ok_or_else(|| Error::layer(path, "too many files"))?;
        self.numbers.insert(path.to_vec(), number);
        let bytes = content.len();
        self.crew.file(parent, Op::Put(path.to_vec(), content, stamp), number, bytes)
    }

    fn large_file(
        &mut self,
        path: &[u8],
        size: u64,
        segments: Option<Vec<Segment>>,
        reader: &mut Reader,
    ) -> Result<Kind> {
        let io = |source| Error::Io {
            action: "write",
            path: String::from_utf8_lossy(path).into_owned().into(),
            source,
        };
        let file = self.new_file(path)?;
        let mut digester = Digester::new(Algorithm::Sha256);
        let is_sparse = segments.is_some();
        let segments = segments.unwrap_or_else(|| vec![Segment { offset: 0, length: size }]);
        let mut at = 0;
        for segment in segments {
            holes(&mut digester, segment.offset - at);
            at = segment.offset;
            let end = segment.offset + segment.length;
            while at < end {
                let found = reader.content(end - at)?;
                digester.update(found);
                file.write_all_at(found, at).map_err(io)?;
                let count = found.len();
                reader.consume(count);
                at += count as u64;
                self.crew.wrote(count);
            }
        }
        holes(&mut digester, size - at);
        if is_sparse {
            file.set_len(size).map_err(io)?;
        }
        Ok(Kind::File { size, digest: digester.finish() })
    }

    fn new_file(&self, path: &[u8]) -> Result<std::fs::File> {
        match self.crew.now(&[Op::File(path.to_vec())])?.pop() {
            Some(Reply::File(fd)) => Ok(fd.into()),
            _ => Err(Error::Unsupported { what: "an authority that gives no files".to_owned() }),
        }
    }

    fn node(&mut self, parent: &[u8], path: &[u8], kind: u32, device: u64, entry: &Entry) -> Result<()> {
        let make = if self.authority.owners() == Owners::True {
            Op::Node(path.to_vec(), kind, device)
        } else {
            // Nobody but root makes devices: an empty file keeps the place, the index keeps the truth.
            self.degraded.push(Degradation {
                path: String::from_utf8_lossy(path).into_owned(),
                what: "device".to_owned(),
            });
            Op::File(path.to_vec())
        };
        self.crew.ops(parent, [make, self.stamp(path, entry)])
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
                self.links.push((path.clone(), target.clone()));
                self.names.entry(target.clone()).or_default().insert(path.clone());
                self.entries.insert(path, Entry { kind: Kind::Hardlink { target }, ..entry });
                Ok(())
            }
            _ => {
                self.links.push((path.clone(), resolved));
                self.entries.insert(path, entry);
                Ok(())
            }
        }
    }

    /// A hard link to a file below: the layer gets a copy, as an overlay would make.
    fn copy_up(&mut self, path: Vec<u8>, target: &[u8]) -> Result<()> {
        let below = self.below.view()?;
        let Some((entry, layer)) = below.file(target) else {
            return Err(Error::layer(&path, "a hard link to nothing"));
        };
        let Kind::File { size, .. } = entry.kind else {
            return Err(Error::layer(&path, "a hard link to something below that is no file"));
        };
        self.looked_up.insert(target.to_vec());
        let source = match below.find(target) {
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
        let copied = std::io::copy(&mut from, &mut self.new_file(&path)?).map_err(io)?;
        if copied != size {
            return Err(Error::SizeMismatch {
                what: String::from_utf8_lossy(&source).into_owned(),
                expected: size,
                actual: copied,
            });
        }
        self.crew.now(&[self.stamp(&path, &entry)])?;
        self.entries.insert(path, entry);
        Ok(())
    }

    fn finish(mut self, diff_id: DiffId) -> Result<Unpacked> {
        self.settle()?;
        for path in std::mem::take(&mut self.opaque) {
            let missing = || Entry::new(Kind::Directory { opaque: true }, 0o755, 0, 0, (0, 0));
            let entry = self.entries.entry(path).or_insert_with(missing);
            if entry.is_directory() {
                entry.kind = Kind::Directory { opaque: true };
            }
        }
        let mut last = Vec::new();
        for path in std::mem::take(&mut self.whiteouts) {
            match self.entries.get_mut(&path) {
                // The layer has its own: only what is below goes.
                Some(entry) if entry.is_directory() => entry.kind = Kind::Directory { opaque: true },
                Some(_) => {}
                None => {
                    last.push(Op::Node(path.clone(), CHARACTER_DEVICE, 0));
                    self.entries.insert(path, Entry::whiteout());
                }
            }
        }
        let directories = self.entries.iter().rev();
        let directories = directories.filter(|(path, entry)| entry.is_directory() && !path.is_empty());
        last.extend(directories.map(|(path, entry)| self.stamp(path, entry)));
        self.crew.now(&last)?;
        let findings = self.crew.findings()?;
        let digests: BTreeMap<u32, Digest> = findings.digests.into_iter().collect();
        for (path, number) in &self.numbers {
            if let Some(Entry { kind: Kind::File { digest, .. }, .. }) = self.entries.get_mut(path)
                && let Some(found) = digests.get(number)
            {
                *digest = *found;
            }
        }
        self.degraded.extend(findings.degraded);
        let allocated = findings.blocks * 512;
        let index = Index { diff_id, packed: false, allocated, entries: self.entries };
        Ok(Unpacked { index, looked_up: self.looked_up, degraded: self.degraded })
    }
}

fn holes(digester: &mut Digester, mut count: u64) {
    while count > 0 {
        let part = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
        digester.update(ZEROS.get(..part).unwrap_or_default());
        count -= part as u64;
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
