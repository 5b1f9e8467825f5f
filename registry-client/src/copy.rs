//! Copies from registry to registry: manifests with everything below them, blobs by mounts where both names are of
//! one registry, and otherwise streamed through without being kept.
//!
//! ```text
//!   index ─┬─ manifest ─┬─ config          order of the copy: what is referred to goes first,
//!          │            └─ layers          referrers go after what they refer to
//!          ├─ index ─ …
//!          └─ ◁ referrer (signature, SBOM) ─ its blobs, its own referrers
//! ```

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt};
use http::Method;
use image_core::{AnyManifest, Descriptor, Digest, Manifest, MediaType, Platform, Reference};

use crate::blob::{BlobPush, PushOptions, RemoteBlob};
use crate::client::Client;
use crate::error::{Error, RequestLine, Result};
use crate::event::Event;
use crate::manifest::FetchedManifest;

/// Indexes inside indexes, and referrers of referrers.
const MAX_DEPTH: usize = 16;
/// Manifests of one copy.
const MAX_MANIFESTS: usize = 10_000;

/// What a copy takes along.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Of an index, only the manifest for this platform; the copy then has the digest of that manifest.
    pub platform: Option<Platform>,
    /// Everything that refers to what is copied, too: signatures, SBOMs and what refers to those.
    pub referrers: bool,
    /// More repositories of the target's registry that may have the blobs.
    pub mount_from: Vec<Reference>,
}

impl CopyOptions {
    /// The whole graph below the name, without referrers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Copies only what suits this platform.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Whether referrers are copied.
    #[must_use]
    pub fn referrers(mut self, yes: bool) -> Self {
        self.referrers = yes;
        self
    }

    /// Tries to mount blobs from this repository before they are sent.
    #[must_use]
    pub fn mount_from(mut self, repository: Reference) -> Self {
        self.mount_from.push(repository);
        self
    }
}

/// What a copy did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CopyReport {
    /// What the target name means now.
    pub descriptor: Descriptor,
    /// Manifests and indexes that were stored, in the order in which they were.
    pub manifests: Vec<Digest>,
    /// Manifests and indexes that the target had.
    pub existing: Vec<Digest>,
    /// The blobs below the manifests that were stored.
    pub blobs: Vec<(Digest, BlobPush)>,
}

/// What is still to do; the last one is next.
enum Visit {
    /// Look at a manifest and put what is below it first.
    Enter { descriptor: Box<Descriptor>, refers: bool, depth: usize },
    /// Store it: everything below it is there.
    Store { fetched: Box<FetchedManifest>, root: bool },
    /// Ask what refers to it.
    Referrers { subject: Digest, depth: usize },
}

/// One copy on its way.
struct Walk<'w> {
    client: &'w Client,
    from: &'w Reference,
    to: &'w Reference,
    options: &'w CopyOptions,
    visits: Vec<Visit>,
    seen: BTreeSet<Digest>,
    blobs_done: BTreeSet<Digest>,
    report: CopyReport,
}

impl Client {
    /// Copies what `from` means to the name `to`: a manifest, or an index with all that it lists, and referrers if
    /// they are asked for. Bytes stay as they are, so digests do. Blobs of the same registry are mounted; others
    /// pass through memory, a piece at a time, and are verified on the way.
    ///
    /// An image of ten layers takes 14 requests within a registry, and two when it is there.
    ///
    /// # Errors
    /// What pulls and pushes can end in; [`Error::Manifest`] for an index that lists something else than manifests;
    /// [`Error::Unsupported`] for graphs deeper than 16 or of more than 10 000 manifests, or when nothing suits the
    /// platform; [`Error::DigestMismatch`] when `to` has another digest than what would be there. Referrers that
    /// cannot be listed are an error, not none.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the uploads; what is through stays, and the name is set last.
    pub async fn copy(&self, from: &Reference, to: &Reference, options: CopyOptions) -> Result<CopyReport> {
        let mut root = self.manifest(from).await?;
        if let Some(platform) = &options.platform {
            for _ in 0..MAX_DEPTH {
                let AnyManifest::Index(index) = parse(&root)? else { break };
                let chosen = index
                    .value()
                    .select(platform)
                    .ok_or_else(|| Error::Unsupported { what: format!("{from} on {platform}") })?;
                root = self.manifest(&from.at_digest(chosen.digest)).await?;
            }
        }
        let digest = root.descriptor.digest;
        if let Some(expected) = to.digest().filter(|expected| **expected != digest) {
            let request = RequestLine::new(&Method::PUT, &self.endpoint(to).await?.root_url());
            let (expected, actual) = (Box::new(*expected), Box::new(digest));
            return Err(Error::DigestMismatch { request, expected, actual });
        }
        let mut walk = Walk {
            client: self,
            from,
            to,
            options: &options,
            visits: Vec::new(),
            seen: BTreeSet::from([digest]),
            blobs_done: BTreeSet::new(),
            report: CopyReport {
                descriptor: root.descriptor.clone(),
                manifests: Vec::new(),
                existing: Vec::new(),
                blobs: Vec::new(),
            },
        };
        walk.open(root, true, 0)?;
        while let Some(visit) = walk.visits.pop() {
            walk.step(visit).await?;
        }
        Ok(walk.report)
    }
}

impl Walk<'_> {
    async fn step(&mut self, visit: Visit) -> Result<()> {
        match visit {
            Visit::Enter { descriptor, refers, depth } => self.enter(descriptor, refers, depth).await,
            Visit::Store { fetched, root } => self.store(&fetched, root).await,
            Visit::Referrers { subject, depth } => {
                for descriptor in self.client.referrers(self.from, &subject, None).await? {
                    let descriptor = Box::new(descriptor);
                    self.visits.push(Visit::Enter { descriptor, refers: true, depth: depth + 1 });
                }
                Ok(())
            }
        }
    }

    async fn enter(&mut self, descriptor: Box<Descriptor>, refers: bool, depth: usize) -> Result<()> {
        if !self.seen.insert(descriptor.digest) {
            return Ok(());
        }
        if depth > MAX_DEPTH || self.seen.len() > MAX_MANIFESTS {
            let what = format!("a graph below {} with so many levels or manifests", self.from);
            return Err(Error::Unsupported { what });
        }
        // A manifest that is there has its blobs. An index need not have what it lists, and a referrer that is there
        // may still be missing from the list of a registry without the API.
        if !refers && descriptor.media_type.is_manifest() && self.has(&descriptor.digest).await? {
            self.present(descriptor.digest, depth);
            return Ok(());
        }
        let fetched = self.client.manifest(&self.from.at_digest(descriptor.digest)).await?;
        if fetched.descriptor.size != descriptor.size {
            let what = format!("{} has another size than its descriptor says", descriptor.digest);
            let request = fetched.request;
            return Err(Error::Protocol { request, what });
        }
        self.open(fetched, false, depth)
    }

    /// Puts everything below a manifest before it, and its referrers after it.
    fn open(&mut self, fetched: FetchedManifest, root: bool, depth: usize) -> Result<()> {
        let subject = fetched.descriptor.digest;
        if self.options.referrers {
            self.visits.push(Visit::Referrers { subject, depth });
        }
        let below = match parse(&fetched)? {
            AnyManifest::Index(index) => index.into_parts().0.manifests,
            _ => Vec::new(),
        };
        self.visits.push(Visit::Store { fetched: Box::new(fetched), root });
        let below = below.into_iter().rev();
        let enter =
            |descriptor| Visit::Enter { descriptor: Box::new(descriptor), refers: false, depth: depth + 1 };
        self.visits.extend(below.map(enter));
        Ok(())
    }

    async fn has(&self, digest: &Digest) -> Result<bool> {
        Ok(self.client.head_manifest_at_origin(&self.to.at_digest(*digest)).await?.is_some())
    }

    fn present(&mut self, digest: Digest, depth: usize) {
        self.client.engine().tell(&Event::Exists { digest });
        self.report.existing.push(digest);
        if self.options.referrers {
            self.visits.push(Visit::Referrers { subject: digest, depth });
        }
    }

    async fn store(&mut self, fetched: &FetchedManifest, root: bool) -> Result<()> {
        let digest = fetched.descriptor.digest;
        let there = self.has(&digest).await?;
        if !there && let AnyManifest::Manifest(manifest) = parse(fetched)? {
            self.blobs(blobs_of(manifest.into_parts().0)).await?;
        }
        let named = match self.to.tag().filter(|_| root) {
            Some(tag) => {
                let both =
                    format!("{}@{digest}", self.to.at_tag(tag).map_err(|_| no_name(self.to))?.canonical());
                Reference::parse(&both).map_err(|_| no_name(self.to))?
            }
            None => self.to.at_digest(digest),
        };
        self.client.push_manifest(&named, &fetched.media_type, fetched.bytes.clone()).await?;
        if there { &mut self.report.existing } else { &mut self.report.manifests }.push(digest);
        Ok(())
    }

    async fn blobs(&mut self, blobs: Vec<Descriptor>) -> Result<()> {
        let (client, from, to) = (self.client, self.from, self.to);
        let same = from.domain() == to.domain();
        if same && from.path() == to.path() {
            return Ok(());
        }
        let mut options = PushOptions::new();
        options.mount_from.clone_from(&self.options.mount_from);
        if same {
            // A mount also succeeds when the blob is there: no need to ask first.
            options = options.skip_check(true);
            options.mount_from.insert(0, from.clone());
        }
        let done = &mut self.blobs_done;
        let blobs: Vec<Descriptor> = blobs.into_iter().filter(|blob| done.insert(blob.digest)).collect();
        for blob in &blobs {
            client.engine().tell(&Event::Queued { digest: blob.digest, size: blob.size });
        }
        let pushes = blobs.into_iter().map(|blob| {
            let mut options = options.clone();
            async move {
                let source = RemoteBlob::new(client, from, &blob);
                loop {
                    match client.push_blob(to, Box::new(source.clone()), options.clone()).await {
                        // What a mirror sends wrong is asked for elsewhere.
                        Err(Error::BlobRead { .. }) if source.again() => options.skip_check = true,
                        other => return other.map(|outcome| (blob.digest, outcome)),
                    }
                }
            }
        });
        let parallel = client.upload().parallel;
        let outcomes: Vec<_> = futures_util::stream::iter(pushes).buffered(parallel).try_collect().await?;
        self.report.blobs.extend(outcomes);
        Ok(())
    }
}

fn no_name(reference: &Reference) -> Error {
    Error::Reference { reference: reference.to_string(), what: "no name for a copy" }
}

fn parse(fetched: &FetchedManifest) -> Result<AnyManifest> {
    let request = fetched.request.clone();
    fetched.parse().map_err(|source| Error::Manifest { request, source: Box::new(source) })
}

/// Config and layers, but for layers that may not be distributed: those are somewhere else.
fn blobs_of(manifest: Manifest) -> Vec<Descriptor> {
    let foreign = |media_type: &MediaType| {
        let text = media_type.as_str();
        text.contains(".foreign.") || text.contains(".nondistributable.")
    };
    let layers = manifest.layers.into_iter().filter(|layer| !foreign(&layer.media_type));
    std::iter::once(manifest.config).chain(layers).collect()
}
