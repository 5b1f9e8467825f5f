//! Archives and layouts into the store.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use image_core::{
    Algorithm, Descriptor, DiffId, Document, ImageConfig, Index, Manifest, MediaType, Platform, Reference,
    Timestamp, layout,
};

use crate::budget::Budget;
use crate::compress::Source;
use crate::disk::Dir;
use crate::encode::read_bounded;
use crate::error::{Error, Result};
use crate::image::ImageRecord;
use crate::layer::Layer;
use crate::store::Store;
use crate::tar_reader::{TarReader, Type};
use crate::transaction::Transaction;
use crate::view::View;

use super::{DockerEntry, Loaded, fail};

const BUFFER: usize = 128 << 10;
const JSON_LIMIT: u64 = 8 << 20;
const MEMBERS_LIMIT: usize = 100_000;
/// How deep an index may be in an index: docker's archives have one in `index.json`.
const DEPTH_LIMIT: usize = 3;

/// Reads an archive into the store. Names that it carries are given to its images; `now` is when.
///
/// # Errors
/// [`Error::Stream`], [`Error::Layer`], [`Error::Budget`] (all of it may have as many bytes as one layer may) and
/// whatever unpacking can meet; nothing is kept then.
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
    let mut members = Members::of(&work);
    let plain = Source::sniffed(source).map_err(fail)?;
    let plain = Watched { plain, budget: store.budget, read: 0, failure: None };
    let mut archive = TarReader::new(BufReader::with_capacity(BUFFER, plain), store.budget);
    let failure = |plain: &mut BufReader<Watched<'_>>| plain.get_mut().failure.take();
    members.read(&mut archive).map_err(|error| archive.cause(error, failure))?;
    members.keep(now, allowed)
}

/// As [`load_allowing`], from an OCI layout that is a directory. Links in it are not followed, and only regular files
/// are read.
///
/// # Errors
/// As [`load`]; [`Error::NotFound`] when there is no layout.
pub fn load_layout(
    store: &Store,
    path: &Path,
    now: Option<Timestamp>,
    allowed: &dyn Fn(&Reference) -> bool,
) -> Result<Vec<Loaded>> {
    load_layout_for(store, path, &Platform::host(), now, allowed)
}

/// As [`load_layout`], but of an image for several platforms the one for `platform` is taken.
///
/// # Errors
/// As [`load_layout`].
pub fn load_layout_for(
    store: &Store,
    path: &Path,
    platform: &Platform,
    now: Option<Timestamp>,
    allowed: &dyn Fn(&Reference) -> bool,
) -> Result<Vec<Loaded>> {
    let work = store.begin()?;
    let mut members = Members { platform: platform.clone(), ..Members::of(&work) };
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(Error::io("open", path))?;
    let root = Dir::held(fd, path);
    let missing = |name: &str| Error::NotFound { kind: "member of the layout", name: name.to_owned() };
    let mut take = |dir: &Dir, name: &str, path: String| {
        let (mut file, size) = dir.open_regular(name)?.ok_or_else(|| missing(name))?;
        members.take(path, size, &mut file)
    };
    take(&root, layout::INDEX, layout::INDEX.to_owned())?;
    let blobs = root.dir("blobs")?;
    for algorithm in blobs.names()? {
        let place = blobs.dir(&algorithm)?;
        for name in place.names()? {
            take(&place, &name, format!("blobs/{algorithm}/{name}"))?;
        }
    }
    members.keep(now, allowed)
}

/// One image in an archive.
struct Plan {
    config: Vec<u8>,
    layers: Vec<Descriptor>,
    names: Vec<String>,
    manifest: Option<Descriptor>,
}

/// What is in an archive, staged.
struct Members<'a> {
    work: &'a Transaction,
    files: BTreeMap<String, Descriptor>,
    links: BTreeMap<String, String>,
    /// Of all files.
    bytes: u64,
    /// Which image of an index is taken.
    platform: Platform,
}

impl<'a> Members<'a> {
    fn of(work: &'a Transaction) -> Self {
        let (files, links) = (BTreeMap::new(), BTreeMap::new());
        Self { work, files, links, bytes: 0, platform: Platform::host() }
    }

    fn read(&mut self, archive: &mut TarReader<impl BufRead>) -> Result<()> {
        while let Some(member) = archive.next()? {
            let path = String::from_utf8_lossy(&member.path).trim_start_matches("./").to_owned();
            match member.kind {
                Type::File if member.segments.is_some() => {
                    return Err(Error::Unsupported {
                        what: "a sparse file as a member of an archive".to_owned(),
                    });
                }
                Type::File => self.take(path, member.size, &mut Content(archive))?,
                Type::Symlink(target) | Type::Link(target) => {
                    self.links.insert(path, String::from_utf8_lossy(&target).into_owned());
                    self.check()?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.files.len() + self.links.len() > MEMBERS_LIMIT {
            return Err(Error::Budget { limit: MEMBERS_LIMIT as u64, unit: "members of an archive" });
        }
        Ok(())
    }

    fn take(&mut self, path: String, size: u64, content: &mut dyn Read) -> Result<()> {
        self.check()?;
        self.bytes = self.bytes.saturating_add(size);
        Budget::check(self.work.store().budget.bytes, self.bytes, "bytes of an archive")?;
        // A layout says by its paths how its blobs are named.
        let algorithm = if path.starts_with("blobs/sha512/") { Algorithm::Sha512 } else { Algorithm::Sha256 };
        let media_type = MediaType::Other("application/octet-stream".to_owned());
        let mut ingest = self.work.ingest_by(algorithm, media_type)?;
        io::copy(&mut content.take(size), &mut ingest).map_err(fail)?;
        self.files.insert(path, ingest.finish()?);
        Ok(())
    }

    fn open(&self, name: &str) -> Result<Descriptor> {
        // Docker once wrote a repeated layer as a link to the first: `../<id>/layer.tar`.
        let target = self.links.get(name).map_or(name, |target| target.trim_start_matches("../"));
        let found = self.files.get(target).cloned();
        found.ok_or_else(|| Error::NotFound { kind: "member of the archive", name: name.to_owned() })
    }

    fn text(&self, name: &str) -> Result<Vec<u8>> {
        read_bounded(self.work.open_blob(&self.open(name)?)?, JSON_LIMIT).map_err(fail)
    }

    /// The blob that `wanted` describes; a file under its name must have its digest.
    fn blob(&self, wanted: &Descriptor) -> Result<Descriptor> {
        let found = self.open(&layout::blob_path(&wanted.digest))?;
        if found.digest != wanted.digest || found.size != wanted.size {
            return Err(Error::DigestMismatch {
                what: layout::blob_path(&wanted.digest),
                expected: wanted.digest.to_string(),
                actual: found.digest.to_string(),
            });
        }
        Ok(wanted.clone())
    }

    fn plans(&self) -> Result<Vec<Plan>> {
        let mut plans = Vec::new();
        if self.files.contains_key("manifest.json") {
            let entries: Vec<DockerEntry> = parse("manifest.json", &self.text("manifest.json")?)?;
            for entry in entries {
                let layers = entry.layers.iter().map(|layer| self.open(layer)).collect::<Result<_>>()?;
                let (config, names) = (self.text(&entry.config)?, entry.tags.unwrap_or_default());
                plans.push(Plan { config, layers, names, manifest: None });
            }
        } else {
            let index: Index = parse(layout::INDEX, &self.text(layout::INDEX)?)?;
            for entry in &index.manifests {
                let name = entry
                    .annotations
                    .get(layout::IMAGE_NAME)
                    .or_else(|| entry.annotations.get(layout::REF_NAME));
                self.plan(entry, name.cloned(), DEPTH_LIMIT, &mut plans)?;
            }
        }
        Ok(plans)
    }

    /// The image that `entry` describes; of several platforms the one that is asked for, or else what is there.
    fn plan(
        &self,
        entry: &Descriptor,
        name: Option<String>,
        depth: usize,
        plans: &mut Vec<Plan>,
    ) -> Result<()> {
        let bytes = self.text(&layout::blob_path(&entry.digest))?;
        if entry.media_type.is_index() {
            let index: Index = parse("an index", &bytes)?;
            if depth == 0 {
                return Err(Error::Unsupported { what: "indexes in indexes in indexes".to_owned() });
            }
            let is_there = |entry: &&Descriptor| self.files.contains_key(&layout::blob_path(&entry.digest));
            let is_image =
                |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|platform| platform.os != "unknown");
            let best = index.select(&self.platform).filter(is_there);
            let chosen = best.or_else(|| index.manifests.iter().filter(is_image).find(is_there));
            let missing = || Error::NotFound { kind: "image in the index", name: entry.digest.to_string() };
            return self.plan(chosen.ok_or_else(missing)?, name, depth - 1, plans);
        }
        self.blob(entry)?;
        let manifest: Manifest = parse("a manifest", &bytes)?;
        // What refers to an image is none.
        if manifest.artifact_type.is_some() || manifest.config.media_type == MediaType::OciEmpty {
            return Ok(());
        }
        let layers = manifest.layers.iter().map(|layer| self.blob(layer)).collect::<Result<_>>()?;
        self.blob(&manifest.config)?;
        let config = self.text(&layout::blob_path(&manifest.config.digest))?;
        let mut kept = Descriptor::new(entry.media_type.clone(), entry.digest, entry.size);
        kept.media_type = manifest.media_type.unwrap_or(kept.media_type);
        plans.push(Plan { config, layers, names: name.into_iter().collect(), manifest: Some(kept) });
        Ok(())
    }

    fn keep(self, now: Option<Timestamp>, allowed: &dyn Fn(&Reference) -> bool) -> Result<Vec<Loaded>> {
        let (work, store) = (self.work, self.work.store());
        let mut loaded: Vec<(ImageRecord, Vec<Reference>)> = Vec::new();
        for Plan { config, layers: blobs, names, manifest } in self.plans()? {
            let document = Document::<ImageConfig>::config(config);
            let what = "the archive's image config".to_owned();
            let document = document.map_err(|source| Error::Document { what, source })?;
            let diff_ids = &document.value().rootfs.diff_ids;
            if diff_ids.len() != blobs.len() {
                return Err(Error::Unsupported {
                    what: "an archive whose layers and config differ in number".to_owned(),
                });
            }
            let mut layers: Vec<Layer> = Vec::new();
            for (diff_id, blob) in diff_ids.iter().zip(&blobs) {
                layers.push(load_layer(work, diff_id, blob, &View::of(&layers))?);
            }
            let config = work.put_blob(MediaType::OciConfig, document.bytes())?;
            let mut record = ImageRecord::new(config, &layers);
            record.blobs = blobs;
            record.manifest = manifest;
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
}

/// The stream of an archive; one that grows out of all proportion fails.
struct Watched<'a> {
    plain: Source<'a>,
    budget: Budget,
    read: u64,
    failure: Option<Error>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.plain.read(buffer)?;
        self.read = self.read.saturating_add(count as u64);
        let Some(compressed) = self.plain.consumed() else { return Ok(count) };
        self.budget.check_ratio(compressed, self.read).map(|()| count).map_err(|error| {
            self.failure = Some(error);
            io::Error::other("the archive is a bomb")
        })
    }
}

/// The content of the member that was read last.
struct Content<'a, R>(&'a mut TarReader<R>);

impl<R: BufRead> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let found = self.0.content(buffer.len() as u64).map_err(io::Error::other)?;
        let count = found.len();
        for (out, byte) in buffer.iter_mut().zip(found) {
            *out = *byte;
        }
        self.0.consume(count);
        Ok(count)
    }
}

fn load_layer(work: &Transaction, diff_id: &DiffId, blob: &Descriptor, below: &View) -> Result<Layer> {
    match work.find(diff_id, below)? {
        Some(layer) => Ok(layer),
        None => Ok(work.unpack(blob, diff_id, below)?.layer),
    }
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Damaged { path: what.into(), reason: error.to_string() })
}
