//! RUN.

use std::borrow::Cow;

use super::dispatch::{value, with_shell};
use super::node::{Node, Task};
use super::{Refusal, Work};
use crate::Origin;
use crate::error::ErrorKind;
use crate::expand::Variables;
use crate::heredoc;
use crate::instruction::{Command, MountSpec, MountType, Run};
use crate::path;
use crate::plan::{CacheOwner, Exec, Input, Mount, MountKind, Network, Op};
use crate::quote::{push_all, push_number, quote};

impl<'a> Work<'a> {
    pub(super) fn run_step(
        &mut self,
        node: &mut Node<'a>,
        task: &Task<'a>,
        run: &Run,
    ) -> Result<(), Refusal> {
        let docs = &task.instruction.heredocs;
        let mut shown = Cow::Borrowed(task.instruction.text.as_str());
        let mut mounts = Vec::new();
        let args = match &run.command {
            Command::Exec(words) if words.is_empty() => return Err(value("arguments are required")),
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => {
                let mut text = text.clone();
                if let Some(first) = docs.first() {
                    if heredoc::head(&text).ok().flatten().is_some() {
                        let data =
                            if first.chomp { heredoc::chomp(&first.content) } else { first.content.clone() };
                        let summary = first.content.trim().replace("\r\n", "\n");
                        let line = summary.lines().next().unwrap_or("");
                        let more = if summary.lines().count() > 1 { "..." } else { "" };
                        push_all(shown.to_mut(), &[" (", line, more, ")"]);
                        if node.image_platform.os != "windows" && data.starts_with("#!") {
                            text = format!("/dev/pipes/{}", first.name);
                            let kind = MountKind::Inline { name: first.name.clone(), data, mode: 0o755 };
                            mounts.push(Mount { target: "/dev/pipes/".to_owned(), readonly: true, kind });
                        } else {
                            text = data;
                        }
                    } else {
                        for doc in docs {
                            text.push('\n');
                            text.push_str(&doc.content);
                            text.push_str(&doc.name);
                        }
                    }
                }
                with_shell(node, text)
            }
        };
        let mut shown_env = None;
        let mut sockets = Vec::new();
        for (index, written) in run.mounts.iter().enumerate() {
            let spec = MountSpec::read::<Refusal2>(written, |word| {
                self.expand(node, task, word).map(Cow::into_owned).map_err(Refusal2)
            })
            .map_err(|refusal| refusal.0)?;
            if let (MountType::Secret, Some(name)) = (spec.kind, &spec.env) {
                shown_env.get_or_insert_with(|| node.env.clone()).set(name.as_str(), "****", Origin::Arg);
            }
            let source = task.sources.get(index).copied();
            let required = spec.required;
            let mount = self.mount(node, spec, source, sockets.len(), task)?;
            if let Some(capture) = &mut node.capture {
                let lines = task.instruction.lines;
                match &mount.kind {
                    MountKind::Secret { id, .. } => {
                        capture.secrets.entry(id.clone()).or_insert((required, lines));
                    }
                    MountKind::Ssh { id, .. } => {
                        let id = if id.is_empty() { "default" } else { id };
                        capture.ssh.entry(id.to_owned()).or_insert((required, lines));
                    }
                    MountKind::Cache { id, .. } => {
                        capture.caches.entry(id.clone()).or_insert(lines);
                    }
                    _ => {}
                }
            }
            if matches!(mount.kind, MountKind::Ssh { .. }) {
                sockets.push(mount.target.clone());
            }
            mounts.push(mount);
        }
        let created_by = self.created_by(node, &args);
        let mut env = node.env.clone();
        if let (Some(first), None) = (sockets.first(), env.get("SSH_AUTH_SOCK")) {
            env.set("SSH_AUTH_SOCK", first.as_str(), Origin::Image);
        }
        let proxy = self.options.build_args.iter().filter(|(name, _)| {
            matches!(
                name.to_lowercase().as_str(),
                "http_proxy" | "https_proxy" | "ftp_proxy" | "no_proxy" | "all_proxy"
            )
        });
        let exec = Exec {
            args,
            env,
            declared_args: node.args.iter().map(|(name, _)| name.to_string()).collect(),
            cwd: node.dir.clone(),
            user: node.user.clone(),
            network: if run.network == Network::Default { self.options.network } else { run.network },
            security: run.security,
            mounts,
            devices: run.devices.clone(),
            proxy: proxy.map(|(name, value)| (name.clone(), value.clone())).collect(),
            extra_hosts: self.options.extra_hosts.clone(),
            hostname: self.options.hostname.clone(),
            shm_size: self.options.shm_size,
            ignore_cache: node.ignore_cache,
        };
        let real = shown_env.map(|shown_env| std::mem::replace(&mut node.env, shown_env));
        let shown = self.shown(node, &shown, true);
        node.env = real.unwrap_or_else(|| std::mem::take(&mut node.env));
        let step = self.step(node, task, Op::Exec(Box::new(exec)), &shown);
        self.commit(node, task, created_by, Some(step))
    }

    fn created_by(&self, node: &Node<'a>, args: &[String]) -> String {
        let declared = node.args.iter();
        let declared: Vec<(&str, &str)> = declared
            .map(|(name, last)| (&**name, node.env.value(name).or(last.as_deref()).unwrap_or("")))
            .collect();
        let declared_len: usize = declared.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        let args_len: usize = args.iter().map(|arg| arg.len() + 1).sum();
        let mut text = String::with_capacity(declared_len + args_len + 32);
        text.push_str("RUN ");
        if !declared.is_empty() {
            text.push('|');
            push_number(&mut text, declared.len() as u64);
            text.push(' ');
            for (name, value) in declared {
                push_all(&mut text, &[name, "=", value, " "]);
            }
        }
        for arg in args {
            push_all(&mut text, &[arg, " "]);
        }
        text.push_str("# buildkit");
        text
    }

    fn mount(
        &mut self,
        node: &Node<'a>,
        spec: MountSpec,
        source: Option<usize>,
        sockets: usize,
        task: &Task<'a>,
    ) -> Result<Mount, Refusal> {
        let file =
            |default: u32| (spec.mode.unwrap_or(default), spec.uid.unwrap_or(0), spec.gid.unwrap_or(0));
        let mut from = Input::Empty;
        if !spec.from.is_empty()
            && let Some(source) = source
        {
            from = self.tree_of(node, source).ok_or_else(|| {
                (
                    ErrorKind::StageOrder {
                        action: "mount",
                        stage: quote(&spec.from),
                        current: quote(&node.title),
                    },
                    Some("move the stage above this one".to_owned()),
                )
            })?;
        } else if spec.from.is_empty() && spec.kind == MountType::Bind {
            from = Input::Step(self.steps.context(task.instruction.span, task.instruction.lines));
        }
        match spec.kind {
            MountType::Secret => {
                let id = if spec.source.is_empty() { spec.id.clone() } else { spec.source.clone() };
                let id = if id.is_empty() { path::base(&spec.target).to_owned() } else { id };
                let mut target = spec.target.clone();
                if target.is_empty() && spec.env.is_none() {
                    target = format!("/run/secrets/{}", path::base(&id));
                }
                let (mode, uid, gid) = file(0o400);
                let kind = MountKind::Secret { id, env: spec.env, required: spec.required, mode, uid, gid };
                return Ok(Mount { target, readonly: true, kind });
            }
            MountType::Ssh => {
                if !spec.source.is_empty() {
                    return Err(value("ssh does not support source"));
                }
                let (mode, uid, gid) = file(0o600);
                let target = if spec.target.is_empty() {
                    format!("/run/buildkit/ssh_agent.{sockets}")
                } else {
                    spec.target
                };
                let kind = MountKind::Ssh { id: spec.id, required: spec.required, mode, uid, gid };
                return Ok(Mount { target, readonly: true, kind });
            }
            _ => {}
        }
        let target = if path::clean(&spec.target).starts_with('/') {
            spec.target.clone()
        } else {
            path::join(&["/", &node.dir, &spec.target])
        };
        if target == "/" {
            return Err(value(format!("invalid mount target {}", quote(&target))));
        }
        let inner = path::join(&["/", &spec.source]);
        let kind = match spec.kind {
            MountType::Tmpfs => {
                MountKind::Tmpfs { size: u64::try_from(spec.size).ok().filter(|size| *size > 0) }
            }
            MountType::Cache => {
                let owned = spec.uid.is_some() || spec.gid.is_some() || spec.mode.is_some();
                let (mode, uid, gid) = file(0o755);
                let id = if spec.id.is_empty() { path::clean(&spec.target).into_owned() } else { spec.id };
                MountKind::Cache {
                    id: format!("{}/{id}", self.options.cache_namespace),
                    sharing: spec.sharing.unwrap_or_default(),
                    from,
                    owner: (owned && inner == "/").then_some(CacheOwner { uid, gid, mode }),
                    source: inner,
                }
            }
            _ => MountKind::Bind { from, source: inner },
        };
        Ok(Mount { target, readonly: spec.readonly, kind })
    }
}

/// Lets a mount's refusal and an expansion's go through one error type.
struct Refusal2(Refusal);

impl From<(String, Option<String>)> for Refusal2 {
    fn from((text, hint): (String, Option<String>)) -> Self {
        Self((ErrorKind::Mount(text), hint))
    }
}
