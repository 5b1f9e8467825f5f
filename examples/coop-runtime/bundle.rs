//! Bundles: a directory with a config.json and a root filesystem.

use std::io::Read;
use std::path::{Path, PathBuf};

use cooperage::runtime::oci_spec::runtime::{Process, Spec as Config};
use cooperage::runtime::{Network, Rootfs, SpecBuilder, UserMapping};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::Outcome;
use crate::args::Spec;

/// The largest config.json that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// A bundle, read.
pub(crate) struct Bundle {
    pub(crate) directory: PathBuf,
    pub(crate) spec: Config,
    root: PathBuf,
}

impl Bundle {
    pub(crate) fn read(directory: Option<&Path>) -> Outcome<Self> {
        let directory = std::fs::canonicalize(directory.unwrap_or(Path::new(".")))?;
        let path = directory.join("config.json");
        let mut text = Vec::new();
        let file = std::fs::File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if file.take(LIMIT + 1).read_to_end(&mut text)? as u64 > LIMIT {
            return Err(format!("{} is larger than {LIMIT} bytes", path.display()).into());
        }
        let mut spec: Config =
            serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let named = spec.root().as_ref().map(|root| root.path().clone());
        let named = named.ok_or("config.json has no root")?;
        let root = std::fs::canonicalize(directory.join(&named))
            .map_err(|error| format!("root filesystem {}: {error}", directory.join(&named).display()))?;
        if let Some(process) = spec.process_mut() {
            home(process, &root);
        }
        relative_sources(&mut spec, &directory);
        Ok(Self { directory, spec, root })
    }

    pub(crate) fn rootfs(&self) -> Rootfs {
        Rootfs::Path(self.root.clone())
    }
}

/// Sources of bind mounts may be relative to the bundle.
fn relative_sources(spec: &mut Config, directory: &Path) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in &mut mounts {
        let options = mount.options().clone().unwrap_or_default();
        let bound = mount.typ().as_deref() == Some("bind")
            || options.iter().any(|option| option == "bind" || option == "rbind");
        let source = mount.source().clone().filter(|source| bound && source.is_relative());
        if let Some(source) = source {
            mount.set_source(Some(directory.join(source)));
        }
    }
    if spec.mounts().is_some() {
        spec.set_mounts(Some(mounts));
    }
}

/// Sets HOME from the container's own passwd when nothing else does, as runc does.
pub(crate) fn home(process: &mut Process, root: &Path) {
    let mut env = process.env().clone().unwrap_or_default();
    if env.iter().any(|entry| entry.starts_with("HOME=") && entry.len() > 5) {
        return;
    }
    env.retain(|entry| !entry.starts_with("HOME="));
    let uid = process.user().uid();
    let found = passwd(root).and_then(|text| {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let home = (fields.nth(2)?.parse() == Ok(uid)).then(|| fields.nth(2))??;
            (!home.is_empty()).then(|| home.to_owned())
        })
    });
    let home = found.unwrap_or_else(|| "/".to_owned());
    env.push(format!("HOME={home}"));
    process.set_env(Some(env));
}

/// The container's passwd: links in the root filesystem stay in it.
fn passwd(root: &Path) -> Option<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty()).ok()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(&root, "etc/passwd", flags, Mode::empty(), resolve).ok()?;
    let mut text = String::new();
    std::fs::File::from(file).take(1 << 20).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Writes an example, as `runc spec` does.
pub(crate) fn write_spec(args: &Spec) -> Outcome {
    let path = args.bundle.as_deref().unwrap_or(Path::new(".")).join("config.json");
    if path.exists() {
        return Err(format!("File {} exists. Remove it first", path.display()).into());
    }
    let mut builder = SpecBuilder::new()
        .args(["sh"])
        .env(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"])
        .cwd("/")
        .hostname("coop")
        .network(if args.rootless { Network::Host } else { Network::None })
        .no_new_privileges(true)
        .read_only(true)
        .seccomp(None);
    if args.rootless {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        builder = builder.user_mapping(UserMapping::single(uid, gid));
    }
    let mut spec = builder.build()?;
    if let Some(process) = spec.process_mut() {
        process.set_terminal(Some(true));
    }
    let text = serde_json::to_string_pretty(&spec)?;
    std::fs::write(&path, text + "\n").map_err(|error| format!("{}: {error}", path.display()).into())
}
