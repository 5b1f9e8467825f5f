//! Does a build make the same thing twice? What it makes differently is named.

use std::collections::BTreeSet;

use layer_store::{Index, LayerKey};

use super::Build;
use crate::engine::Image;
use crate::error::{Error, Result};

/// What two runs of one build had in common.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reproducibility {
    /// What the second run made.
    pub image: Image,
    /// The steps that made different layers; empty when the build is reproducible.
    pub differences: Vec<Irreproducible>,
}

/// A step that made something else the second time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Irreproducible {
    /// The step as it is shown.
    pub step: String,
    /// The files that differ, as absolute paths.
    pub paths: Vec<String>,
}

impl Build {
    /// Builds twice without the cache and compares the layers, step by step.
    ///
    /// A step that copies what an earlier one made differently is named too.
    ///
    /// # Errors
    /// As [`Build::run`].
    pub async fn check_reproducible(self) -> Result<Reproducibility> {
        let engine = self.engine.clone();
        let once = self.no_cache(true);
        let first = once.clone().run().await?;
        let second = once.run().await?;
        let index = |key: &Option<LayerKey>| -> Result<Index> {
            let key = key.as_ref().ok_or_else(|| Error::unsupported("a step without a layer"))?;
            Ok(engine.store().layer(key)?.index().clone())
        };
        let mut differences = Vec::new();
        for (before, after) in first.steps.iter().zip(&second.steps) {
            if before.layer != after.layer {
                let (before, after_index) = (index(&before.layer)?, index(&after.layer)?);
                let names: BTreeSet<&Vec<u8>> =
                    before.entries.keys().chain(after_index.entries.keys()).collect();
                let paths = names
                    .into_iter()
                    .filter(|path| before.entries.get(*path) != after_index.entries.get(*path))
                    .map(|path| format!("/{}", String::from_utf8_lossy(path)))
                    .collect();
                differences.push(Irreproducible { step: after.name.clone(), paths });
            }
        }
        Ok(Reproducibility { image: second.image, differences })
    }
}
