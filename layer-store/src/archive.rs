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
//! both, and docker's older layout with a directory a layer. Bytes depend on the images alone.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use image_core::{
    Compression, Descriptor, DiffId, Digest, Document, ImageConfig, ImageId, Index, Manifest, MediaType,
    Reference, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::disk::json;
use crate::encode::read_bounded;
use crate::error::{Error, Result};
use crate::image::ImageRecord;
use crate::layer::Layer;
use crate::store::Store;
use crate::view::View;

const JSON_LIMIT: u64 = 8 << 20;
const MEMBERS_LIMIT: usize = 100_000;
const NAME: &str = "io.containerd.image.name";
const TAG: &str = "org.opencontainers.image.ref.name";

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
    let path = |digest: &Digest| format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
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
                archive_stream(&mut archive, &mut header, &path(&digest), |out| {
                    store.write_tar(&layer, out)
                })?;
            }
        }
        let paths = layers.iter().map(|layer| path(&layer.digest)).collect();
        let config_blob = Descriptor::of(MediaType::OciConfig, &config);
        let manifest = Document::from_value(Manifest::oci(config_blob, layers));
        let manifest =
            manifest.map_err(|source| Error::Document { what: "the manifest to save".to_owned(), source })?;
        for (digest, bytes) in
            [(record.config.digest, config.as_slice()), (*manifest.digest(), manifest.bytes())]
        {
            if written.insert(digest) {
                append(&mut archive, &path(&digest), bytes)?;
            }
        }
        let descriptor = Descriptor::of(MediaType::OciManifest, manifest.bytes());
        if names.is_empty() {
            manifests.push(descriptor.clone());
        }
        for name in names {
            let mut named = descriptor.clone();
            named.annotations.insert(NAME.to_owned(), name.canonical());
            if let Some(tag) = name.tag() {
                named.annotations.insert(TAG.to_owned(), tag.to_owned());
            }
            manifests.push(named);
        }
        let tags = names.iter().map(Reference::familiar).collect();
        entries.push(DockerEntry { config: path(&record.config.digest), tags: Some(tags), layers: paths });
    }
    let place = store.path().join("archive");
    append(&mut archive, "index.json", &json(&Index::oci(manifests), &place)?)?;
    append(&mut archive, "manifest.json", &json(&entries, &place)?)?;
    append(&mut archive, "oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}\n")?;
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

/// Reads an archive into the store. Names that it carries are given to its images; `now` is when.
///
/// # Errors
/// [`Error::Stream`], [`Error::Layer`] and whatever unpacking can meet; nothing is kept then.
pub fn load(store: &Store, source: &mut (dyn Read + Send), now: Option<Timestamp>) -> Result<Vec<Loaded>> {
    load_allowing(store, source, now, &|_| true)
}

/// As [`load`], but of the names in the archive only those are given that `allowed` says yes to: an archive from
/// elsewhere must not move names that others pull by.
///
/// # Errors
/// As [`load`].
pub fn load_allowing(
    store: &Store,
    source: &mut (dyn Read + Send),
    now: Option<Timestamp>,
    allowed: &dyn Fn(&Reference) -> bool,
) -> Result<Vec<Loaded>> {
    let work = store.begin()?;
    let mut members: BTreeMap<String, Descriptor> = BTreeMap::new();
    let mut links: BTreeMap<String, String> = BTreeMap::new();
    let plain = crate::compress::Source::sniffed(source).map_err(fail)?;
    let mut archive = tar::Archive::new(plain);
    for member in archive.entries().map_err(fail)? {
        let mut member = member.map_err(fail)?;
        let path = String::from_utf8_lossy(&member.path_bytes()).trim_start_matches("./").to_owned();
        if members.len() > MEMBERS_LIMIT {
            return Err(Error::Budget { limit: MEMBERS_LIMIT as u64, unit: "members of an archive" });
        }
        match member.header().entry_type() {
            tar::EntryType::Regular => {
                let mut ingest =
                    work.ingest_unknown(MediaType::Other("application/octet-stream".to_owned()))?;
                std::io::copy(&mut member, &mut ingest).map_err(fail)?;
                members.insert(path, ingest.finish()?);
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let target = member.link_name_bytes().map(|name| String::from_utf8_lossy(&name).into_owned());
                links.insert(path, target.unwrap_or_default());
            }
            _ => {}
        }
    }
    let open = |name: &str| -> Result<Descriptor> {
        // Docker once wrote a repeated layer as a link to the first: `../<id>/layer.tar`.
        let target = links.get(name).map_or(name, |target| target.trim_start_matches("../"));
        let found = members.get(target).cloned();
        found.ok_or_else(|| Error::NotFound { kind: "member of the archive", name: name.to_owned() })
    };
    let text = |name: &str| -> Result<Vec<u8>> {
        read_bounded(work.open_blob(&open(name)?)?, JSON_LIMIT).map_err(fail)
    };
    let mut plans: Vec<(Vec<u8>, Vec<Descriptor>, Vec<String>)> = Vec::new();
    if members.contains_key("manifest.json") {
        let entries: Vec<DockerEntry> = parse("manifest.json", &text("manifest.json")?)?;
        for entry in entries {
            let layers = entry.layers.iter().map(|layer| open(layer)).collect::<Result<_>>()?;
            plans.push((text(&entry.config)?, layers, entry.tags.unwrap_or_default()));
        }
    } else {
        let index: Index = parse("index.json", &text("index.json")?)?;
        for entry in index.manifests {
            let at = |digest: &Digest| format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
            let manifest: Manifest = parse("a manifest", &text(&at(&entry.digest))?)?;
            let layers =
                manifest.layers.iter().map(|layer| open(&at(&layer.digest))).collect::<Result<_>>()?;
            let name = entry.annotations.get(NAME).or_else(|| entry.annotations.get(TAG));
            plans.push((text(&at(&manifest.config.digest))?, layers, name.cloned().into_iter().collect()));
        }
    }
    let mut loaded: Vec<(ImageRecord, Vec<Reference>)> = Vec::new();
    for (config, blobs, names) in plans {
        let document = Document::<ImageConfig>::config(config);
        let document = document
            .map_err(|source| Error::Document { what: "the archive's image config".to_owned(), source })?;
        let diff_ids = &document.value().rootfs.diff_ids;
        if diff_ids.len() != blobs.len() {
            return Err(Error::Unsupported {
                what: "an archive whose layers and config differ in number".to_owned(),
            });
        }
        let mut layers: Vec<Layer> = Vec::new();
        for (diff_id, blob) in diff_ids.iter().zip(&blobs) {
            layers.push(load_layer(&work, diff_id, blob, &View::of(&layers))?);
        }
        let config = work.put_blob(MediaType::OciConfig, document.bytes())?;
        let mut record = ImageRecord::new(config, &layers);
        record.blobs = blobs;
        let names = names.iter().filter_map(|name| Reference::parse(name).ok()).filter(allowed).collect();
        loaded.push((record, names));
    }
    work.commit()?;
    let mut result: Vec<Loaded> = Vec::new();
    for (record, names) in loaded {
        let image = record.id();
        if store.image(&image).is_err() {
            store.put_image(&record)?;
        }
        for name in &names {
            store.tag(name, &image, now)?;
        }
        match result.iter_mut().find(|other| other.image == image) {
            Some(other) => other.names.extend(names),
            None => result.push(Loaded { image, names }),
        }
    }
    Ok(result)
}

fn load_layer(work: &crate::Transaction, diff_id: &DiffId, blob: &Descriptor, below: &View) -> Result<Layer> {
    match work.find(diff_id, below)? {
        Some(layer) => Ok(layer),
        None => Ok(work.unpack(blob, diff_id, below)?.layer),
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Damaged { path: what.into(), reason: error.to_string() })
}
