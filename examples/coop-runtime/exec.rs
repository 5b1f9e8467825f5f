//! Further processes.

use std::os::fd::AsFd;

use cooperage::runtime::oci_spec::runtime::{Capability, Process};
use cooperage::runtime::{Container, ExecOptions, Status};

use crate::args::Exec;
use crate::foreground::{self, Waited};
use crate::lifecycle::{io, write_pid};
use crate::{Context, Outcome, bundle, console};

pub(crate) fn exec(context: &Context, args: &Exec) -> Outcome<u8> {
    let mut container = context.load(&args.id)?;
    while container.status() == Status::Paused {
        if !args.ignore_paused {
            return Err(
                "cannot exec in a paused container (--ignore-paused waits until it is resumed)".into()
            );
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        container = context.load(&args.id)?;
    }
    let mut options = ExecOptions::default();
    if args.console_socket.is_none() {
        options = options.before_start(foreground::plain_lines);
    }
    for named in &args.cgroup {
        let (controllers, path) = named.split_once(':').unwrap_or(("", named));
        options = options.cgroup(controllers.split(',').filter(|name| !name.is_empty()), path);
    }
    let mut process = process(&container, args)?;
    let terminal = process.terminal().unwrap_or(false);
    match (terminal, args.detach, args.console_socket.is_some()) {
        (true, true, false) => {
            return Err(
                "cannot allocate tty if the runtime will detach without setting console socket".into()
            );
        }
        (false, _, true) | (_, false, true) => {
            return Err("cannot use console socket if the runtime will not detach or allocate tty".into());
        }
        _ => {}
    }
    let mut env = process.env().clone().unwrap_or_default();
    let io = io(args.preserve_fds, &mut env)?;
    process.set_env(Some(env));
    let signals = if args.detach { None } else { Some(foreground::signals()?) };
    let mut exec = container.exec_with(&process, io, &options)?;
    let mut terminal = exec.take_terminal();
    if let (Some(socket), Some(fd)) =
        (&args.console_socket, terminal.take_if(|_| args.console_socket.is_some()))
    {
        console::send(socket, fd.as_fd(), "/dev/pts/ptmx")?;
    }
    if let Some(socket) = &args.pidfd_socket {
        console::send(socket, exec.pidfd(), &args.id)?;
    }
    write_pid(args.pid_file.as_deref(), exec.pid())?;
    let Some(signals) = signals else { return Ok(0) };
    let exit = foreground::wait(&Waited::Exec(&exec), &signals, terminal.as_ref())?;
    Ok(u8::try_from(exit.code()).unwrap_or(255))
}

/// The process: from a file, or the container's own with what the command line changes.
fn process(container: &Container, args: &Exec) -> Outcome<Process> {
    let spec = container.spec()?;
    if let Some(path) = &args.process {
        let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut process = bundle::process(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        if args.tty {
            process.set_terminal(Some(true));
        }
        root_home(container, &mut process);
        return Ok(process);
    }
    if args.command.is_empty() {
        return Err("process args cannot be empty".into());
    }
    let mut process = spec.process().clone().ok_or("the container has no process")?;
    process
        .set_args(Some(args.command.clone()))
        .set_terminal(Some(args.tty))
        .set_console_size(None)
        .set_oom_score_adj(None);
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    if args.user.is_some() {
        // It was that of another user.
        env.retain(|entry| !entry.starts_with("HOME=") || args.env.contains(entry));
    }
    process.set_env(Some(env));
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(user) = &args.user {
        let (uid, gid) = match user.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (user.as_str(), None),
        };
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is not an id"));
        let mut of = process.user().clone();
        of.set_uid(number(uid)?);
        if let Some(gid) = gid {
            of.set_gid(number(gid)?);
        }
        process.set_user(of);
    }
    if !args.additional_gids.is_empty() {
        let mut of = process.user().clone();
        let mut groups = of.additional_gids().clone().unwrap_or_default();
        groups.extend(&args.additional_gids);
        of.set_additional_gids(Some(groups));
        process.set_user(of);
    }
    add_capabilities(&mut process, &args.cap)?;
    root_home(container, &mut process);
    Ok(process)
}

fn root_home(container: &Container, process: &mut Process) {
    let root = container.spec().ok().and_then(|spec| spec.root().as_ref().map(|root| root.path().clone()));
    if let Some(root) = root {
        bundle::home(process, &container.bundle().join(root));
    }
}

/// Adds capabilities to all sets but the inheritable one, and to the ambient one only where something is inheritable:
/// as runc does.
fn add_capabilities(process: &mut Process, names: &[String]) -> Outcome {
    if names.is_empty() {
        return Ok(());
    }
    let mut added = Vec::new();
    for name in names {
        let quoted = serde_json::Value::String(name.to_uppercase());
        let known: Capability =
            serde_json::from_value(quoted).map_err(|_| format!("unknown capability {name:?}"))?;
        added.push(known);
    }
    let mut sets = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<std::collections::HashSet<Capability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    let (bounding, effective, permitted) =
        (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    if sets.inheritable().as_ref().is_some_and(|set| !set.is_empty()) {
        let ambient = with(sets.ambient());
        sets.set_ambient(ambient);
    }
    process.set_capabilities(Some(sets));
    Ok(())
}
