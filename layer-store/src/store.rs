//! The store: opening it and finding things in it.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::authority::{Direct, FileAuthority};
use crate::budget::Budget;
use crate::disk::{Dir, Disk, json};
use crate::error::{Error, Result};
use crate::index::Summary;
use crate::layer::{Layer, LayerKey};
use crate::transaction::Transaction;

pub(crate) const VERSION: &str = "VERSION";
pub(crate) const GC_LOCK: &str = "gc.lock";

/// The features that this version writes and knows. A store with another *incompatible* one is not opened.
const KNOWN: [&str; 0] = [];

#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Version {
    format: u32,
    compatible: Vec<String>,
    read_only_compatible: Vec<String>,
    incompatible: Vec<String>,
}

impl Default for Version {
    fn default() -> Self {
        Self { format: 1, compatible: Vec::new(), read_only_compatible: Vec::new(), incompatible: Vec::new() }
    }
}

/// What can be chosen when a store is opened.
#[derive(Debug)]
#[non_exhaustive]
pub struct StoreOptions {
    /// Who works on trees; by default the calling process, see [`Direct::detect`].
    pub authority: Arc<dyn FileAuthority>,
    /// Limits on foreign layers.
    pub budget: Budget,
    /// Where changes are counted and, in tests, made to fail.
    pub disk: Arc<Disk>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            authority: Arc::new(Direct::detect()),
            budget: Budget::default(),
            disk: Arc::new(Disk::default()),
        }
    }
}

/// The directories of a store, held open.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) root: Dir,
    pub(crate) blobs: Dir,
    pub(crate) layers: Dir,
    pub(crate) borrows: Dir,
    pub(crate) encodings: Dir,
    pub(crate) images: Dir,
    pub(crate) refs: Dir,
    pub(crate) history: Dir,
    pub(crate) cache: Dir,
    pub(crate) slots: Dir,
    pub(crate) containers: Dir,
    pub(crate) volumes: Dir,
    pub(crate) mounts: Dir,
    pub(crate) leases: Dir,
    pub(crate) ingest: Dir,
    pub(crate) trash: Dir,
}

/// A store. Cheap to clone; many threads and many processes may use one at the same time.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) places: Places,
    pub(crate) authority: Arc<dyn FileAuthority>,
    pub(crate) budget: Budget,
}

impl Store {
    /// Opens the store at `path`, making it when it is not there.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Incompatible`] when a newer version made it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, StoreOptions::default())
    }

    /// As [`Self::open`], with options.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(path: &Path, options: StoreOptions) -> Result<Self> {
        let root = Dir::root(path, options.disk)?;
        let version = match root.read_plain_json::<Version>(VERSION)? {
            Some(version) => version,
            None => {
                // The root holds setuid programs and secrets of images: nobody else looks in.
                std::fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
                    .map_err(|source| Error::Io { action: "chmod", path: root.path().to_owned(), source })?;
                write_version(&root)?;
                Version::default()
            }
        };
        if version.format != 1 {
            let feature = format!("format {}", version.format);
            return Err(Error::Incompatible { path: path.to_owned(), feature });
        }
        if let Some(feature) = version.incompatible.iter().find(|feature| !KNOWN.contains(&feature.as_str()))
        {
            return Err(Error::Incompatible { path: path.to_owned(), feature: feature.clone() });
        }
        let place = |name| root.make_dir(name, 0o700);
        let cache = place("cache")?;
        let places = Places {
            blobs: place("blobs")?,
            layers: place("layers")?,
            borrows: place("borrows")?,
            encodings: place("encodings")?,
            images: place("images")?,
            refs: place("refs")?,
            history: place("history")?,
            slots: cache.make_dir("slots", 0o700)?,
            cache: cache.make_dir("records", 0o700)?,
            containers: place("containers")?,
            volumes: place("volumes")?,
            mounts: place("mounts")?,
            leases: place("leases")?,
            ingest: place("ingest")?,
            trash: place("trash")?,
            root,
        };
        Ok(Self { places, authority: options.authority, budget: options.budget })
    }

    pub(crate) fn write_version(&self) -> Result<()> {
        write_version(&self.places.root)
    }

    /// Where the store is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.places.root.path()
    }

    /// Who works on its trees.
    #[must_use]
    pub fn authority(&self) -> &dyn FileAuthority {
        &*self.authority
    }

    /// Begins work that adds to the store.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin(&self) -> Result<Transaction> {
        Transaction::begin(self)
    }

    /// The layer kept under `key`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`].
    pub fn layer(&self, key: &LayerKey) -> Result<Layer> {
        self.find_layer(key)?.ok_or_else(|| Error::NotFound { kind: "layer", name: key.to_string() })
    }

    /// The head of the index of the layer kept under `key`; one small read, however large the layer is.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn layer_summary(&self, key: &LayerKey) -> Result<Option<Summary>> {
        let name = format!("{}/{}", key.as_str(), crate::layer::INDEX);
        let Some(bytes) = self.places.layers.read_head(&name, Summary::LIMIT)? else { return Ok(None) };
        let damaged =
            |reason: &str| Error::Damaged { path: self.places.layers.at(&name), reason: reason.to_owned() };
        Summary::decode(&bytes).map(Some).map_err(damaged)
    }

    pub(crate) fn find_layer(&self, key: &LayerKey) -> Result<Option<Layer>> {
        Layer::load(&self.places.layers, key.as_str())
    }
}

fn write_version(root: &Dir) -> Result<()> {
    root.replace(VERSION, &json(&Version::default(), &root.at(VERSION))?)
}
