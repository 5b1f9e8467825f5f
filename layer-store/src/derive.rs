//! Images as values: one image made from another without running anything.
//!
//! Each gives a record that is not in the store yet: commit the transaction, then [`Store::put_image`](crate::Store).

use std::collections::BTreeMap;

use image_core::{Document, History, ImageConfig, Manifest, MediaType, Timestamp};

use crate::error::{Error, Result};
use crate::image::ImageRecord;
use crate::layer::Layer;
use crate::transaction::Transaction;
use crate::view::View;

impl Transaction {
    fn derived(&self, config: ImageConfig, layers: &[Layer]) -> Result<ImageRecord> {
        let document = Document::from_value(config);
        let document =
            document.map_err(|source| Error::Document { what: "the new config".to_owned(), source })?;
        Ok(ImageRecord::new(self.put_blob(MediaType::OciConfig, document.bytes())?, layers))
    }

    fn parts(&self, image: &ImageRecord) -> Result<(ImageConfig, Vec<Layer>)> {
        let config = self.store().config(image)?.into_parts().0;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let missing = || Error::NotFound { kind: "layer", name: layer.key.to_string() };
            layers.push(self.layer(&layer.key)?.ok_or_else(missing)?);
        }
        Ok((config, layers))
    }

    /// An image of `config` whose tree is `layers`, lowest first: its root file system is set here.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn image_of(&self, mut config: ImageConfig, layers: &[Layer]) -> Result<ImageRecord> {
        config.rootfs.diff_ids = layers.iter().map(Layer::diff_id).collect();
        self.derived(config, layers)
    }

    /// `image` with `layer` on top, and `history` saying how it came there.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn append(&self, image: &ImageRecord, layer: &Layer, history: History) -> Result<ImageRecord> {
        let (mut config, mut layers) = self.parts(image)?;
        config.history.push(history);
        layers.push(layer.clone());
        self.image_of(config, &layers)
    }

    /// `image`, which stands on `old`, on `new` instead. What it sets itself (environment, command, …) stays.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when `image` does not stand on `old`.
    pub fn rebase(&self, image: &ImageRecord, old: &ImageRecord, new: &ImageRecord) -> Result<ImageRecord> {
        let count = old.layers.len();
        let stands = image.layers.len() >= count
            && image.layers.iter().zip(&old.layers).all(|(one, other)| one.diff_id == other.diff_id);
        if !stands {
            let what = "rebasing an image that does not stand on the base".to_owned();
            return Err(Error::Unsupported { what });
        }
        let (mut config, layers) = self.parts(image)?;
        let old_history = self.parts(old)?.0.history.len();
        let (new_config, mut stack) = self.parts(new)?;
        stack.extend(layers.into_iter().skip(count));
        let own = config.history.into_iter().skip(old_history);
        config.history = new_config.history.into_iter().chain(own).collect();
        (config.architecture, config.os, config.variant) =
            (new_config.architecture, new_config.os, new_config.variant);
        self.image_of(config, &stack)
    }

    /// `image` with all layers above the lowest `keep` made one. With 0, one layer is left. Times later than `latest`
    /// become `latest`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn squash(&self, image: &ImageRecord, keep: usize, latest: Option<Timestamp>) -> Result<ImageRecord> {
        let (mut config, layers) = self.parts(image)?;
        let (kept, upper) = layers.split_at(keep.min(layers.len()));
        if upper.len() < 2 {
            return Ok(image.clone());
        }
        let one = if kept.is_empty() {
            self.flatten(&View::of(upper), latest)?
        } else {
            crate::squash::squash(self, kept, upper, latest)?
        };
        for entry in config.history.iter_mut().filter(|entry| !entry.empty_layer).skip(kept.len()) {
            entry.empty_layer = true;
        }
        let mut entry = History::default();
        entry.comment = format!("{} layers made one", upper.len());
        entry.created = config.created;
        config.history.push(entry);
        let stack: Vec<Layer> = kept.iter().cloned().chain([one]).collect();
        self.image_of(config, &stack)
    }

    /// `image` with these labels set; `None` removes one. Its history does not change.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn relabel(
        &self,
        image: &ImageRecord,
        labels: &BTreeMap<String, Option<String>>,
    ) -> Result<ImageRecord> {
        let (mut config, layers) = self.parts(image)?;
        for (name, value) in labels {
            match value {
                Some(value) => config.config.labels.insert(name.clone(), value.clone()),
                None => config.config.labels.remove(name),
            };
        }
        self.image_of(config, &layers)
    }

    /// `image` with annotations on its manifest; its ID stays. An image without a manifest gets one, encoded by our
    /// gzip.
    ///
    /// # Errors
    /// [`Error::NotFound`] when a layer cannot be encoded any more, [`Error::Io`].
    pub fn annotate(
        &self,
        image: &ImageRecord,
        annotations: &BTreeMap<String, String>,
    ) -> Result<ImageRecord> {
        let (_, layers) = self.parts(image)?;
        let fail = |source| Error::Document { what: "the manifest".to_owned(), source };
        let mut manifest = match &image.manifest {
            Some(known) => {
                let bytes = self.store().read_blob(&known.digest)?;
                match image_core::AnyManifest::parse(bytes, Some(&known.media_type)).map_err(fail)? {
                    image_core::AnyManifest::Manifest(document) => document.into_parts().0,
                    _ => return Err(Error::Unsupported { what: "annotating an index".to_owned() }),
                }
            }
            None => {
                let blobs = layers.iter().map(|layer| self.encoded(layer)).collect::<Result<Vec<_>>>()?;
                Manifest::oci(image.config.clone(), blobs)
            }
        };
        manifest.annotations.extend(annotations.clone());
        let media_type = manifest.media_type.clone().unwrap_or(MediaType::OciManifest);
        let blobs = manifest.layers.clone();
        let document = Document::from_value(manifest).map_err(fail)?;
        let manifest = self.put_blob(media_type, document.bytes())?;
        Ok(ImageRecord { manifest: Some(manifest), blobs, ..image.clone() })
    }
}
