//! The build context: what COPY, ADD and RUN mounts may read of the caller's files.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dockerfile::Ignore;
use dockerfile::plan::GitSource;

use super::archive;
use super::hashes::Hashes;
use super::tree::{Content, Node, NodeKind, Tree, components};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::task::blocking;

pub(super) mod remote;
mod scan;

/// The largest ignore file that is read, in bytes.
const IGNORE_LIMIT: u64 = 16 << 20;

/// Where the files of a build come from.
///
/// | kind | owners and times of its files | its `.dockerignore` |
/// | --- | --- | --- |
/// | directory | do not count | is applied |
/// | tar, files in memory, git, archive behind a URL | are part of it | is a file like any other, as in BuildKit |
#[derive(Clone)]
pub struct Context(Source);

#[derive(Clone)]
enum Source {
    Directory(PathBuf),
    Tar(Arc<Mutex<Option<Box<dyn Read + Send>>>>),
    Memory(Arc<BTreeMap<String, Vec<u8>>>),
    Git(String),
    Url(String),
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({})", self.identity())
    }
}

/// A context whose files can be reached.
#[derive(Clone, Debug)]
pub(super) enum Ready {
    Directory(PathBuf),
    Tree(Arc<Tree>),
    /// A single file, which is the Dockerfile.
    Text(Arc<Tree>),
}

impl Context {
    /// A directory. Files that its `.dockerignore` names are not seen by the build.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self(Source::Directory(path.into()))
    }

    /// A tar stream, plain or compressed. It is read once, by the first build that uses the value.
    #[must_use]
    pub fn tar(stream: impl Read + Send + 'static) -> Self {
        Self(Source::Tar(Arc::new(Mutex::new(Some(Box::new(stream))))))
    }

    /// Files from memory: path and content, mode 0644.
    #[must_use]
    pub fn files<P: Into<String>, B: Into<Vec<u8>>>(files: impl IntoIterator<Item = (P, B)>) -> Self {
        let files = files.into_iter().map(|(path, bytes)| (path.into(), bytes.into()));
        Self(Source::Memory(Arc::new(files.collect())))
    }

    /// A git repository, in any form that ADD takes: `https://host/repo.git#branch:directory`. Needs `git` on the host.
    #[must_use]
    pub fn git(url: impl Into<String>) -> Self {
        Self(Source::Git(url.into()))
    }

    /// What is behind a URL of http or https, as docker takes it: a tar archive, plain or compressed, is the context;
    /// any other file is the Dockerfile, whatever name the build gives for it, and alone in its context as `context`.
    /// The engine's registry client fetches it. An archive may hold what [`layer_store::Budget`] allows a layer.
    #[must_use]
    pub fn url(url: impl Into<String>) -> Self {
        Self(Source::Url(url.into()))
    }

    /// What tells this context from others, for people and for finding what a build did last time.
    pub(super) fn identity(&self) -> String {
        match &self.0 {
            Source::Directory(path) => path.display().to_string(),
            Source::Tar(_) => "tar".to_owned(),
            Source::Memory(_) => "memory".to_owned(),
            Source::Git(url) => url.clone(),
            Source::Url(url) => remote::shown(url),
        }
    }

    /// Where it comes from, if others can find it there.
    pub(super) fn address(&self) -> Option<String> {
        match &self.0 {
            Source::Git(url) => Some(format!("git+{}", remote::shown(url))),
            Source::Url(url) => Some(remote::shown(url)),
            Source::Directory(_) | Source::Tar(_) | Source::Memory(_) => None,
        }
    }

    /// The directory, if it is one.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.0 {
            Source::Directory(path) => Some(path),
            _ => None,
        }
    }

    /// Makes the files reachable: reads the stream, fetches the repository or the file.
    pub(super) async fn ready(&self, engine: &Engine, hashes: &Arc<Hashes>) -> Result<Ready> {
        // What is no directory is written down first.
        let _room = match &self.0 {
            Source::Directory(_) | Source::Memory(_) => None,
            _ => Some(engine.governor().room("the context", engine.store().path(), 0).await?),
        };
        if let Source::Url(url) = &self.0 {
            return remote::fetch(engine, url, hashes).await;
        }
        let (context, state, hashes) = (self.clone(), engine.state().to_owned(), hashes.clone());
        blocking(move || context.here(&state, &hashes)).await
    }

    fn here(&self, state: &Path, hashes: &Arc<Hashes>) -> Result<Ready> {
        let tree = match &self.0 {
            Source::Directory(path) => return Ok(Ready::Directory(path.clone())),
            Source::Url(_) => return Err(Error::unsupported("a URL where nothing is fetched")),
            Source::Tar(stream) => {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
                let stream = stream.ok_or_else(|| Error::Io {
                    path: "the tar stream of the context".into(),
                    source: std::io::Error::other("it was read by an earlier build"),
                })?;
                let name = "the tar stream of the context";
                archive::tree(stream, name, archive::Limits::default(), state, hashes)?.ok_or_else(|| {
                    Error::Io { path: name.into(), source: std::io::Error::other("it is no tar archive") }
                })?
            }
            Source::Memory(files) => {
                let mut nodes = BTreeMap::new();
                for (path, bytes) in files.iter() {
                    let names: Vec<&[u8]> =
                        components(path.as_bytes()).filter(|name| *name != b"..").collect();
                    for length in 1..names.len() {
                        let parent = names.get(..length).unwrap_or_default().join(&b'/');
                        nodes.entry(parent).or_insert_with(|| Node::plain(NodeKind::Directory, 0o755));
                    }
                    let content = Content::Memory(bytes.clone().into());
                    nodes.insert(names.join(&b'/'), Node::plain(NodeKind::File(content), 0o644));
                }
                Tree::new(nodes, true)
            }
            Source::Git(url) => {
                let wrong = |reason: String| Error::Step { step: format!("git {url}"), reason };
                let source = GitSource::parse(url).map_err(wrong)?;
                let source = source.ok_or_else(|| wrong("it is not a git repository".to_owned()))?;
                super::git::checkout(&source, state, hashes)?
            }
        };
        Ok(Ready::Tree(Arc::new(tree)))
    }
}

impl Ready {
    /// A file of the context, as the Dockerfile is: ignored or not.
    pub(super) fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>> {
        match self {
            Self::Directory(root) => super::read(&root.join(path), limit),
            Self::Tree(tree) | Self::Text(tree) => {
                let fail = |source| Error::Io { path: path.to_owned(), source };
                let missing = || fail(std::io::ErrorKind::NotFound.into());
                let real = tree.resolve(path.as_os_str().as_encoded_bytes()).ok_or_else(missing)?;
                let Some(Node { kind: NodeKind::File(content), .. }) = tree.nodes.get(&real) else {
                    return Err(missing());
                };
                let mut bytes = Vec::new();
                let read = content.open_plain()?.take(limit + 1).read_to_end(&mut bytes);
                read.map_err(fail)?;
                if bytes.len() as u64 > limit {
                    return Err(fail(std::io::Error::other(format!("it is larger than {limit} bytes"))));
                }
                Ok(bytes)
            }
        }
    }

    /// The files that the ignore file leaves and that somebody reads, as one tree. Their content is not read yet.
    pub(super) fn tree(
        &self,
        dockerfile: Option<&Path>,
        wanted: &Wanted,
        hashes: &Arc<Hashes>,
    ) -> Result<Arc<Tree>> {
        match self {
            Self::Directory(path) => {
                let ignore = ignore(path, dockerfile)?;
                Ok(Arc::new(scan::scan(path, ignore.as_ref(), wanted, hashes)?))
            }
            Self::Tree(tree) | Self::Text(tree) => Ok(tree.clone()),
        }
    }

    /// The text of the ignore file, for the lint rules.
    pub(super) fn ignore_text(&self, dockerfile: Option<&Path>) -> Result<Option<String>> {
        match self {
            Self::Directory(path) => Ok(ignore_file(path, dockerfile)?.map(|(_, text)| text)),
            Self::Tree(_) | Self::Text(_) => Ok(None),
        }
    }
}

/// All files below `path`, whatever an ignore file says: what a git repository gives.
pub(super) fn everything(path: &Path, hashes: &Arc<Hashes>) -> Result<Tree> {
    scan::scan(path, None, &Wanted::everything(), hashes)
}

/// The ignore file: beside the Dockerfile under its name, else the context's.
fn ignore_file(context: &Path, dockerfile: Option<&Path>) -> Result<Option<(PathBuf, String)>> {
    let beside = dockerfile.map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in beside.into_iter().chain([context.join(".dockerignore")]) {
        match super::read(&path, IGNORE_LIMIT) {
            Ok(bytes) => return Ok(Some((path, String::from_utf8_lossy(&bytes).into_owned()))),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn ignore(context: &Path, dockerfile: Option<&Path>) -> Result<Option<Ignore>> {
    let Some((path, text)) = ignore_file(context, dockerfile)? else { return Ok(None) };
    let invalid = |error| Error::Io { path, source: std::io::Error::other(error) };
    Ignore::parse(&text).map(Some).map_err(invalid)
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
        for name in components(source.as_bytes()) {
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
