//! The definition of a step: everything about it but its inputs' content, as named values.
//!
//! The list is kept as the preimage of a cache key, so that two of them can be compared and a miss
//! explained: "env.FOO changed". The digest frames every part with its length, so that no two lists
//! share one.

use image_core::{Algorithm, Digest, Digester};
use serde::Serialize;

use super::{Copy, CopySource, Exec, FileAction, Input, Mount, MountKind, Op, Step};
use crate::env::Origin;

/// What separates these digests from all others.
const DOMAIN: &str = "cooperage.dockerfile.step.v1";

/// One named part of a definition: `argv`, `env.PATH`, `arg.VERSION`, `mount./cache.id`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Component {
    /// What it is.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// The parts of a definition, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Definition {
    /// The parts.
    pub components: Vec<Component>,
}

impl Definition {
    /// SHA-256 over the parts, each framed with its length.
    pub fn digest(&self) -> Digest {
        let mut digester = Digester::new(Algorithm::Sha256);
        let mut frame = |text: &str| {
            digester.update(&(text.len() as u64).to_be_bytes());
            digester.update(text.as_bytes());
        };
        frame(DOMAIN);
        for component in &self.components {
            frame(&component.name);
            frame(&component.value);
        }
        digester.finish()
    }

    /// The first part in which two definitions differ: its name, the value here and the value there.
    pub fn first_difference<'a>(
        &'a self,
        other: &'a Self,
    ) -> Option<(&'a str, Option<&'a str>, Option<&'a str>)> {
        let find = |definition: &'a Self, name: &str| {
            definition.components.iter().find(|part| part.name == name).map(|part| part.value.as_str())
        };
        let here =
            self.components.iter().map(|part| (&*part.name, Some(&*part.value), find(other, &part.name)));
        let there =
            other.components.iter().map(|part| (&*part.name, find(self, &part.name), Some(&*part.value)));
        here.chain(there).find(|(_, here, there)| here != there)
    }

    fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.components.push(Component { name: name.into(), value: value.into() });
    }

    fn add_list(&mut self, name: &str, values: &[String]) {
        self.add(format!("{name}.len"), values.len().to_string());
        for (index, value) in values.iter().enumerate() {
            self.add(format!("{name}.{index}"), value.as_str());
        }
    }

    fn add_flag(&mut self, name: impl Into<String>, value: bool) {
        if value {
            self.add(name, "true");
        }
    }
}

impl Step {
    /// What defines the step, without the content of its inputs.
    ///
    /// Left out because they cannot change the result's meaning or must not be in a key: proxy
    /// variables, the ids and sharing of cache mounts, the bytes of secrets, extra hosts, display names.
    pub fn definition(&self) -> Definition {
        let mut out = Definition::default();
        match &self.op {
            Op::Image(image) => {
                out.add("op", "image");
                out.add("platform", image.platform.to_string());
                match &image.digest {
                    Some(digest) => out.add("digest", digest.to_string()),
                    None => out.add("reference", image.reference.canonical()),
                }
            }
            Op::Layout(layout) => {
                out.add("op", "layout");
                out.add("platform", layout.platform.to_string());
                match &layout.digest {
                    Some(digest) => out.add("digest", digest.to_string()),
                    None => out.add("reference", layout.reference.canonical()),
                }
            }
            Op::Context(context) => {
                out.add("op", "context");
                out.add("name", context.name.as_deref().unwrap_or(""));
            }
            Op::Http(http) => {
                out.add("op", "http");
                out.add("url", &http.url);
                out.add("filename", &http.filename);
                out.add("checksum", http.checksum.as_ref().map(Digest::to_string).unwrap_or_default());
            }
            Op::Git(git) => {
                out.add("op", "git");
                out.add("repository", &git.identity);
                out.add_flag("keep-git-dir", git.keep_git_dir);
                out.add("checksum", git.checksum.as_deref().unwrap_or(""));
                out.add_flag("submodules", git.submodules);
                out.add("mtime", git.mtime.as_deref().unwrap_or(""));
            }
            Op::Exec(exec) => define_exec(&mut out, exec),
            Op::Files(files) => {
                out.add("op", "files");
                out.add_flag("link", files.link);
                for (index, action) in files.actions.iter().enumerate() {
                    match action {
                        FileAction::Mkdir(mkdir) => {
                            out.add(format!("mkdir.{index}.path"), &mkdir.path);
                            out.add(format!("mkdir.{index}.mode"), format!("{:04o}", mkdir.mode));
                            if let Some(owner) = &mkdir.owner {
                                add_owner(&mut out, &format!("mkdir.{index}"), owner);
                            }
                        }
                        FileAction::Copy(copy) => define_copy(&mut out, &format!("copy.{index}"), copy),
                    }
                }
            }
        }
        out
    }
}

fn define_exec(out: &mut Definition, exec: &Exec) {
    out.add("op", "exec");
    out.add_list("argv", &exec.args);
    out.add("cwd", &exec.cwd);
    out.add("user", &exec.user);
    out.add("network", format!("{:?}", exec.network).to_lowercase());
    out.add("security", format!("{:?}", exec.security).to_lowercase());
    if let Some(hostname) = &exec.hostname {
        out.add("hostname", hostname);
    }
    for variable in exec.env.iter() {
        let kind = if variable.origin == Origin::Arg { "arg" } else { "env" };
        out.add(format!("{kind}.{}", variable.name), &*variable.value);
    }
    for device in &exec.devices {
        out.add(format!("device.{}", device.name), if device.required { "required" } else { "optional" });
    }
    for mount in &exec.mounts {
        define_mount(out, mount);
    }
}

fn define_mount(out: &mut Definition, mount: &Mount) {
    let at = match &mount.kind {
        MountKind::Secret { env: Some(name), .. } if mount.target.is_empty() => format!("mount.${name}"),
        _ => format!("mount.{}", mount.target),
    };
    let kind = match &mount.kind {
        MountKind::Bind { from, source } => {
            out.add(format!("{at}.from"), tree(*from));
            out.add(format!("{at}.source"), source);
            "bind"
        }
        MountKind::Cache { from, source, owner, .. } => {
            out.add(format!("{at}.from"), tree(*from));
            out.add(format!("{at}.source"), source);
            if let Some(owner) = owner {
                out.add(format!("{at}.owner"), format!("{}:{} {:04o}", owner.uid, owner.gid, owner.mode));
            }
            "cache"
        }
        MountKind::Tmpfs { size } => {
            out.add(format!("{at}.size"), size.map(|size| size.to_string()).unwrap_or_default());
            "tmpfs"
        }
        MountKind::Secret { id, env, mode, uid, gid, .. } => {
            out.add(format!("{at}.id"), id);
            out.add(format!("{at}.env"), env.as_deref().unwrap_or(""));
            out.add(format!("{at}.owner"), format!("{uid}:{gid} {mode:04o}"));
            "secret"
        }
        MountKind::Ssh { id, mode, uid, gid, .. } => {
            out.add(format!("{at}.id"), id);
            out.add(format!("{at}.owner"), format!("{uid}:{gid} {mode:04o}"));
            "ssh"
        }
        MountKind::Inline { name, data, mode } => {
            out.add(format!("{at}.file"), name);
            out.add(format!("{at}.data"), data);
            out.add(format!("{at}.mode"), format!("{mode:04o}"));
            "inline"
        }
    };
    out.add(format!("{at}.type"), kind);
    out.add_flag(format!("{at}.readonly"), mount.readonly);
}

fn define_copy(out: &mut Definition, at: &str, copy: &Copy) {
    match &copy.from {
        CopySource::Tree(input) => out.add(format!("{at}.from"), tree(*input)),
        CopySource::Inline { name, data } => {
            out.add(format!("{at}.file"), name);
            out.add(format!("{at}.data"), data);
        }
    }
    out.add(format!("{at}.source"), &copy.source);
    out.add(format!("{at}.dest"), &copy.dest);
    if let Some(owner) = &copy.owner {
        add_owner(out, at, owner);
    }
    if let Some(mode) = &copy.mode {
        out.add(format!("{at}.mode"), mode.to_string());
    }
    out.add_list(&format!("{at}.include"), &copy.include);
    out.add_list(&format!("{at}.exclude"), &copy.exclude);
    out.add_list(&format!("{at}.required"), &copy.required);
    out.add_flag(format!("{at}.unpack"), copy.unpack);
    out.add_flag(format!("{at}.wildcard"), copy.wildcard);
    out.add_flag(format!("{at}.follow-links"), copy.follow_links);
    out.add_flag(format!("{at}.parents"), copy.parents);
}

fn add_owner(out: &mut Definition, at: &str, owner: &super::Owner) {
    out.add(format!("{at}.user"), format!("{:?}", owner.user));
    if let Some(group) = &owner.group {
        out.add(format!("{at}.group"), format!("{group:?}"));
    }
}

/// Which tree is read is a matter of the inputs' keys; here it only counts whether there is one.
const fn tree(input: Input) -> &'static str {
    match input {
        Input::Empty => "empty",
        Input::Step(_) => "input",
    }
}
