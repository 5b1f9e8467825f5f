//! The state directory: one directory per container, with one file that says which process it is.
//!
//! ```text
//! STATE_DIR/
//!   ID/            made exclusively: this is what makes an id unique
//!     state.json   written beside and renamed over; never seen half
//!     spec.json    the Spec it was made from
//!     start        the socket over which another process starts it; only while it is created
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::cgroup::GroupRecord;
use crate::plan::Note;
use crate::userns::IdMaps;
use crate::{ContainerId, Error};

/// Counts up with every change of [`Record`] that older versions cannot read.
const VERSION: u32 = 2;
/// The largest state file that is read, in bytes.
const MAX_RECORD: u64 = 1 << 20;
/// The largest Spec that is read back, in bytes.
const MAX_SPEC: u64 = 64 << 20;

/// What is kept about a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) stage: Stage,
    /// The process that creates or created it.
    pub(crate) creator: Identity,
    /// The container's first process, once there is one.
    pub(crate) init: Option<Identity>,
    /// `CLONE_NEW*` flags of the namespaces that are not the host's.
    pub(crate) namespaces: u32,
    /// The ids of its user namespace, if it has one.
    pub(crate) maps: Option<IdMaps>,
    /// Its cgroups, if it has any.
    pub(crate) group: Option<GroupRecord>,
    /// The bundle, as it was given.
    pub(crate) bundle: PathBuf,
    /// When it was made, in seconds after 1970.
    pub(crate) made: u64,
    /// The user id of its maker.
    pub(crate) owner: u32,
    /// How another process can start it.
    pub(crate) start: Option<Start>,
}

/// What another process has to know to start a container over the socket in its directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The index of the first step that is left.
    pub(crate) first: u32,
    /// What the steps that are left are for.
    pub(crate) notes: Vec<Note>,
    /// The files that the program's name may mean.
    pub(crate) programs: Vec<String>,
}

/// How far its creator came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Stage {
    Creating,
    Created,
    Started,
}

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// Clock ticks after boot: field 22 of `/proc/PID/stat`.
    pub(crate) start_time: u64,
    /// The boot in which that was.
    pub(crate) boot: String,
}

impl Identity {
    /// Asks `/proc`; none if there is no such process.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in field 2 may hold anything, blanks and parentheses too; what follows its last parenthesis
        // begins with field 3.
        let rest = stat.rsplit_once(')')?.1;
        let start_time = rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        Some(Self { pid, start_time, boot })
    }

    /// Whether this very process still exists, perhaps as a zombie.
    pub(crate) fn exists(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// The directory of one container.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    dir: PathBuf,
}

impl Place {
    pub(crate) fn new(state_dir: &Path, id: &ContainerId) -> Self {
        Self { dir: state_dir.join(id.as_str()) }
    }

    /// Makes the directory; fails if it is there.
    pub(crate) fn claim(&self, id: &ContainerId) -> Result<(), Error> {
        match fs::DirBuilder::new().mode(0o700).create(&self.dir) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::Exists { id: id.to_string() })
            }
            Err(source) => Err(Error::StateFile { action: "make", path: self.dir.clone(), source }),
        }
    }

    pub(crate) fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self.file();
        let new = self.dir.join("state.json.new");
        let failed = |source| Error::StateFile { action: "write", path: path.clone(), source };
        let text = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(failed)
    }

    /// The record; none if there is no container, or it was only just claimed.
    pub(crate) fn read(&self) -> Result<Option<Record>, Error> {
        let path = self.file();
        let failed = |source| Error::StateFile { action: "read", path: path.clone(), source };
        let text = match fs::File::open(&path) {
            Ok(file) => {
                let mut text = String::new();
                let mut bounded = io::Read::take(file, MAX_RECORD);
                io::Read::read_to_string(&mut bounded, &mut text).map_err(failed)?;
                text
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed(source)),
        };
        let format = |problem: String| Error::StateFormat { path: path.clone(), problem };
        let record: Record = serde_json::from_str(&text).map_err(|error| format(error.to_string()))?;
        if record.version != VERSION {
            return Err(format(format!("its version is {}, not {VERSION}", record.version)));
        }
        Ok(Some(record))
    }

    /// Keeps the Spec.
    pub(crate) fn write_spec(&self, spec: &Spec) -> Result<(), Error> {
        let path = self.dir.join("spec.json");
        let failed = |source| Error::StateFile { action: "write", path: path.clone(), source };
        let text = serde_json::to_vec(spec).map_err(|error| failed(error.into()))?;
        fs::write(&path, text).map_err(failed)
    }

    /// Reads the Spec.
    pub(crate) fn read_spec(&self) -> Result<Spec, Error> {
        let path = self.dir.join("spec.json");
        let failed = |source| Error::StateFile { action: "read", path: path.clone(), source };
        let file = fs::File::open(&path).map_err(failed)?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, MAX_SPEC), &mut text).map_err(failed)?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::StateFormat { path: path.clone(), problem: error.to_string() })
    }

    /// The directory itself.
    pub(crate) fn directory(&self) -> &Path {
        &self.dir
    }

    /// Removes the directory; one that is gone already is not an error.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.dir) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Error::StateFile { action: "remove", path: self.dir.clone(), source }),
        }
    }

    /// Whether the directory was made so recently that its maker may still be about to write to it.
    pub(crate) fn is_young(&self) -> bool {
        const YOUNG: std::time::Duration = std::time::Duration::from_secs(10);
        let made = fs::metadata(&self.dir).and_then(|metadata| metadata.modified());
        made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age < YOUNG))
    }

    fn file(&self) -> PathBuf {
        self.dir.join("state.json")
    }
}

impl Record {
    /// Whether it lives on without its creator.
    pub(crate) fn is_settled(&self) -> bool {
        self.stage == Stage::Started || (self.stage == Stage::Created && self.start.is_some())
    }

    pub(crate) fn new(id: &ContainerId) -> Self {
        let pid = std::process::id();
        let unknown = Identity { pid, start_time: 0, boot: String::new() };
        let creator = Identity::of(pid).unwrap_or(unknown);
        Self {
            version: VERSION,
            id: id.to_string(),
            stage: Stage::Creating,
            creator,
            init: None,
            namespaces: 0,
            maps: None,
            group: None,
            bundle: PathBuf::new(),
            made: std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            owner: rustix::process::geteuid().as_raw(),
            start: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let me = Identity::of(std::process::id()).unwrap();
        assert!(me.exists());
        assert!(!Identity { start_time: me.start_time + 1, ..me }.exists());
    }

    #[test]
    fn a_record_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let id: ContainerId = "one".parse().unwrap();
        let place = Place::new(dir.path(), &id);
        place.claim(&id).unwrap();
        assert!(matches!(place.claim(&id), Err(Error::Exists { .. })));
        assert_eq!(place.read().unwrap(), None);
        let record = Record::new(&id);
        place.write(&record).unwrap();
        assert_eq!(place.read().unwrap(), Some(record));
        fs::write(dir.path().join("one/state.json"), "{").unwrap();
        assert!(matches!(place.read(), Err(Error::StateFormat { .. })));
        place.remove().unwrap();
        place.remove().unwrap();
    }
}
