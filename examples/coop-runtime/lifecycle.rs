//! From create to delete.

use std::os::fd::AsFd;
use std::path::Path;

use cooperage::runtime::{ContainerId, CreateOptions, Created, Error, Io, Status};

use crate::args::{Create, Kill, Run};
use crate::bundle::Bundle;
use crate::foreground::{self, Waited};
use crate::{Context, Outcome, console, sys};

/// The standard streams and the descriptors that are passed; the environment is told of those from a socket unit.
pub(crate) fn io(preserve: usize, env: &mut Vec<String>) -> Outcome<Io> {
    let mut count = preserve;
    let listening = std::env::var_os("LISTEN_FDS")
        .and_then(|text| text.into_string().ok())
        .and_then(|text| text.parse::<usize>().ok());
    if let Some(listening) = listening {
        count += listening;
        env.retain(|entry| !entry.starts_with("LISTEN_"));
        env.extend([format!("LISTEN_FDS={listening}"), "LISTEN_PID=1".to_owned()]);
        if let Some(names) = std::env::var_os("LISTEN_FDNAMES").and_then(|text| text.into_string().ok()) {
            env.push(format!("LISTEN_FDNAMES={names}"));
        }
    }
    let mut io = Io::inherit();
    let mut open = Vec::new();
    for number in 3..3 + i32::try_from(count)? {
        open.push((number, sys::inherited(number)));
    }
    // Fewer than were announced may be there; none may be missing between them.
    while open.pop_if(|(_, fd)| fd.is_err()).is_some() {}
    for (number, fd) in open {
        io = io.preserve(fd.map_err(|error| format!("descriptor {number} cannot be passed on: {error}"))?);
    }
    Ok(io)
}

/// Writes a pid, so that the file is never seen half.
pub(crate) fn write_pid(path: Option<&Path>, pid: u32) -> Outcome {
    let Some(path) = path else { return Ok(()) };
    let name = path.file_name().ok_or("the pid file has no name")?;
    let new = path.with_file_name(format!(".{}", name.to_string_lossy()));
    std::fs::write(&new, pid.to_string())
        .and_then(|()| std::fs::rename(&new, path))
        .map_err(|error| format!("{}: {error}", path.display()).into())
}

fn make(context: &Context, args: &Create, detached: bool, leaves: bool) -> Outcome<Created> {
    let id: ContainerId = args.id.parse()?;
    let mut bundle = Bundle::read(args.bundle.as_deref())?;
    let terminal = bundle.spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false));
    match (terminal, leaves, args.console_socket.is_some()) {
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
    let mut env =
        bundle.spec.process().as_ref().and_then(|process| process.env().clone()).unwrap_or_default();
    let io = io(args.preserve_fds, &mut env)?;
    if let Some(process) = bundle.spec.process_mut() {
        process.set_env(Some(env));
    }
    let options =
        CreateOptions::default().detachable(detached).no_pivot(args.no_pivot).bundle(&bundle.directory);
    let made = context.runtime.create_with(&id, &bundle.spec, bundle.rootfs(), io, &options);
    let mut created = match made {
        Err(Error::Exists { id, .. }) => return Err(format!("container with id exists: {id}").into()),
        other => other?,
    };
    if let Some(socket) = &args.console_socket
        && let Some(terminal) = created.take_terminal()
    {
        console::send(socket, terminal.as_fd(), "/dev/pts/ptmx")?;
    }
    if let (Some(socket), Some(pidfd)) = (&args.pidfd_socket, created.pidfd()) {
        console::send(socket, pidfd, &args.id)?;
    }
    Ok(created)
}

pub(crate) fn create(context: &Context, args: &Create) -> Outcome {
    let created = make(context, args, true, true)?;
    write_pid(args.pid_file.as_deref(), created.pid())?;
    created.detach()?;
    Ok(())
}

pub(crate) fn start(context: &Context, id: &str) -> Outcome {
    let container = context.load(id)?;
    match container.status() {
        Status::Created => Ok(container.start()?),
        Status::Stopped => Err("cannot start a container that has stopped".into()),
        _ => Err("cannot start an already running container".into()),
    }
}

pub(crate) fn run(context: &Context, args: &Run) -> Outcome<u8> {
    let signals = if args.detach { None } else { Some(foreground::signals()?) };
    let mut created = make(context, &args.create, false, args.detach)?;
    let terminal = created.take_terminal();
    if let Some(terminal) = &terminal {
        foreground::plain_lines(terminal.as_fd());
    }
    let pid = created.pid();
    write_pid(args.create.pid_file.as_deref(), pid)?;
    let running = created.start()?;
    let Some(signals) = signals else { return Ok(0) };
    let exit = foreground::wait(&Waited::Container(&running), &signals, terminal.as_ref())?;
    if !args.keep {
        running.delete()?;
    }
    Ok(u8::try_from(exit.code()).unwrap_or(255))
}

pub(crate) fn kill(context: &Context, args: &Kill) -> Outcome {
    let container = context.load(&args.id)?;
    if args.signal == "0" {
        // It asks whether there is somebody.
        return match container.status() {
            Status::Stopped if !args.all => Err("container not running".into()),
            _ => Ok(()),
        };
    }
    let signal = args.signal.parse()?;
    if args.all {
        return Ok(container.kill_all(signal)?);
    }
    match container.kill(signal) {
        Err(Error::WrongState { .. }) => Err("container not running".into()),
        other => Ok(other?),
    }
}

pub(crate) fn delete(context: &Context, id: &str, force: bool) -> Outcome {
    let parsed: ContainerId = id.parse()?;
    let container = match context.runtime.load(&parsed) {
        Err(Error::NoSuchContainer { .. }) if force => {
            // What an interrupted create left has no state yet.
            drop(std::fs::remove_dir_all(context.root.join(id)));
            return Ok(());
        }
        Err(Error::NoSuchContainer { .. }) => return Err(format!("container {id:?} does not exist").into()),
        other => other?,
    };
    match container.status() {
        status @ (Status::Running | Status::Paused) if !force => {
            Err(format!("cannot delete container {id} that is not stopped: {}", status.as_str()).into())
        }
        _ => Ok(container.delete()?),
    }
}
