//! Images as one tar file: `save` and `load`.
//!
//! ```text
//!  oci-layout                    {"imageLayoutVersion":"1.0.0"}
//!  index.json                    OCI index: one manifest an image, names in annotations
//!  manifest.json                 docker's list: [{"Config":…,"RepoTags":[…],"Layers":[…]}]
//!  blobs/sha256/<hex>            configs, manifests, layers (plain tar, so that digest = diff ID)
//! ```
//!
//! The same file is a docker archive and an OCI archive; docker, podman and skopeo read either half. `load` reads
//! both, and docker's older layout with a directory a layer; `load_layout` reads an OCI layout that is a directory.
//! Bytes depend on the images alone.

use std::io::Write;

use image_core::{Compression, Descriptor, Document, ImageId, Index, Manifest, MediaType, Reference, layout};
use serde::{Deserialize, Serialize};

use crate::disk::json;
use crate::error::{Error, Result};
use crate::image::ImageRecord;
use crate::store::Store;

mod load;

pub use load::{load, load_allowing, load_layout, load_layout_for};

#[derive(Debug, Serialize, Deserialize)]
struct DockerEntry {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// An image that came out of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded {
    /// Which.
    pub image: ImageId,
    /// The names that it got.
    pub names: Vec<Reference>,
}

fn fail(source: std::io::Error) -> Error {
    Error::Stream { format: "tar", source }
}

/// Writes `images`, each under `names`, to `out`.
///
/// # Errors
/// [`Error::NotFound`], or when `out` does not take the bytes.
pub fn save(store: &Store, images: &[(ImageRecord, Vec<Reference>)], out: &mut dyn Write) -> Result<()> {
    let mut archive = tar::Builder::new(out);
    let mut written = std::collections::BTreeSet::new();
    let (mut manifests, mut entries) = (Vec::new(), Vec::new());
    for (record, names) in images {
        let config = store.read_blob(&record.config.digest)?;
        let mut layers = Vec::new();
        for layer in store.image_layers(record)? {
            let digest = *layer.diff_id().digest();
            let mut count = Count(0);
            store.write_tar(&layer, &mut count)?;
            layers.push(Descriptor::new(MediaType::OciLayer(Compression::None), digest, count.0));
            if written.insert(digest) {
                let mut header = header(count.0);
                archive_stream(&mut archive, &mut header, &layout::blob_path(&digest), |out| {
                    store.write_tar(&layer, out)
                })?;
            }
        }
        let paths = layers.iter().map(|layer| layout::blob_path(&layer.digest)).collect();
        let config_blob = Descriptor::of(MediaType::OciConfig, &config);
        let manifest = Document::from_value(Manifest::oci(config_blob, layers));
        let manifest =
            manifest.map_err(|source| Error::Document { what: "the manifest to save".to_owned(), source })?;
        for (digest, bytes) in
            [(record.config.digest, config.as_slice()), (*manifest.digest(), manifest.bytes())]
        {
            if written.insert(digest) {
                append(&mut archive, &layout::blob_path(&digest), bytes)?;
            }
        }
        let descriptor = Descriptor::of(MediaType::OciManifest, manifest.bytes());
        manifests.extend(layout::entries(&descriptor, names));
        let tags = names.iter().map(Reference::familiar).collect();
        entries.push(DockerEntry {
            config: layout::blob_path(&record.config.digest),
            tags: Some(tags),
            layers: paths,
        });
    }
    let place = store.path().join("archive");
    append(&mut archive, layout::INDEX, &json(&Index::oci(manifests), &place)?)?;
    append(&mut archive, "manifest.json", &json(&entries, &place)?)?;
    append(&mut archive, layout::MARKER, layout::MARKER_TEXT.as_bytes())?;
    archive.finish().map_err(fail)
}

struct Count(u64);

impl Write for Count {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0 += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn append<W: Write>(archive: &mut tar::Builder<W>, path: &str, bytes: &[u8]) -> Result<()> {
    archive.append_data(&mut header(bytes.len() as u64), path, bytes).map_err(fail)
}

/// Streams a member whose size is known: the header first, then what `write` writes, then the padding.
fn archive_stream<W: Write>(
    archive: &mut tar::Builder<W>,
    header: &mut tar::Header,
    path: &str,
    write: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    header.set_path(path).map_err(fail)?;
    header.set_cksum();
    let size = header.size().map_err(fail)?;
    let out = archive.get_mut();
    out.write_all(header.as_bytes()).map_err(fail)?;
    write(out)?;
    let padding = usize::try_from((512 - size % 512) % 512).unwrap_or(0);
    out.write_all(&vec![0; padding]).map_err(fail)
}
