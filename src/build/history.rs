//! What past builds did, step by step, and why: kept so that it can be asked for later.
//!
//! ```text
//!  <state>/builds/<seconds>.<ns>-<id>.json     one build, whole; the newest 256 are kept
//! ```

use std::path::{Path, PathBuf};

use image_core::{Digest, ImageId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Build, Built, StepReport};
use crate::engine::Engine;
use crate::error::{Error, Result};

const KEPT: usize = 256;
/// The largest record that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// A build that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuildRecord {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// When it began.
    pub started: Timestamp,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Its first tag, or its context.
    pub name: String,
    /// What it made; none when it failed.
    pub image: Option<ImageId>,
    /// What it failed with.
    pub error: Option<String>,
    /// The steps that make layers, as far as they were done, in the order of the plan.
    pub steps: Vec<StepReport>,
}

fn directory(engine: &Engine) -> PathBuf {
    engine.state().join("builds")
}

/// Writes down how a build went. Losing it loses an explanation, so it fails nothing.
pub(super) fn keep(build: &Build, started: Timestamp, result: &Result<Built>, steps: Vec<StepReport>) {
    let took = build.engine.now().since(started);
    let name = build.tags.first().map_or_else(|| build.context.identity(), image_core::Reference::familiar);
    let mut record = BuildRecord {
        id: String::new(),
        started,
        millis: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        name,
        image: result.as_ref().ok().map(|built| built.image.id()),
        error: result.as_ref().err().map(ToString::to_string),
        steps,
    };
    let write = || -> std::io::Result<()> {
        let unnamed = serde_json::to_vec(&record)?;
        let nonce = format!("{:?}{}", std::thread::current().id(), std::process::id());
        record.id =
            Digest::sha256(&[unnamed.as_slice(), nonce.as_bytes()].concat()).hex().chars().take(12).collect();
        let directory = directory(&build.engine);
        std::fs::create_dir_all(&directory)?;
        let name = format!(
            "{:012}.{:09}-{}.json",
            record.started.seconds(),
            record.started.nanoseconds(),
            record.id
        );
        let temporary = directory.join(format!(".{}", record.id));
        std::fs::write(&temporary, serde_json::to_vec(&record)?)?;
        std::fs::rename(&temporary, directory.join(name))?;
        let names = names(&directory)?;
        for old in names.iter().rev().skip(KEPT) {
            std::fs::remove_file(directory.join(old))?;
        }
        Ok(())
    };
    let mut write = write;
    if let Err(error) = write() {
        tracing::debug!(%error, "how the build went is not kept");
    }
}

/// The names of records, oldest first.
fn names(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                if let Some(name) = entry?.file_name().to_str().filter(|name| name.ends_with(".json")) {
                    names.push(name.to_owned());
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    names.sort_unstable();
    Ok(names)
}

impl Engine {
    /// The builds that are remembered, newest first.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be listed. A record that cannot be read is left out.
    pub fn builds(&self) -> Result<Vec<BuildRecord>> {
        let directory = directory(self);
        let names = names(&directory).map_err(|source| Error::Io { path: directory.clone(), source })?;
        let read = |name: &String| {
            let bytes = super::read(&directory.join(name), LIMIT).ok()?;
            serde_json::from_slice::<BuildRecord>(&bytes).ok()
        };
        Ok(names.iter().rev().filter_map(read).collect())
    }

    /// The build whose id begins with `id`, or the newest one for an empty `id`.
    ///
    /// # Errors
    /// [`Error::Io`]; not found when there is none.
    pub fn explain(&self, id: &str) -> Result<BuildRecord> {
        let found = self.builds()?.into_iter().find(|record| record.id.starts_with(id));
        found.ok_or_else(|| Error::Store(layer_store::Error::NotFound { kind: "build", name: id.to_owned() }))
    }
}
