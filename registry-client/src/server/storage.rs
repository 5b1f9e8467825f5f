//! Storage: repositories with manifests, tags and blobs, in memory or as OCI image layouts in a directory.

mod layout;
mod upload;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use image_core::{Algorithm, Digest};

pub(super) use upload::Upload;

use super::ServerError;

/// Uploads that are open at once.
const MAX_UPLOADS: usize = 1000;

/// Everything that a registry has.
#[derive(Debug)]
pub(super) struct Storage {
    root: Option<PathBuf>,
    /// Held as long as this process has the directory.
    _lock: Option<fs::File>,
    repositories: Mutex<BTreeMap<String, Repository>>,
    uploads: Mutex<BTreeMap<String, Arc<Upload>>>,
}

#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) manifests: BTreeMap<Digest, StoredManifest>,
    pub(super) tags: BTreeMap<String, Digest>,
    pub(super) blobs: BTreeMap<Digest, Content>,
}

/// A manifest with what lists of referrers say of it.
#[derive(Clone, Debug)]
pub(super) struct StoredManifest {
    pub(super) media_type: String,
    pub(super) bytes: Bytes,
    pub(super) subject: Option<Digest>,
    pub(super) artifact_type: Option<String>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Memory(Bytes),
    File { path: PathBuf, size: u64 },
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }
}

impl Storage {
    pub(super) fn in_memory() -> Self {
        Self { root: None, _lock: None, repositories: Mutex::default(), uploads: Mutex::default() }
    }

    pub(super) fn directory(root: &Path) -> Result<Self, ServerError> {
        let failed = |what| move |source| ServerError::Storage { path: root.to_owned(), what, source };
        fs::create_dir_all(root).map_err(failed("make the directory"))?;
        let lock = fs::File::create(root.join("_lock")).map_err(failed("make the lock file"))?;
        lock.try_lock().map_err(|error| failed("lock it; another registry has it")(error.into()))?;
        // What was being uploaded when the last process ended is nobody's any more.
        let uploads = root.join("_uploads");
        if uploads.exists() {
            fs::remove_dir_all(&uploads).map_err(failed("remove old uploads"))?;
        }
        fs::create_dir(&uploads).map_err(failed("make the uploads directory"))?;
        let repositories = layout::load(root).map_err(failed("read the repositories"))?;
        Ok(Self {
            root: Some(root.to_owned()),
            _lock: Some(lock),
            repositories: Mutex::new(repositories),
            uploads: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Repository>> {
        self.repositories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a repository; `None` if there is none.
    pub(super) fn with<T>(&self, name: &str, read: impl FnOnce(&Repository) -> T) -> Option<T> {
        self.lock().get(name).map(read)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    pub(super) fn blob(&self, name: &str, digest: &Digest) -> Option<Content> {
        self.with(name, |repository| {
            let manifest =
                || repository.manifests.get(digest).map(|found| Content::Memory(found.bytes.clone()));
            repository.blobs.get(digest).cloned().or_else(manifest)
        })
        .flatten()
    }

    /// Changes manifests and tags of a repository, which is made if there is none, and keeps the change.
    pub(super) fn change<T>(&self, name: &str, change: impl FnOnce(&mut Repository) -> T) -> io::Result<T> {
        let mut repositories = self.lock();
        let repository = repositories.entry(name.to_owned()).or_default();
        let outcome = change(repository);
        if let Some(root) = &self.root {
            layout::save(root, name, repository)?;
        }
        Ok(outcome)
    }

    /// Puts a manifest's bytes beside the blobs, so that the layout is complete.
    pub(super) fn keep_manifest(&self, name: &str, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        match &self.root {
            Some(root) => layout::write_blob(root, name, digest, bytes),
            None => Ok(()),
        }
    }

    pub(super) fn remove_content(&self, name: &str, digest: &Digest) -> io::Result<()> {
        match &self.root {
            Some(root) => match fs::remove_file(layout::blob_path(root, name, digest)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Gives `name` the blob that `from` has; without `from`, that any repository has that `may` be read.
    pub(super) fn mount(
        &self,
        name: &str,
        from: Option<&str>,
        digest: &Digest,
        may: impl Fn(&str) -> bool,
    ) -> io::Result<bool> {
        let mut repositories = self.lock();
        let source = repositories.iter().find_map(|(other, repository)| {
            let wanted = from.is_none_or(|from| from == other) && may(other);
            if wanted { repository.blobs.get(digest).cloned() } else { None }
        });
        let Some(mut content) = source else { return Ok(false) };
        if let (Some(root), Content::File { path, size }) = (&self.root, &content) {
            let target = layout::blob_path(root, name, digest);
            layout::prepare(root, name, digest)?;
            match fs::hard_link(path, &target) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => content = Content::File { path: target, size: *size },
            }
        }
        repositories.entry(name.to_owned()).or_default().blobs.insert(*digest, content);
        Ok(true)
    }

    pub(super) fn open_upload(
        &self,
        name: &str,
        id: &str,
        algorithm: Algorithm,
    ) -> io::Result<Option<Arc<Upload>>> {
        let file = self.root.as_ref().map(|root| root.join("_uploads").join(id));
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        if uploads.len() >= MAX_UPLOADS {
            return Ok(None);
        }
        let upload = Arc::new(Upload::new(name, file, algorithm)?);
        uploads.insert(id.to_owned(), Arc::clone(&upload));
        Ok(Some(upload))
    }

    pub(super) fn upload(&self, name: &str, id: &str) -> Option<Arc<Upload>> {
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.get(id).filter(|upload| upload.repository() == name).cloned()
    }

    pub(super) fn forget_upload(&self, id: &str) {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Makes the bytes of an upload a blob. The caller has compared the digest.
    pub(super) fn keep_upload(&self, upload: &Upload, digest: &Digest) -> io::Result<()> {
        let name = upload.repository();
        let content = match &self.root {
            None => Content::Memory(upload.take_bytes()),
            Some(root) => {
                let path = layout::blob_path(root, name, digest);
                layout::prepare(root, name, digest)?;
                Content::File { size: upload.publish(&path)?, path }
            }
        };
        self.lock().entry(name.to_owned()).or_default().blobs.insert(*digest, content);
        Ok(())
    }
}
