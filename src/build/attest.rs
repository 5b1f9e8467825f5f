//! Statements about an image: how it was made, what is in it.
//!
//! ```text
//!  manifest of the image ◀─subject─ manifest   artifactType: application/vnd.in-toto+json, config: {}
//!                                   └ layer    {"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":…}],
//!                                               "predicateType":…,"predicate":…}
//! ```
//!
//! They are no part of the image, nor of an index of images: old tools do not meet them. Equal builds make equal
//! statements, byte for byte; one has a time only when the image's own was given.
//!
//! Specifications: in-toto attestation Statement v1, image-spec manifest.md "subject", SLSA provenance v1, SPDX 2.3.

use std::collections::BTreeMap;

use image_core::{Descriptor, Document, Manifest, MediaType};
use layer_store::Referrer;
use serde_json::{Value, json};

use super::{Build, Built};
use crate::engine::{Engine, Image};
use crate::error::{Error, Result};
use crate::task::blocking;

mod packages;
mod provenance;
mod sbom;

pub use packages::{Package, PackageKind};
pub(super) use provenance::Materials;

/// What says which predicate a statement has, on its manifest and its layer.
const PREDICATE: &str = "in-toto.io/predicate-type";
/// The type of the artifact, and of its layer.
const IN_TOTO: &str = "application/vnd.in-toto+json";
const EMPTY: &[u8] = b"{}";

/// A statement that a build makes about its image, see [`Build::attest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Attestation {
    /// How it was made: SLSA provenance v1. It names the base images, git repositories, URLs and contexts that the build
    /// read, with their digests, and what it was told: build arguments with their values, labels, target, platform. Of
    /// secrets it has the ids. A context's digest is over the files that the build reads, without their times.
    Provenance,
    /// Which packages it has: an SPDX 2.3 document of what the databases of dpkg and apk in the image say. Nothing of
    /// the image is run.
    Sbom,
}

impl Attestation {
    /// The type of its predicate.
    #[must_use]
    pub const fn predicate_type(self) -> &'static str {
        match self {
            Self::Provenance => "https://slsa.dev/provenance/v1",
            Self::Sbom => "https://spdx.dev/Document",
        }
    }
}

fn encode(value: &Value, what: &str) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::Io { path: what.into(), source: std::io::Error::other(error) })
}

/// Makes the statements that the build was asked for.
pub(super) async fn as_asked(build: &Build, built: Built) -> Result<Built> {
    if build.attestations.is_empty() {
        return Ok(built);
    }
    let (manifest, ..) = build.engine.fix_manifest(&built.image).await?;
    let mut statements = Vec::new();
    for what in &build.attestations {
        let predicate = match what {
            Attestation::Provenance => provenance::predicate(build, &built),
            Attestation::Sbom => {
                let (engine, image) = (build.engine.clone(), built.image.clone());
                let digest = manifest.digest;
                blocking(move || sbom::predicate(&engine, &image, &digest)).await?
            }
        };
        let subjects = subjects(build, &built.image, &manifest);
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": subjects,
            "predicateType": what.predicate_type(),
            "predicate": predicate,
        });
        statements.push((what.predicate_type(), encode(&statement, "a statement about the image")?));
    }
    let engine = build.engine.clone();
    blocking(move || keep(&engine, &manifest, statements)).await?;
    // The manifest may be new to the record.
    let image = build.engine.load(build.engine.store().image(&built.image.id())?)?;
    Ok(Built { image, ..built })
}

/// The manifest under each of its names; under none it is what it is.
fn subjects(build: &Build, image: &Image, manifest: &Descriptor) -> Vec<Value> {
    let digest = json!({ manifest.digest.algorithm().name(): manifest.digest.hex() });
    let platform = image.config().platform();
    let names = build.tags.iter().map(|tag| provenance::package_url(tag, &platform));
    let mut names: Vec<String> = names.collect();
    if names.is_empty() {
        names.push("_".to_owned());
    }
    names.into_iter().map(|name| json!({"name": name, "digest": digest})).collect()
}

/// Keeps the statements as what refers to `subject`, in the place of earlier ones of the same kinds.
fn keep(engine: &Engine, subject: &Descriptor, statements: Vec<(&'static str, Vec<u8>)>) -> Result<()> {
    let store = engine.store();
    let mut referrers = store.referrers(&subject.digest)?;
    let work = store.begin()?;
    for (kind, statement) in statements {
        let annotations = BTreeMap::from([(PREDICATE.to_owned(), kind.to_owned())]);
        let config = work.put_blob(MediaType::OciEmpty, EMPTY)?;
        let mut layer = work.put_blob(MediaType::parse(IN_TOTO), &statement)?;
        layer.annotations.clone_from(&annotations);
        let mut manifest = Manifest::oci(config.clone(), vec![layer.clone()]);
        manifest.artifact_type = Some(IN_TOTO.to_owned());
        manifest.subject = Some(Descriptor::new(subject.media_type.clone(), subject.digest, subject.size));
        manifest.annotations.clone_from(&annotations);
        let document = Document::from_value(manifest)
            .map_err(|source| Error::Document { what: "the manifest of a statement".to_owned(), source })?;
        let mut manifest = work.put_blob(MediaType::OciManifest, document.bytes())?;
        manifest.artifact_type = Some(IN_TOTO.to_owned());
        manifest.annotations = annotations;
        referrers.retain(|known| {
            known.manifest.artifact_type.as_deref() != Some(IN_TOTO)
                || known.manifest.annotations.get(PREDICATE).map(String::as_str) != Some(kind)
        });
        referrers.push(Referrer::new(manifest, vec![layer, config]));
    }
    work.commit()?;
    if store.referrers(&subject.digest)? != referrers {
        store.set_referrers(&subject.digest, referrers)?;
    }
    Ok(())
}
