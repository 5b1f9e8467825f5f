//! The whole tree of a stack of layers: as one layer, as a tar stream, as a directory.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use image_core::Timestamp;

use crate::authority::{Direct, FileAuthority};
use crate::compose::{clamp, seal};
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::index::{Entry, Kind};
use crate::layer::{Layer, TREE};
use crate::materialise::clone_or_copy;
use crate::store::Store;
use crate::transaction::Transaction;
use crate::view::View;

/// What a stack shows, as entries of one layer, and where the content of each file is.
pub(crate) struct Merged {
    pub(crate) entries: BTreeMap<Vec<u8>, Entry>,
    sources: BTreeMap<Vec<u8>, (Layer, Vec<u8>)>,
}

impl Merged {
    pub(crate) fn of(view: &View) -> Self {
        let (mut entries, mut sources) = (BTreeMap::new(), BTreeMap::new());
        // A file's first name that is still seen has the content; the others are links to it.
        let mut first: BTreeMap<(String, Vec<u8>), Vec<u8>> = BTreeMap::new();
        let mut shown: Vec<_> = view.below(b"").into_iter().collect();
        shown.sort_by(|(one, _), (other, _)| crate::pack::depth_first(one, other));
        for (path, (entry, layer)) in shown {
            let mut entry = entry.clone();
            match &entry.kind {
                Kind::Directory { .. } => entry.kind = Kind::Directory { opaque: false },
                Kind::File { .. } | Kind::Hardlink { .. } => {
                    let at = match &entry.kind {
                        Kind::Hardlink { target } => target.clone(),
                        _ => path.clone(),
                    };
                    let file = (layer.key().to_string(), at.clone());
                    if let Some(target) = first.get(&file) {
                        entry.kind = Kind::Hardlink { target: target.clone() };
                    } else if let Some(original) = layer.index().entries.get(&at) {
                        entry = original.clone();
                        first.insert(file, path.clone());
                        sources.insert(path.clone(), (layer.clone(), at));
                    }
                }
                _ => {}
            }
            entries.insert(path, entry);
        }
        Self { entries, sources }
    }

    pub(crate) fn open(&self, authority: &dyn FileAuthority, path: &[u8]) -> io::Result<std::fs::File> {
        let (layer, at) = self.sources.get(path).ok_or(io::ErrorKind::NotFound)?;
        crate::pack::open(authority, layer.tree(), at)
    }
}

impl Store {
    /// Writes all that `view` shows as one tar stream: what `docker export` and flattening give. The bytes depend on
    /// what is shown alone.
    ///
    /// # Errors
    /// [`Error::Stream`] when a file cannot be read or `out` does not take the bytes.
    pub fn export_tar(&self, view: &View, out: &mut dyn Write) -> Result<()> {
        let merged = Merged::of(view);
        let open = |paths: &[&[u8]]| paths.iter().map(|path| merged.open(self.authority(), path)).collect();
        let fail = |source| Error::Stream { format: "tar", source };
        let mut out = io::BufWriter::with_capacity(256 << 10, out);
        crate::pack::pack_from(&merged.entries, &open, &mut out, false).map_err(fail)?;
        out.flush().map_err(fail)
    }

    /// Makes all that `view` shows a directory at `path`, which must not be there yet. As an ordinary user, everything
    /// belongs to the caller.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn export_directory(&self, view: &View, path: &Path) -> Result<()> {
        let fail = |source| Error::Io { action: "make", path: path.to_owned(), source };
        std::fs::create_dir(path).map_err(fail)?;
        let tree = Dir::root(path, Arc::default(), Arc::new(Direct::detect()))?;
        let merged = Merged::of(view);
        self.materialise(&merged.entries, &tree, |path, _, file| {
            clone_or_copy(&mut merged.open(self.authority(), path)?, file)?;
            Ok(true)
        })?;
        Ok(())
    }

    /// Opens the content of the file at `path` of what `view` shows; links are followed inside it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no file.
    pub fn open_file(&self, view: &View, path: &[u8]) -> Result<std::fs::File> {
        let missing = || Error::NotFound { kind: "file", name: String::from_utf8_lossy(path).into_owned() };
        let at = view.resolve(path).ok_or_else(missing)?;
        let (entry, layer) = view.find(&at).ok_or_else(missing)?;
        match &entry.kind {
            Kind::File { .. } => layer.open_file(self.authority(), &at),
            Kind::Hardlink { target } => layer.open_file(self.authority(), target),
            _ => Err(missing()),
        }
    }
}

impl Transaction {
    /// One layer that shows what `view` shows. Times later than `latest` become `latest`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn flatten(&self, view: &View, latest: Option<Timestamp>) -> Result<Layer> {
        let mut merged = Merged::of(view);
        clamp(&mut merged.entries, latest);
        let entries = merged.entries.clone();
        let authority = self.store().authority();
        self.layer_of(entries, |path, file| clone_or_copy(&mut merged.open(authority, path)?, file))
    }

    /// The layer of `entries` with `content` in its files.
    pub(crate) fn layer_of(
        &self,
        entries: BTreeMap<Vec<u8>, Entry>,
        mut content: impl FnMut(&[u8], &mut std::fs::File) -> io::Result<()>,
    ) -> Result<Layer> {
        let work = self.work()?;
        let tree = work.make_dir(TREE, 0o755)?;
        let made = self.store().materialise(&entries, &tree, |path, _, file| {
            content(path, file)?;
            Ok(true)
        });
        if let Err(error) = made {
            self.discard(&work);
            return Err(error);
        }
        let allocated = tree.disk_usage()?.saturating_sub(work.allocated(TREE));
        seal(self, &work, &tree, entries, allocated, true)
    }

    /// A layer of what is in the directory at `path`, as it stands there: owners, modes, times (up to `latest`),
    /// attributes, links. The directory stays as it is.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn layer_from_directory(&self, path: &Path, latest: Option<Timestamp>) -> Result<Layer> {
        let from = foreign(path)?;
        // Foreign files are read by whoever calls, not by the authority of the store.
        let direct = Direct::detect();
        let (mut entries, _) = crate::snapshot::read_tree(&from, &View::default(), &direct)?;
        entries.retain(|_, entry| entry.kind != Kind::Whiteout);
        clamp(&mut entries, latest);
        self.layer_of(entries, |path, file| {
            clone_or_copy(&mut crate::pack::open(&direct, from.as_fd(), path)?, file)
        })
    }

    /// The layer that makes what is in the directory at `path` of what `below` shows: what differs, and whiteouts for
    /// what is not there. For directories that nobody watched while they were changed; with a layer of another
    /// directory below, the difference of the two.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn layer_of_difference(&self, below: &View, path: &Path, latest: Option<Timestamp>) -> Result<Layer> {
        let from = foreign(path)?;
        // Foreign files are read by whoever calls, not by the authority of the store.
        let direct = Direct::detect();
        let mut entries = crate::snapshot::Compared::of(&from, &direct, below)?.changes()?;
        clamp(&mut entries, latest);
        self.layer_of(entries, |path, file| {
            clone_or_copy(&mut crate::pack::open(&direct, from.as_fd(), path)?, file)
        })
    }

    /// The layer of what the container `id` wrote; the container stays. Nothing may write in it meanwhile: pause it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn layer_of_container(&self, id: &str, latest: Option<Timestamp>) -> Result<Layer> {
        let upper = self.store().container_upper(id)?;
        let mut entries = upper.changes()?.entries;
        clamp(&mut entries, latest);
        self.layer_of(entries, |path, file| {
            clone_or_copy(&mut upper.open_file(path).map_err(io::Error::other)?, file)
        })
    }
}

/// A directory that is not of the store.
fn foreign(path: &Path) -> Result<Dir> {
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(Error::io("open", path))?;
    Ok(Dir::held(fd, path))
}
