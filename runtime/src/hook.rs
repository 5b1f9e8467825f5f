//! Hooks: programs of the Spec that run at points of a container's life (runtime-spec `config.md`, "POSIX-platform
//! Hooks").
//!
//! ```text
//!   create: … mounts … ─▶ prestart, createRuntime (host) ─▶ createContainer (inside) ─▶ pivot … gate
//!   start:  startContainer (inside) ─▶ the program ─▶ poststart (host)
//!   delete: … removed ─▶ poststop (host)
//! ```
//!
//! Each gets the state as JSON on standard input, from memory, so that one which does not read it cannot block. What it
//! writes is kept, and its end is shown when it fails.

use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{ContainerState, Hook, Spec, State};

use crate::child::Child;
use crate::plan::{HookRequest, Plan};
use crate::state::Record;
use crate::{Container, Errno, Error, ExitStatus, Io, Phase, Signal, Status};

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Point {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// How much of what a hook wrote is shown, in bytes: the last of it.
const SHOWN: u64 = 1024;

fn list(spec: &Spec, point: Point) -> &[Hook] {
    let Some(hooks) = spec.hooks() else { return &[] };
    let list = match point {
        Point::Prestart => hooks.prestart(),
        Point::CreateRuntime => hooks.create_runtime(),
        Point::CreateContainer => hooks.create_container(),
        Point::StartContainer => hooks.start_container(),
        Point::Poststart => hooks.poststart(),
        Point::Poststop => hooks.poststop(),
    };
    list.as_deref().unwrap_or_default()
}

/// Whether there are any at this point.
pub(crate) fn any(spec: &Spec, point: Point) -> bool {
    !list(spec, point).is_empty()
}

/// Refuses hooks that cannot be run.
pub(crate) fn check(spec: &Spec) -> Result<(), Error> {
    use Point::{CreateContainer, CreateRuntime, Poststart, Poststop, Prestart, StartContainer};
    for point in [Prestart, CreateRuntime, CreateContainer, StartContainer, Poststart, Poststop] {
        for (index, hook) in list(spec, point).iter().enumerate() {
            let field = format!("hooks.{}[{index}]", point.name());
            if !hook.path().is_absolute() {
                return Err(Error::spec(format!("{field}.path"), "it is not absolute"));
            }
            if hook.timeout().is_some_and(|timeout| timeout <= 0) {
                return Err(Error::spec(format!("{field}.timeout"), "it is not above zero"));
            }
        }
    }
    Ok(())
}

/// The state as hooks and agents get it.
pub(crate) fn state(record: &Record, spec: &Spec, status: Status, pid: u32) -> Result<State, Error> {
    let status = match status {
        Status::Creating => ContainerState::Creating,
        Status::Created => ContainerState::Created,
        Status::Running | Status::Paused => ContainerState::Running,
        Status::Stopped => ContainerState::Stopped,
    };
    let mut state = State::default();
    state
        .set_version(spec.version().clone())
        .set_id(record.id.clone())
        .set_status(status)
        .set_pid(Some(i32::try_from(pid).unwrap_or(0)))
        .set_bundle(record.bundle.clone())
        .set_annotations(spec.annotations().clone());
    Ok(state)
}

/// Runs the hooks of a point in this process's namespaces.
pub(crate) fn run_outside(spec: &Spec, point: Point, state: &State) -> Result<(), Error> {
    for (index, hook) in list(spec, point).iter().enumerate() {
        outside(hook, state).map_err(|how| failed(point, index, hook, how))?;
    }
    Ok(())
}

/// Runs every hook of a point in this process's namespaces, also after one that fails; what failed.
pub(crate) fn run_all_outside(spec: &Spec, point: Point, state: &State) -> Vec<Error> {
    let hooks = list(spec, point).iter().enumerate();
    hooks.filter_map(|(index, hook)| Some(failed(point, index, hook, outside(hook, state).err()?))).collect()
}

/// Runs the hooks of a point in the namespaces of the container.
pub(crate) fn run_inside(
    container: &Container,
    spec: &Spec,
    point: Point,
    state: &State,
) -> Result<(), Error> {
    let Some(child) = &container.inner.child else { return Ok(()) };
    // The runtime-spec does not say what a hook without an environment has; one that runs as if it were a part of the
    // program has always had the program's.
    let program = spec.process().as_ref().filter(|_| point == Point::StartContainer);
    let unset = program.and_then(|process| process.env().clone()).unwrap_or_default();
    for (index, hook) in list(spec, point).iter().enumerate() {
        let env = hook.env().clone().unwrap_or_else(|| unset.clone());
        inside(container, child, hook, env, state).map_err(|how| failed(point, index, hook, how))?;
    }
    Ok(())
}

fn failed(point: Point, index: usize, hook: &Hook, how: How) -> Error {
    Error::Hook {
        point: point.name(),
        index,
        path: hook.path().clone(),
        problem: how.problem,
        output: how.output,
        source: how.source,
    }
}

/// Why a hook failed.
#[derive(Debug, Default)]
struct How {
    problem: String,
    output: String,
    source: Option<Box<Error>>,
}

impl How {
    fn io(what: &str, error: &std::io::Error) -> Self {
        Self { problem: format!("{what}: {error}"), ..Self::default() }
    }
}

fn memory(content: &[u8]) -> std::io::Result<std::fs::File> {
    let fd = rustix::fs::memfd_create("hook", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn text(state: &State) -> Result<Vec<u8>, How> {
    serde_json::to_vec(state).map_err(|error| How::io("the state", &error.into()))
}

/// The end of what was written.
fn tail(output: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    let length = output.metadata().map_or(0, |metadata| metadata.len());
    // Best effort: it is only shown.
    drop(output.seek(std::io::SeekFrom::Start(length.saturating_sub(SHOWN))));
    drop(output.take(SHOWN).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

fn argv(hook: &Hook) -> Vec<String> {
    match hook.args().as_deref() {
        Some(args) if !args.is_empty() => args.to_vec(),
        _ => vec![hook.path().display().to_string()],
    }
}

fn outside(hook: &Hook, state: &State) -> Result<(), How> {
    let stdin = memory(&text(state)?).map_err(|error| How::io("memfd_create", &error))?;
    let mut output = memory(b"").map_err(|error| How::io("memfd_create", &error))?;
    let copy = |file: &std::fs::File| file.try_clone().map_err(|error| How::io("fcntl", &error));
    let args = argv(hook);
    let mut command = Command::new(hook.path());
    command
        .arg0(args.first().map_or("", String::as_str))
        .args(args.iter().skip(1))
        .env_clear()
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(copy(&output)?))
        .stderr(Stdio::from(copy(&output)?));
    for entry in hook.env().iter().flatten() {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        command.env(name, value);
    }
    let spawned = command.spawn().map_err(|error| How::io("it cannot be started", &error))?;
    let child = Child::open(spawned.id()).ok_or_else(|| How {
        problem: "it cannot be watched (pidfd_open failed)".to_owned(),
        ..How::default()
    })?;
    finish(&child, hook, &mut output)
}

fn inside(
    container: &Container,
    init: &Child,
    hook: &Hook,
    env: Vec<String>,
    state: &State,
) -> Result<(), How> {
    let wrap = |source: Error| How {
        problem: "it cannot be started in the container".to_owned(),
        source: Some(Box::new(source)),
        ..How::default()
    };
    let stdin = memory(&text(state)?).map_err(|error| How::io("memfd_create", &error))?;
    let mut output = memory(b"").map_err(|error| How::io("memfd_create", &error))?;
    let copy = |file: &std::fs::File| file.try_clone().map_err(|error| How::io("fcntl", &error));
    let io = Io::null().stdin(stdin).stdout(copy(&output)?).stderr(copy(&output)?);
    let record = container.record();
    // Before the pivot this is the host's root, where the path of a createContainer hook is looked up.
    let root = crate::exec::open_root(init).map_err(wrap)?;
    let plan = Plan::hook(HookRequest {
        path: hook.path(),
        args: argv(hook),
        env,
        io,
        init: container.init(init).map_err(wrap)?,
        root,
        namespaces: record.namespaces,
        maps: record.maps.as_ref(),
    });
    let launched = container.inner.helper.launch(plan.map_err(wrap)?, &mut |_, _| Ok(())).map_err(wrap)?;
    let child = std::sync::Arc::clone(&launched.child);
    // The first process of a pid namespace cannot end before this one was reaped.
    container.inner.orphans.adopt(std::sync::Arc::clone(&child));
    if let Err(error) = launched.start(|_: OwnedFd| Ok(())) {
        // It must be reaped, or the first process of its pid namespace could not end.
        drop(child.kill(Signal::KILL));
        drop(child.wait());
        container.inner.orphans.reap();
        return Err(wrap(error));
    }
    finish(&child, hook, &mut output)
}

/// Waits for a hook, no longer than it may take.
fn finish(child: &Child, hook: &Hook, output: &mut std::fs::File) -> Result<(), How> {
    let limit = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let wrap = |source| How {
        problem: "it cannot be waited for".to_owned(),
        source: Some(Box::new(source)),
        ..How::default()
    };
    let exit = child.wait_until(deadline).map_err(wrap)?;
    let Some(exit) = exit else {
        // It is over either way.
        drop(child.kill(Signal::KILL));
        drop(child.wait());
        let seconds = limit.map_or(0, |limit| limit.as_secs());
        return Err(How {
            problem: format!("it ran longer than its timeout of {seconds} s"),
            output: tail(output),
            source: Some(Box::new(Error::host_call(
                Phase::Hooks,
                "poll",
                hook.path().display().to_string(),
                Errno::from_raw(libc::ETIMEDOUT),
            ))),
        });
    };
    if exit.status == ExitStatus::Code(0) {
        return Ok(());
    }
    Err(How { problem: format!("it ended with {}", exit.status), output: tail(output), source: None })
}
