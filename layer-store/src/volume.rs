//! Volumes: directories that outlive containers.
//!
//! ```text
//!  volumes/<name>/record.json   name, labels, when
//!                 lock          flocked, shared, by every process that uses it
//!                 data/         what is in it
//! ```
//!
//! A volume stays until somebody removes it; gc never does.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use image_core::Timestamp;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::disk::{Dir, unique};
use crate::error::{Error, Result};
use crate::store::Store;

const RECORD: &str = "record.json";
const LOCK: &str = "lock";
const DATA: &str = "data";
/// The longest name, in bytes.
const NAME: usize = 128;

/// What the store knows of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VolumeRecord {
    /// Its name.
    pub name: String,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// It was made for one container, without a name of its own.
    #[serde(default)]
    pub anonymous: bool,
    /// When it was made.
    pub created: Timestamp,
}

/// A volume in use. While one is held, by any process, it cannot be removed.
#[derive(Debug)]
pub struct StoredVolume {
    record: VolumeRecord,
    data: Dir,
    _lock: OwnedFd,
}

impl StoredVolume {
    /// The record.
    #[must_use]
    pub const fn record(&self) -> &VolumeRecord {
        &self.record
    }

    /// Its directory, open, to be mounted.
    ///
    /// # Errors
    /// [`Error::Io`] when there are no descriptors left.
    pub fn directory(&self) -> Result<OwnedFd> {
        crate::snapshot::duplicate(self.data.as_fd())
    }

    /// Its directory by path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.data.path().to_owned()
    }

    /// Nothing is in it yet: what an image has at the mount point is to be copied here first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.data.all_names()?.is_empty())
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=NAME).contains(&name.len())
        && name.bytes().all(plain)
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

impl Store {
    /// The volume `name`, made when it is not there, and held.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a name that is none, [`Error::Io`].
    pub fn volume(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<StoredVolume> {
        self.make_volume(name.to_owned(), labels, now, false)
    }

    /// A new volume with a name of its own, and held.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn anonymous_volume(&self, now: Timestamp) -> Result<StoredVolume> {
        let name: String = (0..4).map(|_| unique()).collect();
        self.make_volume(name, &BTreeMap::new(), now, true)
    }

    fn make_volume(
        &self,
        name: String,
        labels: &BTreeMap<String, String>,
        created: Timestamp,
        anonymous: bool,
    ) -> Result<StoredVolume> {
        if !is_name(&name) {
            return Err(Error::Unsupported { what: format!("the volume name {name:?}") });
        }
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockShared)?;
        let volumes = &self.places.volumes;
        if !volumes.exists(&name) {
            // Under another name until it is whole: what a crash leaves is a temporary.
            let temporary = format!(".{}", unique());
            let dir = volumes.make_dir(&temporary, 0o700)?;
            dir.make_dir(DATA, 0o755)?;
            let labels = labels.clone();
            dir.replace_json(RECORD, &VolumeRecord { name: name.clone(), labels, anonymous, created })?;
            match volumes.rename(&temporary, volumes, &name) {
                Ok(()) => volumes.sync()?,
                // Another was quicker; both made the same.
                Err(_) if volumes.exists(&name) => volumes.remove_tree(&temporary)?,
                Err(error) => return Err(error),
            }
        }
        let dir = volumes.dir(&name)?;
        let lock = dir.lock(LOCK, FlockOperation::LockShared).map_err(Error::io("lock", dir.at(LOCK)))?;
        let record = dir.read_json(RECORD)?.ok_or(Error::NotFound { kind: "volume", name })?;
        Ok(StoredVolume { record, data: dir.dir(DATA)?, _lock: lock })
    }

    /// All volumes by name.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        let mut found = Vec::new();
        for name in self.places.volumes.names()? {
            let Ok(dir) = self.places.volumes.dir(&name) else { continue };
            found.extend(dir.read_json::<VolumeRecord>(RECORD)?);
        }
        Ok(found)
    }

    /// The bytes on disk of the volume `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn volume_size(&self, name: &str) -> Result<u64> {
        self.volume_dir(name)?.dir(DATA)?.disk_usage()
    }

    fn volume_dir(&self, name: &str) -> Result<Dir> {
        let missing = || Error::NotFound { kind: "volume", name: name.to_owned() };
        if !is_name(name) {
            return Err(missing());
        }
        self.places.volumes.dir(name).map_err(|_| missing())
    }

    /// Removes the volume `name`. Gives the bytes that it took on disk.
    ///
    /// # Errors
    /// [`Error::InUse`] while a process holds it or a container names it; [`Error::NotFound`].
    pub fn remove_volume(&self, name: &str) -> Result<u64> {
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockExclusive)?;
        let dir = self.volume_dir(name)?;
        let used = |by: String| Error::InUse { kind: "volume", name: name.to_owned(), by };
        let names_it =
            |container: &crate::ContainerRecord| container.volumes.iter().any(|other| other == name);
        if let Some(user) = self.containers()?.into_iter().find(names_it) {
            return Err(used(user.id));
        }
        let _lock = match dir.lock(LOCK, FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => lock,
            Err(Errno::WOULDBLOCK) => return Err(used("a process".to_owned())),
            Err(errno) => return Err(Error::io("lock", dir.at(LOCK))(errno)),
        };
        let size = dir.disk_usage()?;
        let doomed = format!("{name}-{}", unique());
        self.places.volumes.rename(name, &self.places.trash, &doomed)?;
        self.places.volumes.sync()?;
        self.places.trash.remove_tree(&doomed)?;
        Ok(size)
    }
}
