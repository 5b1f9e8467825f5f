//! What a RUN sees besides its root: trees, caches, secrets, agents.
//!
//! ```text
//!  bind from a stage or image     overlay of the layers' own directories, nothing is copied
//!  bind from a context            the files it names, copied to a scratch directory: ignored ones are not seen
//!  cache                          its directory, see `cache_mount`
//!  secret, ssh                    a file in memory, the agent's socket
//! ```
//!
//! Nothing of it is mounted on the host, and mount points come from a layer of their own: none is left in the result.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerfile::plan::{Exec, Input, Mount, MountKind};
use layer_store::authority::FileAuthority;
use layer_store::{Component, Entry, Kind, Layer, Transaction, View};
use rustix::fs::{Mode, OFlags};

use super::cache_mount::{self, Caches};
use super::git::scratch;
use super::owner::{Looks, Shelter, give_all, opened};
use super::secret::Vault;
use super::solve::{Made, Solver, Trees};
use super::tree::{NodeKind, Tree, components};
use crate::error::{Error, Result};
use crate::process::{Place, Show};

/// Where a name without a path of its own is found by programs.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// Everything that the mounts of one RUN need while it runs.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) places: Vec<Place>,
    pub(super) env: Vec<String>,
    held: Held,
}

/// What goes, or is given back, when the RUN is over.
#[derive(Debug, Default)]
struct Held {
    scratch: Vec<Shelter>,
    caches: Caches,
    vault: Option<Vault>,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

/// What a RUN reads through its bind mounts, part by part. Caches are not part of the key; nor is a mount that is
/// written to and thrown away, beyond what it begins with.
pub(super) fn content(exec: &Exec, trees: &Trees) -> Result<Vec<Component>> {
    let mut parts = Vec::new();
    for (number, mount) in exec.mounts.iter().enumerate() {
        let MountKind::Bind { from, source } = &mount.kind else { continue };
        let tree = trees.get(*from)?;
        let real = find(&tree, source)?;
        let mut nodes = tree.below(&real);
        if let Some(node) = tree.nodes.get(&real) {
            nodes.insert(0, (Vec::new(), node));
        }
        for (path, node) in nodes {
            let value = match &node.kind {
                NodeKind::Directory => "directory".to_owned(),
                NodeKind::File(content) => content.digest()?.to_string(),
                NodeKind::Symlink(target) => format!("link {}", image_core::hex(target)),
                NodeKind::Special(kind) => format!("{kind:?}"),
                NodeKind::Other => continue,
            };
            let name = match std::str::from_utf8(&path) {
                Ok(name) => name.to_owned(),
                Err(_) => format!("{}\0{}", String::from_utf8_lossy(&path), image_core::hex(&path)),
            };
            let value = format!("{value} {:04o} {}:{}", node.mode, node.uid, node.gid);
            parts.push(Component::new(format!("read.{number}.{name}"), value));
        }
    }
    Ok(parts)
}

fn find(tree: &Tree, source: &str) -> Result<Vec<u8>> {
    let plain = components(source.as_bytes()).collect::<Vec<_>>().join(&b'/');
    tree.resolve(&plain).ok_or_else(|| Error::SourceNotFound { path: source.to_owned(), hint: None })
}

/// Prepares the mounts of `exec`, whose caches were taken. Blocks: it copies.
pub(super) fn prepare(solver: &Arc<Solver>, exec: &Exec, caches: Caches) -> Result<Mounts> {
    let mut mounts = Mounts::default();
    mounts.held.caches = caches;
    for mount in &exec.mounts {
        one(solver, mount, &mut mounts)?;
    }
    Ok(mounts)
}

fn one(solver: &Arc<Solver>, mount: &Mount, mounts: &mut Mounts) -> Result<()> {
    let state = solver.build.engine.state();
    let mut place = |show| mounts.places.push(Place { target: mount.target.clone(), show });
    match &mount.kind {
        MountKind::Bind { from, source } => {
            let show = bind(solver, *from, source, mount.readonly, &mut mounts.held)?;
            place(show);
        }
        MountKind::Cache { id, from, source, owner, .. } => {
            let cache = mounts.held.caches.get(id)?.clone();
            let mut inside = source.as_str();
            let seed = mounts.held.caches.seed(id);
            if let Some(layer) = seed {
                let tree = Tree::of_view(&View::of(std::slice::from_ref(layer)));
                materialise(&tree, b"", &cache.path(), &solver.work)?;
            }
            if *from != Input::Empty {
                // The source is a path in what the cache begins with, and the cache holds what is there.
                if cache.is_new() && seed.is_none() {
                    let tree = solver.trees.get(*from)?;
                    materialise(&tree, &find(&tree, source)?, &cache.path(), &solver.work)?;
                }
                inside = "";
            }
            if cache.is_new() {
                cache_mount::own(&cache, *owner, solver.work.store())?;
            }
            let directory = cache_mount::directory(&cache, inside, solver.work.store())?;
            place(Show::Directory { directory, read_only: mount.readonly });
        }
        MountKind::Tmpfs { size } => place(Show::Memory { size: *size }),
        MountKind::Secret { id, env, required, mode, uid, gid } => {
            let Some(bytes) = solver.build.secrets.get(id) else {
                if *required {
                    let reason = format!("secret {id}: not found");
                    return Err(Error::Step { step: "RUN --mount=type=secret".to_owned(), reason });
                }
                return Ok(());
            };
            if let Some(name) = env {
                let text = std::str::from_utf8(bytes).map_err(|_| Error::Step {
                    step: "RUN --mount=type=secret".to_owned(),
                    reason: format!("secret {id}: it is no text, so it cannot be a variable"),
                })?;
                mounts.env.push(format!("{name}={text}"));
            }
            if !mount.target.is_empty() {
                let vault = match &mut mounts.held.vault {
                    Some(vault) => vault,
                    None => mounts.held.vault.insert(Vault::make(state)?),
                };
                let path = vault.put(bytes, *mode, (*uid, *gid), solver.work.store())?;
                place(Show::File { path, read_only: true });
            }
        }
        MountKind::Ssh { id, required, .. } => {
            let Some(socket) = solver.build.secrets.agent(id) else {
                if *required {
                    let name = if id.is_empty() { "default" } else { id };
                    let reason = format!("unset ssh forward key {name}");
                    return Err(Error::Step { step: "RUN --mount=type=ssh".to_owned(), reason });
                }
                return Ok(());
            };
            place(Show::File { path: socket.to_owned(), read_only: true });
            let is_set = |entry: &String| entry.split('=').next() == Some(AGENT_VARIABLE);
            if !mounts.env.iter().any(is_set) {
                mounts.env.push(format!("{AGENT_VARIABLE}={}", mount.target));
            }
        }
        MountKind::Inline { name, data, mode } => {
            let scratch = scratch(state)?;
            let path = scratch.0.join(name.trim_start_matches('/'));
            std::fs::write(&path, data).map_err(io(&path))?;
            std::fs::set_permissions(&path, Permissions::from_mode(*mode)).map_err(io(&path))?;
            std::fs::set_permissions(&scratch.0, Permissions::from_mode(0o755)).map_err(io(&scratch.0))?;
            place(Show::Directory { directory: open(&scratch.0)?, read_only: mount.readonly });
            mounts.held.scratch.push(Shelter::new(scratch, solver.work.store()));
        }
        _ => return Err(Error::unsupported("this kind of mount")),
    }
    Ok(())
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| io(path)(errno.into()))
}

fn bind(solver: &Arc<Solver>, from: Input, source: &str, read_only: bool, held: &mut Held) -> Result<Show> {
    let state = solver.build.engine.state();
    // Everybody may look in: the process may be any user.
    let fresh = |held: &mut Held| -> Result<PathBuf> {
        let made = scratch(state)?;
        let path = made.0.clone();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(io(&path))?;
        held.scratch.push(Shelter::new(made, solver.work.store()));
        Ok(path)
    };
    let mut lower = match solver.trees.made(from) {
        Some(Made::Layers(layers)) => match part(layers, source, solver.work.store().authority())? {
            Part::Directories(directories) => directories,
            Part::File(layer, path) => {
                let copy = fresh(held)?.join("file");
                copy_file(&layer, &path, &copy, &solver.work)?;
                return Ok(Show::File { path: copy, read_only });
            }
        },
        _ => {
            let tree = solver.trees.get(from)?;
            let real = find(&tree, source)?;
            let path = fresh(held)?.join("tree");
            materialise(&tree, &real, &path, &solver.work)?;
            if path.is_dir() {
                vec![open(&path)?]
            } else {
                return Ok(Show::File { path, read_only });
            }
        }
    };
    // An overlay of one directory and an empty one: whiteouts of a lone layer must not be seen as devices.
    let base = fresh(held)?;
    for name in ["empty", "upper", "work"] {
        std::fs::create_dir(base.join(name)).map_err(io(&base))?;
    }
    lower.push(open(&base.join("empty"))?);
    let upper = if read_only { None } else { Some((open(&base.join("upper"))?, open(&base.join("work"))?)) };
    Ok(Show::Overlay { lower, upper })
}

enum Part {
    /// Topmost first.
    Directories(Vec<OwnedFd>),
    File(Layer, Vec<u8>),
}

/// The directories of `layers` that together show what is at `source`, or the file that is there.
fn part(layers: &[Layer], source: &str, authority: &dyn FileAuthority) -> Result<Part> {
    let view = View::of(layers);
    let missing = || Error::SourceNotFound { path: source.to_owned(), hint: None };
    let real = view.resolve(source.as_bytes()).ok_or_else(missing)?;
    if !real.is_empty() {
        match view.file(&real) {
            None => return Err(missing()),
            Some((Entry { kind: Kind::Directory { .. }, .. }, _)) => {}
            Some((Entry { kind: Kind::File { .. }, .. }, _)) => {
                let target = match view.find(&real) {
                    Some((Entry { kind: Kind::Hardlink { target }, .. }, _)) => target.clone(),
                    _ => real.clone(),
                };
                let (_, layer) = view.find(&real).ok_or_else(missing)?;
                return Ok(Part::File(layer.clone(), target));
            }
            Some(_) => {
                return Err(Error::unsupported("a bind mount of something that is no file or directory"));
            }
        }
    }
    let mut directories = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for layer in layers.iter().rev() {
        if !seen.insert(layer.key().clone()) {
            continue;
        }
        let entries = &layer.index().entries;
        let entry = entries.get(&real);
        match entry {
            Some(Entry { kind: Kind::Directory { .. }, .. }) => {
                directories.push(beneath(layer, &real, authority)?);
            }
            None if real.is_empty() => directories.push(beneath(layer, &real, authority)?),
            Some(_) => break,
            None => {}
        }
        if matches!(entry, Some(Entry { kind: Kind::Directory { opaque: true }, .. })) {
            break;
        }
        // Something above the path may hide what lower layers have.
        let mut above = real.as_slice();
        let mut hidden = false;
        while let Some(at) = above.iter().rposition(|byte| *byte == b'/') {
            above = above.get(..at).unwrap_or_default();
            hidden |= entries
                .get(above)
                .is_some_and(|entry| !matches!(entry.kind, Kind::Directory { opaque: false }));
        }
        if hidden {
            break;
        }
    }
    Ok(Part::Directories(directories))
}

/// A directory of a layer's tree, through no link.
fn beneath(layer: &Layer, path: &[u8], authority: &dyn FileAuthority) -> Result<OwnedFd> {
    opened(layer.tree(), if path.is_empty() { b"." } else { path }, authority)
}

fn copy_file(layer: &Layer, path: &[u8], to: &Path, work: &Transaction) -> Result<()> {
    let mode = layer.index().entries.get(path).map_or(0o644, |entry| entry.mode);
    let mut from = layer.open_file(work.store().authority(), path)?;
    let mut file = std::fs::File::create(to).map_err(io(to))?;
    std::io::copy(&mut from, &mut file).map_err(io(to))?;
    std::fs::set_permissions(to, Permissions::from_mode(mode)).map_err(io(to))
}

/// Writes what is at `from` in `tree` to `to`, which is in a directory of ours where nothing can be swapped.
fn materialise(tree: &Tree, from: &[u8], to: &Path, work: &Transaction) -> Result<()> {
    let mut nodes = tree.below(from);
    let Some(root) = tree.nodes.get(from) else {
        return Err(Error::SourceNotFound { path: String::from_utf8_lossy(from).into_owned(), hint: None });
    };
    nodes.insert(0, (Vec::new(), root));
    let mut stamps = Vec::new();
    // Where the first name of each file of several names is.
    let mut names: BTreeMap<(u64, u64), PathBuf> = BTreeMap::new();
    for (relative, node) in &nodes {
        let path =
            if relative.is_empty() { to.to_owned() } else { to.join(std::ffi::OsStr::from_bytes(relative)) };
        match &node.kind {
            NodeKind::Directory => match std::fs::create_dir(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(io(&path)(error));
                }
                _ => {}
            },
            NodeKind::File(content) => {
                if let Some(first) = node.link.and_then(|link| names.get(&link)) {
                    std::fs::hard_link(first, &path).map_err(io(&path))?;
                    continue;
                }
                names.extend(node.link.map(|link| (link, path.clone())));
                let options =
                    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
                let mut file = options.map_err(io(&path))?;
                std::io::copy(&mut content.open(work)?, &mut file).map_err(io(&path))?;
                file.flush().map_err(io(&path))?;
            }
            NodeKind::Symlink(target) => {
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(target), &path).map_err(io(&path))?;
            }
            NodeKind::Special(_) | NodeKind::Other => continue,
        }
        let mode = (!matches!(node.kind, NodeKind::Symlink(_))).then_some(node.mode);
        stamps.push((relative.clone(), Looks { owner: (node.uid, node.gid), mode, mtime: node.mtime }));
    }
    // Children first: a directory that forbids writing takes its files before.
    stamps.reverse();
    give_all(work.store(), to, &stamps)
}
