//! Containers: a read/write snapshot over an image, with a record and a log.
//!
//! ```text
//!  containers/<id>/record.json   what it is and how it ended
//!                  log           what it wrote: JSON lines {"log":"…\n","stream":"stdout","time":"…"}
//!                  alive         flocked by the process that runs it
//!                  snapshot/     diff and work, see [`crate::snapshot`]
//! ```

use std::os::fd::OwnedFd;

use image_core::{ImageId, Timestamp};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::disk::{Dir, unique};
use crate::error::{Error, Result};
use crate::image::ImageRecord;
use crate::snapshot::Upper;
use crate::store::Store;

const RECORD: &str = "record.json";
const LOG: &str = "log";
const ALIVE: &str = "alive";
const SNAPSHOT: &str = "snapshot";

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ContainerStatus {
    /// Made, not started.
    Created,
    /// Started by a process that is still there.
    Running,
    /// Ended, or its process is gone.
    Exited,
}

/// What the store knows of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContainerRecord {
    /// 64 hex characters.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image under it.
    pub image: ImageId,
    /// The image as the user named it.
    pub image_name: String,
    /// The layers of the image, so that they stay.
    pub layers: Vec<crate::image::ImageLayer>,
    /// The whole command line.
    pub command: Vec<String>,
    /// Where it is in its life.
    pub status: ContainerStatus,
    /// When it was made.
    pub created: Timestamp,
    /// When it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
    /// How it ended: its exit code, or 128 plus the signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The names of the volumes that it uses: they cannot be removed while it is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub labels: std::collections::BTreeMap<String, String>,
}

/// What a new container is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewContainer {
    /// Its name; a made-up one when empty.
    pub name: String,
    /// The image as the user named it.
    pub image_name: String,
    /// The whole command line.
    pub command: Vec<String>,
    /// Now.
    pub created: Timestamp,
}

impl NewContainer {
    /// A container that runs `command`.
    #[must_use]
    pub fn new(image_name: impl Into<String>, command: Vec<String>, created: Timestamp) -> Self {
        Self { name: String::new(), image_name: image_name.into(), command, created }
    }
}

/// A container of the store, open.
#[derive(Debug)]
pub struct StoredContainer {
    dir: Dir,
    record: ContainerRecord,
    upper: Upper,
    alive: Option<OwnedFd>,
}

impl StoredContainer {
    /// The record.
    #[must_use]
    pub const fn record(&self) -> &ContainerRecord {
        &self.record
    }

    /// The directories to mount.
    #[must_use]
    pub const fn upper(&self) -> &Upper {
        &self.upper
    }

    /// The log, open for appending.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn log(&self) -> Result<std::fs::File> {
        let path = self.dir.at(LOG);
        std::fs::OpenOptions::new().append(true).open(&path).map_err(|source| Error::Io {
            action: "open",
            path,
            source,
        })
    }

    /// Changes the record.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn update(&mut self, change: impl FnOnce(&mut ContainerRecord)) -> Result<()> {
        change(&mut self.record);
        self.dir.replace_json(RECORD, &self.record)
    }

    /// It has ended: others may remove it.
    pub fn release(&mut self) {
        self.alive = None;
    }
}

impl Store {
    /// Makes a container over `image`.
    ///
    /// # Errors
    /// [`Error::InUse`] when the name is taken, [`Error::NotFound`] when a layer is gone.
    pub fn create_container(&self, image: &ImageRecord, new: NewContainer) -> Result<StoredContainer> {
        // Under the shared lock: the record protects the layers as soon as it is there.
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockShared)?;
        let layers = self.image_layers(image)?;
        let id: String = (0..4).map(|_| unique()).collect();
        let name =
            if new.name.is_empty() { format!("c_{}", id.get(..10).unwrap_or_default()) } else { new.name };
        if let Some(other) = self.containers()?.into_iter().find(|other| other.name == name) {
            return Err(Error::InUse { kind: "container name", name, by: other.id });
        }
        let record = ContainerRecord {
            id: id.clone(),
            name,
            image: image.id(),
            image_name: new.image_name,
            layers: image.layers.clone(),
            command: new.command,
            status: ContainerStatus::Created,
            created: new.created,
            started: None,
            finished: None,
            exit_code: None,
            volumes: Vec::new(),
            labels: std::collections::BTreeMap::new(),
        };
        // Under another name until it is whole: what a crash leaves is a temporary.
        let temporary = format!(".{id}");
        let dir = self.places.containers.make_dir(&temporary, 0o700)?;
        let made = (|| {
            let alive =
                dir.lock(ALIVE, FlockOperation::LockExclusive).map_err(Error::io("lock", dir.at(ALIVE)))?;
            dir.write(LOG, b"")?;
            Upper::prepare(self, dir.make_dir(SNAPSHOT, 0o700)?, &layers)?;
            dir.replace_json(RECORD, &record)?;
            self.places.containers.rename(&temporary, &self.places.containers, &id)?;
            self.places.containers.sync()?;
            Ok(alive)
        })();
        let alive = match made {
            Ok(alive) => alive,
            Err(error) => {
                // Best effort: a temporary is swept by gc.
                drop(self.places.containers.remove_tree(&temporary));
                return Err(error);
            }
        };
        let dir = self.places.containers.dir(&id)?;
        let upper = Upper::open(self, dir.dir(SNAPSHOT)?, &layers)?;
        Ok(StoredContainer { dir, record, upper, alive: Some(alive) })
    }

    /// All containers, newest first. One whose process is gone counts as exited.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn containers(&self) -> Result<Vec<ContainerRecord>> {
        let mut records = Vec::new();
        for id in self.places.containers.names()? {
            let Ok(dir) = self.places.containers.dir(&id) else { continue };
            let Some(mut record) = dir.read_json::<ContainerRecord>(RECORD)? else { continue };
            if record.status != ContainerStatus::Exited && !is_alive(&dir) {
                record.status = ContainerStatus::Exited;
            }
            records.push(record);
        }
        records.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(records)
    }

    /// The container that `name` means: a name, an ID, or the beginning of one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn resolve_container(&self, name: &str) -> Result<ContainerRecord> {
        let all = self.containers()?;
        if let Some(record) = all.iter().find(|record| record.name == name || record.id == name) {
            return Ok(record.clone());
        }
        let mut found = all.into_iter().filter(|record| !name.is_empty() && record.id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(record), None) => Ok(record),
            (Some(_), Some(_)) => Err(Error::Ambiguous { kind: "container", name: name.to_owned() }),
            _ => Err(Error::NotFound { kind: "container", name: name.to_owned() }),
        }
    }

    /// The log of the container `id`, open for reading.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn container_log(&self, id: &str) -> Result<std::fs::File> {
        let missing = || Error::NotFound { kind: "container", name: id.to_owned() };
        self.places.containers.dir(id).map_err(|_| missing())?.open(LOG)?.ok_or_else(missing)
    }

    /// Removes the container `id`. Gives the bytes that it took.
    ///
    /// # Errors
    /// [`Error::InUse`] while its process is there.
    pub fn remove_container(&self, id: &str) -> Result<u64> {
        let dir = self
            .places
            .containers
            .dir(id)
            .map_err(|_| Error::NotFound { kind: "container", name: id.to_owned() })?;
        if is_alive(&dir) {
            return Err(Error::InUse {
                kind: "container",
                name: id.to_owned(),
                by: "its process".to_owned(),
            });
        }
        let size = self.container_size(id)?;
        let doomed = format!("{id}-{}", unique());
        self.places.containers.rename(id, &self.places.trash, &doomed)?;
        self.places.containers.sync()?;
        self.places.trash.remove_tree(&doomed)?;
        Ok(size)
    }

    /// The bytes of the files that the container `id` wrote, and the bytes on disk of all that it has.
    pub(crate) fn container_usage(&self, id: &str) -> Result<(u64, u64)> {
        let disk = self.places.containers.dir(id).and_then(|dir| dir.disk_usage()).unwrap_or(0);
        Ok((self.container_size(id)?, disk))
    }

    /// The bytes of the files that the container `id` wrote.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn container_size(&self, id: &str) -> Result<u64> {
        let Ok(dir) = self.places.containers.dir(id) else { return Ok(0) };
        let Ok(snapshot) = dir.dir(SNAPSHOT) else { return Ok(0) };
        let layers = || {
            let record = dir.read_json::<ContainerRecord>(RECORD)?;
            let layers = record.map(|record| record.layers).unwrap_or_default();
            layers.iter().map(|layer| self.layer(&layer.key)).collect()
        };
        crate::snapshot::written(self, snapshot, layers)
    }

    /// The snapshot of the container `id`, to see what it changed.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Unsupported`] when a driver made it that is not known here.
    pub fn container_upper(&self, id: &str) -> Result<Upper> {
        let record = self.resolve_container(id)?;
        let layers = record.layers.iter().map(|layer| self.layer(&layer.key)).collect::<Result<Vec<_>>>()?;
        Upper::open(self, self.places.containers.dir(&record.id)?.dir(SNAPSHOT)?, &layers)
    }
}

fn is_alive(dir: &Dir) -> bool {
    match dir.lock(ALIVE, FlockOperation::NonBlockingLockExclusive) {
        Ok(_released) => false,
        Err(errno) => errno == Errno::WOULDBLOCK,
    }
}
