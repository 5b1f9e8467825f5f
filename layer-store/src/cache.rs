//! The build cache: which step, over which content, made which layer.
//!
//! A step's *preimage* is the ordered list of everything that its result depends on, each part by name: what the step
//! is (definition), then what it reads (content). Its key is the digest of the preimage, every field preceded by its
//! length, so no two preimages run together. The preimage itself is kept with the result, and under the step's
//! *slot* (which step of which build it is), so that a miss can be explained by the first part that differs.

use image_core::{Algorithm, Digest, Digester, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::disk::{Dir, parse_record, record_bytes};
use crate::error::Result;
use crate::layer::LayerKey;
use crate::parallel;
use crate::store::Store;
use crate::transaction::Transaction;

/// Separates these keys from every other use of the hash.
const DOMAIN: &[u8] = b"cooperage build step 1";

/// One part of a preimage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Component {
    /// Which part: `argv`, `env.PATH`, `file.src/main.rs`.
    pub name: String,
    /// Its value, or the digest of it.
    pub value: String,
}

impl Component {
    /// A part.
    #[must_use]
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// Everything that a step's result depends on, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Preimage(pub Vec<Component>);

impl Preimage {
    /// The key: the digest of all parts, framed by their lengths.
    #[must_use]
    pub fn key(&self) -> Digest {
        let mut digester = Digester::new(Algorithm::Sha256);
        let mut field = |bytes: &[u8]| {
            digester.update(&(bytes.len() as u64).to_be_bytes());
            digester.update(bytes);
        };
        field(DOMAIN);
        for component in &self.0 {
            field(component.name.as_bytes());
            field(component.value.as_bytes());
        }
        digester.finish()
    }

    /// The parts in which `self` differs from `before`, in order: name, old value, new value.
    #[must_use]
    pub fn differences<'a>(&'a self, before: &'a Self) -> Vec<Difference<'a>> {
        use std::collections::BTreeMap;
        let old: BTreeMap<&str, &str> =
            before.0.iter().map(|part| (part.name.as_str(), part.value.as_str())).collect();
        let new: BTreeMap<&str, &str> =
            self.0.iter().map(|part| (part.name.as_str(), part.value.as_str())).collect();
        let changed = self.0.iter().filter_map(|part| {
            let before = old.get(part.name.as_str()).copied();
            (before != Some(part.value.as_str())).then_some(Difference {
                name: &part.name,
                before,
                after: Some(&part.value),
            })
        });
        let gone = before.0.iter().filter(|part| !new.contains_key(part.name.as_str()));
        changed
            .chain(gone.map(|part| Difference { name: &part.name, before: Some(&part.value), after: None }))
            .collect()
    }
}

/// One part that differs between two preimages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference<'a> {
    /// Which part.
    pub name: &'a str,
    /// Its value then, if it was there.
    pub before: Option<&'a str>,
    /// Its value now, if it is there.
    pub after: Option<&'a str>,
}

/// What a step made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CacheRecord {
    /// What it depended on.
    pub preimage: Preimage,
    /// The layer.
    pub layer: LayerKey,
    /// The step as it is shown.
    pub step: String,
    /// When it was made, on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Timestamp>,
    /// When it was last used, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Timestamp>,
    /// How often it was used again.
    #[serde(default)]
    pub hits: u64,
}

impl CacheRecord {
    /// When it was last used, or else made.
    #[must_use]
    pub fn last_use(&self) -> Option<Timestamp> {
        self.used.or(self.made)
    }

    /// A record of what a step made.
    #[must_use]
    pub const fn new(preimage: Preimage, layer: LayerKey, step: String, made: Option<Timestamp>) -> Self {
        Self { preimage, layer, step, made, used: None, hits: 0 }
    }
}

/// What a [`CacheRecord`] says but for what the step depended on, which who asks for it has.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct CacheHit {
    /// The layer.
    pub layer: LayerKey,
    /// The step as it is shown.
    pub step: String,
    /// When it was made, on this host.
    #[serde(default)]
    pub made: Option<Timestamp>,
}

/// What a slot has. The key comes first: whether it is the same is seen without reading the rest.
#[derive(Deserialize)]
struct Slot {
    preimage: Preimage,
}

impl Store {
    /// All cache records with their keys.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged).
    pub fn cache_records(&self) -> Result<Vec<(String, CacheRecord)>> {
        self.each_cache_record()
    }

    /// All cache records with their keys, without what the steps depended on, which is most of them.
    pub(crate) fn cache_hits(&self) -> Result<Vec<(String, CacheHit)>> {
        self.each_cache_record()
    }

    fn each_cache_record<T: DeserializeOwned + Send>(&self) -> Result<Vec<(String, T)>> {
        let read = |name: &String| Ok((name.clone(), self.places.cache.read_json(name)?));
        let found = parallel::each(&self.places.cache.names()?, read)?;
        Ok(found.into_iter().filter_map(|(name, record)| Some((name, record?))).collect())
    }

    /// Removes all cache records. Gives how many there were; their layers go with the next gc.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn clear_cache(&self) -> Result<Vec<String>> {
        let names = self.places.cache.names()?;
        for name in &names {
            self.places.cache.unlink(name)?;
        }
        for name in self.places.slots.names()? {
            self.places.slots.unlink(&name)?;
        }
        self.places.cache.sync()?;
        Ok(names)
    }
}

impl Transaction {
    /// What the step whose preimage has this key made before.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged).
    pub fn cached(&self, key: &Digest) -> Result<Option<CacheHit>> {
        let name = key.hex();
        match self.staged_cache_record(&name)? {
            Some(bytes) => parse_record(&bytes, &self.store().places.cache.at(&name)).map(Some),
            None => self.store().places.cache.read_json(&name),
        }
    }

    /// What the step in `slot` depended on when it last ran.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged).
    pub fn last_in_slot(&self, slot: &str) -> Result<Option<Preimage>> {
        read_slot(&self.store().places.slots, &slot_file(slot))
    }

    /// Records what a step made, and that it is the last in its slot.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn record_step(&self, slot: &str, record: &CacheRecord) -> Result<()> {
        let key = record.preimage.key();
        let (name, places) = (key.hex(), &self.store().places);
        self.stage_cache_record(&name, &record_bytes(record, &places.cache.at(&name))?)?;
        self.touch_slot(slot, &key, &record.preimage)
    }

    /// Records that the step with this preimage, whose key is `key`, is the last in its slot.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn touch_slot(&self, slot: &str, key: &Digest, preimage: &Preimage) -> Result<()> {
        #[derive(Serialize)]
        struct Filled<'a> {
            key: String,
            preimage: &'a Preimage,
        }
        let (name, key) = (slot_file(slot), key.hex());
        let slots = &self.store().places.slots;
        // A build that changes nothing writes nothing.
        let begin = format!("{{\"key\":\"{key}\",");
        if slots.begins_with(&name, begin.as_bytes())? {
            return Ok(());
        }
        self.stage_slot(&name, &record_bytes(&Filled { key, preimage }, &slots.at(&name))?)
    }
}

/// What the step of this slot depended on. Stores of before the key came first have the preimage alone.
pub(crate) fn read_slot(slots: &Dir, name: &str) -> Result<Option<Preimage>> {
    let Some(bytes) = slots.read(name)? else { return Ok(None) };
    if bytes.first() == Some(&b'{') {
        return parse_record::<Slot>(&bytes, &slots.at(name)).map(|slot| Some(slot.preimage));
    }
    parse_record(&bytes, &slots.at(name)).map(Some)
}

fn slot_file(slot: &str) -> String {
    Digest::sha256(slot.as_bytes()).hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_preimages_run_together() {
        let key = |parts: &[(&str, &str)]| {
            Preimage(parts.iter().map(|(name, value)| Component::new(*name, *value)).collect()).key()
        };
        let keys = [
            key(&[("a", "bc")]),
            key(&[("ab", "c")]),
            key(&[("a", "b"), ("c", "")]),
            key(&[]),
            key(&[("a", "b"), ("", "c")]),
        ];
        for (at, one) in keys.iter().enumerate() {
            assert!(keys.iter().skip(at + 1).all(|other| other != one));
        }
    }

    #[test]
    fn differences_name_the_part() {
        let before = Preimage(vec![Component::new("argv", "a"), Component::new("env.X", "1")]);
        let after = Preimage(vec![Component::new("argv", "a"), Component::new("env.Y", "1")]);
        let found = after.differences(&before);
        assert_eq!(found.iter().map(|part| part.name).collect::<Vec<_>>(), ["env.Y", "env.X"]);
    }
}
