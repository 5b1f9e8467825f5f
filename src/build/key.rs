//! What a step's result depends on, and why a step was done again.

use std::fmt;

use dockerfile::plan::{MountKind, Op, Plan, Step};
use image_core::Timestamp;
use layer_store::{CacheRecord, Component, Layer, Preimage, Transaction, View};

use super::solve::Solver;
use super::{copy, mount};
use crate::error::Result;
use crate::task::blocking;

/// Why a step was not taken from the cache: the first part of what it depends on that differs from the last time.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// This step of this build was never done here.
    NotBuiltBefore,
    /// The caller asked not to use the cache.
    NoCache,
    /// Nothing differs, but the result is gone from the store.
    Pruned,
    /// The image that the stage begins with is another one.
    Base {
        /// As the Dockerfile names it.
        reference: String,
    },
    /// The step below made something else.
    Parent,
    /// A file that the step reads.
    File {
        /// Its path, below the source.
        path: String,
        /// What of it.
        change: FileChange,
    },
    /// The value of an ARG.
    Arg {
        /// Its name.
        name: String,
        /// Its value the last time.
        before: Option<String>,
        /// Its value now.
        after: Option<String>,
        /// Whether the command has its name in it. An ARG is in the environment of every later RUN, used or not.
        mentioned: bool,
    },
    /// The value of an ENV.
    Env {
        /// Its name.
        name: String,
        /// Its value the last time.
        before: Option<String>,
        /// Its value now.
        after: Option<String>,
    },
    /// The command of a RUN.
    Command,
    /// The working directory of a RUN.
    WorkingDirectory,
    /// The user of a RUN.
    User,
    /// The network or the confinement of a RUN.
    Sandbox,
    /// A mount of a RUN.
    Mount {
        /// Where it is mounted, or the variable that it fills.
        target: String,
    },
    /// A secret whose digest was to count.
    Secret {
        /// Its id.
        id: String,
    },
    /// Where COPY or WORKDIR writes, or how: destination, `--chown`, `--chmod`, `--link`, patterns.
    Instruction {
        /// Which part.
        part: String,
    },
    /// The platform of the build.
    Platform,
    /// The times that the image carries: another base date, another SOURCE_DATE_EPOCH, or another place in the file.
    Time,
}

/// What of a file differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FileChange {
    /// It was not there.
    Added,
    /// It is not there any more.
    Removed,
    /// Its bytes, its kind, or where a link points to.
    Content,
    /// Its permission bits.
    Mode,
    /// Its owner.
    Owner,
    /// Its extended attributes.
    Attributes,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let valued = |f: &mut fmt::Formatter<'_>,
                      what: &str,
                      name: &str,
                      before: &Option<String>,
                      after: &Option<String>| match (before, after) {
            (Some(before), Some(after)) => write!(f, "{what} {name} changed from {before:?} to {after:?}"),
            (None, _) => write!(f, "{what} {name} is new"),
            (_, None) => write!(f, "{what} {name} is gone"),
        };
        match self {
            Self::NotBuiltBefore => f.write_str("not built before"),
            Self::NoCache => f.write_str("the cache was not to be used"),
            Self::Pruned => f.write_str("its earlier result was pruned"),
            Self::Base { reference } => write!(f, "the base image {reference} changed"),
            Self::Parent => f.write_str("the step below changed"),
            Self::File { path, change } => match change {
                FileChange::Added => write!(f, "file {path} is new"),
                FileChange::Removed => write!(f, "file {path} is gone"),
                FileChange::Content => write!(f, "file {path} changed"),
                FileChange::Mode => write!(f, "the mode of {path} changed"),
                FileChange::Owner => write!(f, "the owner of {path} changed"),
                FileChange::Attributes => write!(f, "the extended attributes of {path} changed"),
            },
            Self::Arg { name, before, after, mentioned } => {
                valued(f, "argument", name, before, after)?;
                if *mentioned { Ok(()) } else { f.write_str(" (the command does not mention it)") }
            }
            Self::Env { name, before, after } => valued(f, "variable", name, before, after),
            Self::Command => f.write_str("the command changed"),
            Self::WorkingDirectory => f.write_str("the working directory changed"),
            Self::User => f.write_str("the user changed"),
            Self::Sandbox => f.write_str("the network or the confinement changed"),
            Self::Mount { target } => write!(f, "the mount at {target} changed"),
            Self::Secret { id } => write!(f, "the secret {id} changed"),
            Self::Instruction { part } => write!(f, "{part} changed"),
            Self::Platform => f.write_str("the platform changed"),
            Self::Time => f.write_str("its place in the file or the base image's date changed"),
        }
    }
}

/// Everything that the result of `step` over `below` depends on.
pub(super) async fn preimage(
    solver: &Solver,
    step: &Step,
    below: &[Layer],
    (epoch, time): (Timestamp, Timestamp),
) -> Result<Preimage> {
    let mut parts: Vec<Component> = Vec::new();
    parts.extend(step.definition().components.into_iter().map(|part| Component::new(part.name, part.value)));
    parts.push(Component::new("platform", solver.platform().to_string()));
    let (trees, work, view) = (solver.trees.clone(), solver.work.clone(), View::of(below));
    let (mut linked, mut dated) = (false, false);
    match &step.op {
        Op::Files(files) => {
            linked = files.link;
            let files = files.clone();
            parts.extend(blocking(move || copy::content(&files, &trees, &view, &work)).await?);
        }
        Op::Exec(exec) => {
            parts.extend(solver.build.secrets.components(exec));
            // Most have none; then there is nothing to wait for.
            if exec.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Bind { .. })) {
                let exec = exec.clone();
                parts.extend(blocking(move || mount::content(&exec, &trees)).await?);
            }
            dated = true;
        }
        _ => {}
    }
    if !linked {
        let chain =
            layer_store::chain_id(below).map_or_else(|| "scratch".to_owned(), |chain| chain.to_string());
        let name = match step.root.step().and_then(|root| solver.plan.steps.get(root)).map(|root| &root.op) {
            Some(Op::Image(_) | Op::Layout(_)) => "base",
            _ => "parent",
        };
        parts.push(Component::new(name, chain));
    }
    // Last: another base has another date, and is the cause of it.
    if dated {
        parts.push(Component::new("epoch", epoch.to_string()));
    }
    parts.push(Component::new("time", time.to_string()));
    Ok(Preimage(parts))
}

/// Why a step is done again.
pub(super) fn explain(
    plan: &Plan,
    step: &Step,
    work: &Transaction,
    slot: &str,
    preimage: &Preimage,
) -> Result<Cause> {
    let Some(before) = work.last_in_slot(slot)? else { return Ok(Cause::NotBuiltBefore) };
    let differences = preimage.differences(&before);
    let Some(first) = differences.first() else { return Ok(Cause::Pruned) };
    let text = |value: Option<&str>| value.map(str::to_owned);
    let (kind, rest) = first.name.split_once('.').unwrap_or((first.name, ""));
    // `file.<action>.<path>`
    let path = || {
        rest.split_once('.').map_or(rest, |(_, path)| path).split('\0').next().unwrap_or_default().to_owned()
    };
    let change = match (first.before, first.after) {
        (None, _) => FileChange::Added,
        (_, None) => FileChange::Removed,
        _ => FileChange::Content,
    };
    Ok(match kind {
        "parent" => Cause::Parent,
        "base" => match step.root.step().and_then(|root| plan.steps.get(root)).map(|root| &root.op) {
            Some(Op::Image(image)) => Cause::Base { reference: image.reference.canonical() },
            Some(Op::Layout(layout)) => Cause::Base { reference: layout.reference.canonical() },
            _ => Cause::Parent,
        },
        "file" => Cause::File { path: path(), change },
        "mode" => Cause::File { path: path(), change: FileChange::Mode },
        "owner" => Cause::File { path: path(), change: FileChange::Owner },
        "xattr" => Cause::File { path: path(), change: FileChange::Attributes },
        "arg" => Cause::Arg {
            name: rest.to_owned(),
            before: text(first.before),
            after: text(first.after),
            mentioned: mentions(step, rest),
        },
        "env" => Cause::Env { name: rest.to_owned(), before: text(first.before), after: text(first.after) },
        "argv" => Cause::Command,
        "cwd" => Cause::WorkingDirectory,
        "user" => Cause::User,
        "network" | "security" | "hostname" | "device" => Cause::Sandbox,
        "mount" => {
            let end = rest.rfind('.').unwrap_or(rest.len());
            Cause::Mount { target: rest.get(..end).unwrap_or(rest).to_owned() }
        }
        "read" => Cause::File { path: path(), change },
        "secret" => Cause::Secret { id: rest.to_owned() },
        "platform" => Cause::Platform,
        "time" | "epoch" => Cause::Time,
        _ => Cause::Instruction { part: first.name.to_owned() },
    })
}

/// The command of a RUN has `name` in it.
fn mentions(step: &Step, name: &str) -> bool {
    match &step.op {
        Op::Exec(exec) => exec.args.iter().any(|word| word.contains(name)),
        _ => true,
    }
}

/// What is kept of a step that was done.
pub(super) fn record(solver: &Solver, step: &Step, preimage: Preimage, layer: &Layer) -> CacheRecord {
    CacheRecord::new(preimage, layer.key().clone(), step.name.clone(), Some(solver.build.engine.now()))
}
