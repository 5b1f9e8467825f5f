//! Images as files outside the store: a directory, a tar of the root file system, an OCI layout, an archive.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use image_core::Reference;
use layer_store::{Entry, Kind, Layer, Store, View};

use crate::engine::{Engine, Image};
use crate::error::{Error, Result};
use crate::task::blocking;

mod index;

/// Where an image goes besides the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// The root file system as files of a directory, which is made; files that are there are replaced. All of it
    /// belongs to the caller, and devices are left out, as with docker's `type=local`.
    Directory(PathBuf),
    /// The root file system as a tar file, with owners (`type=tar`).
    Tar(PathBuf),
    /// An OCI layout in a directory (`type=oci,tar=false`).
    Layout(PathBuf),
    /// An archive that is an OCI layout and what `docker load` takes (`type=oci`, `type=docker`).
    Archive(PathBuf),
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

impl Engine {
    /// Writes `image`, under `names` where the form has names, to `output`.
    ///
    /// A layout or archive of an image that something refers to ([`Build::attest`](crate::Build::attest)) has that, too,
    /// and the manifest and compressed layers that a push has, because that is what it refers to; an archive then is no
    /// docker archive of before OCI.
    ///
    /// # Errors
    /// [`Error::Store`], or [`Error::Io`] with the file that cannot be written. What was written by then stays.
    pub async fn export(&self, image: &Image, names: &[Reference], output: &Output) -> Result<()> {
        if matches!(output, Output::Layout(_) | Output::Archive(_))
            && self.export_attested(image, names, output).await?
        {
            return Ok(());
        }
        let (engine, image, names, output) = (self.clone(), image.clone(), names.to_vec(), output.clone());
        blocking(move || match &output {
            Output::Directory(path) => directory(engine.store(), &engine.view(&image)?, path),
            Output::Tar(path) => {
                let mut file = std::fs::File::create(path).map_err(io(path))?;
                Ok(engine.store().export_tar(&engine.view(&image)?, &mut file)?)
            }
            Output::Archive(path) => {
                let file = std::fs::File::create(path).map_err(io(path))?;
                let mut out = std::io::BufWriter::new(file);
                layer_store::save(engine.store(), &[(image.record().clone(), names)], &mut out)?;
                out.flush().map_err(io(path))
            }
            Output::Layout(path) => layout(engine.store(), &image, names, path),
        })
        .await
    }
}

/// The content of an entry, which may be another name of a file.
fn open(store: &Store, path: &[u8], entry: &Entry, layer: &Layer) -> Result<std::fs::File> {
    let path = match &entry.kind {
        Kind::Hardlink { target } => target,
        _ => path,
    };
    Ok(layer.open_file(store.authority(), path)?)
}

fn directory(store: &Store, view: &View, root: &Path) -> Result<()> {
    std::fs::create_dir_all(root).map_err(io(root))?;
    // The caller's directory may hold links that somebody planted: everything is reached from its descriptor.
    let top = rustix::fs::open(
        root,
        rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|errno| io(root)(errno.into()))?;
    let mut modes = Vec::new();
    for (path, (entry, layer)) in view.below(b"") {
        if path.is_empty() {
            continue;
        }
        let shown = root.join(std::ffi::OsStr::from_bytes(&path));
        let place = Place::of(&top, &path).map_err(io(&shown))?;
        match &entry.kind {
            Kind::Directory { .. } => {
                place.directory().map_err(io(&shown))?;
                modes.push((path, entry.mode));
            }
            Kind::File { .. } | Kind::Hardlink { .. } => {
                let mut file = place.file().map_err(io(&shown))?;
                std::io::copy(&mut open(store, &path, entry, layer)?, &mut file).map_err(io(&shown))?;
                let (entry, _) = view.file(&path).unwrap_or((entry, layer));
                file.set_permissions(Permissions::from_mode(entry.mode & 0o777)).map_err(io(&shown))?;
                let seconds = u64::try_from(entry.mtime.0).unwrap_or(0);
                let time = std::time::UNIX_EPOCH + std::time::Duration::new(seconds, entry.mtime.1);
                file.set_modified(time).map_err(io(&shown))?;
            }
            Kind::Symlink { target } => place.link(target).map_err(io(&shown))?,
            _ => {}
        }
    }
    // Last, so that a directory that forbids writing takes its files first.
    for (path, mode) in modes.into_iter().rev() {
        let shown = root.join(std::ffi::OsStr::from_bytes(&path));
        Place::of(&top, &path).and_then(|place| place.mode(mode)).map_err(io(&shown))?;
    }
    Ok(())
}

/// A name in a directory that was reached through no link.
struct Place<'a> {
    parent: std::os::fd::OwnedFd,
    name: &'a [u8],
}

impl<'a> Place<'a> {
    fn of(top: &std::os::fd::OwnedFd, path: &'a [u8]) -> std::io::Result<Self> {
        use rustix::fs::{Mode, OFlags, ResolveFlags};
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
            None => (&b"."[..], path),
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { parent: rustix::fs::openat2(top, parent, flags, Mode::empty(), resolve)?, name })
    }

    fn remove(&self) -> std::io::Result<()> {
        match rustix::fs::unlinkat(&self.parent, self.name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn directory(&self) -> std::io::Result<()> {
        use rustix::fs::{AtFlags, FileType, Mode};
        let there = rustix::fs::statat(&self.parent, self.name, AtFlags::SYMLINK_NOFOLLOW);
        match there.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(FileType::Directory) => return Ok(()),
            Ok(_) => self.remove()?,
            Err(_) => {}
        }
        Ok(rustix::fs::mkdirat(&self.parent, self.name, Mode::RWXU)?)
    }

    fn file(&self) -> std::io::Result<std::fs::File> {
        use rustix::fs::{Mode, OFlags};
        self.remove()?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.parent, self.name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    fn link(&self, target: &[u8]) -> std::io::Result<()> {
        self.remove()?;
        Ok(rustix::fs::symlinkat(target, &self.parent, self.name)?)
    }

    fn mode(&self, mode: u32) -> std::io::Result<()> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.parent, self.name, flags, Mode::empty())?;
        Ok(rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode & 0o777))?)
    }
}

/// The archive's members as files: names are ours, so each is a plain file below `root`.
fn layout(store: &Store, image: &Image, names: Vec<Reference>, root: &Path) -> Result<()> {
    std::fs::create_dir_all(root.join("blobs/sha256")).map_err(io(root))?;
    let (reader, mut writer) = std::io::pipe().map_err(io(root))?;
    let images = [(image.record().clone(), names)];
    std::thread::scope(|scope| {
        let unpacked = scope.spawn(move || -> Result<()> {
            let mut archive = tar::Archive::new(reader);
            for member in archive.entries().map_err(io(root))? {
                let mut member = member.map_err(io(root))?;
                let path = root.join(member.path().map_err(io(root))?);
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(io(parent))?;
                }
                let mut file = std::fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o644)
                    .open(&path)
                    .map_err(io(&path))?;
                std::io::copy(&mut member, &mut file).map_err(io(&path))?;
            }
            Ok(())
        });
        let saved = layer_store::save(store, &images, &mut writer);
        drop(writer);
        // When the reader failed, the writer's broken pipe says nothing.
        unpacked.join().map_err(|_| Error::Worker)??;
        Ok(saved?)
    })
}
