//! An image as it is pushed, or the index of several platforms, as a file: an OCI layout whose `index.json` names that.
//!
//! ```text
//!  index.json ─names─▶ index ─platform─▶ manifest ─▶ config, layers      the bytes and digests of a push
//!             ───────▶ manifest ─subject─▶ manifest                      what refers to an image
//! ```
//!
//! Specification: image-spec, image-layout.md.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::PathBuf;

use image_core::{BlobSource, Descriptor, Document, Index, Reference, layout};
use layer_store::{Referrer, Store};

use super::{Output, io};
use crate::build::BuiltIndex;
use crate::engine::{Engine, Image};
use crate::error::{Error, Result};
use crate::task::blocking;

impl Engine {
    /// Writes the images of `built` and their index, under `names`, to `output`: an OCI layout as a directory or as an
    /// archive, with the layers, manifests and digests that [`Self::push_index`] pushes. A directory of root file systems
    /// has one directory for each platform, such as `linux_arm64`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for [`Output::Tar`], which has no place for several platforms; else as [`Self::export`].
    pub async fn export_index(&self, built: &BuiltIndex, names: &[Reference], output: &Output) -> Result<()> {
        match output {
            Output::Tar(_) => {
                return Err(Error::unsupported("root file systems of several platforms in one tar file"));
            }
            Output::Directory(root) => {
                for (platform, image) in &built.images {
                    let name = platform.to_string().replace('/', "_");
                    self.export(&image.image, names, &Output::Directory(root.join(name))).await?;
                }
                return Ok(());
            }
            Output::Layout(_) | Output::Archive(_) => {}
        }
        let mut parts = Vec::new();
        for ((_, image), entry) in built.images.iter().zip(&built.index.value().manifests) {
            let part = self.part(&image.image).await?;
            if part.manifest.digest != entry.digest {
                let missing =
                    layer_store::Error::NotFound { kind: "manifest", name: entry.digest.to_string() };
                return Err(missing.into());
            }
            parts.push(part);
        }
        let bytes = built.index.bytes().to_vec();
        self.layout(parts, &built.descriptor(), Some(bytes), names, output).await
    }

    /// Writes `image` as it is pushed, and what refers to it. `false`: nothing does, and nothing was written.
    pub(super) async fn export_attested(
        &self,
        image: &Image,
        names: &[Reference],
        output: &Output,
    ) -> Result<bool> {
        let known = self.store().image(&image.id())?.manifest;
        if known.is_none_or(|known| self.store().referrers(&known.digest).is_ok_and(|found| found.is_empty()))
        {
            return Ok(false);
        }
        let part = self.part(image).await?;
        if part.referrers.is_empty() {
            return Ok(false);
        }
        let manifest = part.manifest.clone();
        self.layout(vec![part], &manifest, None, names, output).await?;
        Ok(true)
    }

    async fn part(&self, image: &Image) -> Result<Part> {
        let (manifest, bytes, blobs) = self.fix_manifest(image).await?;
        let referrers = self.store().referrers(&manifest.digest)?;
        Ok(Part { manifest, bytes, blobs, referrers })
    }

    /// Writes `parts`, the index of them if there is one, and the names of `top`, which is one or the other.
    async fn layout(
        &self,
        parts: Vec<Part>,
        top: &Descriptor,
        index: Option<Vec<u8>>,
        names: &[Reference],
        output: &Output,
    ) -> Result<()> {
        let (store, output, top) = (self.store().clone(), output.clone(), top.clone());
        let mut entries = layout::entries(&top, names);
        // What refers to an image is found by an entry of its own, which has no name.
        entries.extend(parts.iter().flat_map(|part| &part.referrers).map(|known| known.manifest.clone()));
        let names = Document::from_value(Index::oci(entries))
            .map_err(|source| Error::Document { what: "the index of the layout".to_owned(), source })?;
        blocking(move || {
            let mut out = match &output {
                Output::Archive(path) => {
                    let file = File::create(path).map_err(io(path))?;
                    Layout::Archive(path.clone(), tar::Builder::new(BufWriter::new(file)))
                }
                Output::Layout(path) | Output::Directory(path) | Output::Tar(path) => {
                    Layout::Directory(path.clone())
                }
            };
            let mut written = BTreeSet::new();
            for part in &parts {
                let referrers =
                    part.referrers.iter().flat_map(|known| known.blobs.iter().chain([&known.manifest]));
                for blob in part.blobs.iter().chain(referrers).filter(|blob| written.insert(blob.digest)) {
                    out.blob(&store, blob)?;
                }
                if written.insert(part.manifest.digest) {
                    let path = layout::blob_path(&part.manifest.digest);
                    out.put(&path, part.bytes.len() as u64, &mut part.bytes.as_slice())?;
                }
            }
            if let Some(bytes) = index {
                out.put(&layout::blob_path(&top.digest), bytes.len() as u64, &mut bytes.as_slice())?;
            }
            for (name, bytes) in
                [(layout::INDEX, names.bytes()), (layout::MARKER, layout::MARKER_TEXT.as_bytes())]
            {
                out.put(name, bytes.len() as u64, &mut &*bytes)?;
            }
            out.finish()
        })
        .await
    }
}

/// An image that goes into a layout.
struct Part {
    manifest: Descriptor,
    bytes: Vec<u8>,
    /// Its layers and its config.
    blobs: Vec<Descriptor>,
    referrers: Vec<Referrer>,
}

/// A layout that is being written. All names are ours, so each is a plain file below its root.
enum Layout {
    Directory(PathBuf),
    Archive(PathBuf, tar::Builder<BufWriter<File>>),
}

impl Layout {
    fn blob(&mut self, store: &Store, blob: &Descriptor) -> Result<()> {
        let path = layout::blob_path(&blob.digest);
        let source = store.blob(blob)?;
        let size = source.descriptor().size;
        let mut reader = source.open_range(0..size).map_err(io(path.as_ref()))?;
        self.put(&path, size, &mut reader)
    }

    fn put(&mut self, path: &str, size: u64, from: &mut dyn Read) -> Result<()> {
        match self {
            Self::Directory(root) => {
                let path = root.join(path);
                let parent = path.parent().unwrap_or(root);
                std::fs::create_dir_all(parent).map_err(io(parent))?;
                let mut file = File::create(&path).map_err(io(&path))?;
                std::io::copy(from, &mut file).map(drop).map_err(io(&path))
            }
            Self::Archive(archive, builder) => {
                let mut header = tar::Header::new_ustar();
                header.set_mode(0o644);
                header.set_uid(0);
                header.set_gid(0);
                header.set_mtime(0);
                header.set_size(size);
                builder.append_data(&mut header, path, from).map_err(io(archive))
            }
        }
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Archive(path, builder) => {
                let mut out = builder.into_inner().map_err(io(&path))?;
                out.flush().map_err(io(&path))
            }
        }
    }
}
