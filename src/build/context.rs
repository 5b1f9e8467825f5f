//! The build context: what COPY, ADD and RUN mounts may read of the caller's files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerfile::Ignore;

use super::hashes::Hashes;
use super::tree::Tree;
use crate::error::{Error, Result};

mod scan;

/// The largest ignore file that is read, in bytes.
const IGNORE_LIMIT: u64 = 16 << 20;

/// Where the files of a build come from.
#[derive(Clone, Debug)]
pub struct Context {
    path: PathBuf,
}

impl Context {
    /// A directory. Files that its `.dockerignore` names are not seen by the build.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The files that the ignore file leaves and that somebody reads, as one tree. Their content is not read yet.
    pub(super) fn tree(
        &self,
        dockerfile: Option<&Path>,
        wanted: &Wanted,
        hashes: &Arc<Hashes>,
    ) -> Result<Tree> {
        let ignore = self.ignore(dockerfile)?;
        scan::scan(&self.path, ignore.as_ref(), wanted, hashes)
    }

    /// All files, whatever an ignore file says: what a git repository or an archive gives.
    pub(super) fn everything(&self, hashes: &Arc<Hashes>) -> Result<Tree> {
        scan::scan(&self.path, None, &Wanted::everything(), hashes)
    }

    /// The text of the ignore file, for the lint rules.
    pub(super) fn ignore_text(&self, dockerfile: Option<&Path>) -> Result<Option<String>> {
        Ok(self.ignore_file(dockerfile)?.map(|(_, text)| text))
    }

    /// The ignore file: beside the Dockerfile under its name, else the context's.
    fn ignore_file(&self, dockerfile: Option<&Path>) -> Result<Option<(PathBuf, String)>> {
        let beside = dockerfile.map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".dockerignore");
            PathBuf::from(name)
        });
        for path in beside.into_iter().chain([self.path.join(".dockerignore")]) {
            match super::read(&path, IGNORE_LIMIT) {
                Ok(bytes) => return Ok(Some((path, String::from_utf8_lossy(&bytes).into_owned()))),
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn ignore(&self, dockerfile: Option<&Path>) -> Result<Option<Ignore>> {
        let Some((path, text)) = self.ignore_file(dockerfile)? else { return Ok(None) };
        let invalid = |error| Error::Io { path, source: std::io::Error::other(error) };
        Ignore::parse(&text).map(Some).map_err(invalid)
    }
}

/// Which part of a context somebody reads: COPY sources and mounts of the steps that the target needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Slash-separated paths without a leading slash; wildcards cut off at the component that has one.
    paths: Vec<Vec<u8>>,
}

impl Wanted {
    /// Adds a source, as a plan writes it.
    pub(super) fn add(&mut self, source: &str, wildcard: bool) {
        let mut path: Vec<&[u8]> = Vec::new();
        for name in super::tree::components(source.as_bytes()) {
            if wildcard && super::glob::is_pattern(name) {
                break;
            }
            path.push(name);
        }
        self.paths.push(path.join(&b'/'));
    }

    /// Whether the directory `path` has to be entered.
    fn enters(&self, path: &[u8]) -> bool {
        let is_at_or_below = |path: &[u8], above: &[u8]| {
            above.is_empty()
                || path == above
                || (path.starts_with(above) && path.get(above.len()) == Some(&b'/'))
        };
        self.paths.iter().any(|wanted| is_at_or_below(path, wanted) || is_at_or_below(wanted, path))
    }

    /// Whether a symbolic link stands where a wanted path leads through: then anything may be read.
    fn leads_through(&self, link: &[u8]) -> bool {
        self.paths.iter().any(|wanted| {
            wanted == link || (wanted.starts_with(link) && wanted.get(link.len()) == Some(&b'/'))
        })
    }

    fn everything() -> Self {
        Self { paths: vec![Vec::new()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wanted_is_entered() {
        let mut wanted = Wanted::default();
        wanted.add("/src/app/*.c", true);
        wanted.add("/README", true);
        let enters = |path: &str| wanted.enters(path.as_bytes());
        assert!(enters("src") && enters("src/app") && enters("src/app/x") && enters("README"));
        assert!(!enters("src/other") && !enters("srcs") && !enters("doc"));
        assert!(wanted.leads_through(b"src") && !wanted.leads_through(b"src/app/x"));
        assert!(Wanted::everything().enters(b"any/thing"));
    }
}
