//! The store: opening it and finding things in it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::additional::Shelf;
use crate::authority::{Direct, FileAuthority, Owners};
use crate::budget::Budget;
use crate::deduplicate::{DedupOptions, FileSharing};
use crate::disk::{Dir, Disk, json};
use crate::error::{Error, Result};
use crate::ground;
use crate::index::Summary;
use crate::layer::{Layer, LayerKey};
use crate::snapshot::Snapshotter;
use crate::transaction::Transaction;

pub(crate) const VERSION: &str = "VERSION";
pub(crate) const GC_LOCK: &str = "gc.lock";

/// The features that this version writes and knows. A store with another *incompatible* one is not opened.
const KNOWN: [&str; 2] = [INDEXES, REFERRERS];
/// Names that point to an index. A version that knows none reads them as the name of one image, and must not collect.
pub(crate) const INDEXES: &str = "indexes";
/// Artifacts that refer to manifests. A version that knows none would collect them.
pub(crate) const REFERRERS: &str = "referrers";

#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Version {
    format: u32,
    compatible: Vec<String>,
    read_only_compatible: Vec<String>,
    incompatible: Vec<String>,
    /// Whose the files of its trees are: `true` or `single`. Stores of before this was kept were opened by root, who
    /// has true owners, or by somebody with a single id.
    #[serde(skip_serializing_if = "Option::is_none")]
    owners: Option<String>,
}

impl Default for Version {
    fn default() -> Self {
        Self {
            format: 1,
            compatible: Vec::new(),
            read_only_compatible: Vec::new(),
            incompatible: Vec::new(),
            owners: None,
        }
    }
}

impl Version {
    fn with(owners: Owners) -> Self {
        let owners = match owners {
            Owners::True => "true",
            Owners::Single => "single",
        };
        Self { owners: Some(owners.to_owned()), ..Self::default() }
    }

    pub(crate) fn owners(&self) -> Owners {
        match self.owners.as_deref() {
            Some("true") => Owners::True,
            Some(_) => Owners::Single,
            None => Direct::detect().owners(),
        }
    }

    /// A store with unknown features is not opened, or only to be read.
    pub(crate) fn check(&self, path: &Path, to_write: bool) -> Result<()> {
        let refuse = |feature: String| Err(Error::Incompatible { path: path.to_owned(), feature });
        if self.format != 1 {
            return refuse(format!("format {}", self.format));
        }
        let read_only = self.read_only_compatible.iter().filter(|_| to_write);
        let mut features = self.incompatible.iter().chain(read_only);
        match features.find(|feature| !KNOWN.contains(&feature.as_str())) {
            Some(feature) => refuse(feature.clone()),
            None => Ok(()),
        }
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
    /// Who makes snapshots; `None`: what [`Store::probe`] chooses at the first one.
    pub snapshotter: Option<Arc<dyn Snapshotter>>,
    /// Stores below this one, first come first: their layers and images are used in place, read-only.
    pub additional: Vec<PathBuf>,
    /// By what the layers of each commit are made to share with what is there, see [`Store::deduplicate`]; of the options,
    /// the layers are the commit's. A commit waits for it, and does not fail by it. `None`: only when asked.
    pub dedup: Option<DedupOptions>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            authority: Arc::new(Direct::detect()),
            budget: Budget::default(),
            disk: Arc::new(Disk::default()),
            snapshotter: None,
            additional: Vec::new(),
            dedup: None,
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
    pub(crate) referrers: Dir,
    pub(crate) cache: Dir,
    pub(crate) slots: Dir,
    pub(crate) containers: Dir,
    pub(crate) volumes: Dir,
    pub(crate) mounts: Dir,
    pub(crate) leases: Dir,
    pub(crate) ingest: Dir,
    pub(crate) partial: Dir,
    pub(crate) trash: Dir,
}

/// A store. Cheap to clone; many threads and many processes may use one at the same time.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) places: Places,
    pub(crate) authority: Arc<dyn FileAuthority>,
    pub(crate) budget: Budget,
    /// Who makes snapshots, once that is known.
    pub(crate) driver: Arc<OnceLock<Arc<dyn Snapshotter>>>,
    /// Stores below this one.
    pub(crate) additional: Arc<[Shelf]>,
    /// What is shared after each commit.
    pub(crate) dedup: Option<DedupOptions>,
    /// How equal files can share, once that is known.
    pub(crate) sharing: Arc<OnceLock<FileSharing>>,
}

impl Store {
    /// Opens the store at `path`, making it when it is not there.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Incompatible`] when a newer version made it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, StoreOptions::default())
    }

    /// Whose the files of the store at `path` are; `None` when there is no store. Its authority has to be one with
    /// the same owners: a store is not changed from one to the other.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Damaged`].
    pub fn owners(path: &Path) -> Result<Option<Owners>> {
        if !path.join(VERSION).exists() {
            return Ok(None);
        }
        let root = Dir::existing(path, Arc::default(), Arc::new(Direct::detect()))?;
        Ok(root.read_plain_json::<Version>(VERSION)?.map(|version| version.owners()))
    }

    /// As [`Self::open`], with options.
    ///
    /// # Errors
    /// As [`Self::open`]; [`Error::OtherOwners`] when the authority has other owners than the store.
    pub fn open_with(path: &Path, options: StoreOptions) -> Result<Self> {
        let root = Dir::root(path, options.disk, options.authority.clone())?;
        let found = root.read_plain_json::<Version>(VERSION)?;
        let is_new = found.is_none();
        let version = match found {
            Some(version) => version,
            None => {
                // The root holds setuid programs and secrets of images: nobody else looks in.
                std::fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
                    .map_err(|source| Error::Io { action: "chmod", path: root.path().to_owned(), source })?;
                ground::without_lists(root.as_fd())
                    .map_err(Error::io("take the access control list off", root.path()))?;
                let version = Version::with(options.authority.owners());
                root.replace(VERSION, &json(&version, &root.at(VERSION))?)?;
                version
            }
        };
        version.check(path, true)?;
        if version.owners() != options.authority.owners() {
            let kept = match version.owners() {
                Owners::True => {
                    "files of many owners, for which root is needed, or ranges of ids in a user namespace"
                }
                Owners::Single => "files of a single owner",
            };
            return Err(Error::OtherOwners { path: path.to_owned(), kept });
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
            referrers: place("referrers")?,
            slots: cache.make_dir("slots", 0o700)?,
            cache: cache.make_dir("records", 0o700)?,
            containers: place("containers")?,
            volumes: place("volumes")?,
            mounts: place("mounts")?,
            leases: place("leases")?,
            ingest: place("ingest")?,
            partial: place("partial")?,
            trash: place("trash")?,
            root,
        };
        if is_new {
            ground::spread(places.ingest.as_fd());
        }
        let driver = options.snapshotter.map_or_else(OnceLock::new, OnceLock::from);
        let shelves = options.additional.iter().map(|path| Shelf::open(path, &options.authority));
        let additional = shelves.collect::<Result<Vec<_>>>()?.into();
        let StoreOptions { authority, budget, dedup, .. } = options;
        let (driver, sharing) = (Arc::new(driver), Arc::default());
        Ok(Self { places, authority, budget, driver, additional, dedup, sharing })
    }

    pub(crate) fn write_version(&self) -> Result<()> {
        let root = &self.places.root;
        let mut version = Version::with(self.authority.owners());
        if self.tags()?.iter().any(|tag| tag.index.is_some()) {
            version.read_only_compatible.push(INDEXES.to_owned());
        }
        if !self.places.referrers.names()?.is_empty() {
            version.read_only_compatible.push(REFERRERS.to_owned());
        }
        root.replace(VERSION, &json(&version, &root.at(VERSION))?)
    }

    /// Notes that the store has something which versions without `feature` may read past, but not write beside.
    pub(crate) fn add_feature(&self, feature: &str) -> Result<()> {
        let root = &self.places.root;
        let version = root.read_plain_json::<Version>(VERSION)?;
        let mut version = version.unwrap_or_else(|| Version::with(self.authority.owners()));
        if version.read_only_compatible.iter().any(|known| known == feature) {
            return Ok(());
        }
        version.read_only_compatible.push(feature.to_owned());
        root.replace(VERSION, &json(&version, &root.at(VERSION))?)
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
        self.search(
            &self.places.layers,
            |shelf| &shelf.layers,
            |layers| {
                let Some(bytes) = layers.read_head(&name, Summary::LIMIT)? else { return Ok(None) };
                let damaged =
                    |reason: &str| Error::Damaged { path: layers.at(&name), reason: reason.to_owned() };
                Summary::decode(&bytes).map(Some).map_err(damaged)
            },
        )
    }

    pub(crate) fn find_layer(&self, key: &LayerKey) -> Result<Option<Layer>> {
        self.search(&self.places.layers, |shelf| &shelf.layers, |layers| Layer::load(layers, key.as_str()))
    }
}
