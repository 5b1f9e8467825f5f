//! Mends what [`Store::check`](crate::Store::check) finds, from what the store has.
//!
//! ```text
//!  rights, times, attributes        set again from the index
//!  a layer's content                copied from an equal file of another layer; or the layer is unpacked again from
//!                                   its blob; or, when we packed it, its index is made again from the tree, and
//!                                   proved by the diff ID
//!  a blob                           encoded again when we made it, and proved by its digest
//!  an image's record                made again from its config and manifest
//!  hints, cache, referrers          dropped
//! ```
//!
//! What cannot be mended is taken out of the way, so that a pull brings it again, and is told: which digests to fetch,
//! and what is lost.

use std::collections::{BTreeMap, BTreeSet};

use image_core::{Descriptor, DiffId, Digest, Document, ImageConfig, Manifest, MediaType};

use crate::authority::{Op, Owners};
use crate::blob::{Encoding, file_name};
use crate::check::{Damage, Finding, Object, by_object, check_blob, check_layer};
use crate::disk::unique;
use crate::error::Result;
use crate::image::{ImageLayer, ImageRecord};
use crate::index::{Entry, Index, Kind};
use crate::layer::{Layer, LayerKey, TREE};
use crate::store::Store;
use crate::transaction::Transaction;
use crate::view::View;

/// The largest blob that is looked at for a manifest, in bytes.
const MANIFEST_LIMIT: u64 = 4 << 20;

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Repaired {
    /// What was wrong and is right now.
    pub mended: Vec<Finding>,
    /// What was wrong and cannot be made right from what is here.
    pub lost: Vec<Finding>,
    /// What to fetch so that it can: blobs of layers, configs, manifests.
    pub fetch: BTreeSet<Digest>,
}

impl Repaired {
    fn took(&mut self, findings: Vec<Finding>, mended: bool) {
        if mended { self.mended.extend(findings) } else { self.lost.extend(findings) }
    }
}

fn is_mended(repaired: &Repaired, image: &str) -> bool {
    repaired.mended.iter().any(|finding| matches!(&finding.object, Object::Image(name) if name == image))
}

impl Store {
    /// Checks the store and mends what it can. Nothing may run on the store's layers meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn repair(&self) -> Result<Repaired> {
        let findings = by_object(&self.check()?.findings);
        let mut repaired = Repaired::default();
        let work = self.begin()?;
        let (mut layers, mut blobs, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        for (object, findings) in findings {
            match object {
                Object::Store => {
                    let mended = self.mend_store(&findings)?;
                    repaired.took(findings, mended);
                }
                Object::Image(name) => rest.push((Object::Image(name), findings)),
                Object::Blob(digest) => {
                    self.set_blob_aside(&digest, &findings)?;
                    blobs.push((digest, findings));
                }
                Object::Layer(key) => layers.push((key, findings)),
                other => rest.push((other, findings)),
            }
        }
        // Records of images first: they say what a layer stood on and which blobs it had.
        for (object, findings) in &rest {
            if let Object::Image(name) = object
                && self.mend_image(name, findings)?
            {
                repaired.took(findings.clone(), true);
            }
        }
        for (key, findings) in layers {
            let mended = self.mend_layer(&work, &key, &findings)?;
            if !mended {
                self.set_layer_aside(&key)?;
                repaired.fetch.extend(self.blobs_of(&key)?);
            }
            repaired.took(findings, mended);
        }
        for (digest, findings) in blobs {
            let mended = self.mend_blob(&work, &digest)?;
            if !mended {
                repaired.fetch.insert(digest);
            }
            repaired.took(findings, mended);
        }
        work.commit()?;
        for (object, findings) in rest {
            match object {
                // What it named may be back by now.
                Object::Image(name) if !is_mended(&repaired, &name) => {
                    let mended = self.image_is_whole(&name);
                    repaired.took(findings, mended);
                }
                Object::CacheRecord(name) => {
                    self.places.cache.unlink(&name)?;
                    repaired.took(findings, true);
                }
                Object::Hint(name) => {
                    let places = &self.places;
                    for place in [&places.encodings, &places.borrows, &places.slots, &places.history] {
                        let path = findings.iter().map(|finding| &finding.path);
                        if path.into_iter().any(|path| place.path().ends_with(path.parent().unwrap_or(path)))
                        {
                            place.unlink(&name)?;
                        }
                    }
                    self.mend_encodings(&name)?;
                    repaired.took(findings, true);
                }
                Object::Tag(name) => {
                    let unreadable =
                        findings.iter().any(|finding| matches!(finding.damage, Damage::Unreadable(_)));
                    let mended = if unreadable { self.mend_tag(&name)? } else { self.tag_is_whole(&name) };
                    repaired.took(findings, mended);
                }
                Object::Referrers(name) => {
                    // What is not whole is not pushed; a build with the same attestations makes it again.
                    self.places.referrers.unlink(&name)?;
                    repaired.took(findings, false);
                }
                Object::Container(_) => {
                    let dangling = |finding: &Finding| matches!(&finding.damage, Damage::Dangling(key) if self.places.layers.exists(key));
                    let mended = findings.iter().all(dangling);
                    repaired.took(findings, mended);
                }
                _ => {}
            }
        }
        Ok(repaired)
    }

    fn mend_store(&self, findings: &[Finding]) -> Result<bool> {
        let mut mended = true;
        for finding in findings {
            let name = finding.path.to_string_lossy();
            match &finding.damage {
                Damage::Attribute(_) => self.places.root.chmod(&name, 0o700)?,
                Damage::Missing if name == crate::store::VERSION => self.write_version()?,
                Damage::Unreadable(_) if name == crate::store::VERSION => self.write_version()?,
                Damage::Missing => drop(self.places.root.make_dir(&name, 0o700)?),
                Damage::Unexpected => {
                    let place =
                        if name.starts_with("blobs") { &self.places.blobs } else { &self.places.root };
                    let last = finding.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    place.rename(&last, &self.places.trash, &format!("{last}-{}", unique()))?;
                }
                _ => mended = false,
            }
        }
        Ok(mended)
    }

    fn set_blob_aside(&self, digest: &Digest, findings: &[Finding]) -> Result<()> {
        let name = file_name(digest);
        let only_mode = findings.iter().all(|finding| matches!(finding.damage, Damage::Attribute(_)));
        if only_mode && self.places.blobs.exists(&name) {
            self.places.blobs.chmod(&name, 0o600)?;
            if check_blob(&self.places.blobs, &name, digest)?.is_none() {
                return Ok(());
            }
        }
        if self.places.blobs.exists(&name) {
            self.places.blobs.rename(&name, &self.places.trash, &format!("{name}-{}", unique()))?;
        }
        Ok(())
    }

    fn set_layer_aside(&self, key: &LayerKey) -> Result<()> {
        let name = key.as_str();
        if self.places.layers.exists(name) {
            self.places.layers.rename(name, &self.places.trash, &format!("{name}-{}", unique()))?;
        }
        Ok(())
    }

    /// The blobs from which the layer `key` could be unpacked, by what images and hints say.
    fn blobs_of(&self, key: &LayerKey) -> Result<BTreeSet<Digest>> {
        let mut found = BTreeSet::new();
        for (record, at) in self.users_of(key)? {
            found.extend(record.blobs.get(at).map(|blob| blob.digest));
        }
        Ok(found)
    }

    /// The images that have the layer `key`, and where in the stack.
    fn users_of(&self, key: &LayerKey) -> Result<Vec<(ImageRecord, usize)>> {
        let mut found = Vec::new();
        for name in self.places.images.names()? {
            // A record that cannot be read has been dealt with, or is lost.
            let Ok(Some(record)) = self.places.images.read_json::<ImageRecord>(&name) else { continue };
            if let Some(at) = record.layers.iter().position(|layer| layer.key == *key) {
                found.push((record, at));
            }
        }
        Ok(found)
    }

    fn mend_layer(&self, work: &Transaction, key: &LayerKey, findings: &[Finding]) -> Result<bool> {
        let loaded = Layer::load(&self.places.layers, key.as_str()).ok().flatten();
        if let Some(layer) = &loaded {
            let cheap = |finding: &Finding| match &finding.damage {
                Damage::Attribute(name) => {
                    matches!(name.as_str(), "mode" | "owner" | "time") || name.contains('.')
                }
                _ => false,
            };
            if findings.iter().all(cheap) && self.restamp(layer, key)? {
                return Ok(true);
            }
            if self.rebuild(work, key, layer.index())? {
                return Ok(true);
            }
        }
        if self.unpack_again(key)? {
            return Ok(true);
        }
        self.index_again(key)
    }

    fn is_sound(&self, key: &LayerKey) -> Result<bool> {
        Ok(check_layer(self, key)?.1.is_empty())
    }

    /// Sets every entry's metadata again.
    fn restamp(&self, layer: &Layer, key: &LayerKey) -> Result<bool> {
        let owned = self.authority.owners() == Owners::True;
        let dir = self.places.layers.dir(key.as_str())?;
        dir.chmod(crate::layer::INDEX, 0o600)?;
        let entries = layer.index().entries.iter().rev();
        let stamped = entries.filter(|(path, entry)| {
            !path.is_empty() && !matches!(entry.kind, Kind::Whiteout | Kind::Hardlink { .. })
        });
        let batch: Vec<Op> =
            stamped.map(|(path, entry)| Op::Stamp(path.clone(), entry.stamp(owned))).collect();
        if self.authority.perform(layer.tree(), &batch).is_err() {
            return Ok(false);
        }
        self.places.layers.barrier()?;
        self.is_sound(key)
    }

    /// Makes the tree again from its index: content from where it is still right, or from an equal file elsewhere.
    fn rebuild(&self, work: &Transaction, key: &LayerKey, index: &Index) -> Result<bool> {
        let mut wanted: BTreeSet<Digest> = BTreeSet::new();
        for entry in index.entries.values() {
            if let Kind::File { digest, .. } = entry.kind {
                wanted.insert(digest);
            }
        }
        let mut sources: BTreeMap<Digest, Vec<(LayerKey, Vec<u8>)>> = BTreeMap::new();
        for name in self.places.layers.names()? {
            let Ok(Some(layer)) = Layer::load(&self.places.layers, &name) else { continue };
            for (path, entry) in &layer.index().entries {
                if let Kind::File { digest, .. } = entry.kind
                    && wanted.contains(&digest)
                {
                    sources.entry(digest).or_default().push((layer.key().clone(), path.clone()));
                }
            }
        }
        let dir = work.work()?;
        let tree = dir.make_dir(TREE, 0o755)?;
        let made = self.materialise(&index.entries, &tree, |_, digest, file| {
            for (key, path) in sources.get(digest).into_iter().flatten() {
                let Ok(Some(layer)) = Layer::load(&self.places.layers, key.as_str()) else { continue };
                let Ok(mut from) = layer.open_file(&*self.authority, path) else { continue };
                std::io::Seek::rewind(file)?;
                file.set_len(0)?;
                let mut digester = image_core::Digester::new(digest.algorithm());
                // What cannot be read is no source.
                let copied = crate::snapshot::copy_into(&mut from, file, &mut digester);
                if copied.is_ok() && digester.finish() == *digest {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        if !made {
            work.discard(&dir);
            return Ok(false);
        }
        dir.write(crate::layer::INDEX, &index.encode())?;
        self.put_layer(work, &dir, key)
    }

    /// Puts the layer in `dir` in the place of the one kept under `key`.
    fn put_layer(&self, work: &Transaction, dir: &crate::disk::Dir, key: &LayerKey) -> Result<bool> {
        dir.barrier()?;
        let name = dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let staging = work.staging();
        if self.places.layers.exists(key.as_str()) {
            staging.exchange(&name, &self.places.layers, key.as_str())?;
            staging.remove_tree(&name)?;
        } else {
            staging.rename(&name, &self.places.layers, key.as_str())?;
        }
        self.places.layers.sync()?;
        self.is_sound(key)
    }

    /// Unpacks the layer again from a blob that is still right.
    fn unpack_again(&self, key: &LayerKey) -> Result<bool> {
        let Some(diff_id) = key.diff_id() else { return Ok(false) };
        let users = self.users_of(key)?;
        let mut blobs: Vec<Descriptor> =
            self.encodings(&diff_id).unwrap_or_default().into_iter().map(|known| known.blob).collect();
        blobs.extend(users.iter().filter_map(|(record, at)| record.blobs.get(*at).cloned()));
        let mut stacks: Vec<Vec<ImageLayer>> = vec![Vec::new()];
        stacks.extend(users.iter().map(|(record, at)| record.layers.iter().take(*at).cloned().collect()));
        for blob in blobs {
            let name = file_name(&blob.digest);
            if !self.places.blobs.exists(&name)
                || check_blob(&self.places.blobs, &name, &blob.digest)?.is_some()
            {
                continue;
            }
            for stack in &stacks {
                let below: Option<Vec<Layer>> =
                    stack.iter().map(|layer| self.layer(&layer.key).ok()).collect();
                let Some(below) = below else { continue };
                let fresh = self.begin()?;
                let Ok(unpacked) = fresh.unpack(&blob, &diff_id, &View::of(&below)) else { continue };
                if unpacked.layer.key() != key {
                    continue;
                }
                let Some(dir) = fresh.staged_dir(key)? else { continue };
                return self.put_layer(&fresh, &dir, key);
            }
        }
        Ok(false)
    }

    /// Makes the index again from the tree. Only of a layer that we packed: then the diff ID proves it.
    fn index_again(&self, key: &LayerKey) -> Result<bool> {
        let Ok(dir) = self.places.layers.dir(key.as_str()) else { return Ok(false) };
        let Some(diff_id) = key.diff_id().filter(|_| dir.exists(TREE)) else { return Ok(false) };
        let tree = dir.dir(TREE)?;
        let read = crate::snapshot::read_tree(&tree, &View::default(), &*self.authority);
        let Ok((mut entries, allocated)) = read else { return Ok(false) };
        let mut digester = image_core::Digester::new(diff_id.digest().algorithm());
        let packed = crate::pack::pack(&entries, tree.as_fd(), &*self.authority, &mut digester, true);
        let Ok(digests) = packed else { return Ok(false) };
        if DiffId::new(digester.finish()) != diff_id {
            return Ok(false);
        }
        for (path, found) in digests {
            if let Some(Entry { kind: Kind::File { digest, .. }, .. }) = entries.get_mut(&path) {
                *digest = found;
            }
        }
        let index = Index { diff_id, packed: true, allocated, entries };
        dir.replace(crate::layer::INDEX, &index.encode())?;
        self.is_sound(key)
    }

    fn mend_blob(&self, work: &Transaction, digest: &Digest) -> Result<bool> {
        if self.has_blob(digest) {
            return Ok(true);
        }
        // An index that we made is made again in the same way, and so is a manifest.
        if let Some(record) = self.named_index(digest)? {
            let entries = record.images.into_iter().map(|entry| entry.manifest).collect();
            let index = Document::from_value(image_core::Index::oci(entries));
            if let Some(index) = index.ok().filter(|index| index.digest() == digest) {
                work.put_blob(MediaType::OciIndex, index.bytes())?;
                return Ok(true);
            }
        }
        for name in self.places.images.names()? {
            let Ok(Some(record)) = self.places.images.read_json::<ImageRecord>(&name) else { continue };
            if record.manifest.as_ref().is_some_and(|manifest| manifest.digest == *digest) {
                let manifest =
                    Document::from_value(Manifest::oci(record.config.clone(), record.blobs.clone()));
                if let Ok(manifest) = manifest
                    && manifest.digest() == digest
                {
                    work.put_blob(MediaType::OciManifest, manifest.bytes())?;
                    return Ok(true);
                }
            }
            let Some(at) = record.blobs.iter().position(|blob| blob.digest == *digest) else { continue };
            let Some(layer) = record.layers.get(at) else { continue };
            let Ok(layer) = self.layer(&layer.key) else { continue };
            if layer.index().packed && self.encode_again(work, &layer, digest)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The blob again, by each of our encoders, if one gives the same bytes.
    fn encode_again(&self, work: &Transaction, layer: &Layer, digest: &Digest) -> Result<bool> {
        for encoder in crate::encode::Encoder::ALL {
            let Ok((blob, kept)) = work.encode_with(layer, encoder, Some(digest)) else { continue };
            if kept && blob.digest == *digest {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes the record again from the config, whose digest is its name. `true` when the record was the trouble.
    fn mend_image(&self, name: &str, findings: &[Finding]) -> Result<bool> {
        if !findings.iter().any(|finding| matches!(finding.damage, Damage::Unreadable(_))) {
            return Ok(false);
        }
        let Some(digest) = crate::gc::digest_of(name) else { return Ok(false) };
        let Ok(bytes) = self.read_blob(&digest) else { return Ok(false) };
        let size = bytes.len() as u64;
        let Ok(config) = Document::<ImageConfig>::config(bytes) else { return Ok(false) };
        let names = self.places.layers.names()?;
        let mut layers = Vec::new();
        for diff_id in &config.value().rootfs.diff_ids {
            let plain = LayerKey::new(diff_id, None);
            let borrowed = format!("{}+", plain.as_str());
            let mut fitting =
                names.iter().filter(|name| **name == plain.as_str() || name.starts_with(&borrowed));
            let (Some(first), None) = (fitting.next(), fitting.next()) else { return Ok(false) };
            layers.push(ImageLayer { diff_id: *diff_id, key: LayerKey::from_name(first) });
        }
        let (manifest, blobs) = self.manifest_of(&digest)?.unzip();
        let config = Descriptor::new(MediaType::OciConfig, digest, size);
        let blobs = blobs.unwrap_or_default();
        let record = ImageRecord { layers, manifest, blobs, ..ImageRecord::new(config, &[]) };
        self.put_image(&record)?;
        Ok(true)
    }

    /// A manifest among the blobs that has the config `digest`.
    fn manifest_of(&self, digest: &Digest) -> Result<Option<(Descriptor, Vec<Descriptor>)>> {
        for name in self.places.blobs.names()? {
            let Some(found) = crate::gc::digest_of(&name) else { continue };
            let size = self
                .places
                .blobs
                .open(&name)?
                .and_then(|file| file.metadata().ok())
                .map_or(u64::MAX, |meta| meta.len());
            if size > MANIFEST_LIMIT {
                continue;
            }
            let Ok(bytes) = self.read_blob(&found) else { continue };
            let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { continue };
            if manifest.config.digest == *digest {
                let media_type = manifest.media_type.clone().unwrap_or(MediaType::OciManifest);
                return Ok(Some((Descriptor::new(media_type, found, size), manifest.layers)));
            }
        }
        Ok(None)
    }

    fn image_is_whole(&self, name: &str) -> bool {
        let Ok(Some(record)) = self.places.images.read_json::<ImageRecord>(name) else { return false };
        let blobs = std::iter::once(&record.config).chain(&record.manifest).chain(record.kept_blobs());
        record.layers.iter().all(|layer| self.places.layers.exists(layer.key.as_str()))
            && blobs.into_iter().all(|blob| self.has_blob(&blob.digest))
    }

    fn tag_is_whole(&self, name: &str) -> bool {
        let Ok(Some(tag)) = self.places.refs.read_json::<crate::image::Tag>(name) else { return false };
        let indexed = tag.index.as_ref().is_none_or(|record| record.missing(self).is_none());
        indexed && self.places.images.exists(&file_name(tag.image.digest()))
    }

    /// What images say of how the layer in the hint `name` was encoded.
    fn mend_encodings(&self, name: &str) -> Result<()> {
        let Some(diff_id) = crate::gc::digest_of(name).map(DiffId::new) else { return Ok(()) };
        for image in self.places.images.names()? {
            let Ok(Some(record)) = self.places.images.read_json::<ImageRecord>(&image) else { continue };
            for (layer, blob) in record.layers.iter().zip(&record.blobs) {
                if layer.diff_id == diff_id && self.has_blob(&blob.digest) {
                    let encoding = Encoding { blob: blob.clone(), encoder: "as pulled".to_owned() };
                    self.add_encoding(&diff_id, &encoding)?;
                }
            }
        }
        Ok(())
    }
}
