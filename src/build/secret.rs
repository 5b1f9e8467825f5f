//! What a RUN may use and must not leave in a layer: secrets and ssh agents.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use dockerfile::plan::{Exec, MountKind};
use image_core::Digest;
use layer_store::{Component, Store};

use super::owner::{Looks, give, now};
use crate::error::{Error, Result};

/// A value that cannot be printed.
#[derive(Clone)]
pub struct Secret {
    bytes: Vec<u8>,
    counts: bool,
}

impl Secret {
    /// A secret of these bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), counts: false }
    }

    /// Lets a changed value do the steps that use it again. Default: no, as in BuildKit. What is kept of the value is
    /// its digest, keyed with its id: a short secret can be found by trying.
    #[must_use]
    pub fn counts(mut self, yes: bool) -> Self {
        self.counts = yes;
        self
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The secrets and agents that a build was given, by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets {
    secrets: BTreeMap<String, Secret>,
    agents: BTreeMap<String, PathBuf>,
}

impl Secrets {
    pub(super) fn insert(&mut self, id: String, secret: Secret) {
        self.secrets.insert(id, secret);
    }

    pub(super) fn insert_agent(&mut self, id: String, socket: PathBuf) {
        self.agents.insert(id, socket);
    }

    pub(super) fn get(&self, id: &str) -> Option<&[u8]> {
        self.secrets.get(id).map(|secret| secret.bytes.as_slice())
    }

    pub(super) fn agent(&self, id: &str) -> Option<&Path> {
        self.agents.get(if id.is_empty() { "default" } else { id }).map(PathBuf::as_path)
    }

    /// The ids of all secrets; nothing of what they are.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.secrets.keys().map(String::as_str)
    }

    /// The parts of a key that secrets are: those whose values are to count.
    pub(super) fn components(&self, exec: &Exec) -> Vec<Component> {
        let ids = exec.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Secret { id, .. } => Some(id),
            _ => None,
        });
        let counted = ids.filter_map(|id| Some((id, self.secrets.get(id).filter(|secret| secret.counts)?)));
        counted
            .map(|(id, secret)| {
                let framed = [&(id.len() as u64).to_be_bytes()[..], id.as_bytes(), &secret.bytes].concat();
                Component::new(format!("secret.{id}"), Digest::sha256(&framed).to_string())
            })
            .collect()
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Files with secrets in memory, which go when the value is dropped.
#[derive(Debug)]
pub(super) struct Vault {
    directory: PathBuf,
    count: usize,
}

impl Vault {
    /// In `/dev/shm`, if that is memory; else below `state`.
    pub(super) fn make(state: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        const TMPFS_MAGIC: i64 = 0x0102_1994;
        let shm = Path::new("/dev/shm");
        let is_memory = rustix::fs::statfs(shm).is_ok_and(|found| found.f_type == TMPFS_MAGIC);
        let parent = if is_memory { shm.to_owned() } else { state.join("secrets") };
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        if !is_memory {
            std::fs::create_dir_all(&parent).map_err(fail(&parent))?;
        }
        let name = format!("cooperage-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = parent.join(name);
        // Not recursive: a directory that is there already may be somebody else's.
        std::fs::DirBuilder::new().mode(0o700).create(&directory).map_err(fail(&directory))?;
        Ok(Self { directory, count: 0 })
    }

    /// Keeps `bytes` in a file of this mode and owner, as far as this process may give files away.
    pub(super) fn put(
        &mut self,
        bytes: &[u8],
        mode: u32,
        owner: (u32, u32),
        store: &Store,
    ) -> Result<PathBuf> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.directory.join(self.count.to_string());
        self.count += 1;
        let fail = |source| Error::Io { path: path.clone(), source };
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
        file.write_all(bytes).map_err(fail)?;
        give(store, &path, Looks { owner, mode: Some(mode), mtime: now() })?;
        Ok(path)
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, "files with secrets stay behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }
}
