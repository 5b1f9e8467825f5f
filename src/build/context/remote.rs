//! A context behind a URL: an archive is unpacked, any other file is the Dockerfile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use image_core::BlobSink;
use layer_store::Budget;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use super::Ready;
use crate::build::hashes::{Hashes, Stat};
use crate::build::tree::{Content, Disk, Node, NodeKind, Scratch, Tree};
use crate::build::{DOWNLOAD_LIMIT, archive, git};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::task::blocking;

/// BuildKit's name for the file, and the mode that it gives it.
pub(in crate::build) const NAME: &str = "context";
const MODE: u32 = 0o600;

/// Keeps a download in a file.
struct Spool(File);

impl BlobSink for Spool {
    fn write(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        self.0.write_all(chunk)
    }
}

/// Fetches what is at `url`.
pub(super) async fn fetch(engine: &Engine, url: &str, hashes: &Arc<Hashes>) -> Result<Ready> {
    let (state, hashes) = (engine.state().to_owned(), hashes.clone());
    let (scratch, spool) = {
        let state = state.clone();
        blocking(move || {
            let scratch = git::scratch(&state)?;
            let path = scratch.0.join(NAME);
            let file = File::create_new(&path).map_err(|source| Error::Io { path, source })?;
            Ok((scratch, Spool(file)))
        })
        .await?
    };
    let download = engine.client().download(url).await?;
    let modified = download.modified().unwrap_or(0);
    drop(download.into_sink(spool, DOWNLOAD_LIMIT).await?);
    let shown = shown(url);
    blocking(move || open(scratch, modified, &shown, &state, &hashes)).await
}

fn open(scratch: Scratch, modified: i64, shown: &str, state: &Path, hashes: &Arc<Hashes>) -> Result<Ready> {
    let path = scratch.0.join(NAME);
    let fail = |source| Error::Io { path: shown.into(), source };
    let file = File::open(&path).map_err(fail)?;
    let size = file.metadata().map_err(fail)?.len();
    // What somebody else's server sends may cost what a layer of a registry may.
    let budget = Budget::default();
    let limits = archive::Limits {
        bytes: budget.bytes.min(Budget::RATIO_FREE.saturating_add(size.saturating_mul(budget.ratio))),
        entries: budget.entries,
    };
    if let Some(tree) = archive::tree(Box::new(file), shown, limits, state, hashes)? {
        return Ok(Ready::Tree(Arc::new(tree)));
    }
    let root = rustix::fs::open(&scratch.0, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = Arc::new(root.map_err(|errno| fail(errno.into()))?);
    let seen = rustix::fs::statx(&root, NAME, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
    let seen = Stat::of(&seen.map_err(|errno| fail(errno.into()))?);
    let disk = Disk::new(root, NAME.as_bytes().to_vec(), seen, hashes.clone());
    let mut node = Node::plain(NodeKind::File(Content::Disk(Arc::new(disk))), MODE);
    node.mtime = (modified, 0);
    let mut tree = Tree::new(BTreeMap::from([(NAME.as_bytes().to_vec(), node)]), false);
    tree.held = Some(Arc::new(scratch));
    Ok(Ready::Text(Arc::new(tree)))
}

/// `url` without what may be secret: the user, and what follows the path.
pub(in crate::build) fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = plain.split_once("://") else { return plain.to_owned() };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_has_no_secrets() {
        assert_eq!(shown("https://me:pass@host:1/a@b?token=x#y"), "https://host:1/a@b");
        assert_eq!(shown("http://host"), "http://host");
    }
}
