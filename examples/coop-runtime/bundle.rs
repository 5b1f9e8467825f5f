//! Bundles: a directory with a config.json and a root filesystem.

use std::io::Read;
use std::path::{Path, PathBuf};

use cooperage::runtime::Rootfs;
use cooperage::runtime::oci_spec::runtime::{
    Capability, Hooks, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Spec as Config,
};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde_json::{Value, json};

use crate::Outcome;

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
        let mut spec = config(&text).map_err(|error| format!("{error}, in {}", path.display()))?;
        let named = spec.root().as_ref().map(|root| root.path().clone());
        let named = named.ok_or("config.json has no root")?;
        let root = std::fs::canonicalize(directory.join(&named))
            .map_err(|error| format!("root filesystem {}: {error}", directory.join(&named).display()))?;
        if let Some(process) = spec.process_mut() {
            home(process, &root);
        }
        relative_sources(&mut spec, &directory);
        if let Some(hooks) = spec.hooks_mut() {
            inherit_environment(hooks);
        }
        Ok(Self { directory, spec, root })
    }

    pub(crate) fn rootfs(&self) -> Rootfs {
        Rootfs::Path(self.root.clone())
    }
}

/// Hooks that run on the host have this process's environment when they name none.
fn inherit_environment(hooks: &mut Hooks) {
    let own: Vec<String> = std::env::vars_os()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value.to_str()?)))
        .collect();
    let mut lists =
        [hooks.prestart().clone(), hooks.create_runtime().clone(), hooks.create_container().clone()];
    let [prestart, runtime, container] = &mut lists;
    let (mut poststart, mut poststop) = (hooks.poststart().clone(), hooks.poststop().clone());
    for list in [prestart, runtime, container, &mut poststart, &mut poststop] {
        for hook in list.iter_mut().flatten().filter(|hook| hook.env().is_none()) {
            hook.set_env(Some(own.clone()));
        }
    }
    let [prestart, runtime, container] = lists;
    hooks.set_prestart(prestart).set_create_runtime(runtime).set_create_container(container);
    hooks.set_poststart(poststart).set_poststop(poststop);
}

/// Reads a config.json as runc does: capabilities that nobody knows are left out.
fn config(text: &[u8]) -> Outcome<Config> {
    let mut value: Value = serde_json::from_slice(text)?;
    if let Some(policy) = value.pointer("/linux/memoryPolicy") {
        memory_policy(policy)?;
    }
    if let Some(process) = value.get_mut("process") {
        complete(process);
    }
    Ok(serde_json::from_value(value)?)
}

/// Says which part of a policy is wrong: the words of the JSON reader alone do not.
fn memory_policy(policy: &Value) -> Outcome {
    let field = |name: &str| policy.get(name).cloned().unwrap_or_default();
    serde_json::from_value::<MemoryPolicyModeType>(field("mode"))
        .map_err(|error| format!("invalid memory policy mode: {error}"))?;
    serde_json::from_value::<Option<Vec<MemoryPolicyFlagType>>>(field("flags"))
        .map_err(|error| format!("invalid memory policy flag: {error}"))?;
    Ok(())
}

/// Reads a process as runc does: it may leave out its user and its directory.
pub(crate) fn process(text: &[u8]) -> serde_json::Result<Process> {
    let mut value: Value = serde_json::from_slice(text)?;
    complete(&mut value);
    serde_json::from_value(value)
}

fn complete(process: &mut Value) {
    let Some(process) = process.as_object_mut() else { return };
    process.entry("user").or_insert_with(|| json!({"uid": 0, "gid": 0}));
    process.entry("cwd").or_insert_with(|| json!(""));
    let flags = process.get_mut("scheduler").and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        // The runtime-spec's name for it; the type that it is read into knows the kernel's.
        if *flag == "SCHED_FLAG_RESET_ON_FORK" {
            *flag = json!("SCHED_RESET_ON_FORK");
        }
    }
    for set in process.get_mut("capabilities").and_then(Value::as_object_mut).into_iter().flatten() {
        let Some(names) = set.1.as_array_mut() else { continue };
        names.retain(|name| {
            let known = serde_json::from_value::<Capability>(name.clone());
            if let Err(error) = &known {
                tracing::warn!("a capability is left out: {error}");
            }
            known.is_ok()
        });
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
    last_of_each(&mut env);
    if env.iter().any(|entry| entry.starts_with("HOME=") && entry.len() > 5) {
        process.set_env(Some(env));
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

/// Of a variable that is set more than once, the last is kept.
fn last_of_each(env: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    env.reverse();
    env.retain(|entry| seen.insert(entry.split('=').next().unwrap_or_default().to_owned()));
    env.reverse();
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
