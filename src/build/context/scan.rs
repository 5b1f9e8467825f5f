//! Walks a directory of the host without following links, leaving out what is ignored or read by nobody.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use dockerfile::{DirState, Ignore};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, StatxFlags};

use super::Wanted;
use crate::build::hashes::{Hashes, Stat};
use crate::build::tree::{Content, Disk, Node, NodeKind, Tree};
use crate::error::{Error, Result};

/// Deeper trees than this are refused: recursion is bounded.
const DEPTH_LIMIT: usize = 1_024;
/// More entries than this are refused: memory is bounded.
const ENTRIES_LIMIT: usize = 10_000_000;

struct Scan<'a> {
    path: &'a Path,
    root: Arc<OwnedFd>,
    ignore: Option<&'a Ignore>,
    wanted: &'a Wanted,
    hashes: &'a Arc<Hashes>,
    nodes: BTreeMap<Vec<u8>, Node>,
    /// A link stands where a wanted path leads through.
    linked: bool,
}

/// The tree below `path`.
pub(super) fn scan(
    path: &Path,
    ignore: Option<&Ignore>,
    wanted: &Wanted,
    hashes: &Arc<Hashes>,
) -> Result<Tree> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || {
        fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::Io { path: path.to_owned(), source: errno.into() })
    };
    let mut scan =
        Scan { path, root: Arc::new(open()?), ignore, wanted, hashes, nodes: BTreeMap::new(), linked: false };
    scan.directory(open()?.as_fd(), &mut Vec::new(), &DirState::default(), 0)?;
    if scan.linked {
        let all = Wanted::everything();
        let mut scan = Scan { wanted: &all, nodes: BTreeMap::new(), ..scan };
        scan.directory(open()?.as_fd(), &mut Vec::new(), &DirState::default(), 0)?;
        return Ok(Tree::new(scan.nodes, true));
    }
    Ok(Tree::new(scan.nodes, true))
}

impl Scan<'_> {
    fn fail(&self, at: &[u8], source: std::io::Error) -> Error {
        use std::os::unix::ffi::OsStrExt;
        Error::Io { path: self.path.join(std::ffi::OsStr::from_bytes(at)), source }
    }

    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        prefix: &mut Vec<u8>,
        state: &DirState,
        depth: usize,
    ) -> Result<()> {
        if depth > DEPTH_LIMIT {
            return Err(self.fail(prefix, std::io::Error::other("the tree is too deep")));
        }
        let length = prefix.len();
        for (name, listed) in self.names(dir, prefix)? {
            if length > 0 {
                prefix.push(b'/');
            }
            prefix.extend_from_slice(&name);
            self.entry(dir, &name, listed, prefix, state, depth)?;
            prefix.truncate(length);
        }
        Ok(())
    }

    fn entry(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        listed: FileType,
        path: &mut Vec<u8>,
        state: &DirState,
        depth: usize,
    ) -> Result<()> {
        let verdict = match self.ignore {
            None => None,
            Some(ignore) => {
                let asked = ignore.try_enter(state, &String::from_utf8_lossy(path));
                Some(asked.map_err(|error| Error::Io {
                    path: self.path.to_owned(),
                    source: std::io::Error::other(error),
                })?)
            }
        };
        let (ignored, prune) =
            verdict.as_ref().map_or((false, false), |verdict| (verdict.ignored, verdict.prune));
        // Without looking: what is ignored for good, or read by nobody, costs nothing.
        let may_be_directory = matches!(listed, FileType::Directory | FileType::Unknown);
        if (ignored && (prune || !may_be_directory)) || !(self.wanted.enters(path)) {
            return Ok(());
        }
        let mask = StatxFlags::BASIC_STATS;
        let stat = fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, mask)
            .map_err(|errno| self.fail(path, errno.into()))?;
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        if !ignored {
            if self.nodes.len() >= ENTRIES_LIMIT {
                return Err(self.fail(path, std::io::Error::other("the context has too many files")));
            }
            let node = self.node(dir, name, path, kind, &stat)?;
            self.nodes.insert(path.clone(), node);
        }
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner =
                fs::openat(dir, name, flags, Mode::empty()).map_err(|errno| self.fail(path, errno.into()))?;
            let state = verdict.map(|verdict| verdict.state).unwrap_or_default();
            let before = self.nodes.len();
            self.directory(inner.as_fd(), path, &state, depth + 1)?;
            // Something below was brought back: the directory comes with it.
            if ignored && self.nodes.len() > before {
                let node = self.node(dir, name, path, kind, &stat)?;
                self.nodes.insert(path.clone(), node);
            }
        }
        Ok(())
    }

    fn node(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        kind: FileType,
        stat: &fs::Statx,
    ) -> Result<Node> {
        let seen = Stat::of(stat);
        let kind = match kind {
            FileType::Directory => NodeKind::Directory,
            FileType::Symlink => {
                self.linked |=
                    !self.wanted.paths.iter().all(Vec::is_empty) && self.wanted.leads_through(path);
                let target =
                    fs::readlinkat(dir, name, Vec::new()).map_err(|errno| self.fail(path, errno.into()))?;
                NodeKind::Symlink(target.into_bytes())
            }
            FileType::RegularFile => NodeKind::File(Content::Disk(Arc::new(Disk::new(
                self.root.clone(),
                path.to_vec(),
                seen,
                self.hashes.clone(),
            )))),
            // A socket arrives as an empty file, as in BuildKit; devices and fifos of the host are no part of a build.
            FileType::Socket => NodeKind::File(Content::Memory([].into())),
            _ => NodeKind::Other,
        };
        let link = (stat.stx_nlink > 1 && matches!(kind, NodeKind::File(_))).then(|| seen.identity());
        let mtime = (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
        Ok(Node {
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: 0,
            gid: 0,
            mtime,
            xattrs: BTreeMap::new(),
            link,
        })
    }

    fn names(&self, dir: BorrowedFd<'_>, prefix: &[u8]) -> Result<Vec<(Vec<u8>, FileType)>> {
        let fail = |errno: rustix::io::Errno| self.fail(prefix, errno.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut names = Vec::new();
        let listing = fs::openat(dir, ".", flags, Mode::empty()).and_then(fs::Dir::new).map_err(fail)?;
        for entry in listing {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push((name.to_vec(), entry.file_type()));
            }
        }
        Ok(names)
    }
}
