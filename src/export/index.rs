//! The index of several platforms as a file: an OCI layout whose `index.json` names that one index.
//!
//! ```text
//!  index.json ─names─▶ index ─platform─▶ manifest ─▶ config, layers      the bytes and digests of a push
//! ```
//!
//! Specification: image-spec, image-layout.md.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::PathBuf;

use image_core::{BlobSource, Descriptor, Document, Index, Reference, layout};
use layer_store::Store;

use super::{Output, io};
use crate::build::BuiltIndex;
use crate::engine::Engine;
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
            let (manifest, bytes, blobs) = self.fix_manifest(&image.image).await?;
            if manifest.digest != entry.digest {
                let missing =
                    layer_store::Error::NotFound { kind: "manifest", name: entry.digest.to_string() };
                return Err(missing.into());
            }
            parts.push((manifest.digest, bytes, blobs));
        }
        let (store, index, output) = (self.store().clone(), built.index.clone(), output.clone());
        let top = top(&built.descriptor(), names)?;
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
            for (digest, bytes, blobs) in &parts {
                for blob in blobs.iter().filter(|blob| written.insert(blob.digest)) {
                    out.blob(&store, blob)?;
                }
                if written.insert(*digest) {
                    out.put(&layout::blob_path(digest), bytes.len() as u64, &mut bytes.as_slice())?;
                }
            }
            let bytes = index.bytes();
            out.put(&layout::blob_path(index.digest()), bytes.len() as u64, &mut &*bytes)?;
            for (name, bytes) in
                [(layout::INDEX, top.bytes()), (layout::MARKER, layout::MARKER_TEXT.as_bytes())]
            {
                out.put(name, bytes.len() as u64, &mut &*bytes)?;
            }
            out.finish()
        })
        .await
    }
}

/// The `index.json`: the index, once for each name.
fn top(index: &Descriptor, names: &[Reference]) -> Result<Document<Index>> {
    Document::from_value(Index::oci(layout::entries(index, names)))
        .map_err(|source| Error::Document { what: "the index of the layout".to_owned(), source })
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
