//! The build cache as an artifact: what one builder did, others need not do.
//!
//! In a registry it is a manifest in the shape of BuildKit's, in a directory an OCI layout with that manifest:
//!
//! ```text
//!  manifest   config: application/vnd.buildkit.cacheconfig.v0, layers: the layers of all steps
//!  config     {"layers":  [{"blob":"sha256:…","parent":-1,"annotations":{"diffID":…,"mediaType":…,"size":…}}],
//!              "records": [{"digest":"<key of the step>","layers":[{"layer":0,"createdAt":…}]}],
//!              "cooperage":{"version":1,"steps":{"<key>":"[build 2/5] RUN make"}}}
//! ```
//!
//! What cache mounts hold goes with it when it is asked for: a layer a mount, by id in `"mounts":{"<id>":<layer>}` of
//! `cooperage`. A mount that is new somewhere else begins with it.
//!
//! In an image it is the config alone, base64 in the field `moby.buildkit.cache.v0` of the image's config, with places in
//! the image's own layers: so it has the steps whose layers are in the image, and costs nothing to keep.
//!
//! Keys are those of [`layer_store::Preimage`], so a record is a hit for whoever computes the same preimage. BuildKit
//! reads the document without an error and finds none of its keys in it; we read BuildKit's the same way. What is
//! imported is believed, as in BuildKit: import only from who may write your images.

mod document;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use dockerfile::plan::{MountKind, Op};
use image_core::{
    BlobSource, Compression, Descriptor, DiffId, Digest, Document, Manifest, MediaType, Reference,
};
use layer_store::{Layer, View};
use registry_client::PushOptions;

use self::document::{CacheLayer, Config, Ours, Record, parse};
use super::cache_mount;
use super::layout::{self, blob_path};
use super::solve::Solver;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::task::blocking;

const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// The largest cache config that is read, in bytes.
const LIMIT: u64 = 64 << 20;

/// Where a build cache is kept outside the store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheLocation {
    /// In a registry, under this name. Of an image, what it has inline is read.
    Registry(Reference),
    /// In a directory, as an OCI layout.
    Directory(PathBuf),
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

/// What was done in this build, for exporting: key, the step as it is shown, layer.
#[derive(Debug, Default)]
pub(super) struct Done(Mutex<BTreeMap<String, (String, Layer)>>);

impl Done {
    pub(super) fn add(&self, key: &Digest, step: String, layer: Layer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_string(), (step, layer));
    }

    fn take(&self) -> BTreeMap<String, (String, Layer)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A layer that an imported cache offers.
#[derive(Clone, Debug)]
struct Offer {
    blob: Descriptor,
    diff_id: DiffId,
    location: CacheLocation,
}

/// What the imported caches have.
#[derive(Debug, Default)]
pub(super) struct Imported {
    /// Layers of steps, by key.
    steps: BTreeMap<String, Offer>,
    /// Content of cache mounts, by id.
    mounts: BTreeMap<String, Offer>,
}

impl Imported {
    /// Reads the documents of `locations`; the first that has a key wins. One that is not there yet is no error: the
    /// first build of a fleet finds none.
    pub(super) async fn read(solver: &super::Build) -> Result<Self> {
        let mut imported = Self::default();
        for location in &solver.cache_from {
            let found = match location {
                CacheLocation::Registry(name) => registry_config(solver, name).await,
                CacheLocation::Directory(path) => directory_config(path),
            };
            let config = match found {
                Ok(config) => config,
                Err(error) if error.is_not_found() => continue,
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for record in config.records {
                let layer = record.layers.first().and_then(|place| config.layers.get(place.layer));
                let Some(offer) = layer.and_then(|layer| offer(layer, location)) else { continue };
                imported.steps.entry(record.digest).or_insert(offer);
            }
            let mounts = config.cooperage.map(|ours| ours.mounts).unwrap_or_default();
            for (id, place) in mounts {
                let Some(limit) = solver.mounts_limit else { break };
                let found = config.layers.get(place).and_then(|layer| offer(layer, location));
                if let Some(offer) = found.filter(|offer| offer.blob.size <= limit) {
                    imported.mounts.entry(id).or_insert(offer);
                }
            }
        }
        Ok(imported)
    }

    /// What the cache mount `id` begins with, as a layer of its own; nothing when no cache has it, or it cannot be had:
    /// a mount may always begin empty.
    pub(super) async fn mount(&self, solver: &Solver, id: &str) -> Option<Layer> {
        let offer = self.mounts.get(id)?.clone();
        match layer(solver, offer, &[]).await {
            Ok(layer) => Some(layer),
            Err(error) => {
                let text = format!("the cache mount {id} begins empty: {error}");
                (solver.build.events)(&Event::Warning { text });
                None
            }
        }
    }

    /// The layer of the step with this key, fetched and unpacked over `below`.
    pub(super) async fn fetch(
        &self,
        solver: &Solver,
        key: &Digest,
        below: &[Layer],
    ) -> Result<Option<Layer>> {
        match self.steps.get(&key.to_string()).cloned() {
            Some(offer) => layer(solver, offer, below).await.map(Some),
            None => Ok(None),
        }
    }
}

/// What a cache's document says of a layer, if that stands alone.
fn offer(layer: &CacheLayer, location: &CacheLocation) -> Option<Offer> {
    if layer.parent >= 0 {
        return None;
    }
    let (digest, diff_id) =
        (layer.blob.parse::<Digest>().ok()?, layer.annotations.diff_id.parse::<Digest>().ok()?);
    let media_type = MediaType::parse(&layer.annotations.media_type);
    let blob = Descriptor::new(media_type, digest, layer.annotations.size);
    Some(Offer { blob, diff_id: DiffId::new(diff_id), location: location.clone() })
}

/// The layer, fetched and unpacked over `below`.
async fn layer(solver: &Solver, offer: Offer, below: &[Layer]) -> Result<Layer> {
    let view = View::of(below);
    if let Some(layer) = solver.work.find(&offer.diff_id, &view)? {
        return Ok(layer);
    }
    let _room;
    if !solver.work.has_blob(&offer.blob)? {
        let (governor, store) = (solver.build.engine.governor(), solver.work.store().path());
        _room = governor.room("a layer of the shared cache", store, offer.blob.size).await?;
        let ingest = solver.work.ingest(&offer.blob)?;
        let ingest = match &offer.location {
            CacheLocation::Registry(name) => {
                solver.build.engine.client().blob_into(name, &offer.blob, ingest).await?
            }
            CacheLocation::Directory(path) => {
                let file = blob_path(path, &offer.blob.digest);
                blocking(move || {
                    let mut ingest = ingest;
                    let mut source = std::fs::File::open(&file).map_err(io(&file))?;
                    std::io::copy(&mut source, &mut ingest).map_err(io(&file))?;
                    Ok(ingest)
                })
                .await?
            }
        };
        blocking(move || Ok(ingest.finish()?)).await?;
    }
    let work = solver.work.clone();
    let unpacked = blocking(move || Ok(work.unpack(&offer.blob, &offer.diff_id, &view)?)).await?;
    Ok(unpacked.layer)
}

async fn registry_config(build: &super::Build, name: &Reference) -> Result<Config> {
    let client = build.engine.client();
    let name = name.with_default_tag();
    let fetched = client.manifest(&name).await?;
    let read = |source| Error::Document { what: format!("the cache manifest {name}"), source };
    let document = match fetched.parse().map_err(read)? {
        image_core::AnyManifest::Manifest(document) => document,
        // An image for several platforms, each with its own cache.
        image_core::AnyManifest::Index(index) => {
            let platform = build.platform.as_ref().unwrap_or_else(|| build.engine.platform());
            let Some(chosen) = index.value().select(platform) else { return Ok(Config::default()) };
            match client.manifest(&name.at_digest(chosen.digest)).await?.parse().map_err(read)? {
                image_core::AnyManifest::Manifest(document) => document,
                _ => return Err(Error::unsupported("an index inside an index")),
            }
        }
        _ => return Err(Error::unsupported("this kind of manifest")),
    };
    let config = &document.value().config;
    if config.size > LIMIT {
        return Err(Error::unsupported("a build cache config of that size"));
    }
    let bytes = client.blob_into(&name, config, Vec::new()).await?;
    if config.media_type.to_string() == CONFIG_TYPE {
        return parse(&bytes, &name.canonical());
    }
    inlined(document.value(), bytes, &name)
}

/// The cache in the config of an image: its layers are those of the image, by their place.
fn inlined(manifest: &Manifest, bytes: Vec<u8>, name: &Reference) -> Result<Config> {
    let read = |source| Error::Document { what: format!("the config of {name}"), source };
    let image = Document::config(bytes).map_err(read)?;
    let encoded = image.value().unknown.get(INLINE).and_then(|value| value.as_str());
    let Some(bytes) = encoded.and_then(|text| BASE64_STANDARD.decode(text).ok()) else {
        return Ok(Config::default());
    };
    let mut config = parse(&bytes, &name.canonical())?;
    config.layers = std::iter::zip(&manifest.layers, &image.value().rootfs.diff_ids)
        .map(|(blob, diff_id)| CacheLayer::alone(blob, diff_id))
        .collect();
    Ok(config)
}

/// The field of an image's config in which BuildKit keeps its inline cache, too.
pub(super) const INLINE: &str = "moby.buildkit.cache.v0";

/// What of this build can be found in an image of `layers`, as the value of [`INLINE`].
pub(super) fn inline(solver: &Solver, layers: &[Layer]) -> Result<serde_json::Value> {
    let done = solver.done.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut config = Config::default();
    let mut ours = Ours { version: 1, ..Ours::default() };
    config.layers.extend(layers.iter().map(|_| CacheLayer { parent: -1, ..CacheLayer::default() }));
    for (key, (step, layer)) in done.iter() {
        let Some(place) = layers.iter().position(|known| known.diff_id() == layer.diff_id()) else {
            continue;
        };
        config.records.push(Record::new(key.clone(), place));
        ours.steps.insert(key.clone(), step.clone());
    }
    config.cooperage = Some(ours);
    let bytes = serde_json::to_vec(&config).map_err(|error| Error::Io {
        path: "the inline cache".into(),
        source: std::io::Error::other(error),
    })?;
    Ok(BASE64_STANDARD.encode(bytes).into())
}

fn directory_config(path: &Path) -> Result<Config> {
    let index = layout::index(path)?;
    let missing = || io(path)(std::io::Error::other("it names no manifest"));
    let digest = index.manifests.first().ok_or_else(missing)?.digest;
    let image_core::AnyManifest::Manifest(manifest) = layout::manifest(path, &digest)? else {
        return Err(io(&blob_path(path, &digest))(std::io::Error::other("it is no manifest")));
    };
    let file = blob_path(path, &manifest.value().config.digest);
    parse(&super::read(&file, LIMIT)?, &file.display().to_string())
}

/// Writes what this build did, and what it found in the cache, to all places that were asked for.
pub(super) async fn export(solver: &Solver) -> Result<()> {
    let done = solver.done.take();
    if solver.build.cache_to.is_empty() {
        return Ok(());
    }
    let mounts = mounts(solver).await?;
    let work = solver.work.clone();
    let (config, blobs) = blocking(move || {
        let (mut config, mut blobs) = (Config::default(), Vec::<Descriptor>::new());
        let mut ours = Ours { version: 1, ..Ours::default() };
        let mut place = |config: &mut Config, blob: Descriptor, diff_id: &DiffId| {
            if let Some(place) = blobs.iter().position(|known| known.digest == blob.digest) {
                return place;
            }
            config.layers.push(CacheLayer::alone(&blob, diff_id));
            blobs.push(blob);
            blobs.len() - 1
        };
        for (key, (step, layer)) in done {
            let mut blob = work.encoded(&layer)?;
            blob.media_type = match blob.media_type.to_oci() {
                MediaType::OciLayer(compression) => MediaType::OciLayer(compression),
                _ => MediaType::OciLayer(Compression::Gzip),
            };
            let place = place(&mut config, blob, &layer.diff_id());
            config.records.push(Record::new(key.clone(), place));
            ours.steps.insert(key, step);
        }
        for (id, blob, diff_id) in mounts {
            ours.mounts.insert(id, place(&mut config, blob, &diff_id));
        }
        config.cooperage = Some(ours);
        work.commit()?;
        Ok((config, blobs))
    })
    .await?;
    let config = serde_json::to_vec(&config).map_err(|error| Error::Io {
        path: "the cache config".into(),
        source: std::io::Error::other(error),
    })?;
    let config_blob = Descriptor::of(MediaType::parse(CONFIG_TYPE), &config);
    let manifest = Document::from_value(Manifest::oci(config_blob.clone(), blobs.clone()))
        .map_err(|source| Error::Document { what: "the cache manifest".to_owned(), source })?;
    for location in &solver.build.cache_to {
        match location {
            CacheLocation::Registry(name) => {
                push(solver, name, &blobs, (&config_blob, &config), &manifest).await?;
            }
            CacheLocation::Directory(path) => {
                let (path, store, blobs) = (path.clone(), solver.build.engine.store().clone(), blobs.clone());
                let documents = [
                    (config_blob.clone(), config.clone()),
                    (Descriptor::of(MediaType::OciManifest, manifest.bytes()), manifest.bytes().to_vec()),
                ];
                blocking(move || write(&path, &store, &blobs, &documents)).await?;
            }
        }
    }
    Ok(())
}

/// What the cache mounts of the build's RUNs hold, packed, as far as it was asked for.
async fn mounts(solver: &Solver) -> Result<Vec<(String, Descriptor, DiffId)>> {
    let Some(limit) = solver.build.mounts_limit else { return Ok(Vec::new()) };
    let mut ids = BTreeSet::new();
    for step in &solver.plan.steps {
        let Op::Exec(exec) = &step.op else { continue };
        ids.extend(exec.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Cache { id, .. } => Some(id.clone()),
            _ => None,
        }));
    }
    let mut packed = Vec::new();
    for id in ids {
        let mount = match cache_mount::existing(solver, &id).await {
            Ok(mount) => mount,
            // Its RUN was in the cache, and is not done here.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        let work = solver.work.clone();
        // What does not come to a layer is left out: a cache may always be missing.
        let left_out = match blocking(move || Ok(work.pack_cache_mount(&mount)?)).await {
            Ok((blob, diff_id)) if blob.size <= limit => {
                packed.push((id, blob, diff_id));
                continue;
            }
            Ok((blob, _)) => format!("{} bytes are more than {limit}", blob.size),
            Err(error) => error.to_string(),
        };
        let text = format!("the cache mount {id} is not exported: {left_out}");
        (solver.build.events)(&Event::Warning { text });
    }
    Ok(packed)
}

async fn push(
    solver: &Solver,
    name: &Reference,
    blobs: &[Descriptor],
    (config_blob, config): (&Descriptor, &[u8]),
    manifest: &Document<Manifest>,
) -> Result<()> {
    let client = solver.build.engine.client();
    let name = name.with_default_tag();
    for blob in blobs {
        let source: Box<dyn BlobSource> = Box::new(solver.build.engine.store().blob(blob)?);
        client.push_blob(&name, source, PushOptions::new()).await?;
    }
    let config = image_core::MemoryBlob::new(config_blob.clone(), config.to_vec());
    client.push_blob(&name, Box::new(config), PushOptions::new()).await?;
    let bytes = Bytes::copy_from_slice(manifest.bytes());
    client.push_manifest(&name, &MediaType::OciManifest, bytes).await?;
    Ok(())
}

/// An OCI layout; blobs that are there already stay, the index comes last.
fn write(
    root: &Path,
    store: &layer_store::Store,
    blobs: &[Descriptor],
    documents: &[(Descriptor, Vec<u8>); 2],
) -> Result<()> {
    let place = |path: &Path, from: &mut dyn std::io::Read| -> Result<()> {
        let parent = path.parent().unwrap_or(root);
        std::fs::create_dir_all(parent).map_err(io(parent))?;
        let temporary = path.with_extension(format!("part-{}", std::process::id()));
        let mut file = std::fs::File::create(&temporary).map_err(io(&temporary))?;
        std::io::copy(from, &mut file).map_err(io(&temporary))?;
        std::fs::rename(&temporary, path).map_err(io(path))
    };
    for blob in blobs {
        let path = blob_path(root, &blob.digest);
        if !path.exists() {
            let source = store.blob(blob)?;
            let size = source.descriptor().size;
            place(&path, &mut source.open_range(0..size).map_err(io(&path))?)?;
        }
    }
    for (descriptor, bytes) in documents {
        place(&blob_path(root, &descriptor.digest), &mut bytes.as_slice())?;
    }
    place(&root.join(image_core::layout::MARKER), &mut image_core::layout::MARKER_TEXT.as_bytes())?;
    let [_, (manifest, _)] = documents;
    let index = Document::from_value(image_core::Index::oci(vec![manifest.clone()]))
        .map_err(|source| Error::Document { what: "the cache index".to_owned(), source })?;
    place(&root.join(image_core::layout::INDEX), &mut index.bytes())
}
