//! Instructions one by one: what each does to its stage.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use image_core::{ContainerConfig, Healthcheck};

use super::node::{Node, Seen, Task};
use super::{Refusal, Work};
use crate::error::{Diagnostic, ErrorKind};
use crate::expand::{ExpandError, Expander, Variables};
use crate::instruction::{Arg, Command, Health, Kind, Pair};
use crate::plan::{FileAction, Files, Input, Mkdir, Op, Owner};
use crate::quote::{duration, push_all, quote, quote_list};
use crate::{Origin, lint, path, suggest};

/// A name and a value, expanded.
type Expanded<'t> = (Cow<'t, str>, Cow<'t, str>);

impl<'a> Work<'a> {
    /// Compiles every stage that is needed, in the order of the file.
    pub(super) fn dispatch_all(&mut self, needed: &[bool]) {
        for index in 0..self.nodes.all.len() {
            let mut node = self.nodes.take(index);
            let wanted = self.options.all_stages || needed.get(index) == Some(&true);
            if !wanted || node.dispatched {
                self.nodes.put(index, node);
                continue;
            }
            if let Some(base) = node.base.and_then(|base| self.nodes.get(base)) {
                node.inherit(base);
            }
            node.dispatched = true;
            self.working = index;
            if let Err((kind, hint)) = self.stage(&mut node) {
                self.fail(Diagnostic::new(kind, node.span, node.lines).hint(hint));
            }
            self.nodes.put(index, node);
        }
    }

    fn stage(&mut self, node: &mut Node<'a>) -> Result<(), Refusal> {
        let size = node.config.labels.len() + node.config.env.len() + node.config.exposed_ports.len();
        self.spend(size * 16)?;
        node.begin();
        if node.dir.is_empty() {
            "/".clone_into(&mut node.dir);
        }
        if !node.config.working_dir.is_empty() {
            let dir = node.config.working_dir.clone();
            set_dir(node, &dir)?;
        }
        if !node.config.user.is_empty() {
            node.user = node.config.user.clone();
        }
        if let Some(reference) =
            node.reference.clone().filter(|_| node.root != Input::Empty && node.total > 0)
        {
            let name = self.progress(node, false, &("FROM ".to_owned() + &reference.canonical()));
            self.steps.name(node.root, name, node.ordinal, node.total);
        }
        for task in std::mem::take(&mut node.tasks) {
            self.guessed = false;
            if let Err((kind, hint)) = self.instruction(node, &task)
                && !self.guessed
            {
                let at = &task.instruction;
                self.fail(Diagnostic::new(kind, at.span, at.lines).hint(hint));
            }
            node.tasks.push(task);
        }
        Ok(())
    }

    fn instruction(&mut self, node: &mut Node<'a>, task: &Task<'a>) -> Result<(), Refusal> {
        match &task.instruction.kind {
            Kind::From(_) => {}
            Kind::Arg(args) => self.arg(node, task, args)?,
            Kind::Env(pairs) => {
                // All of them are expanded before the first is set: none sees another.
                let mut expanded = Vec::with_capacity(pairs.len());
                for pair in pairs {
                    expanded.push(self.pair(node, task, pair)?);
                }
                self.lint_legacy(task, pairs);
                let mut text = String::with_capacity(task.instruction.text.len() + 8);
                text.push_str("ENV");
                for (name, value) in expanded {
                    self.lint_secret(task, "ENV", &name);
                    if self.guessed {
                        continue;
                    }
                    push_all(&mut text, &[" ", &name, "=", &value]);
                    node.env.set(&*name, &*value, Origin::Env);
                    set_env(node, &name, &value);
                }
                self.commit(node, task, text, None)?;
            }
            Kind::Label(pairs) => {
                let mut text = String::with_capacity(task.instruction.text.len() + 8);
                text.push_str("LABEL");
                for pair in pairs {
                    let (name, value) = self.pair(node, task, pair)?;
                    push_all(&mut text, &[" ", &name, "=", &value]);
                    Arc::make_mut(&mut node.config).labels.insert(name.into_owned(), value.into_owned());
                }
                self.lint_legacy(task, pairs);
                self.commit(node, task, text, None)?;
            }
            Kind::Run(run) => self.run_step(node, task, run)?,
            Kind::Copy(transfer) | Kind::Add(transfer) => self.transfer(node, task, transfer)?,
            Kind::Cmd(command) => {
                self.once(task, &mut node.cmd);
                let args = self.command(node, task, command);
                let text = quote_list("CMD ", &args);
                let config = Arc::make_mut(&mut node.config);
                config.cmd = (!args.is_empty()).then_some(args);
                config.args_escaped = true;
                self.commit(node, task, text, None)?;
            }
            Kind::Entrypoint(command) => {
                self.once(task, &mut node.entrypoint);
                let args = self.command(node, task, command);
                let text = quote_list("ENTRYPOINT ", &args);
                let config = Arc::make_mut(&mut node.config);
                config.entrypoint = (!args.is_empty()).then_some(args);
                if node.cmd.0.is_none() {
                    config.cmd = None;
                }
                self.commit(node, task, text, None)?;
            }
            Kind::Workdir(dir) => self.workdir(node, task, dir)?,
            Kind::User(user) => {
                let user = self.expand(node, task, user)?;
                user.as_ref().clone_into(&mut Arc::make_mut(&mut node.config).user);
                user.as_ref().clone_into(&mut node.user);
                self.commit(node, task, "USER ".to_owned() + &user, None)?;
            }
            Kind::Volume(paths) => {
                let mut expanded = Vec::with_capacity(paths.len());
                for path in paths {
                    expanded.push(self.expand(node, task, path)?.into_owned());
                }
                if expanded.iter().any(String::is_empty) {
                    return Err(value("VOLUME specified can not be an empty string"));
                }
                let text = format!("VOLUME [{}]", expanded.join(" "));
                Arc::make_mut(&mut node.config).volumes.extend(expanded);
                self.commit(node, task, text, None)?;
            }
            Kind::Expose(words) => {
                let ports = self.ports(node, task, words)?;
                let text = format!("EXPOSE [{}]", ports.join(" "));
                Arc::make_mut(&mut node.config).exposed_ports.extend(ports);
                self.commit(node, task, text, None)?;
            }
            Kind::Healthcheck(health) => {
                self.once(task, &mut node.health);
                let (check, text) = healthcheck(health);
                Arc::make_mut(&mut node.config).healthcheck = Some(check);
                self.commit(node, task, text, None)?;
            }
            Kind::Onbuild(trigger) => Arc::make_mut(&mut node.config).on_build.push(trigger.clone()),
            Kind::Shell(words) => {
                Arc::make_mut(&mut node.config).shell.clone_from(words);
                self.commit(node, task, format!("SHELL [{}]", words.join(" ")), None)?;
            }
            Kind::Stopsignal(signal) => {
                let signal = self.expand(node, task, signal)?;
                if !is_signal(&signal) {
                    return Err(value(format!("invalid signal: {signal}")));
                }
                Arc::make_mut(&mut node.config).stop_signal = signal.to_string();
                self.commit(node, task, format!("STOPSIGNAL {signal}"), None)?;
            }
            Kind::Maintainer(name) => {
                node.author = Some(name.clone());
                self.commit(node, task, format!("MAINTAINER {name}"), None)?;
            }
        }
        Ok(())
    }

    fn arg(&mut self, node: &mut Node<'a>, task: &Task<'a>, args: &[Arg]) -> Result<(), Refusal> {
        let mut text = String::with_capacity(task.instruction.text.len() + 8);
        text.push_str("ARG");
        for arg in args {
            self.lint_secret(task, "ARG", &arg.name);
            // The environment and the list of declared ARGs share both texts.
            let name: Arc<str> = arg.name.as_str().into();
            let found: Option<Arc<str>> = if let Some(given) = self.build_args.get(&arg.name) {
                Some(given.as_str().into())
            } else if let Some(default) = &arg.default {
                Some(self.expand(node, task, default)?.into())
            } else {
                self.globals.value(&arg.name).map(Arc::from)
            };
            text.push(' ');
            text.push_str(&arg.name);
            if let Some(capture) = &mut node.capture {
                let given = self.build_args.contains_key(&arg.name) || arg.default.is_some();
                capture.arg(arg, found.as_deref(), !given && found.is_some(), task.instruction.lines);
            }
            if let Some(found) = found.as_ref().filter(|_| !self.guessed) {
                text.push('=');
                text.push_str(found);
                if !matches!(arg.name.as_str(), "BUILDKIT_SBOM_SCAN_CONTEXT" | "BUILDKIT_SBOM_SCAN_STAGE") {
                    node.env.set(Arc::clone(&name), Arc::clone(found), Origin::Arg);
                }
            }
            let declared = Arc::make_mut(&mut node.args);
            let place = node.arg_places.get(&name).and_then(|place| declared.get_mut(*place));
            match place {
                Some(entry) => entry.1 = found,
                None => {
                    Arc::make_mut(&mut node.arg_places).insert(Arc::clone(&name), declared.len());
                    declared.push((name, found));
                }
            }
        }
        self.commit(node, task, text, None)
    }

    fn workdir(&mut self, node: &mut Node<'a>, task: &Task<'a>, written: &str) -> Result<(), Refusal> {
        let dir = self.expand(node, task, written)?;
        if !node.workdir_set && !self.guessed && !path::is_absolute(&dir, node.os()) {
            self.lint(task, &lint::WORKDIR_RELATIVE_PATH, || {
                format!(
                    "Relative workdir {} can have unexpected results if the base image changes",
                    quote(&dir)
                )
            });
        }
        node.workdir_set = true;
        set_dir(node, &dir)?;
        let text = "WORKDIR ".to_owned() + &node.dir;
        if node.dir == "/" {
            return self.commit(node, task, text, None);
        }
        let owner = (!node.config.user.is_empty()).then(|| Owner::parse(&node.config.user));
        let mkdir = FileAction::Mkdir(Mkdir {
            path: path::clean_dest(&node.dir).trim_end_matches('/').to_owned(),
            mode: 0o755,
            owner,
        });
        let op = Op::Files(Files { actions: vec![mkdir], link: false, ignore_cache: false });
        let shown = self.shown(node, &task.instruction.text, false);
        let step = self.step(node, task, op, &shown);
        self.commit(node, task, text, Some(step))
    }

    fn pair<'t>(
        &mut self,
        node: &Node<'a>,
        task: &Task<'a>,
        pair: &'t Pair,
    ) -> Result<Expanded<'t>, Refusal> {
        let name = self.expand(node, task, &pair.name)?;
        Ok((name, self.expand(node, task, &pair.value)?))
    }

    fn lint_legacy(&mut self, task: &Task<'a>, pairs: &[Pair]) {
        if pairs.iter().any(|pair| pair.legacy) {
            let word = &task.instruction.keyword;
            self.lint(task, &lint::LEGACY_KEY_VALUE_FORMAT, || {
                format!("\"{word} key=value\" should be used instead of legacy \"{word} key value\" format")
            });
        }
    }

    fn command(&mut self, node: &Node<'a>, task: &Task<'a>, command: &Command) -> Vec<String> {
        if matches!(command, Command::Shell(_)) && node.config.shell.is_empty() && !node.unsure {
            let word = &task.instruction.keyword;
            self.lint(task, &lint::JSON_ARGS_RECOMMENDED, || {
                format!("JSON arguments recommended for {word} to prevent unintended behavior related to OS signals")
            });
        }
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(text) => with_shell(node, text.clone()),
        }
    }

    fn once(&mut self, task: &Task<'a>, seen: &mut Seen) {
        if let Some(lines) = seen.0.replace(task.instruction.lines) {
            let word = &task.instruction.keyword;
            self.linter.report(&lint::MULTIPLE_INSTRUCTIONS_DISALLOWED, lines, &task.instruction.comments, || {
                format!("Multiple {word} instructions should not be used in the same stage because only the last one will be used")
            });
        }
    }

    /// Expands a word with the stage's variables.
    pub(super) fn expand<'t>(
        &mut self,
        node: &Node<'a>,
        task: &Task<'a>,
        word: &'t str,
    ) -> Result<Cow<'t, str>, Refusal> {
        self.expand_by(self.expander, node, task, word)
    }

    pub(super) fn expand_by<'t>(
        &mut self,
        rules: Expander,
        node: &Node<'a>,
        task: &Task<'a>,
        word: &'t str,
    ) -> Result<Cow<'t, str>, Refusal> {
        let found = rules.word_within(word, &node.env, &self.budget).map_err(|cause| {
            // The others are wrong whatever the variables are.
            let by_value = matches!(cause, ExpandError::Required { .. } | ExpandError::InvalidPattern { .. });
            self.guessed |= node.unsure && by_value;
            (ErrorKind::Expand { word: quote(word), cause: Box::new(cause) }, None)
        })?;
        self.spend(found.text.len())?;
        if node.unsure {
            self.guessed |= !found.unmatched.is_empty();
            return Ok(found.text);
        }
        for name in &found.unmatched {
            if node.declares(name) || name.starts_with("BUILDKIT_SBOM_SCAN_") {
                continue;
            }
            self.lint(task, &lint::UNDEFINED_VAR, || match suggest::nearest(name, node.env.suggestions()) {
                Some(hint) => format!("Usage of undefined variable '${name}' (did you mean ${hint}?)"),
                None => format!("Usage of undefined variable '${name}'"),
            });
        }
        Ok(found.text)
    }

    pub(super) fn lint(&mut self, task: &Task<'a>, rule: &lint::Rule, message: impl FnOnce() -> String) {
        self.linter.report(rule, task.instruction.lines, &task.instruction.comments, message);
    }

    fn lint_secret(&mut self, task: &Task<'a>, keyword: &str, name: &str) {
        const DENY: &[&str] = &[
            "apikey",
            "auth",
            "credential",
            "credentials",
            "key",
            "password",
            "pword",
            "passwd",
            "secret",
            "token",
        ];
        let has = |words: &[&str]| {
            name.split('_').any(|part| words.iter().any(|word| word.eq_ignore_ascii_case(part)))
        };
        if has(DENY) && !has(&["public", "file", "version"]) {
            self.lint(task, &lint::SECRETS_USED_IN_ARG_OR_ENV, || {
                format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {})", quote(name))
            });
        }
    }
}

/// A refused value.
pub(super) fn value(text: impl Into<String>) -> Refusal {
    (ErrorKind::Value(text.into()), None)
}

/// The stage's shell in front of a command.
pub(super) fn with_shell(node: &Node<'_>, text: String) -> Vec<String> {
    let mut args = Vec::with_capacity(node.config.shell.len().max(3) + 1);
    if !node.config.shell.is_empty() {
        args.extend_from_slice(&node.config.shell);
    } else if node.image_platform.os == "windows" {
        args.extend(["cmd", "/S", "/C"].map(str::to_owned));
    } else {
        args.extend(["/bin/sh", "-c"].map(str::to_owned));
    }
    args.push(text);
    args
}

fn set_dir(node: &mut Node<'_>, dir: &str) -> Result<(), Refusal> {
    let windows = node.os() == "windows";
    let dir = path::normalize(&node.config.working_dir, dir, node.os(), false).map_err(value)?;
    dir.as_ref().clone_into(&mut node.dir);
    let config: &mut ContainerConfig = Arc::make_mut(&mut node.config);
    config.working_dir = if windows { dir.replace('/', "\\") } else { dir.into_owned() };
    Ok(())
}

/// Most entries among which a name is looked for one by one.
const FEW: usize = 48;

/// Sets a variable of the image's config, in its place when it is there.
fn set_env(node: &mut Node<'_>, name: &str, value: &str) {
    let mut entry = String::with_capacity(name.len() + value.len() + 1);
    push_all(&mut entry, &[name, "=", value]);
    let env = &mut Arc::make_mut(&mut node.config).env;
    let place = if env.len() < FEW {
        env.iter().position(|known| name_of(known) == name)
    } else {
        // The first of a name is the one that counts.
        for (place, known) in env.iter().enumerate().skip(node.env_indexed) {
            node.env_places.entry(name_of(known).to_owned()).or_insert(place);
        }
        node.env_indexed = env.len();
        node.env_places.get(name).copied()
    };
    match place.and_then(|place| env.get_mut(place)) {
        Some(known) => *known = entry,
        None => env.push(entry),
    }
}

fn name_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

fn healthcheck(health: &Health) -> (Healthcheck, String) {
    let mut check = Healthcheck::default();
    check.test.clone_from(&health.test);
    check.interval = health.interval;
    check.timeout = health.timeout;
    check.start_period = health.start_period;
    check.start_interval = health.start_interval;
    check.retries = health.retries;
    let text = format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        health.test.join(" "),
        duration(health.interval),
        duration(health.timeout),
        duration(health.start_period),
        duration(health.start_interval),
        health.retries
    );
    (check, text)
}

/// A number other than 0, or a name of Linux with or without SIG.
fn is_signal(text: &str) -> bool {
    const NAMES: &str = " ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP \
                         SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX ";
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix: &str, most: u32| {
        name.strip_prefix(prefix)
            .filter(|text| !text.starts_with(['0', '+']))
            .and_then(|text| text.parse::<u32>().ok())
            .is_some_and(|offset| (1..=most).contains(&offset))
    };
    let known: BTreeSet<&str> = NAMES.split_ascii_whitespace().collect();
    known.contains(name) || offset("RTMIN+", 15) || offset("RTMAX-", 14)
}
