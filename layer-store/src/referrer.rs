//! What refers to a manifest or an index: signatures, provenance, lists of packages.
//!
//! ```text
//!  referrers/<digest of the subject>   manifests whose subject it is, each with its blobs
//! ```
//!
//! They are kept as long as what they refer to: a collection removes both.
//!
//! Specification: image-spec, manifest.md, "subject".

use std::collections::BTreeSet;

use image_core::{Descriptor, Digest};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::blob::file_name;
use crate::error::{Error, Result};
use crate::store::{REFERRERS, Store};

/// A manifest that refers to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Referrer {
    /// Its manifest, with the type of the artifact and the annotations, as lists of referrers have it.
    pub manifest: Descriptor,
    /// Its config and its layers.
    pub blobs: Vec<Descriptor>,
}

impl Referrer {
    /// The artifact `manifest` with these blobs.
    #[must_use]
    pub const fn new(manifest: Descriptor, blobs: Vec<Descriptor>) -> Self {
        Self { manifest, blobs }
    }

    /// The digests of all that it has.
    pub(crate) fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        std::iter::once(&self.manifest).chain(&self.blobs).map(|blob| blob.digest)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Referrers {
    pub(crate) subject: Digest,
    pub(crate) referrers: Vec<Referrer>,
}

impl Store {
    /// What refers to the manifest or index `subject`.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<Referrer>> {
        let record = self.places.referrers.read_json::<Referrers>(&file_name(subject))?;
        Ok(record.map_or_else(Vec::new, |record| record.referrers))
    }

    /// Keeps `referrers` as all that refers to `subject`. Their manifests and blobs are in the store.
    ///
    /// # Errors
    /// [`Error::NotFound`] when a blob is not there.
    pub fn set_referrers(&self, subject: &Digest, referrers: Vec<Referrer>) -> Result<()> {
        let _guard = crate::lease::guard(&self.places.root, FlockOperation::LockShared)?;
        if let Some(digest) =
            referrers.iter().flat_map(Referrer::digests).find(|digest| !self.has_blob(digest))
        {
            return Err(Error::NotFound { kind: "blob", name: digest.to_string() });
        }
        // Before the first of them: a version that knows none would remove their blobs.
        self.add_feature(REFERRERS)?;
        self.places.referrers.replace_json(&file_name(subject), &Referrers { subject: *subject, referrers })
    }

    /// The manifests and blobs that refer to one of `subjects`, or to what refers to one.
    pub(crate) fn referring(&self, subjects: &BTreeSet<Digest>) -> Result<BTreeSet<Digest>> {
        let mut rest = Vec::new();
        for name in self.places.referrers.names()? {
            rest.extend(self.places.referrers.read_json::<Referrers>(&name)?);
        }
        let mut found = BTreeSet::new();
        loop {
            let is_needed =
                |record: &Referrers| subjects.contains(&record.subject) || found.contains(&record.subject);
            let (used, unused): (Vec<_>, Vec<_>) = rest.into_iter().partition(is_needed);
            if used.is_empty() {
                return Ok(found);
            }
            found.extend(used.iter().flat_map(|record| &record.referrers).flat_map(Referrer::digests));
            rest = unused;
        }
    }
}
