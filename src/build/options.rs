//! What a build can be told.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use image_core::{Platform, Reference};

use super::{Attestation, Build, CacheLocation, Lock, NamedContext, Secret, SourcePolicy, Timestamps};
use crate::event::Event;
use crate::process::Limits;

impl Build {
    /// How much the process of each RUN may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The Dockerfile, if it is not the context's `Dockerfile`.
    pub fn dockerfile(mut self, path: impl Into<PathBuf>) -> Self {
        self.dockerfile = Some(path.into());
        self
    }

    /// A build argument.
    pub fn arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.args.insert(name.into(), value.into());
        self
    }

    /// The stage to build; the last one without.
    pub fn target(mut self, stage: impl Into<String>) -> Self {
        self.target = Some(stage.into());
        self
    }

    /// A name for the image.
    #[expect(clippy::needless_pass_by_value, reason = "a builder takes its parts")]
    pub fn tag(mut self, name: Reference) -> Self {
        self.tags.push(name.with_default_tag());
        self
    }

    /// A label, over those of the file.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Which times the image carries.
    pub fn timestamps(mut self, timestamps: Timestamps) -> Self {
        self.timestamps = timestamps;
        self
    }

    /// Does every step again.
    pub fn no_cache(mut self, yes: bool) -> Self {
        self.no_cache = yes;
        self
    }

    /// Does every step of the stages of this name again.
    pub fn no_cache_stage(mut self, stage: impl Into<String>) -> Self {
        self.no_cache_stages.insert(stage.into());
        self
    }

    /// What `name` means in FROM, `COPY --from` and mounts: an image's name, or any other.
    pub fn context(mut self, name: impl Into<String>, context: NamedContext) -> Self {
        let name = name.into();
        // The name of an image is looked for in its short form, as docker's tools do.
        let short = name.parse::<Reference>().ok().map(|reference| reference.familiar());
        let name = short.map_or(name, |short| short.trim_end_matches(":latest").to_owned());
        self.contexts.insert(name, context);
        self
    }

    /// A secret for `RUN --mount=type=secret,id=…`. It reaches no layer, no config and no cache key.
    pub fn secret(mut self, id: impl Into<String>, secret: Secret) -> Self {
        self.secrets.insert(id.into(), secret);
        self
    }

    /// The socket of an ssh agent for `RUN --mount=type=ssh`; the id of a mount that names none is `default`.
    pub fn ssh(mut self, id: impl Into<String>, socket: impl Into<PathBuf>) -> Self {
        self.secrets.insert_agent(id.into(), socket.into());
        self
    }

    /// A line of `/etc/hosts` of every RUN. It is no part of a step's key.
    pub fn add_host(mut self, name: impl Into<String>, address: IpAddr) -> Self {
        self.hosts.push((name.into(), address));
        self
    }

    /// The host name of every RUN; BuildKit's without.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// The size of `/dev/shm` of every RUN, in bytes.
    pub fn shm_size(mut self, bytes: u64) -> Self {
        self.shm_size = Some(bytes);
        self
    }

    /// A limit of every RUN's processes.
    pub fn rlimit(mut self, kind: runtime::oci_spec::runtime::PosixRlimitType, soft: u64, hard: u64) -> Self {
        self.rlimits.push((kind, soft, hard));
        self
    }

    /// Gives a RUN that asks for no network of its own loopback alone, instead of the host's network.
    pub fn no_network(mut self, yes: bool) -> Self {
        self.no_network = yes;
        self
    }

    /// Asks the registry for base images that are in the store too.
    pub fn pull(mut self, yes: bool) -> Self {
        self.pull = yes;
        self
    }

    /// How many steps work at once; by default as many as there are processors. It changes no image.
    pub fn parallel(mut self, steps: usize) -> Self {
        self.jobs = steps;
        self
    }

    /// Keeps what a failed RUN left as an image, which [`Error::StepFailed`](crate::Error::StepFailed) holds: a container of it shows the files as
    /// the step left them, in its environment. It goes like every image without a name, by a prune.
    pub fn keep_failed(mut self, yes: bool) -> Self {
        self.keep_failed = yes;
        self
    }

    /// Takes steps that are not known here from this cache, too. What it has is believed.
    pub fn cache_from(mut self, location: CacheLocation) -> Self {
        self.cache_from.push(location);
        self
    }

    /// Takes base images at the digests of `lock` alone, whatever their names mean by now. An image that it does not have
    /// is refused, unless its name is a digest.
    pub fn lock(mut self, lock: Lock) -> Self {
        self.lock = Some(Arc::new(lock));
        self
    }

    /// Asks `policy` about every image, URL and git repository that the Dockerfile names, before it is used. The context
    /// itself is the caller's own choice, and is not asked about.
    pub fn source_policy(mut self, policy: Arc<dyn SourcePolicy>) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Lets `RUN --security=insecure` have all capabilities that this process can give, no seccomp filter and no hidden
    /// paths. As root that is the host's root in all but name: for Dockerfiles that are trusted.
    pub fn allow_insecure(mut self, yes: bool) -> Self {
        self.insecure = yes;
        self
    }

    /// Makes one layer of all that the build adds to its base. The steps' own layers stay in the cache.
    pub fn squash(mut self, yes: bool) -> Self {
        self.squash = yes;
        self
    }

    /// An annotation of the image's manifest. It makes the manifest now, so layers are compressed at once.
    pub fn annotation(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(name.into(), value.into());
        self
    }

    /// Keeps a statement about the image beside it: it goes wherever the image is pushed, as something that refers to its
    /// manifest, and into layouts and archives. It makes the manifest now, so layers are compressed at once. The image
    /// itself stays the same.
    pub fn attest(mut self, what: Attestation) -> Self {
        self.attestations.insert(what);
        self
    }

    /// Who builds, as a URI, for [`Attestation::Provenance`]; `urn:cooperage` without.
    pub fn builder_id(mut self, uri: impl Into<String>) -> Self {
        self.builder = Some(uri.into());
        self
    }

    /// Writes what every step of the build made to this cache, when the build succeeds.
    pub fn cache_to(mut self, location: CacheLocation) -> Self {
        self.cache_to.push(location);
        self
    }

    /// Shares what cache mounts hold (`RUN --mount=type=cache`) through the caches of this build, too: it is written to those
    /// of [`Self::cache_to`], and a mount that is new here begins with what one of [`Self::cache_from`] has of its id.
    /// Mounts of more than `limit` bytes, compressed, are left out. What is in them is believed, as all of a cache.
    pub fn share_cache_mounts(mut self, limit: u64) -> Self {
        self.mounts_limit = Some(limit);
        self
    }

    /// Writes into the image's config which steps its layers are, so that the image itself is a cache: see
    /// [`CacheLocation::Registry`]. It changes the image's ID. `BUILDKIT_INLINE_CACHE=1` as build argument asks for it, too.
    pub fn inline_cache(mut self, yes: bool) -> Self {
        self.inline_cache = yes;
        self
    }

    pub(super) fn keeps_inline_cache(&self) -> bool {
        self.inline_cache || self.args.get("BUILDKIT_INLINE_CACHE").is_some_and(|value| value == "1")
    }

    pub(super) fn jobs(&self) -> usize {
        match self.jobs {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            jobs => jobs.min(1_024),
        }
    }

    /// What the image is for; the engine's platform without.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Takes what happens, as it happens.
    pub fn on_event(mut self, sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.events = Arc::new(sink);
        self
    }

    /// The text of the Dockerfile, which then is no file of the context.
    pub fn dockerfile_text(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.text = Some(text.into().into());
        self
    }
}
