//! The operations of a plan: sources, RUN steps and changes of files.

use std::collections::BTreeSet;

use super::write::Writer;
use crate::Variable;
use crate::plan::{
    CopySource, FileAction, Input, Mount, MountKind, Network, Op, Plan, Security, Sharing, Step,
};

/// The text of one operation, and the step that it is part of.
pub(super) struct Entry {
    start: usize,
    end: usize,
    /// None for what several steps share.
    step: Option<usize>,
}

/// The operations of a plan.
#[derive(Default)]
pub(super) struct Found {
    text: Writer,
    pub(super) sources: Vec<Entry>,
    pub(super) execs: Vec<Entry>,
    pub(super) files: Vec<Entry>,
    /// Small trees that steps make for themselves, by all that makes them different.
    own: BTreeSet<String>,
}

impl Found {
    /// `room` is about how long the operations are as text.
    pub(super) fn read(plan: &Plan, room: usize) -> Self {
        let mut found = Self { text: Writer::with_capacity(room + 1024), ..Self::default() };
        for step in &plan.steps {
            found.step(plan, step);
        }
        let text = std::mem::take(&mut found.text);
        // Steps that are told in the same words as another.
        let mut alike = BTreeSet::new();
        for list in [&mut found.sources, &mut found.execs, &mut found.files] {
            let of = |entry: &Entry| text.0.get(entry.start..entry.end).unwrap_or("");
            list.sort_by(|a, b| of(a).cmp(of(b)));
            for (a, b) in list.iter().zip(list.iter().skip(1)) {
                if of(a) == of(b) {
                    alike.extend([a.step, b.step].into_iter().flatten());
                }
            }
        }
        if !alike.is_empty() {
            let again = repeated(plan, &alike);
            for list in [&mut found.execs, &mut found.files] {
                list.retain(|entry| !entry.step.is_some_and(|step| again.contains(&step)));
            }
        }
        found.text = text;
        found
    }

    pub(super) fn slice(&self, entry: &Entry) -> &str {
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
            Op::Layout(layout) => self.source("oci-layout://", &layout.reference.canonical()),
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
///
/// `--link` copies to an empty tree, and what that gives is merged with the tree below: the copy is the same whatever
/// is below, the merged tree is not. Only the steps `alike` can be the same as another.
fn repeated(plan: &Plan, alike: &BTreeSet<usize>) -> BTreeSet<usize> {
    let mut first = std::collections::BTreeMap::new();
    // What each step's tree is called: twice the number of the first step that made it, and one more when merged.
    let mut same: Vec<usize> = Vec::with_capacity(plan.steps.len());
    let mut again = BTreeSet::new();
    for step in &plan.steps {
        if !alike.contains(&step.index) {
            same.push(2 * step.index);
            continue;
        }
        let mut op = step.op.clone();
        let mut root = step.root;
        let mapped = |index: usize| same.get(index).copied().unwrap_or(2 * index);
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
        let below = if is_linked(&op) { std::mem::take(&mut root) } else { Input::Empty };
        let key = serde_json::to_string(&(&op, root, platform)).unwrap_or_default();
        let mut place = *first.entry(key).or_insert(2 * step.index);
        if place != 2 * step.index {
            again.insert(step.index);
        }
        if let Input::Step(below) = below {
            place = *first.entry(format!("{below} {place}")).or_insert(2 * step.index + 1);
        }
        same.push(place);
    }
    again
}

/// Whether a step copies to an empty tree: not with `--chmod`.
fn is_linked(op: &Op) -> bool {
    let Op::Files(files) = op else { return false };
    let has_mode = |action: &FileAction| matches!(action, FileAction::Copy(copy) if copy.mode.is_some());
    files.link && !files.actions.iter().any(has_mode)
}
