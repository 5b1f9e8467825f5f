//! The handle that a program holds: a store, a registry client and a runtime.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use image_core::{Digest, Document, ImageConfig, ImageId, Platform, Reference, Timestamp};
use layer_store::authority::Owners;
use layer_store::{
    Collected, DedupOptions, Deduplicated, GcPolicy, ImagePolicy, ImageRecord, Snapshotter, Store,
    StoreOptions, Transaction, Usage, View,
};
use registry_client::Client;
use runtime::{Runtime, UserMapping};

use crate::error::{Error, Result};
use crate::governor::Governor;
use crate::pull::ImageVerifier;
use crate::subordinate::Subordinate;
use crate::task::blocking;

/// Tells the time; local records (when was this image built?) are stamped with it, images are not.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How an engine is made.
#[non_exhaustive]
pub struct EngineOptions {
    /// Where the store is.
    pub store: PathBuf,
    /// Where the runtime keeps the state of running containers.
    pub state: PathBuf,
    /// Speaks to registries.
    pub client: Option<Client>,
    /// Tells the time.
    pub clock: Clock,
    /// What images are pulled and built for.
    pub platform: Platform,
    /// Decides which pulled images are kept.
    pub verifier: Option<Arc<dyn ImageVerifier>>,
    /// How long it may take for one image.
    pub verify_timeout: Duration,
    /// Whether an ordinary user's ranges of `/etc/subuid` and `/etc/subgid` are used, where there are any: then images
    /// have all their owners, and containers all their users. A store that exists stays as it was made.
    pub subordinate_ids: bool,
    /// Who gives processes their root; `None`: what serves here, see [`Store::probe`].
    pub snapshotter: Option<Arc<dyn Snapshotter>>,
    /// Bounds what its builds do together. Several engines may have the same one.
    pub governor: Governor,
    /// By what new layers are made to share equal files with those that are there, where the store's file system can; a
    /// pull or a build waits for it. `None`: only when asked, by [`Engine::deduplicate`].
    pub dedup: Option<DedupOptions>,
}

impl fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineOptions")
            .field("store", &self.store)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl EngineOptions {
    /// Everything below `directory`: `store` and `state`. Registries on loopback are spoken to in plain HTTP.
    #[must_use]
    pub fn rooted_at(directory: impl AsRef<Path>) -> Self {
        let directory = directory.as_ref();
        Self {
            store: directory.join("store"),
            state: directory.join("state"),
            client: None,
            clock: Arc::new(|| Timestamp::from_system(SystemTime::now())),
            platform: Platform::host(),
            verifier: None,
            verify_timeout: Duration::from_secs(60),
            subordinate_ids: true,
            snapshotter: None,
            governor: Governor::default(),
            dedup: None,
        }
    }

    /// Makes new layers share equal files with those that are there, by `options`.
    #[must_use]
    pub fn dedup(mut self, options: DedupOptions) -> Self {
        self.dedup = Some(options);
        self
    }

    /// Keeps only those pulled images that `verifier` lets in. It has 60 s for each, or as long as `verify_timeout` says.
    #[must_use]
    pub fn verifier(mut self, verifier: Arc<dyn ImageVerifier>) -> Self {
        self.verifier = Some(verifier);
        self
    }

    /// Bounds what all builds together do by `governor`.
    #[must_use]
    pub fn governor(mut self, governor: Governor) -> Self {
        self.governor = governor;
        self
    }

    /// Speaks to registries by `client`.
    #[must_use]
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }
}

/// An engine. Cheap to clone; every clone works on the same store.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    store: Store,
    client: Client,
    runtime: Runtime,
    state: PathBuf,
    clock: Clock,
    platform: Platform,
    mapping: Option<UserMapping>,
    verifier: Option<(Arc<dyn ImageVerifier>, Duration)>,
    governor: Governor,
    /// What running builds share: a step that one of them made is there for the others at once.
    transaction: Mutex<Weak<Transaction>>,
    /// Steps that are being made, by key.
    steps: Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("store", &self.0.store.path()).finish_non_exhaustive()
    }
}

/// An image of the store.
#[derive(Clone, Debug)]
pub struct Image {
    record: ImageRecord,
    config: Document<ImageConfig>,
}

impl Image {
    /// Its ID: the digest of its config.
    #[must_use]
    pub fn id(&self) -> ImageId {
        self.record.id()
    }

    /// Its config.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        self.config.value()
    }

    /// What the store knows of it.
    #[must_use]
    pub fn record(&self) -> &ImageRecord {
        &self.record
    }
}

impl Engine {
    /// Opens an engine.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Runtime`], [`Error::Registry`] when a part cannot be set up.
    pub async fn open(options: EngineOptions) -> Result<Self> {
        blocking(move || {
            let client = match options.client {
                Some(client) => client,
                None => Client::builder().loopback_plain_http(true).build()?,
            };
            // A mount's source, and a process that changes its directory, want absolute paths.
            let absolute =
                |path: PathBuf| std::path::absolute(&path).map_err(|source| Error::Io { path, source });
            let (store, state) = (absolute(options.store)?, absolute(options.state)?);
            private(&state)?;
            let runtime = Runtime::builder().state_dir(state.join("runtime")).build()?;
            let mut opening = StoreOptions::default();
            opening.snapshotter = options.snapshotter;
            opening.dedup = options.dedup;
            let (store, mapping) = open_store(&store, &runtime, options.subordinate_ids, opening)?;
            let inner = Inner {
                store,
                client,
                runtime,
                state,
                clock: options.clock,
                platform: options.platform,
                mapping,
                verifier: options.verifier.map(|verifier| (verifier, options.verify_timeout)),
                governor: options.governor,
                transaction: Mutex::default(),
                steps: Mutex::default(),
            };
            crate::process::prepare_stubs(&inner.state)?;
            Ok(Self(Arc::new(inner)))
        })
        .await
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The registry client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// The runtime.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.0.runtime
    }

    /// What images are pulled and built for.
    #[must_use]
    pub fn platform(&self) -> &Platform {
        &self.0.platform
    }

    /// What bounds its builds together.
    #[must_use]
    pub fn governor(&self) -> &Governor {
        &self.0.governor
    }

    pub(crate) fn state(&self) -> &Path {
        &self.0.state
    }

    pub(crate) fn verifier(&self) -> Option<&(Arc<dyn ImageVerifier>, Duration)> {
        self.0.verifier.as_ref()
    }

    pub(crate) fn mapping(&self) -> Option<&UserMapping> {
        self.0.mapping.as_ref()
    }

    /// The transaction that all builds of this engine which run now share.
    pub(crate) fn transaction(&self) -> Result<Arc<Transaction>> {
        let mut shared = self.0.transaction.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(transaction) = shared.upgrade() {
            return Ok(transaction);
        }
        let transaction = Arc::new(self.0.store.begin()?);
        *shared = Arc::downgrade(&transaction);
        Ok(transaction)
    }

    /// Whoever holds it makes the step with this key; others wait and find it made.
    pub(crate) fn alone(&self, key: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut steps = self.0.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = steps.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        steps.insert(key, Arc::downgrade(&lock));
        lock
    }

    /// Now, by the engine's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0.clock)()
    }

    /// The image that `name` means: a name, an ID, or the beginning of one. Of an index, the image for this engine's
    /// platform.
    ///
    /// # Errors
    /// [`Error::Store`] when there is none or more than one.
    pub fn image(&self, name: &str) -> Result<Image> {
        // Of several images under one name, the one for this engine.
        if name.parse::<ImageId>().is_err()
            && let Ok(reference) = Reference::parse(name)
            && let Some(index) = self.0.store.find_index(&reference)?
            && let Some(chosen) = index.select(&self.0.platform)
        {
            return self.load(self.0.store.image(&chosen.image)?);
        }
        self.load(self.0.store.resolve_image(name)?)
    }

    pub(crate) fn load(&self, record: ImageRecord) -> Result<Image> {
        let config = self.0.store.config(&record)?;
        Ok(Image { record, config })
    }

    /// The files of `image`, as one tree.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn view(&self, image: &Image) -> Result<View> {
        Ok(View::of(&self.0.store.image_layers(&image.record)?))
    }

    /// Gives `image` a name. Gives what the name meant before.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn tag(&self, image: &Image, name: &Reference) -> Result<Option<ImageId>> {
        Ok(self.0.store.tag(name, &image.id(), Some(self.now()))?)
    }

    /// What the store costs.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn usage(&self) -> Result<Usage> {
        Ok(self.0.store.usage()?)
    }

    /// Removes what nothing needs any more.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn gc(&self) -> Result<Collected> {
        let (store, now) = (self.0.store.clone(), self.now());
        let policy = GcPolicy::default().keep_partials(now, KEEP_PARTIALS);
        blocking(move || Ok(store.gc_with(&policy)?)).await
    }

    /// Makes equal files of different layers share their blocks, where the store's file system can: see
    /// [`Store::deduplicate`].
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn deduplicate(&self, options: DedupOptions) -> Result<Deduplicated> {
        let store = self.0.store.clone();
        blocking(move || Ok(store.deduplicate(&options)?)).await
    }

    /// Removes images: those without a name, or with `all` those without a container. Gives their IDs and the names
    /// that they lost.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn prune_images(&self, all: bool) -> Result<Pruned> {
        let (store, now) = (self.0.store.clone(), self.now());
        blocking(move || {
            let mut policy = ImagePolicy::default();
            policy.all = all;
            let mut pruned = Pruned::default();
            for image in store.prune_images(&policy, now, &|_| true, false)? {
                pruned.images.push((image.id, image.names));
            }
            pruned.images.sort_by_key(|(id, _)| *id);
            pruned.collected = store.gc_with(&GcPolicy::default().keep_partials(now, KEEP_PARTIALS))?;
            Ok(pruned)
        })
        .await
    }

    /// Removes containers that do not run. Gives their IDs and the bytes that they took.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn prune_containers(&self) -> Result<(Vec<String>, u64)> {
        let store = self.0.store.clone();
        blocking(move || {
            let (mut ids, mut bytes) = (Vec::new(), 0);
            for container in store.containers()? {
                match store.remove_container(&container.id) {
                    Ok(size) => {
                        bytes += size;
                        ids.push(container.id);
                    }
                    // It runs.
                    Err(layer_store::Error::InUse { .. } | layer_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(Error::Store(error)),
                }
            }
            Ok((ids, bytes))
        })
        .await
    }
}

/// How long a blob of which only some has come can be gone on with.
const KEEP_PARTIALS: Duration = Duration::from_secs(24 * 3_600);

/// Opens the store at `path` with the most that this process can do there; and the ids that containers have then.
fn open_store(
    path: &Path,
    runtime: &Runtime,
    subordinate: bool,
    mut options: StoreOptions,
) -> Result<(Store, Option<UserMapping>)> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() {
        return Ok((Store::open_with(path, options)?, None));
    }
    let kept = Store::owners(path)?;
    if subordinate
        && kept != Some(Owners::Single)
        && let Some(mapping) = crate::subordinate::mapping()
    {
        match runtime.user_namespace(&mapping) {
            Ok(namespace) => {
                options.authority = Arc::new(Subordinate::new(namespace));
                return Ok((Store::open_with(path, options)?, Some(mapping)));
            }
            // Without a store yet, a single id will do.
            Err(error) if kept.is_none() => tracing::warn!(%error, "subordinate ids cannot be used"),
            Err(error) => return Err(error.into()),
        }
    }
    // Root of a namespace that maps one's own id alone.
    Ok((Store::open_with(path, options)?, Some(UserMapping::single(uid.as_raw(), gid.as_raw()))))
}

/// Makes the directory `path`, which nobody else looks into: what builds put there for a while may be setuid, or secret.
fn private(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let fail = |source| Error::Io { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(fail)
}

/// What a prune removed.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Pruned {
    /// Images, with the names that they had.
    pub images: Vec<(ImageId, Vec<Reference>)>,
    /// What went with them.
    pub collected: Collected,
}
