//! Equal files of different layers share their blocks on disk, where the file system can have that.
//!
//! The indexes say which files have the same content; the kernel compares the bytes of two of them under its own locks,
//! and only what is equal shares extents from then on. So this is safe beside everything: a file that is damaged differs
//! and is told, never spread; containers that run on a layer see nothing of it; owners, modes, times and attributes are
//! each file's own and stay. A power cut leaves files that share and files that do not, each with the same bytes.
//!
//! - **Nothing is kept of it.** Whether two files share already is asked of the file system (`FIEMAP`: the same places
//!   on the disk), which reads none of their bytes. A record would be one more thing to check, to collect and to count,
//!   and untrue after a store was copied.
//! - **No lease is held.** A file that is open stays readable; a layer that a collection takes meanwhile is passed over.
//! - **Memory is bounded** by [`DedupOptions::memory`], beside one layer's index at a time: only the first file of each
//!   content is remembered, and contents are taken in as many passes over the indexes as that needs. They are divided by
//!   a keyed hash, so that no layer can be made to fill one pass.
//! - **What shares, stays so counted**: `du` and [`Store::usage`](crate::Store::usage) count the blocks of each file, also
//!   when several have them. What was saved is what the file system has free (`statfs`).
//! - **One copy is one copy**: when its blocks go bad, they are bad in all layers that have the file, and
//!   [`Store::repair`](crate::Store::repair) needs the layer's blob or a pull.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;

use image_core::Digest;

use crate::check::Finding;
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::extents::{Compared, share};
use crate::index::{Entry, Kind};
use crate::layer::{INDEX, Layer, LayerKey};
use crate::store::Store;

mod pair;

/// How files are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DedupOptions {
    /// Files smaller than this stay as they are, in bytes. Default: 4,096, a block. Smaller ones take a block each as well
    /// (not on Btrfs), but they are most of the files of an image and few of its bytes: with 1, a Debian base image is
    /// shared to the last block, in twice the time.
    pub min_size: u64,
    /// Only the files of these layers are made to share, with one another and with those of all other layers. `None`: the
    /// files of all layers.
    pub layers: Option<BTreeSet<LayerKey>>,
    /// How much is remembered at a time, in bytes. Default: 64 MiB, about 400,000 contents. With less the indexes are
    /// read more often.
    pub memory: u64,
}

impl Default for DedupOptions {
    fn default() -> Self {
        Self { min_size: 4_096, layers: None, memory: 64 << 20 }
    }
}

impl DedupOptions {
    /// Leaves files smaller than `bytes` as they are.
    #[must_use]
    pub const fn min_size(mut self, bytes: u64) -> Self {
        self.min_size = bytes;
        self
    }

    /// Only the files of `layers` are made to share.
    #[must_use]
    pub fn layers(mut self, layers: impl IntoIterator<Item = LayerKey>) -> Self {
        self.layers = Some(layers.into_iter().collect());
        self
    }

    /// Remembers no more than `bytes` at a time.
    #[must_use]
    pub const fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }
}

/// Why a file was left as it is, though another has the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Unshared {
    /// It was removed meanwhile, or was not there.
    Gone,
    /// It takes another number of blocks, as one with holes does: sharing would make `df` untrue.
    OtherBlocks,
    /// Its bytes stand beside its metadata and take no blocks.
    Inline,
    /// It is somebody else's, and this process is not root.
    NotPermitted,
    /// The kernel said no for another reason.
    Refused,
}

impl fmt::Display for Unshared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "gone meanwhile",
            Self::OtherBlocks => "in another number of blocks",
            Self::Inline => "without blocks",
            Self::NotPermitted => "of another owner",
            Self::Refused => "refused by the kernel",
        })
    }
}

/// What a run of [`Store::deduplicate`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deduplicated {
    /// Files whose content another file has as well, beyond the first of each.
    pub copies: u64,
    /// Of those, files that share since this run.
    pub shared: u64,
    /// Bytes that the kernel says it shared in this run.
    pub shared_bytes: u64,
    /// Files that shared before, and their bytes. Nothing of them was read.
    pub already: u64,
    /// See above.
    pub already_bytes: u64,
    /// Bytes that the kernel was asked to compare; it reads as many from each of the two files.
    pub compared: u64,
    /// Files that were left as they are, by reason.
    pub skipped: BTreeMap<Unshared, u64>,
    /// Files whose bytes are not those that their layer's index says. They share nothing.
    pub damaged: Vec<Finding>,
    /// How many times the indexes were read.
    pub passes: u64,
}

/// How equal files of a store can share, see [`Store::file_sharing`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileSharing {
    /// By shared extents, as on XFS and Btrfs.
    Extents,
    /// Not at all, and why.
    None(String),
}

impl fmt::Display for FileSharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Extents => f.write_str("extents: equal files can share their blocks"),
            Self::None(reason) => write!(f, "none: {reason}"),
        }
    }
}

impl Store {
    /// How equal files of this store can share: tried once with two files in its own directory.
    ///
    /// # Errors
    /// [`Error::Io`] when nothing can be made in the store.
    pub fn file_sharing(&self) -> Result<FileSharing> {
        if let Some(known) = self.sharing.get() {
            return Ok(known.clone());
        }
        let work = self.begin()?;
        let place = work.work()?;
        let files = ["one", "other"].map(|name| {
            let mut file = place.create(name)?;
            file.write_all(&[1; 4_096]).map_err(|source| Error::Io {
                action: "write",
                path: place.at(name),
                source,
            })?;
            Ok(file)
        });
        let [one, other] = files;
        let found = match share(&one?, &other?, 4_096) {
            Ok(Compared::Equal(_)) => FileSharing::Extents,
            Ok(Compared::Differs(_)) => FileSharing::None("equal files were found to differ".to_owned()),
            Err(error) => {
                FileSharing::None(format!("the store's file system does not share extents: {error}"))
            }
        };
        Ok(self.sharing.get_or_init(|| found).clone())
    }

    /// Makes equal files of the store's layers share their blocks. Others may use the store meanwhile. Additional stores are
    /// left alone.
    ///
    /// What is done stays when it is ended early, and a second run goes on with the rest.
    ///
    /// # Errors
    /// [`Error::NoFileSharing`] when the file system does not share extents; [`Error::Io`] when the disk is full.
    /// A damaged file is no error but a finding, and a layer whose index cannot be read is left to
    /// [`Store::check`](crate::Store::check).
    pub fn deduplicate(&self, options: &DedupOptions) -> Result<Deduplicated> {
        if let FileSharing::None(reason) = self.file_sharing()? {
            return Err(Error::NoFileSharing { path: self.path().to_owned(), reason });
        }
        let mut names = self.places.layers.names()?;
        let is_target = |name: &String| {
            options.layers.as_ref().is_none_or(|keys| keys.contains(&LayerKey::from_name(name)))
        };
        // What is there already comes first: it may share with others, and who comes after follows it.
        names.sort_by_cached_key(is_target);
        let targets = names.partition_point(|name| !is_target(name));
        let mut done = Deduplicated {
            passes: self.passes(names.get(targets..).unwrap_or_default(), options),
            ..Deduplicated::default()
        };
        let spread = RandomState::new();
        for pass in 0..done.passes {
            let mut run = Run {
                store: self,
                names: &names,
                known: HashMap::new(),
                wanted: None,
                trees: BTreeMap::new(),
                done: &mut done,
            };
            let passes = run.done.passes;
            let taken = |entry: &Entry| match entry.kind {
                Kind::File { size, digest }
                    if size >= options.min_size.max(1)
                        && spread.hash_one(digest.as_bytes()) % passes == pass =>
                {
                    Some((content(&digest)?, size))
                }
                _ => None,
            };
            if targets > 0 {
                run.want(targets, &taken)?;
            }
            for at in 0..names.len() {
                run.layer(at, at >= targets, &taken)?;
            }
        }
        Ok(done)
    }

    /// Into how many parts the contents of these layers have to be divided. What is remembered of one is about twice what
    /// an index says of it.
    fn passes(&self, names: &[String], options: &DedupOptions) -> u64 {
        let layers = &self.places.layers;
        let indexes: u64 = names.iter().map(|name| layers.allocated(&format!("{name}/{INDEX}"))).sum();
        (indexes * 2).div_ceil(options.memory.max(1 << 10)).max(1)
    }
}

/// Pairs of files that are read from the disk while the one before them is compared.
const AHEAD: usize = 32;

/// The bytes of a digest of an index, which is always a sha256.
type Content = [u8; 32];

fn content(digest: &Digest) -> Option<Content> {
    digest.as_bytes().try_into().ok()
}

/// The file with which all others of its content share.
struct Known {
    /// Its layer, by place in the list.
    layer: usize,
    path: Box<[u8]>,
    /// Its bytes were found to be right.
    verified: bool,
}

/// One pass over the indexes.
struct Run<'a> {
    store: &'a Store,
    names: &'a [String],
    known: HashMap<Content, Known>,
    /// Contents of the layers that are to share, when these are not all.
    wanted: Option<BTreeSet<Content>>,
    /// Trees that are open, by place of the layer.
    trees: BTreeMap<usize, Dir>,
    done: &'a mut Deduplicated,
}

impl Run<'_> {
    /// The layer at this place; `None` when it is gone, or its index is no index.
    fn load(&self, at: usize) -> Result<Option<Layer>> {
        let Some(name) = self.names.get(at) else { return Ok(None) };
        match Layer::load(&self.store.places.layers, name) {
            Err(Error::Damaged { .. }) => Ok(None),
            // Removed between its directory and its tree.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => other,
        }
    }

    /// Notes the contents of the layers from `first` on.
    fn want(&mut self, first: usize, taken: &dyn Fn(&Entry) -> Option<(Content, u64)>) -> Result<()> {
        let mut wanted = BTreeSet::new();
        for at in first..self.names.len() {
            let Some(layer) = self.load(at)? else { continue };
            wanted.extend(layer.index().entries.values().filter_map(|entry| Some(taken(entry)?.0)));
        }
        self.wanted = Some(wanted);
        Ok(())
    }

    /// Goes through one layer: the first file of a content is remembered, others share with it when it is a target.
    fn layer(
        &mut self,
        at: usize,
        is_target: bool,
        taken: &dyn Fn(&Entry) -> Option<(Content, u64)>,
    ) -> Result<()> {
        // Of the others one file of each content is enough.
        if !is_target && self.wanted.as_ref().is_some_and(|wanted| wanted.len() == self.known.len()) {
            return Ok(());
        }
        let Some(layer) = self.load(at)? else { return Ok(()) };
        let mut coming = VecDeque::with_capacity(AHEAD);
        for (path, entry) in &layer.index().entries {
            let Some((content, size)) = taken(entry) else { continue };
            if self.wanted.as_ref().is_some_and(|wanted| !wanted.contains(&content)) {
                continue;
            }
            if !self.known.contains_key(&content) {
                self.remember(content, at, path, false);
            } else if is_target {
                self.done.copies += 1;
                coming.extend(self.prepare(content, size, at, path)?);
            }
            if coming.len() == AHEAD
                && let Some(pair) = coming.pop_front()
            {
                self.finish(pair)?;
            }
        }
        coming.into_iter().try_for_each(|pair| self.finish(pair))
    }

    fn remember(&mut self, content: Content, layer: usize, path: &[u8], verified: bool) {
        self.known.insert(content, Known { layer, path: path.into(), verified });
    }
}
