//! Is everything there, and as it was written?
//!
//! Every record carries a sum, every blob is named by its digest, every layer has an index with the metadata and the
//! digest of each of its entries: so whatever changed since can be found, and is told as a [`Finding`].
//! [`Store::repair`](crate::Store::repair) mends it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use image_core::{Digest, Digester, ImageId};
use rustix::fs::FlockOperation;

use crate::blob::{Encoding, file_name};
use crate::cache::{CacheRecord, read_slot};
use crate::container::ContainerRecord;
use crate::disk::{Dir, json};
use crate::error::{Error, Result};
use crate::image::{ImageRecord, Tag, TagHistory, ref_file};
use crate::layer::LayerKey;
use crate::lease::{Lease, guard};
use crate::referrer::{Referrer, Referrers};
use crate::store::{Store, VERSION, Version};

mod layer;

pub(crate) use layer::check_layer;

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Object {
    /// The store itself: its version, the rights of its directories.
    Store,
    /// A blob.
    Blob(Digest),
    /// A layer.
    Layer(LayerKey),
    /// The record of an image, by the digest of its config.
    Image(String),
    /// A name, by the hash in its file name.
    Tag(String),
    /// What refers to a manifest, by the digest of that in its file name.
    Referrers(String),
    /// A container.
    Container(String),
    /// A record of the build cache.
    CacheRecord(String),
    /// A hint that can be made again: how a layer was encoded, what it borrowed, what a step depended on.
    Hint(String),
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// It is not there.
    Missing,
    /// Its bytes are others.
    Content,
    /// Something about it is other than it was: `mode`, `owner`, `time`, `type`, `size`, `target`, an attribute.
    Attribute(String),
    /// It has no business here.
    Unexpected,
    /// It cannot be read as what it is.
    Unreadable(String),
    /// It names something that is not there.
    Dangling(String),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// With what.
    pub object: Object,
    /// Where in the store; for a layer, where in its tree, lossy.
    pub path: PathBuf,
    /// What.
    pub damage: Damage,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.damage {
            Damage::Missing => write!(f, "{path}: missing"),
            Damage::Content => write!(f, "{path}: other bytes than its digest says"),
            Damage::Attribute(name) => write!(f, "{path}: another {name}"),
            Damage::Unexpected => write!(f, "{path}: does not belong here"),
            Damage::Unreadable(reason) => write!(f, "{path}: {reason}"),
            Damage::Dangling(name) => write!(f, "{path}: names {name}, which is not there"),
        }
    }
}

/// What a check found, and how much it looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checked {
    /// Everything that is wrong, in the order of the store.
    pub findings: Vec<Finding>,
    /// Records that were read.
    pub records: usize,
    /// Blobs that were hashed.
    pub blobs: usize,
    /// Layers that were compared with their index.
    pub layers: usize,
    /// Entries of those layers.
    pub entries: usize,
}

impl Checked {
    /// Nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(&mut self, object: Object, path: impl Into<PathBuf>, damage: Damage) {
        self.findings.push(Finding { object, path: path.into(), damage });
    }
}

impl Store {
    /// Compares everything in the store with what it must be: all records, the bytes of all blobs, every entry of
    /// every layer with its content and metadata. Others may use the store meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk does not let it look; damage is no error but a finding.
    pub fn check(&self) -> Result<Checked> {
        let mut checked = Checked::default();
        let places = &self.places;
        self.check_places(&mut checked)?;
        // What there is now stays until it has been looked at.
        let lease = Lease::take(places)?;
        let held = guard(&places.root, FlockOperation::LockShared)?;
        let (layers, blobs) = (places.layers.names()?, places.blobs.names()?);
        drop(held);
        let keys: BTreeSet<&str> = layers.iter().map(String::as_str).collect();
        let mut present = BTreeSet::new();
        for name in &blobs {
            let path = PathBuf::from("blobs").join(name);
            let Some(digest) = crate::gc::digest_of(name).filter(|digest| file_name(digest) == *name) else {
                checked.add(Object::Store, path, Damage::Unexpected);
                continue;
            };
            if let Some(damage) = lease
                .protect_blob(&digest, || Ok(()))
                .and_then(|()| check_blob(&places.blobs, name, &digest))?
            {
                checked.add(Object::Blob(digest), path, damage);
            }
            present.insert(digest);
            checked.blobs += 1;
        }
        for name in &layers {
            let key = LayerKey::from_name(name);
            lease.protect(&key, || Ok(()))?;
            let (entries, findings) = check_layer(self, &key)?;
            checked.layers += 1;
            checked.entries += entries;
            checked.findings.extend(findings);
        }
        let mut elsewhere = Vec::new();
        for shelf in self.additional.iter() {
            elsewhere.extend(shelf.layers.names()?);
            present.extend(shelf.blobs.names()?.iter().filter_map(|name| crate::gc::digest_of(name)));
        }
        let mut keys = keys;
        keys.extend(elsewhere.iter().map(String::as_str));
        let seen = Seen { keys, blobs: present };
        self.check_images(&seen, &mut checked)?;
        self.check_tags(&seen, &mut checked)?;
        self.check_containers(&seen, &mut checked)?;
        self.check_cache(&seen, &mut checked)?;
        self.check_referrers(&seen, &mut checked)?;
        self.check_hints(&mut checked)?;
        Ok(checked)
    }

    fn check_places(&self, checked: &mut Checked) -> Result<()> {
        let root = &self.places.root;
        let bytes = root.read(VERSION)?;
        let sound = bytes.as_ref().is_some_and(|bytes| {
            serde_json::from_slice::<Version>(bytes)
                .ok()
                .and_then(|version| json(&version, root.path()).ok())
                .is_some_and(|again| again == *bytes)
        });
        if !sound {
            let damage = if bytes.is_none() {
                Damage::Missing
            } else {
                Damage::Unreadable("it is not what this version writes".to_owned())
            };
            checked.add(Object::Store, VERSION, damage);
        }
        for (parent, name) in self.place_names() {
            let path = parent.path().strip_prefix(root.path()).unwrap_or(parent.path()).join(name);
            match parent.mode(name)? {
                None => checked.add(Object::Store, path, Damage::Missing),
                Some(mode) if mode & 0o7777 != 0o700 => {
                    checked.add(Object::Store, path, Damage::Attribute("mode".to_owned()));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The directories of the store and where they are; the root is `.` in itself.
    pub(crate) fn place_names(&self) -> Vec<(&Dir, &'static str)> {
        let root = &self.places.root;
        let names = [".", "blobs", "layers", "borrows", "encodings", "images", "refs", "containers"];
        names
            .into_iter()
            .chain([
                "volumes",
                "mounts",
                "history",
                "referrers",
                "leases",
                "ingest",
                "partial",
                "trash",
                "cache",
            ])
            .map(|name| (root, name))
            .collect()
    }

    fn check_images(&self, seen: &Seen<'_>, checked: &mut Checked) -> Result<()> {
        let place = &self.places.images;
        for name in place.names()? {
            let path = PathBuf::from("images").join(&name);
            let object = Object::Image(name.clone());
            checked.records += 1;
            let record = match place.read_json::<ImageRecord>(&name) {
                Ok(Some(record)) if file_name(&record.config.digest) == name => record,
                Ok(None) => continue,
                other => {
                    checked.add(object, path, unreadable(other.map(|_| ())));
                    continue;
                }
            };
            let blobs = std::iter::once(&record.config).chain(&record.manifest).chain(record.kept_blobs());
            for blob in blobs {
                if !seen.blobs.contains(&blob.digest) {
                    let place = PathBuf::from("blobs").join(file_name(&blob.digest));
                    checked.add(Object::Blob(blob.digest), place, Damage::Missing);
                    checked.add(object.clone(), &path, Damage::Dangling(blob.digest.to_string()));
                }
            }
            for layer in &record.layers {
                if !seen.keys.contains(layer.key.as_str()) {
                    let place = PathBuf::from("layers").join(layer.key.as_str());
                    checked.add(Object::Layer(layer.key.clone()), place, Damage::Missing);
                    checked.add(object.clone(), &path, Damage::Dangling(layer.key.to_string()));
                }
            }
        }
        Ok(())
    }

    fn check_tags(&self, seen: &Seen<'_>, checked: &mut Checked) -> Result<()> {
        for name in self.places.refs.names()? {
            let path = PathBuf::from("refs").join(&name);
            let object = Object::Tag(name.clone());
            checked.records += 1;
            match self.places.refs.read_json::<Tag>(&name) {
                Ok(Some(tag)) if ref_file(&tag.name) == name => {
                    let indexed = tag.index.iter().flat_map(|record| &record.images);
                    let images: BTreeSet<ImageId> =
                        indexed.map(|entry| entry.image).chain([tag.image]).collect();
                    for image in images {
                        if !self.has_image(&image) && self.places.refs.exists(&name) {
                            checked.add(object.clone(), &path, Damage::Dangling(image.to_string()));
                        }
                    }
                    if let Some(record) = &tag.index
                        && !seen.blobs.contains(&record.index.digest)
                        && self.places.refs.exists(&name)
                    {
                        let digest = record.index.digest;
                        let place = PathBuf::from("blobs").join(file_name(&digest));
                        checked.add(Object::Blob(digest), place, Damage::Missing);
                        checked.add(object, path, Damage::Dangling(digest.to_string()));
                    }
                }
                Ok(None) => {}
                other => checked.add(object, path, unreadable(other.map(|_| ()))),
            }
        }
        Ok(())
    }

    fn check_containers(&self, seen: &Seen<'_>, checked: &mut Checked) -> Result<()> {
        for id in self.places.containers.names()? {
            let path = PathBuf::from("containers").join(&id);
            let object = Object::Container(id.clone());
            checked.records += 1;
            let record =
                self.places.containers.dir(&id).and_then(|dir| Ok((dir.read_json("record.json")?, dir)));
            let (record, dir): (ContainerRecord, Dir) = match record {
                Ok((Some(record), dir)) => (record, dir),
                Ok((None, _)) => {
                    checked.add(object, path.join("record.json"), Damage::Missing);
                    continue;
                }
                Err(error) => {
                    checked.add(object, path, Damage::Unreadable(error.to_string()));
                    continue;
                }
            };
            if record.id != id {
                checked.add(object.clone(), &path, Damage::Attribute("id".to_owned()));
            }
            if !dir.exists("snapshot") {
                checked.add(object.clone(), path.join("snapshot"), Damage::Missing);
            }
            for layer in record.layers.iter().filter(|layer| !seen.keys.contains(layer.key.as_str())) {
                let place = PathBuf::from("layers").join(layer.key.as_str());
                checked.add(Object::Layer(layer.key.clone()), place, Damage::Missing);
                checked.add(object.clone(), &path, Damage::Dangling(layer.key.to_string()));
            }
        }
        Ok(())
    }

    fn check_cache(&self, seen: &Seen<'_>, checked: &mut Checked) -> Result<()> {
        for name in self.places.cache.names()? {
            let path = PathBuf::from("cache/records").join(&name);
            let object = Object::CacheRecord(name.clone());
            checked.records += 1;
            match self.places.cache.read_json::<CacheRecord>(&name) {
                Ok(Some(record)) if record.preimage.key().hex() == name => {
                    if !seen.keys.contains(record.layer.as_str()) && self.places.cache.exists(&name) {
                        checked.add(object, path, Damage::Dangling(record.layer.to_string()));
                    }
                }
                Ok(None) => {}
                other => checked.add(object, path, unreadable(other.map(|_| ()))),
            }
        }
        Ok(())
    }

    fn check_referrers(&self, seen: &Seen<'_>, checked: &mut Checked) -> Result<()> {
        let place = &self.places.referrers;
        for name in place.names()? {
            let path = PathBuf::from("referrers").join(&name);
            let object = Object::Referrers(name.clone());
            checked.records += 1;
            match place.read_json::<Referrers>(&name) {
                Ok(Some(record)) if file_name(&record.subject) == name => {
                    let mut digests = record.referrers.iter().flat_map(Referrer::digests);
                    let lost = digests.find(|digest| !seen.blobs.contains(digest));
                    if let Some(digest) = lost.filter(|_| place.exists(&name)) {
                        checked.add(object, path, Damage::Dangling(digest.to_string()));
                    }
                }
                Ok(None) => {}
                other => checked.add(object, path, unreadable(other.map(|_| ()))),
            }
        }
        Ok(())
    }

    fn check_hints(&self, checked: &mut Checked) -> Result<()> {
        let places = &self.places;
        let mut check = |place: &Dir, kind: &str, name: &str, read: Result<bool>| {
            checked.records += 1;
            if read.as_ref().is_ok_and(|sound| *sound) || !place.exists(name) {
                return;
            }
            let damage = unreadable(read.map(|_| ()));
            checked.add(Object::Hint(name.to_owned()), PathBuf::from(kind).join(name), damage);
        };
        for name in places.encodings.names()? {
            let read = places.encodings.read_json::<Vec<Encoding>>(&name);
            check(&places.encodings, "encodings", &name, read.map(|found| found.is_some()));
        }
        for name in places.borrows.names()? {
            let read = places.borrows.read_json::<Vec<String>>(&name);
            check(&places.borrows, "borrows", &name, read.map(|found| found.is_some()));
        }
        for name in places.history.names()? {
            let read = places.history.read_json::<TagHistory>(&name);
            let sound = read.map(|found| found.is_some_and(|found| ref_file(&found.name) == name));
            check(&places.history, "history", &name, sound);
        }
        for name in places.slots.names()? {
            let read = read_slot(&places.slots, &name);
            check(&places.slots, "cache/slots", &name, read.map(|found| found.is_some()));
        }
        Ok(())
    }
}

struct Seen<'a> {
    keys: BTreeSet<&'a str>,
    blobs: BTreeSet<Digest>,
}

fn unreadable(result: Result<()>) -> Damage {
    match result {
        Ok(()) => Damage::Unreadable("it is another's record".to_owned()),
        Err(error) => Damage::Unreadable(error.to_string()),
    }
}

/// `None`: the blob is sound, or was removed meanwhile.
pub(crate) fn check_blob(place: &Dir, name: &str, digest: &Digest) -> Result<Option<Damage>> {
    match place.mode(name)? {
        None => return Ok(None),
        Some(mode) if mode != 0o100_600 => return Ok(Some(Damage::Attribute("mode".to_owned()))),
        Some(_) => {}
    }
    let Some(mut file) = place.open(name)? else { return Ok(None) };
    let mut digester = Digester::new(digest.algorithm());
    let read = crate::snapshot::digest_into(&mut file, &mut digester);
    match read {
        Ok(_) if digester.finish() == *digest => Ok(None),
        Ok(_) => Ok(Some(Damage::Content)),
        Err(source) => Err(Error::Io { action: "read", path: place.at(name), source }),
    }
}

/// Findings by what they are about.
pub(crate) fn by_object(findings: &[Finding]) -> BTreeMap<Object, Vec<Finding>> {
    let mut found: BTreeMap<Object, Vec<Finding>> = BTreeMap::new();
    for finding in findings {
        found.entry(finding.object.clone()).or_default().push(finding.clone());
    }
    found
}
