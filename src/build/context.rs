//! The build context: what COPY and ADD may read of the caller's files.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerfile::Ignore;
use layer_store::authority::{Direct, FileAuthority, Found};
use rustix::fs::{FileType, Mode, OFlags};

use super::tree::{Content, Node, NodeKind, Tree};
use crate::error::{Error, Result};

/// Where the files of a build come from.
#[derive(Clone, Debug)]
pub struct Context {
    path: PathBuf,
}

impl Context {
    /// A directory.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All files that the ignore file leaves, as one tree. Their content is not read yet.
    pub(super) fn tree(&self, dockerfile: &Path) -> Result<Tree> {
        let fail = |source: std::io::Error| Error::Io { path: self.path.clone(), source };
        let ignore = self.ignore(dockerfile)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|errno| fail(errno.into()))?;
        let authority = Direct::detect();
        let found = authority.walk(root.as_fd()).map_err(fail)?;
        let root: Arc<OwnedFd> = Arc::new(root);
        let mut nodes = BTreeMap::new();
        for found in found {
            let ignored =
                ignore.as_ref().is_some_and(|ignore| ignore.matches(&String::from_utf8_lossy(&found.path)));
            if !ignored {
                nodes.insert(found.path.clone(), node(&found, &root));
            }
        }
        Ok(Tree::new(nodes, true))
    }

    /// The ignore file: beside the Dockerfile under its name, else the context's.
    fn ignore(&self, dockerfile: &Path) -> Result<Option<Ignore>> {
        let mut beside = dockerfile.as_os_str().to_owned();
        beside.push(".dockerignore");
        for path in [PathBuf::from(beside), self.path.join(".dockerignore")] {
            match std::fs::read_to_string(&path) {
                Ok(text) => {
                    let invalid =
                        |error| Error::Io { path: path.clone(), source: std::io::Error::other(error) };
                    return Ignore::parse(&text).map(Some).map_err(invalid);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(Error::Io { path, source }),
            }
        }
        Ok(None)
    }
}

fn node(found: &Found, root: &Arc<OwnedFd>) -> Node {
    let kind = match FileType::from_raw_mode(found.mode) {
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => NodeKind::Symlink(found.target.clone()),
        FileType::RegularFile => {
            NodeKind::File(Content::Disk { root: root.clone(), path: found.path.clone() })
        }
        // Sockets, devices and fifos of the host are no part of a build.
        _ => NodeKind::Other,
    };
    Node { kind, mode: found.mode & 0o7777, uid: 0, gid: 0, mtime: found.mtime, xattrs: BTreeMap::new() }
}
