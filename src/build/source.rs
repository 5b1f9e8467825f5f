//! Where a plan's trees come from: images, contexts, URLs, git.

use std::sync::Arc;

use dockerfile::plan::{GitSource, HttpSource, ImageSource, LayoutSource};
use image_core::{Descriptor, MediaType, Platform, Reference};

use super::context::remote;
use super::policy::{self, Source};
use super::solve::{Made, Solver};
use super::tree::{Content, Node, NodeKind, Tree};
use super::{Attestation, NamedContext, git};
use crate::error::{Error, Result};
use crate::task::blocking;

/// The mode that BuildKit gives a file that was fetched.
const FETCHED_MODE: u32 = 0o600;

/// The layers of an image that the compiler asked for, so that it is in the store.
pub(super) fn image(solver: &Solver, source: &ImageSource) -> Result<Made> {
    stack(solver, &source.reference, &source.platform)
}

/// The layers of an image of an OCI layout, which was read into the store.
pub(super) fn layout(solver: &Solver, source: &LayoutSource) -> Result<Made> {
    stack(solver, &source.reference, &source.platform)
}

fn stack(solver: &Solver, reference: &Reference, platform: &Platform) -> Result<Made> {
    let record = solver.build.pinned(reference, platform)?;
    let layers = record.layers.iter().map(|layer| {
        let missing =
            || Error::Store(layer_store::Error::NotFound { kind: "layer", name: layer.key.to_string() });
        solver.work.layer(&layer.key)?.ok_or_else(missing)
    });
    Ok(Made::Layers(layers.collect::<Result<_>>()?))
}

/// The build context, or a named one that is a directory.
pub(super) async fn context(solver: &Arc<Solver>, index: usize, name: Option<&str>) -> Result<Made> {
    let (wanted, hashes) = (solver.wanted(index), solver.hashes.clone());
    let tree = match name {
        None => {
            let (context, file) = (solver.context.clone(), solver.dockerfile.clone());
            blocking(move || context.tree(file.as_deref(), &wanted, &hashes)).await?
        }
        Some(name) => match solver.build.contexts.get(name) {
            Some(NamedContext::Directory(context)) => {
                let ready = context.ready(&solver.build.engine, &hashes).await?;
                blocking(move || ready.tree(None, &wanted, &hashes)).await?
            }
            _ => return Err(Error::unsupported(format!("the named context {name}"))),
        },
    };
    if solver.build.attestations.contains(&Attestation::Provenance) {
        let uri = match (name, name.and_then(|name| solver.build.contexts.get(name))) {
            (None, _) => solver.build.context.address(),
            (_, Some(NamedContext::Directory(context))) => context.address(),
            _ => None,
        };
        let label = name.map_or_else(|| "context".to_owned(), |name| format!("context:{name}"));
        let (tree, materials) = (tree.clone(), solver.build.materials.clone());
        blocking(move || materials.context(label, uri, &tree)).await?;
    }
    Ok(Made::Tree(tree))
}

/// A file behind a URL: fetched, kept as a blob, shown as a tree with that one file.
pub(super) async fn http(solver: &Solver, source: &HttpSource) -> Result<Made> {
    let (blob, modified) = fetch(solver, source).await?;
    let mut node = Node::plain(NodeKind::File(Content::Blob(Box::new(blob))), FETCHED_MODE);
    // As BuildKit: what the server says, else the epoch of Unix.
    node.mtime = (modified.unwrap_or(0), 0);
    let name = source.filename.trim_start_matches('/').as_bytes().to_vec();
    Ok(Made::Tree(Arc::new(Tree::new([(name, node)].into(), false))))
}

async fn fetch(solver: &Solver, source: &HttpSource) -> Result<(Descriptor, Option<i64>)> {
    let asked = Source::Http { url: &source.url, checksum: source.checksum };
    policy::admit(solver.build.policy.as_deref(), &asked)?;
    let ingest = match source.checksum {
        // The algorithm of the checksum; its size is not known before.
        Some(digest) if digest.algorithm() != image_core::Algorithm::Sha256 => {
            return Err(Error::unsupported(format!("ADD --checksum={}", digest.algorithm().name())));
        }
        _ => solver.work.ingest_unknown(MediaType::parse("application/octet-stream"))?,
    };
    let (governor, store) = (solver.build.engine.governor(), solver.work.store().path());
    let _room = governor.room(&remote::shown(&source.url), store, 0).await?;
    let download = solver.build.engine.client().download(&source.url).await?;
    let modified = download.modified();
    let ingest = download.into_sink(ingest, super::DOWNLOAD_LIMIT).await?;
    let blob = blocking(move || Ok(ingest.finish()?)).await?;
    if let Some(expected) = source.checksum
        && expected != blob.digest
    {
        return Err(Error::Step {
            step: format!("ADD {}", source.url),
            reason: format!("digest mismatch {}: {expected}", blob.digest),
        });
    }
    solver.build.materials.file(remote::shown(&source.url), &blob.digest);
    Ok((blob, modified))
}

/// A checkout of a git repository.
pub(super) async fn git(solver: &Solver, source: &GitSource) -> Result<Made> {
    let asked = Source::Git { remote: &source.remote, reference: &source.reference };
    policy::admit(solver.build.policy.as_deref(), &asked)?;
    let store = solver.build.engine.store().path();
    let _room = solver.build.engine.governor().room(&remote::shown(&source.remote), store, 0).await?;
    let shown = remote::shown(&source.remote);
    let fragment = source.reference.clone();
    let (source, state, hashes) =
        (source.clone(), solver.build.engine.state().to_owned(), solver.hashes.clone());
    let tree = blocking(move || git::checkout(&source, &state, &hashes)).await?;
    if let Some(commit) = &tree.commit {
        solver.build.materials.git(&shown, &fragment, commit);
    }
    Ok(Made::Tree(Arc::new(tree)))
}
