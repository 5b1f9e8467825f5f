//! One JSON object that says what a file compiles to, in words that other compilers can be compared by.
//!
//! Keys that are absent are empty. `sources`, `execs` and `files` are sets: sorted by their text, equal ones once.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::plan::{CopySource, FileAction, Mount, MountKind, Network, Op, Security, Sharing};
use crate::{Dockerfile, Plan};

/// What the file says: `stages` and `instructions`.
pub fn syntax(file: &Dockerfile) -> Map<String, Value> {
    let mut out = Map::new();
    let (mut stages, mut instructions) = (Vec::new(), Vec::new());
    for stage in file.stages() {
        let mut entry = Map::new();
        entry.insert("name".into(), json!(stage.from.name.as_deref().unwrap_or("")));
        entry.insert("base".into(), json!(stage.from.base));
        put(&mut entry, "platform", stage.from.platform.as_deref().unwrap_or(""));
        stages.push(Value::Object(entry));
        for one in stage.body {
            instructions
                .push(json!({"stage": stage.number, "name": one.kind.keyword(), "line": one.lines.first}));
        }
    }
    list(&mut out, "stages", stages);
    list(&mut out, "instructions", instructions);
    out
}

/// What the file compiles to: all keys.
pub fn record(file: &Dockerfile, plan: &Plan) -> Map<String, Value> {
    let mut out = syntax(file);
    if let Some(stage) = plan.target_stage() {
        let mut config = serde_json::to_value(&stage.config).unwrap_or_default();
        if let Some(config) = config.as_object_mut() {
            config.retain(|_, value| !is_empty(value));
        }
        if !is_empty(&config) {
            out.insert("config".into(), config);
        }
        let mut history = Vec::new();
        for old in stage.base_image.iter().flat_map(|image| &image.history) {
            history.push(entry(&old.created_by, old.empty_layer, &old.author));
        }
        history.extend(
            plan.history(plan.target).into_iter().map(|one| entry(&one.created_by, one.empty_layer(), "")),
        );
        list(&mut out, "history", history);
    }
    let (mut sources, mut execs, mut files) = (Vec::new(), Vec::new(), Vec::new());
    let mut images = BTreeMap::new();
    for step in &plan.steps {
        match &step.op {
            Op::Image(image) => {
                let name = image.reference.canonical();
                let name = name.split('@').next().unwrap_or("");
                images.insert(image.reference.canonical(), json!(format!("docker-image://{name}")));
            }
            Op::Context(context) => {
                sources.push(json!(format!("local://{}", context.name.as_deref().unwrap_or("context"))));
            }
            Op::Http(http) => sources.push(json!(http.url)),
            Op::Git(git) => sources.push(json!(format!("git://{}", git.identity))),
            Op::Exec(exec) => {
                let mut one = Map::new();
                one.insert("args".into(), json!(exec.args));
                one.insert("cwd".into(), json!(exec.cwd));
                let mut env = exec.env.to_strings();
                env.sort();
                one.insert("env".into(), json!(env));
                put(&mut one, "user", &exec.user);
                match exec.network {
                    Network::Default => {}
                    Network::None => put(&mut one, "network", "none"),
                    Network::Host => put(&mut one, "network", "host"),
                }
                if exec.security == Security::Insecure {
                    put(&mut one, "security", "insecure");
                }
                let mut mounts: Vec<&Mount> =
                    exec.mounts.iter().filter(|mount| !mount.target.is_empty()).collect();
                mounts.sort_by(|a, b| a.target.cmp(&b.target));
                list(
                    &mut one,
                    "mounts",
                    mounts.into_iter().map(|mount| mount_record(mount, &mut files)).collect(),
                );
                execs.push(Value::Object(one));
            }
            Op::Files(step) => step.actions.iter().for_each(|action| file_record(action, &mut files)),
        }
    }
    // Images that differ in their digest alone are two.
    sources.extend(images.into_values());
    sources.sort_by_key(Value::to_string);
    list(&mut out, "sources", sources);
    for (key, values) in [("execs", execs), ("files", files)] {
        let set: BTreeMap<String, Value> =
            values.into_iter().map(|value| (value.to_string(), value)).collect();
        list(&mut out, key, set.into_values().collect());
    }
    let warnings = plan
        .warnings
        .iter()
        .map(|warning| json!({"rule": warning.rule, "msg": warning.message, "line": warning.lines.first}));
    list(&mut out, "warnings", warnings.collect());
    out
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

fn put(map: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        map.insert(key.to_owned(), json!(text));
    }
}

fn list(map: &mut Map<String, Value>, key: &str, values: Vec<Value>) {
    if !values.is_empty() {
        map.insert(key.to_owned(), Value::Array(values));
    }
}

fn entry(created_by: &str, empty_layer: bool, author: &str) -> Value {
    let mut one = Map::new();
    put(&mut one, "created_by", created_by);
    if empty_layer {
        one.insert("empty_layer".into(), json!(true));
    }
    put(&mut one, "author", author);
    Value::Object(one)
}

fn mount_record(mount: &Mount, files: &mut Vec<Value>) -> Value {
    let mut one = Map::new();
    put(&mut one, "dest", &mount.target);
    let tree = |one: &mut Map<String, Value>, source: &str| {
        put(one, "source", if source == "/" { "" } else { source });
        if mount.readonly {
            one.insert("readonly".into(), json!(true));
        }
    };
    let kind = match &mount.kind {
        MountKind::Bind { source, .. } => {
            tree(&mut one, source);
            "bind"
        }
        MountKind::Cache { id, sharing, source, owner, .. } => {
            tree(&mut one, if owner.is_some() { "/cache" } else { source });
            if let Some(owner) = owner {
                files.push(json!({"op": "mkdir", "dest": "/cache", "mode": format!("{:04o}", owner.mode)}));
            }
            put(&mut one, "id", id);
            let sharing = match sharing {
                Sharing::Shared => "shared",
                Sharing::Private => "private",
                Sharing::Locked => "locked",
            };
            put(&mut one, "sharing", sharing);
            "cache"
        }
        MountKind::Tmpfs { size } => {
            if let Some(size) = size {
                one.insert("size".into(), json!(size));
            }
            "tmpfs"
        }
        MountKind::Secret { id, required, .. } | MountKind::Ssh { id, required, .. } => {
            put(&mut one, "id", id);
            if !required {
                one.insert("optional".into(), json!(true));
            }
            if matches!(mount.kind, MountKind::Ssh { .. }) { "ssh" } else { "secret" }
        }
        MountKind::Inline { name, data, .. } => {
            put(&mut one, "source", "/");
            one.insert("readonly".into(), json!(true));
            mkfile(name, data, files);
            "bind"
        }
    };
    put(&mut one, "type", kind);
    Value::Object(one)
}

fn mkfile(name: &str, data: &str, files: &mut Vec<Value>) {
    let mut one = Map::new();
    put(&mut one, "op", "mkfile");
    put(&mut one, "dest", &crate::path::join(&["/", name]));
    put(&mut one, "data", data);
    files.push(Value::Object(one));
}

fn file_record(action: &FileAction, files: &mut Vec<Value>) {
    let mut one = Map::new();
    match action {
        FileAction::Mkdir(mkdir) => {
            put(&mut one, "op", "mkdir");
            put(&mut one, "dest", &mkdir.path);
            put(&mut one, "mode", &format!("{:04o}", mkdir.mode));
        }
        FileAction::Copy(copy) => {
            if let CopySource::Inline { name, data } = &copy.from {
                mkfile(name, data, files);
            }
            put(&mut one, "op", "copy");
            put(&mut one, "src", &copy.source);
            put(&mut one, "dest", &copy.dest);
            if let Some(owner) = &copy.owner {
                put(&mut one, "user", &owner.user.to_string());
                put(&mut one, "group", &owner.group.as_ref().map(ToString::to_string).unwrap_or_default());
            }
            put(&mut one, "mode", &copy.mode.as_ref().map(ToString::to_string).unwrap_or_default());
            list(&mut one, "include", copy.include.iter().map(|text| json!(text)).collect());
            list(&mut one, "exclude", copy.exclude.iter().map(|text| json!(text)).collect());
            if copy.unpack {
                one.insert("unpack".into(), json!(true));
            }
        }
    }
    files.push(Value::Object(one));
}
