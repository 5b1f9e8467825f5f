//! A suite for snapshot drivers: whatever a process does in a snapshot, the layer that comes of it shows.
//!
//! Each case makes a store of its own in a directory that the caller gives, changes things through the mount of a
//! snapshot, looks at everything there is, commits, and looks again: through the mount of a view of all layers, and
//! through their indexes. A driver that mounts overlays needs the right to mount, see [`Mount::detached`].
//!
//! ```
//! # use std::sync::Arc;
//! # let dir = tempfile::tempdir()?;
//! for outcome in layer_store::conformance::snapshotter(&|| Arc::new(layer_store::CopyDriver), dir.path()) {
//!     assert!(outcome.result.is_ok(), "{}: {:?}", outcome.name, outcome.result);
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image_core::{Digest, Timestamp};
use rustix::fs::{FileType, Mode, XattrFlags};

use crate::authority::{Direct, FileAuthority, Owners};
use crate::index::{Entry, Kind, is_applied};
use crate::layer::Layer;
use crate::merged::Merged;
use crate::snapshot::{Mount, Snapshotter, Upper};
use crate::store::{Store, StoreOptions};
use crate::transaction::Transaction;
use crate::view::View;

mod cases;

/// What came of one case.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// What was tried, in words.
    pub name: &'static str,
    /// `Err`: what was not as it must be.
    pub result: Result<(), String>,
}

type Checked = Result<(), Box<dyn Error>>;

/// A case: what it is in words, and how it is done.
type Case = (&'static str, fn(&mut Bench) -> Checked);

/// Makes a driver for each case.
pub type Factory<'a> = &'a dyn Fn() -> Arc<dyn Snapshotter>;

/// Runs every case in a directory of its own below `place`, which must be there.
#[must_use]
pub fn snapshotter(factory: Factory<'_>, place: &Path) -> Vec<Outcome> {
    let run = |(number, (name, case)): (usize, &Case)| {
        let root = place.join(number.to_string());
        let result = Bench::new(factory, &root).and_then(|mut bench| case(&mut bench));
        Outcome { name, result: result.map_err(|error| told(&*error)) }
    };
    cases::ALL.iter().enumerate().map(run).collect()
}

fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn must(holds: bool, what: impl Into<String>) -> Checked {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

/// A store with one driver, and the layers that were made so far.
struct Bench {
    store: Store,
    work: Transaction,
    layers: Vec<Layer>,
}

/// A mounted snapshot; gone when it is dropped.
struct Root {
    held: OwnedFd,
    writable: bool,
}

impl Root {
    fn of(upper: &Upper) -> Result<Self, Box<dyn Error>> {
        let mount = upper.mount()?;
        let writable =
            matches!(mount, Mount::Overlay { upper: Some(_), .. } | Mount::Bind { read_only: false, .. });
        let held = match mount {
            // A directory is what it shows.
            Mount::Bind { directory, .. } => directory,
            overlay @ Mount::Overlay { .. } => overlay.detached()?,
        };
        Ok(Self { held, writable })
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.held.as_raw_fd())).join(name)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        fs::write(self.path(name), text)
    }

    fn dir(&self, name: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(name))
    }

    fn stamp(&self, name: &str, seconds: u64) -> io::Result<()> {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        let times = fs::FileTimes::new().set_modified(time).set_accessed(time);
        fs::File::open(self.path(name))?.set_times(times)
    }
}

/// What one path shows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    kind: Kind,
    mode: u32,
    owner: Option<(u32, u32)>,
    mtime: (i64, u32),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

type Tree = BTreeMap<Vec<u8>, Shown>;

fn shown(entry: &Entry, owners: Owners) -> Shown {
    let is_link = matches!(entry.kind, Kind::Symlink { .. });
    let kind = match &entry.kind {
        Kind::Directory { .. } => Kind::Directory { opaque: false },
        // Where nobody makes devices, an empty file keeps the place of one.
        Kind::CharDevice(_) | Kind::BlockDevice(_) if owners == Owners::Single => {
            Kind::File { size: 0, digest: Digest::sha256(b"") }
        }
        other => other.clone(),
    };
    Shown {
        kind,
        mode: if is_link { 0o777 } else { entry.mode },
        owner: (owners == Owners::True).then_some((entry.uid, entry.gid)),
        mtime: entry.mtime,
        xattrs: entry
            .xattrs
            .iter()
            .filter(|(name, _)| is_applied(name))
            .map(|(a, b)| (a.clone(), b.clone()))
            .collect(),
    }
}

/// Everything in a mounted tree.
fn look(root: &Root) -> Result<Tree, Box<dyn Error>> {
    let direct = Direct::detect();
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut tree = Tree::new();
    for found in direct.walk(root.held.as_fd())? {
        let kind = match FileType::from_raw_mode(found.mode) {
            FileType::Directory => Kind::Directory { opaque: false },
            FileType::RegularFile => match first.get(&found.inode.0) {
                Some(target) if found.inode.1 > 1 => Kind::Hardlink { target: target.clone() },
                _ => {
                    first.insert(found.inode.0, found.path.clone());
                    let mut content = Vec::new();
                    let mut file = crate::pack::open(&direct, root.held.as_fd(), &found.path)?;
                    io::Read::read_to_end(&mut file, &mut content)?;
                    Kind::File { size: found.size, digest: Digest::sha256(&content) }
                }
            },
            FileType::Symlink => Kind::Symlink { target: found.target.clone() },
            FileType::CharacterDevice => Kind::CharDevice(found.rdev),
            FileType::BlockDevice => Kind::BlockDevice(found.rdev),
            FileType::Fifo => Kind::Fifo,
            // No archive holds a socket.
            _ => continue,
        };
        let entry = Entry {
            xattrs: found.xattrs.into_iter().collect(),
            ..Entry::new(kind, found.mode & 0o7777, found.uid, found.gid, found.mtime)
        };
        tree.insert(found.path, shown(&entry, direct.owners()));
    }
    Ok(tree)
}

/// `after` shows what `before` showed.
fn compare(what: &str, before: &Tree, after: &Tree) -> Checked {
    // In a user namespace an overlay may show two names of a new file as two files (it cannot note where it copied
    // from); that they are one is seen in the layer.
    let became_one = |one: Option<&Shown>, other: Option<&Shown>| match (one, other) {
        (Some(one), Some(Shown { kind: Kind::Hardlink { target }, .. })) => before.get(target) == Some(one),
        _ => false,
    };
    for path in before.keys().chain(after.keys()) {
        let (one, other) = (before.get(path), after.get(path));
        if one != other && !became_one(one, other) {
            let path = String::from_utf8_lossy(path);
            return Err(format!("{what}: {path}: {other:?} and not {one:?}").into());
        }
    }
    Ok(())
}

impl Bench {
    fn new(factory: Factory<'_>, root: &Path) -> Result<Self, Box<dyn Error>> {
        let store = Store::open_with(root, options(factory()))?;
        let work = store.begin()?;
        Ok(Self { store, work, layers: Vec::new() })
    }

    /// Makes a layer by hand, without any driver.
    fn base(&mut self, make: impl FnOnce(&mut crate::Composer) -> crate::Result<()>) -> Checked {
        let mut composer = self.work.compose(View::of(&self.layers))?;
        make(&mut composer)?;
        self.layers.push(composer.finish(None)?);
        Ok(())
    }

    /// Changes things in a snapshot and keeps them: what was seen before the commit must be seen after it.
    fn change(&mut self, change: impl FnOnce(&Root) -> Checked) -> Result<Layer, Box<dyn Error>> {
        let snapshot = self.work.snapshot(&self.layers)?;
        let root = Root::of(snapshot.upper()?)?;
        change(&root)?;
        let seen = look(&root)?;
        drop(root);
        let layer = snapshot.commit(None)?;
        self.layers.push(layer.clone());
        compare("a view after the commit", &seen, &self.seen()?)?;
        compare("the indexes after the commit", &seen, &self.indexed())?;
        Ok(layer)
    }

    /// What a view of all layers shows.
    fn seen(&self) -> Result<Tree, Box<dyn Error>> {
        let view = self.work.view(&self.layers)?;
        let root = Root::of(view.upper()?)?;
        must(!root.writable, "a view that takes changes")?;
        look(&root)
    }

    /// What the indexes of all layers say that they show.
    fn indexed(&self) -> Tree {
        let owners = Direct::detect().owners();
        let merged = Merged::of(&View::of(&self.layers)).entries;
        let entries = merged.iter().filter(|(path, _)| !path.is_empty());
        let resolved = entries.map(|(path, entry)| {
            // Another name of a file looks as the file does.
            let like = match &entry.kind {
                Kind::Hardlink { target } => merged.get(target).unwrap_or(entry),
                _ => entry,
            };
            let shown = Shown { kind: shown(entry, owners).kind, ..shown(like, owners) };
            (path.clone(), shown)
        });
        resolved.collect()
    }
}

fn options(driver: Arc<dyn Snapshotter>) -> StoreOptions {
    StoreOptions { snapshotter: Some(driver), ..StoreOptions::default() }
}
