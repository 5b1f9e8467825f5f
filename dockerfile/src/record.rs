//! One JSON object that says what a file compiles to, in words that other compilers can be compared by.
//!
//! ```text
//! {"config":{…},"execs":[…],"files":[…],"history":[…],"instructions":[…],"sources":[…],"stages":[…],"warnings":[…]}
//! ```
//!
//! Keys that are absent are empty, and all stand in the order of their names. `sources`, `execs` and `files` are
//! sorted by their text; each stands for a vertex of the build graph, so equal operations on equal inputs appear
//! once, and equal ones on different inputs as often as they are done.

use std::collections::BTreeSet;

use crate::plan::{CopySource, FileAction, Mount, MountKind, Network, Op, Plan, Security, Sharing, Step};
use crate::{Dockerfile, Variable};
use image_core::ContainerConfig;

/// The record of a file and its plan as one line of JSON; `name` becomes the key `file` when it is given.
pub fn json(file: &Dockerfile, plan: &Plan, name: Option<&str>) -> String {
    let mut out = Writer::default();
    out.open('{');
    if let Some(stage) = plan.target_stage() {
        out.config(&stage.config);
    }
    let found = Found::read(plan);
    out.set("execs", &found, &found.execs);
    if let Some(name) = name {
        out.key("file");
        out.text(name);
    }
    out.set("files", &found, &found.files);
    out.history(plan);
    out.instructions(file);
    out.set("sources", &found, &found.sources);
    out.stages(file);
    out.warnings(plan);
    out.close('}');
    out.0
}

/// JSON as it is written. Commas come by themselves.
#[derive(Default)]
struct Writer(String);

impl Writer {
    fn comma(&mut self) {
        if !matches!(self.0.as_bytes().last(), None | Some(b'{' | b'[' | b':')) {
            self.0.push(',');
        }
    }

    fn open(&mut self, bracket: char) {
        self.comma();
        self.0.push(bracket);
    }

    fn close(&mut self, bracket: char) {
        self.0.push(bracket);
    }

    fn key(&mut self, key: &str) {
        self.comma();
        self.0.push('"');
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    fn text(&mut self, text: &str) {
        self.comma();
        self.0.push('"');
        self.part(text);
        self.0.push('"');
    }

    /// A part of a string: only quotes, backslashes and control characters need more than themselves.
    fn part(&mut self, text: &str) {
        // Most have none; a loop without an exit goes over many bytes at once.
        let special = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
        if !text.bytes().fold(false, |seen, byte| seen | special(byte)) {
            self.0.push_str(text);
            return;
        }
        let mut rest = text;
        while let Some(at) = rest.bytes().position(special) {
            let Some((plain, tail)) = rest.split_at_checked(at) else { break };
            self.0.push_str(plain);
            let mut tail = tail.chars();
            match tail.next() {
                Some('"') => self.0.push_str("\\\""),
                Some('\\') => self.0.push_str("\\\\"),
                Some('\n') => self.0.push_str("\\n"),
                Some('\r') => self.0.push_str("\\r"),
                Some('\t') => self.0.push_str("\\t"),
                Some('\u{8}') => self.0.push_str("\\b"),
                Some('\u{c}') => self.0.push_str("\\f"),
                Some(other) => self.0.push_str(&format!("\\u{:04x}", u32::from(other))),
                None => {}
            }
            rest = tail.as_str();
        }
        self.0.push_str(rest);
    }

    /// A member, unless its text is empty.
    fn member(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.key(key);
            self.text(text);
        }
    }

    fn yes(&mut self, key: &str, value: bool) {
        if value {
            self.key(key);
            self.0.push_str("true");
        }
    }

    fn number(&mut self, key: &str, value: impl std::fmt::Display) {
        use std::fmt::Write as _;
        self.key(key);
        let _ = write!(self.0, "{value}");
    }

    fn list<'a>(&mut self, key: &str, texts: impl IntoIterator<Item = &'a String>) {
        let mut texts = texts.into_iter().peekable();
        if texts.peek().is_some() {
            self.key(key);
            self.open('[');
            texts.for_each(|text| self.text(text));
            self.close(']');
        }
    }

    fn config(&mut self, config: &ContainerConfig) {
        let empty = |words: &Option<Vec<String>>| words.as_ref().is_some_and(Vec::is_empty);
        let odd = empty(&config.cmd)
            || empty(&config.entrypoint)
            || config.healthcheck.as_ref().is_some_and(|check| *check == image_core::Healthcheck::default())
            || !config.unknown.is_empty();
        let text = if odd {
            let mut config = serde_json::to_value(config).unwrap_or_default();
            if let Some(members) = config.as_object_mut() {
                members.retain(|_, value| !is_empty(value));
            }
            config.to_string()
        } else {
            serde_json::to_string(config).unwrap_or_default()
        };
        if text.len() > 2 {
            self.key("config");
            self.0.push_str(&text);
        }
    }

    fn history(&mut self, plan: &Plan) {
        let before = self.0.len();
        self.key("history");
        self.open('[');
        let start = self.0.len();
        if let Some(stage) = plan.target_stage() {
            for old in stage.base_image.iter().flat_map(|image| &image.history) {
                self.entry(&old.created_by, old.empty_layer, &old.author);
            }
            for new in plan.history(plan.target) {
                self.entry(&new.created_by, new.empty_layer(), "");
            }
        }
        if self.0.len() == start { self.0.truncate(before) } else { self.close(']') }
    }

    fn entry(&mut self, created_by: &str, empty_layer: bool, author: &str) {
        self.open('{');
        self.member("author", author);
        self.member("created_by", created_by);
        self.yes("empty_layer", empty_layer);
        self.close('}');
    }

    fn instructions(&mut self, file: &Dockerfile) {
        let before = self.0.len();
        self.key("instructions");
        self.open('[');
        let start = self.0.len();
        for stage in file.stages() {
            for one in stage.body {
                self.open('{');
                self.number("line", one.lines.first);
                self.key("name");
                self.text(one.kind.keyword());
                self.number("stage", stage.number);
                self.close('}');
            }
        }
        if self.0.len() == start { self.0.truncate(before) } else { self.close(']') }
    }

    fn stages(&mut self, file: &Dockerfile) {
        self.key("stages");
        self.open('[');
        for stage in file.stages() {
            self.open('{');
            self.key("base");
            self.text(&stage.from.base);
            self.key("name");
            self.text(stage.from.name.as_deref().unwrap_or(""));
            self.member("platform", stage.from.platform.as_deref().unwrap_or(""));
            self.close('}');
        }
        self.close(']');
    }

    fn warnings(&mut self, plan: &Plan) {
        if plan.warnings.is_empty() {
            return;
        }
        self.key("warnings");
        self.open('[');
        for warning in &plan.warnings {
            self.open('{');
            self.number("line", warning.lines.first);
            self.key("msg");
            self.text(&warning.message);
            self.key("rule");
            self.text(warning.rule);
            self.close('}');
        }
        self.close(']');
    }

    fn set(&mut self, key: &str, found: &Found, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        self.key(key);
        self.open('[');
        for entry in entries {
            self.comma();
            self.0.push_str(found.slice(entry));
        }
        self.close(']');
    }
}

fn is_empty(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

/// The text of one operation, and the step that it is part of.
struct Entry {
    start: usize,
    end: usize,
    /// None for what several steps share.
    step: Option<usize>,
}

/// The operations of a plan.
#[derive(Default)]
struct Found {
    text: Writer,
    sources: Vec<Entry>,
    execs: Vec<Entry>,
    files: Vec<Entry>,
    /// Small trees that steps make for themselves, by all that makes them different.
    own: BTreeSet<String>,
}

impl Found {
    fn read(plan: &Plan) -> Self {
        let mut found = Self::default();
        for step in &plan.steps {
            found.step(plan, step);
        }
        let text = std::mem::take(&mut found.text);
        let mut double = false;
        for list in [&mut found.sources, &mut found.execs, &mut found.files] {
            let of = |entry: &Entry| text.0.get(entry.start..entry.end).unwrap_or("");
            list.sort_by(|a, b| of(a).cmp(of(b)));
            double |= list.iter().zip(list.iter().skip(1)).any(|(a, b)| of(a) == of(b));
        }
        if double {
            let again = repeated(plan);
            for list in [&mut found.execs, &mut found.files] {
                list.retain(|entry| !entry.step.is_some_and(|step| again.contains(&step)));
            }
        }
        found.text = text;
        found
    }

    fn slice(&self, entry: &Entry) -> &str {
        self.text.0.get(entry.start..entry.end).unwrap_or("")
    }

    /// Begins the text of an operation.
    fn begin(&mut self) -> usize {
        // Entries stand one behind the other; a bracket between them keeps commas away.
        self.text.0.push('[');
        self.text.0.len()
    }

    fn end(&self, start: usize, step: Option<usize>) -> Entry {
        Entry { start, end: self.text.0.len(), step }
    }

    fn step(&mut self, plan: &Plan, step: &Step) {
        match &step.op {
            Op::Image(image) => {
                let name = image.reference.canonical();
                self.source("docker-image://", name.split('@').next().unwrap_or(""));
            }
            Op::Context(context) => self.source("local://", context.name.as_deref().unwrap_or("context")),
            Op::Http(http) => self.source("", &http.url),
            Op::Git(git) => self.source("git://", &git.identity),
            Op::Exec(_) => self.exec(plan, step),
            Op::Files(files) => {
                for action in &files.actions {
                    self.action(plan, step, action);
                }
            }
        }
    }

    fn source(&mut self, scheme: &str, name: &str) {
        let start = self.begin();
        self.text.0.push('"');
        self.text.part(scheme);
        self.text.part(name);
        self.text.0.push('"');
        let entry = self.end(start, None);
        self.sources.push(entry);
    }

    fn exec(&mut self, plan: &Plan, step: &Step) {
        let Op::Exec(exec) = &step.op else { return };
        let mut mounts: Vec<&Mount> = exec.mounts.iter().filter(|mount| !mount.target.is_empty()).collect();
        mounts.sort_by(|a, b| a.target.cmp(&b.target));
        for mount in &mounts {
            self.own_tree(plan, step, &mount.kind);
        }
        let start = self.begin();
        let out = &mut self.text;
        out.open('{');
        out.key("args");
        out.open('[');
        exec.args.iter().for_each(|arg| out.text(arg));
        out.close(']');
        out.key("cwd");
        out.text(&exec.cwd);
        out.key("env");
        out.open('[');
        let mut env: Vec<&Variable> = exec.env.iter().collect();
        let bytes = |one: &Variable| -> Vec<u8> { format!("{}={}", one.name, one.value).into_bytes() };
        // By name is by text, but for names that begin others.
        if env.iter().zip(env.iter().skip(1)).any(|(a, b)| b.name.starts_with(&*a.name)) {
            env.sort_by_cached_key(|one| bytes(one));
        }
        for one in env {
            out.comma();
            out.0.push('"');
            out.part(&one.name);
            out.0.push('=');
            out.part(&one.value);
            out.0.push('"');
        }
        out.close(']');
        if !mounts.is_empty() {
            out.key("mounts");
            out.open('[');
            mounts.iter().for_each(|mount| out.mount(mount));
            out.close(']');
        }
        let network = match exec.network {
            Network::Default => "",
            Network::None => "none",
            Network::Host => "host",
        };
        out.member("network", network);
        out.member("security", if exec.security == Security::Insecure { "insecure" } else { "" });
        out.member("user", &exec.user);
        out.close('}');
        let entry = self.end(start, Some(step.index));
        self.execs.push(entry);
    }

    /// The tree that a mount has made for itself.
    fn own_tree(&mut self, plan: &Plan, step: &Step, kind: &MountKind) {
        match kind {
            MountKind::Cache { owner: Some(owner), .. } => {
                let key = format!("{} {} {:o}", owner.uid, owner.gid, owner.mode);
                if self.own.insert(key) {
                    let start = self.begin();
                    self.text.mkdir("/cache", owner.mode);
                    let entry = self.end(start, None);
                    self.files.push(entry);
                }
            }
            MountKind::Inline { name, data, mode } => self.mkfile(plan, step, name, data, *mode),
            _ => {}
        }
    }

    fn mkfile(&mut self, plan: &Plan, step: &Step, name: &str, data: &str, mode: u32) {
        let platform = step.stage.and_then(|stage| plan.stages.get(stage)).map(|stage| &stage.platform);
        let platform = platform.map(ToString::to_string).unwrap_or_default();
        if !self.own.insert(format!("{platform} {mode:o} {} {name} {data}", name.len())) {
            return;
        }
        let start = self.begin();
        let out = &mut self.text;
        out.open('{');
        out.member("data", data);
        out.member("dest", &crate::path::join(&["/", name]));
        out.member("op", "mkfile");
        out.close('}');
        let entry = self.end(start, None);
        self.files.push(entry);
    }

    fn action(&mut self, plan: &Plan, step: &Step, action: &FileAction) {
        if let FileAction::Copy(copy) = action
            && let CopySource::Inline { name, data } = &copy.from
        {
            self.mkfile(plan, step, name, data, 0o644);
        }
        let start = self.begin();
        let out = &mut self.text;
        match action {
            FileAction::Mkdir(mkdir) => out.mkdir(&mkdir.path, mkdir.mode),
            FileAction::Copy(copy) => {
                out.open('{');
                out.member("dest", &copy.dest);
                out.list("exclude", &copy.exclude);
                let group = copy.owner.as_ref().and_then(|owner| owner.group.as_ref());
                out.member("group", &group.map(ToString::to_string).unwrap_or_default());
                out.list("include", &copy.include);
                out.member("mode", &copy.mode.as_ref().map(ToString::to_string).unwrap_or_default());
                out.member("op", "copy");
                out.member("src", &copy.source);
                out.yes("unpack", copy.unpack);
                let user = copy.owner.as_ref().map(|owner| owner.user.to_string());
                out.member("user", &user.unwrap_or_default());
                out.close('}');
            }
        }
        let entry = self.end(start, Some(step.index));
        self.files.push(entry);
    }
}

impl Writer {
    fn mkdir(&mut self, path: &str, mode: u32) {
        self.open('{');
        self.member("dest", path);
        self.member("mode", &format!("{mode:04o}"));
        self.member("op", "mkdir");
        self.close('}');
    }

    fn mount(&mut self, mount: &Mount) {
        let (mut id, mut optional, mut sharing, mut size, mut source) = ("", false, "", None, "");
        let mut readonly = false;
        let kind = match &mount.kind {
            MountKind::Bind { source: path, .. } => {
                (source, readonly) = (path, mount.readonly);
                "bind"
            }
            MountKind::Cache { id: name, sharing: mode, source: path, owner, .. } => {
                (id, source, readonly) = (name, path, mount.readonly);
                if owner.is_some() {
                    source = "/cache";
                }
                sharing = match mode {
                    Sharing::Shared => "shared",
                    Sharing::Private => "private",
                    Sharing::Locked => "locked",
                };
                "cache"
            }
            MountKind::Tmpfs { size: bytes } => {
                size = *bytes;
                "tmpfs"
            }
            MountKind::Secret { id: name, required, .. } => {
                (id, optional) = (name, !required);
                "secret"
            }
            MountKind::Ssh { id: name, required, .. } => {
                (id, optional) = (name, !required);
                "ssh"
            }
            MountKind::Inline { .. } => {
                readonly = true;
                "bind"
            }
        };
        if source == "/" {
            source = "";
        }
        if matches!(mount.kind, MountKind::Inline { .. }) {
            source = "/";
        }
        self.open('{');
        self.member("dest", &mount.target);
        self.member("id", id);
        self.yes("optional", optional);
        self.yes("readonly", readonly);
        self.member("sharing", sharing);
        if let Some(size) = size {
            self.number("size", size);
        }
        self.member("source", source);
        self.member("type", kind);
        self.close('}');
    }
}

/// Steps that do what an earlier one does, to the same inputs.
fn repeated(plan: &Plan) -> BTreeSet<usize> {
    let mut first = std::collections::BTreeMap::new();
    let mut same: Vec<usize> = Vec::with_capacity(plan.steps.len());
    let mut again = BTreeSet::new();
    for step in &plan.steps {
        let mut op = step.op.clone();
        let mut root = step.root;
        let mapped = |index: usize| same.get(index).copied().unwrap_or(index);
        op.each_input(|input| *input = input.map(mapped));
        root = root.map(mapped);
        match &mut op {
            Op::Exec(exec) => {
                exec.declared_args.clear();
                exec.ignore_cache = false;
            }
            Op::Files(files) => files.ignore_cache = false,
            _ => {}
        }
        let platform = step.stage.and_then(|stage| plan.stages.get(stage)).map(|stage| &stage.platform);
        let key = serde_json::to_string(&(&op, root, platform)).unwrap_or_default();
        let place = *first.entry(key).or_insert(step.index);
        if place != step.index {
            again.insert(step.index);
        }
        same.push(place);
    }
    again
}
