//! Builds image configs, for tools that make images.

use crate::config::{Healthcheck, ImageConfig};
use crate::descriptor::Descriptor;
use crate::document::Document;
use crate::error::DocumentError;
use crate::history::History;
use crate::id::DiffId;
use crate::manifest::Manifest;
use crate::media_type::MediaType;
use crate::platform::Platform;
use crate::timestamp::Timestamp;

/// Builds an image config, and so an image: its layers in order, each with what made it, and how it is run.
///
/// ```
/// use image_core::{Compression, ConfigBuilder, Descriptor, DiffId, Digest, MediaType, Platform};
///
/// let tar = b"a tar stream";
/// let blob = Descriptor::of(MediaType::OciLayer(Compression::None), tar);
/// let image = ConfigBuilder::new(&Platform::new("linux", "amd64"))
///     .layer(DiffId::new(Digest::sha256(tar)), "COPY app /")
///     .env("PATH", "/bin")
///     .cmd(["/app"])
///     .label("org.opencontainers.image.title", "app");
/// let (config, manifest) = image.manifest(vec![blob])?;
/// assert_eq!(manifest.value().config.digest, *config.digest());
/// assert_eq!(config.value().config.env, ["PATH=/bin"]);
/// # Ok::<(), image_core::DocumentError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConfigBuilder(ImageConfig);

impl ConfigBuilder {
    /// An image without layers.
    #[must_use]
    pub fn new(platform: &Platform) -> Self {
        Self(ImageConfig::empty(platform))
    }

    /// One more than `base`: its layers, history and parameters are taken over.
    #[must_use]
    pub const fn from(base: ImageConfig) -> Self {
        Self(base)
    }

    /// When it was made.
    #[must_use]
    pub const fn created(mut self, time: Timestamp) -> Self {
        self.0.created = Some(time);
        self
    }

    /// Who made it.
    #[must_use]
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.0.author = Some(author.into());
        self
    }

    /// One more layer on top, and the command that made it.
    #[must_use]
    pub fn layer(mut self, diff_id: DiffId, created_by: impl Into<String>) -> Self {
        self.0.rootfs.diff_ids.push(diff_id);
        let created = self.0.created;
        self.0.history.push(History { created, created_by: created_by.into(), ..History::default() });
        self
    }

    /// A step that made no layer.
    #[must_use]
    pub fn step(mut self, created_by: impl Into<String>) -> Self {
        let (created, created_by) = (self.0.created, created_by.into());
        self.0.history.push(History { created, created_by, empty_layer: true, ..History::default() });
        self
    }

    /// A variable of the environment; another value for one that is there.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let entry = format!("{name}={value}");
        let env = &mut self.0.config.env;
        match env.iter_mut().find(|old| old.split_once('=').is_some_and(|(key, _)| key == name)) {
            Some(old) => *old = entry,
            None => env.push(entry),
        }
        self
    }

    /// The first words of the command line.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.0.config.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// The words after the entrypoint, unless the user gives others.
    #[must_use]
    pub fn cmd<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.0.config.cmd = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Who runs it: `user[:group]`.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.0.config.user = user.into();
        self
    }

    /// Where it starts.
    #[must_use]
    pub fn working_dir(mut self, path: impl Into<String>) -> Self {
        self.0.config.working_dir = path.into();
        self
    }

    /// A port that it listens on: `80/tcp`.
    #[must_use]
    pub fn expose(mut self, port: impl Into<String>) -> Self {
        self.0.config.exposed_ports.insert(port.into());
        self
    }

    /// A path whose content belongs outside of the image.
    #[must_use]
    pub fn volume(mut self, path: impl Into<String>) -> Self {
        self.0.config.volumes.insert(path.into());
        self
    }

    /// Free text by key.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.config.labels.insert(key.into(), value.into());
        self
    }

    /// The signal that ends it politely.
    #[must_use]
    pub fn stop_signal(mut self, signal: impl Into<String>) -> Self {
        self.0.config.stop_signal = signal.into();
        self
    }

    /// How it is found to be well.
    #[must_use]
    pub fn healthcheck(mut self, check: Healthcheck) -> Self {
        self.0.config.healthcheck = Some(check);
        self
    }

    /// The config.
    ///
    /// # Errors
    /// [`DocumentError::Json`], which nothing here provokes.
    pub fn build(self) -> Result<Document<ImageConfig>, DocumentError> {
        Document::from_value(self.0)
    }

    /// The config and an OCI manifest of it with `blobs` for its layers, lowest first.
    ///
    /// # Errors
    /// [`DocumentError::Layers`] when there are not as many blobs as layers.
    pub fn manifest(
        self,
        blobs: Vec<Descriptor>,
    ) -> Result<(Document<ImageConfig>, Document<Manifest>), DocumentError> {
        let layers = self.0.rootfs.diff_ids.len();
        if blobs.len() != layers {
            return Err(DocumentError::Layers { layers, blobs: blobs.len() });
        }
        let config = self.build()?;
        let descriptor = Descriptor::of(MediaType::OciConfig, config.bytes());
        let manifest = Document::from_value(Manifest::oci(descriptor, blobs))?;
        Ok((config, manifest))
    }
}
