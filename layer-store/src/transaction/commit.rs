//! What is staged becomes part of the store.

use rustix::io::Errno;

use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::layer::LayerKey;

use super::Transaction;

impl Transaction {
    /// Publishes everything staged. The transaction goes on, empty.
    ///
    /// # Errors
    /// [`Error::Io`]; what was renamed by then is complete, the rest stays staged.
    pub fn commit(&self) -> Result<()> {
        let mut state = self.state();
        let places = &self.0.store.places;
        let blobs: Vec<String> =
            self.0.blobs.names()?.into_iter().filter(|name| !name.starts_with("part-")).collect();
        let (cache, slots) = (self.0.cache.names()?, self.0.slots.names()?);
        let is_empty = state.staged.is_empty() && blobs.is_empty() && cache.is_empty() && slots.is_empty();
        if is_empty && state.encodings.is_empty() && state.borrows.is_empty() {
            return Ok(());
        }
        let records = self.stage_records(&state)?;
        self.0.staging.barrier()?;
        // Under the shared lock: between a rename and the record that names the thing, a sweep must not come.
        // The lease protects from then on.
        for key in state.staged.keys() {
            self.0.lease.protect(key, || publish(&self.0.layers, key.as_str(), &places.layers))?;
        }
        for name in &blobs {
            if let Some(digest) = crate::gc::digest_of(name) {
                self.0.lease.protect_blob(&digest, || publish(&self.0.blobs, name, &places.blobs))?;
            }
        }
        places.layers.sync()?;
        places.blobs.sync()?;
        for (staged, names, place) in
            [(&self.0.cache, &cache, &places.cache), (&self.0.slots, &slots, &places.slots)]
        {
            for name in names {
                staged.rename(name, place, name)?;
            }
            if !names.is_empty() {
                place.sync()?;
            }
        }
        self.publish_records(records)?;
        state.encodings.clear();
        state.borrows.clear();
        let keys: Vec<LayerKey> = std::mem::take(&mut state.staged).into_keys().collect();
        drop(state);
        self.deduplicate(keys);
        Ok(())
    }

    /// What was committed is whole: that it shares nothing is no failure.
    fn deduplicate(&self, keys: Vec<LayerKey>) {
        let store = &self.0.store;
        let Some(options) = store.dedup.as_ref().filter(|_| !keys.is_empty()) else { return };
        match store.deduplicate(&options.clone().layers(keys)) {
            Ok(done) => tracing::debug!(?done, "the new layers share"),
            Err(error @ Error::NoFileSharing { .. }) => {
                tracing::debug!(%error, "the new layers do not share");
            }
            Err(error) => tracing::warn!(%error, "the new layers do not share"),
        }
    }
}

/// Moves `name` to where it belongs; when the same thing is there already, the staged copy goes.
fn publish(from: &Dir, name: &str, to: &Dir) -> Result<()> {
    let occupied = |error: &Error| matches!(error, Error::Io { source, .. } if matches!(Errno::from_io_error(source), Some(Errno::NOTEMPTY | Errno::EXIST)));
    match from.rename(name, to, name) {
        Err(error) if occupied(&error) => from.remove_tree(name),
        other => other,
    }
}
