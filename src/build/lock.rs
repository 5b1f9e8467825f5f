//! The lock: which digests the names of base images mean.
//!
//! ```json
//! {"version":1,"images":{"docker.io/library/debian:12":"sha256:…"}}
//! ```
//!
//! A build writes what it used ([`Built::lock`](crate::Built::lock)); a later one that is given it
//! ([`Build::lock`](crate::Build::lock)) uses exactly that, whatever the tags mean by then.

use std::collections::BTreeMap;

use image_core::{Digest, Reference};
use serde::{Deserialize, Serialize};

use super::base::BaseImage;

const VERSION: u32 = 1;
/// The longest lock that is read, in bytes.
const LIMIT: usize = 16 << 20;

/// Digests of base images, by their whole names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    images: BTreeMap<Reference, Digest>,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    images: BTreeMap<String, String>,
}

/// Why a text is no lock.
#[derive(Debug, thiserror::Error)]
#[error("no lock of base images: {reason}")]
#[non_exhaustive]
pub struct LockError {
    /// What is wrong with it.
    pub reason: String,
    source: Option<serde_json::Error>,
}

impl LockError {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), source: None }
    }
}

impl Lock {
    /// Reads a lock.
    ///
    /// # Errors
    /// [`LockError`] when it is no JSON of this form, or a newer one.
    pub fn parse(text: &[u8]) -> Result<Self, LockError> {
        if text.len() > LIMIT {
            return Err(LockError::new(format!("it is longer than {LIMIT} bytes")));
        }
        let file: File = serde_json::from_slice(text)
            .map_err(|source| LockError { reason: "it does not parse".to_owned(), source: Some(source) })?;
        if file.version != VERSION {
            return Err(LockError::new(format!("version {} is not known", file.version)));
        }
        let mut lock = Self::default();
        for (name, digest) in file.images {
            let wrong = || LockError::new(format!("{name:?} is not a whole name with a digest of its own"));
            let reference: Reference = name.parse().map_err(|_| wrong())?;
            lock.set(&reference, digest.parse().map_err(|_| wrong())?);
        }
        Ok(lock)
    }

    /// The lock as a file, with names in order and a line each.
    #[must_use]
    pub fn to_text(&self) -> String {
        let images: Vec<String> = self
            .images
            .iter()
            .map(|(name, digest)| format!("    \"{}\": \"{digest}\"", name.canonical()))
            .collect();
        format!("{{\n  \"version\": {VERSION},\n  \"images\": {{\n{}\n  }}\n}}\n", images.join(",\n"))
    }

    /// What `name` means.
    #[must_use]
    pub fn digest(&self, name: &Reference) -> Option<Digest> {
        self.images.get(&name.with_default_tag()).copied()
    }

    /// Says what `name` means.
    pub fn set(&mut self, name: &Reference, digest: Digest) {
        self.images.insert(name.with_default_tag(), digest);
    }

    /// What these images were. Names that are digests already, and images that were made here, need no lock.
    pub(super) fn of(bases: &[BaseImage]) -> Self {
        let mut lock = Self::default();
        for base in bases {
            if let (Some(digest), None) = (base.digest, base.reference.digest()) {
                lock.set(&base.reference, digest);
            }
        }
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_what_it_writes_and_nothing_else() {
        let mut lock = Lock::default();
        lock.set(&"debian".parse().unwrap(), Digest::sha256(b"1"));
        lock.set(&"ghcr.io/a/b:v2".parse().unwrap(), Digest::sha256(b"2"));
        let text = lock.to_text();
        assert_eq!(Lock::parse(text.as_bytes()).unwrap(), lock);
        assert!(text.contains("\"docker.io/library/debian:latest\": \"sha256:"), "{text}");
        assert_eq!(
            lock.digest(&"docker.io/library/debian:latest".parse().unwrap()),
            Some(Digest::sha256(b"1"))
        );
        assert_eq!(Lock::parse(Lock::default().to_text().as_bytes()).unwrap(), Lock::default());
        for bad in ["", "[]", r#"{"version":2,"images":{}}"#, r#"{"version":1,"images":{"debian":"12"}}"#] {
            assert!(Lock::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
