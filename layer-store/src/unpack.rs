//! A foreign tar stream to index and tree.
//!
//! ```text
//!  source ─▶ read, decompress ─┬─▶ hash: the diff ID          each ─▶ is a bounded queue between threads
//!                              └─▶ parse ─▶ batches ─▶ crew: hash and write files
//!                                    └─ directories and files over 256 KiB at once
//! ```
//!
//! Where several layers are unpacked at the same time a small one is unpacked by one thread, all stages in turn: more
//! threads would only wait for one another.
//!
//! The tree is made in a private staging directory; every path is taken apart here and resolved against what this
//! layer has made so far (and, read-only, against what is below), never by the kernel through a link. Whiteouts are
//! applied last, so their place in the stream does not matter: they hide what is below, never what is in the layer.
//! Hard links are made after the files; an entry that replaces an earlier one waits for everything before it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;

use image_core::whiteout::{self, Name};
use image_core::{Algorithm, DiffId, Digest, Digester};

use crate::authority::{BatchError, FileAuthority, Op, Owners};
use crate::budget::Budget;
use crate::compress::Source;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::index::{Entry, Index, Kind};
use crate::lower::Lower;
use crate::tar_reader::{Member, TarReader, Type};
use crate::view::{View, ancestors, components};

mod content;
mod crew;
mod links;
mod paths;
mod pipe;

use crew::Crew;
use pipe::Stream;

const LINK_LIMIT: usize = 40;
const NO_DIRECTORY: &str = "a parent that is no directory";
/// A file up to this size is made by the crew, as a whole.
const WHOLE: u64 = 256 << 10;
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

/// Which threads unpack a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// One for each stage, and several that make files.
    Several,
    /// The caller's.
    Own,
}

pub(crate) fn unpack(
    source: Source<'_>,
    algorithm: Algorithm,
    below: &Lower<'_>,
    place: Place<'_>,
    budget: Budget,
    threads: Threads,
) -> Result<Unpacked> {
    std::thread::scope(|scope| {
        let (stream, hashing, crew) = match threads {
            Threads::Several => {
                let (stream, hashing) = pipe::start(scope, source, algorithm, budget);
                (stream, Some(hashing), Crew::start(scope, place))
            }
            Threads::Own => (pipe::alone(source, algorithm, budget), None, Crew::alone(place)),
        };
        let mut unpacking = Unpacking {
            below,
            authority: place.authority,
            crew,
            depth: budget.depth,
            entries: BTreeMap::new(),
            unknown: Digest::sha256(b""),
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
        let mut reader = TarReader::new(stream, budget);
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
        let stream = reader.end(parsed, Stream::failure)?;
        let digest = stream.digest().or_else(|| hashing?.join().ok());
        let digest = digest.ok_or_else(|| Error::Unsupported { what: "hashing".to_owned() })?;
        unpacking.finish(DiffId::new(digest))
    })
}

struct Unpacking<'a> {
    below: &'a Lower<'a>,
    authority: &'a dyn FileAuthority,
    crew: Crew<'a>,
    depth: u64,
    entries: BTreeMap<Vec<u8>, Entry>,
    /// What stands for a digest that the crew is to find.
    unknown: Digest,
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

type Reader<'a> = TarReader<Stream<'a>>;

impl Unpacking<'_> {
    fn member(&mut self, member: Member, reader: &mut Reader<'_>) -> Result<()> {
        let names: Vec<&[u8]> = components(&member.path).collect();
        if names.contains(&b"..".as_slice()) {
            return Err(Error::layer(&member.path, "it leads out of the layer"));
        }
        Budget::check(self.depth, names.len() as u64, "components of a path")?;
        let Some((last, parents)) = names.split_last() else {
            return self.root_entry(member);
        };
        let name = whiteout::read(last);
        // A whiteout makes no directory: where none is, there is nothing to hide.
        let makes = !matches!(name, Name::Whiteout(_));
        let parent = match self.parent(parents, member.mtime, makes) {
            // What was a directory below and is none now hides everything there anyway; umoci says so all the same. And
            // of a name with a newline it makes two.
            Err(Error::Layer { reason: NO_DIRECTORY, .. })
                if matches!(name, Name::Whiteout(_) | Name::Opaque) =>
            {
                return Ok(());
            }
            other => other?,
        };
        match name {
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

    /// What holds `path` is a directory of this layer.
    fn is_in_directory(&self, path: &[u8]) -> bool {
        ancestors(path).next().is_none_or(|parent| self.entries.get(parent).is_some_and(Entry::is_directory))
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
        let mut whiteouts = std::mem::take(&mut self.whiteouts);
        // Some are hidden by what their parent became later in the stream.
        whiteouts.retain(|path| self.is_in_directory(path));
        for path in whiteouts {
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
        self.crew.now(&last)?;
        let directories = self.entries.iter().rev();
        let directories = directories.filter(|(path, entry)| entry.is_directory() && !path.is_empty());
        let stamps = directories.map(|(path, entry)| self.stamp(path, entry)).collect();
        // Who is not above modes must stamp what is in a directory first.
        if self.authority.owners() == Owners::True {
            self.crew.spread(stamps)?;
        } else {
            self.crew.now(&stamps)?;
        }
        let findings = self.crew.findings()?;
        self.take_digests(findings.digests)?;
        self.degraded.extend(findings.degraded);
        let allocated = findings.blocks * 512;
        let index = Index { diff_id, packed: false, allocated, entries: self.entries };
        Ok(Unpacked { index, looked_up: self.looked_up, degraded: self.degraded })
    }

    /// What the crew found the contents of the files to be goes to their entries.
    fn take_digests(&mut self, found: Vec<(u32, Digest)>) -> Result<()> {
        let mut digests = vec![None; self.given as usize];
        for (number, digest) in found {
            if let Some(place) = digests.get_mut(number as usize) {
                *place = Some(digest);
            }
        }
        let mut numbers = std::mem::take(&mut self.numbers).into_iter().peekable();
        for (path, entry) in &mut self.entries {
            let Some((_, number)) = numbers.next_if(|(file, _)| file == path) else { continue };
            let found = digests.get(number as usize).copied().flatten();
            match (&mut entry.kind, found) {
                (Kind::File { digest, .. }, Some(found)) => *digest = found,
                _ => return Err(Error::layer(path, "no digest of its content")),
            }
        }
        numbers.next().map_or(Ok(()), |(path, _)| Err(Error::layer(&path, "no entry for its content")))
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
