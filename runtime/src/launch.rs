//! Carrying a plan to the helper and its answers back.

mod resident;
mod serve;
mod talk;

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::child::Child;
use crate::plan::Plan;
use crate::plan::wire::{CONTROL, FDS_PER_MESSAGE, VERSION, message};
use crate::state::{Place, Start};
use crate::{Errno, Error, Hint, Phase, Signal, hint, sys};

use resident::Resident;
use talk::{Answer, Talk, send_fds};

pub(crate) use serve::Served;

/// The helper program.
static HELPER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/helper"));
/// Executable memory files may be asked for by name since Linux 6.3 (`MFD_EXEC`), and then must.
const MFD_EXEC: u32 = 0x10;

fn failed(syscall: &'static str, errno: impl Into<Errno>) -> Error {
    Error::host_call(Phase::Launch, syscall, "the helper", errno)
}

/// A socket pair that keeps messages apart.
fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| failed("socketpair", errno))
}

/// The helper program in a sealed memory file, from which it is executed: nobody can write to it any more, and the
/// host's own binary never shows in a container's `/proc`.
#[derive(Clone, Debug)]
pub(crate) struct Helper {
    file: Arc<OwnedFd>,
    resident: Option<Arc<Resident>>,
}

impl Helper {
    pub(crate) fn load(resident: bool) -> Result<Self, Error> {
        if HELPER.is_empty() {
            return Err(Error::unsupported("this architecture: no helper program was built for it"));
        }
        let file = sealed("container-helper", HELPER, MFD_EXEC).map_err(|error| {
            let failure =
                Error::host_call(Phase::Launch, "memfd_create", "the helper program", Errno::of(&error));
            match error.raw_os_error() {
                Some(libc::EACCES) => failure.with_hint(Hint::new(
                    "vm.memfd_noexec is 2, so no memory file can be executed",
                    "set it to 0 or 1",
                )),
                _ => failure,
            }
        })?;
        // Above CONTROL, which the new process puts in place before it executes this file by its number.
        let file = rustix::io::fcntl_dupfd_cloexec(&file, CONTROL + 1)
            .map_err(|errno| Error::host_call(Phase::Launch, "fcntl", "the helper program", errno))?;
        Ok(Self { file: Arc::new(file), resident: resident.then(Arc::default) })
    }

    /// Starts the program with one end of a socket pair; returns its pid.
    fn spawn(&self, theirs: BorrowedFd<'_>) -> Result<u32, Error> {
        let path = CString::new(format!("/proc/self/fd/{}", self.file.as_raw_fd())).unwrap_or_default();
        sys::spawn(&path, c"container-helper", theirs, CONTROL).map_err(|error| {
            failed("posix_spawn", Errno::of(&error)).with_hint(hint::exec_helper(Errno::of(&error)))
        })
    }

    /// A process that takes a plan from the other end of that socket.
    fn stage(&self, theirs: BorrowedFd<'_>) -> Result<Stage, Error> {
        match &self.resident {
            Some(resident) => resident.stage(self, theirs),
            None => Stage::of_pid(self.spawn(theirs)?),
        }
    }

    /// Ends what is resident.
    pub(crate) fn shutdown(&self) {
        if let Some(resident) = &self.resident {
            resident.end();
        }
    }

    /// Runs the plan until the container's process is ready. `attend` is called where the plan has something for the host
    /// to do.
    pub(crate) fn launch(&self, plan: Plan, attend: Attend<'_>) -> Result<Launched, Error> {
        let (ours, theirs) = pair()?;
        let memory = sealed("container-plan", &plan.bytes, 0)
            .map_err(|error| failed("memfd_create", Errno::of(&error)))?;
        let stage = self.stage(theirs.as_fd())?;
        // The helper has its own copy; while there is another, its end could not be seen.
        drop(theirs);
        send_plan(ours.as_fd(), &plan, memory.as_fd()).map_err(|errno| failed("sendmsg", errno))?;
        // The helper has its own copies now.
        let Plan { notes, maps, programs, fds, born, .. } = plan;
        drop((memory, fds));
        let talk = Talk { socket: ours, notes, first: 0, programs };
        // The new process may say something before its maker says that it is there.
        let mut early = VecDeque::new();
        let child = loop {
            match talk.receive(Phase::Launch) {
                Ok(Answer::Process(child)) => break Unready::new(child),
                Ok(Answer::End) => {
                    let failure = early.into_iter().find_map(Result::err);
                    return Err(failure.unwrap_or_else(|| stage.died()));
                }
                // Its maker failed: nothing more will come of it.
                Err(error) if error.step().is_none_or(|step| step < born) => return Err(error),
                other => early.push_back(other),
            }
        };
        if let Some(maps) = maps {
            // Without maps it goes on by itself.
            maps.write(child.child.pid())?;
            talk.go()?;
        }
        let (mut terminal, mut listener) = (None, None);
        loop {
            match early.pop_front().unwrap_or_else(|| talk.receive(Phase::Namespaces))? {
                Answer::Ready => {
                    stage.wait();
                    return Ok(Launched { talk, child: child.ready(), terminal, listener });
                }
                Answer::End => return Err(child.died()),
                Answer::Terminal(fd) => terminal = Some(fd),
                Answer::Hooks => {
                    attend(&child.child, Wait::Hooks)?;
                    talk.go()?;
                }
                Answer::Network(namespace) => {
                    attend(&child.child, Wait::Network(namespace))?;
                    talk.go()?;
                }
                Answer::Listener(fd) => listener = Some(fd),
                Answer::Process(_) => {
                    return Err(Error::Protocol { what: "something else than ready".to_owned() });
                }
            }
        }
    }
}

/// Does what a process waits for that is being made.
type Attend<'a> = &'a mut dyn FnMut(&Arc<Child>, Wait) -> Result<(), Error>;

/// What a process that is being made waits for.
#[derive(Debug)]
pub(crate) enum Wait {
    /// That hooks run.
    Hooks,
    /// Devices of the host, in its network namespace.
    Network(OwnedFd),
}

/// A process that is ready to execute its program.
#[derive(Debug)]
pub(crate) struct Launched {
    talk: Talk,
    pub(crate) child: Arc<Child>,
    /// The controlling side of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
    /// The seccomp listener, when the filter is loaded already.
    pub(crate) listener: Option<OwnedFd>,
}

impl Launched {
    /// Connects to a process that waits to be started by whoever comes.
    pub(crate) fn connect(place: &Place, start: Start, child: Arc<Child>) -> Result<Self, Error> {
        let failed = |syscall, errno: rustix::io::Errno| {
            Error::host_call(Phase::Gate, syscall, "the container's first process", errno)
        };
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| failed("socket", errno))?;
        start_address(place.directory())
            .and_then(|(_directory, address)| rustix::net::connect(&socket, &address))
            .map_err(|errno| failed("connect", errno))?;
        let talk = Talk { socket, notes: start.notes, first: start.first, programs: start.programs };
        Ok(Self { talk, child, terminal: None, listener: None })
    }

    /// Lets the process wait for whoever starts it. What is left of its plan is returned, to be kept.
    pub(crate) fn release(&self) -> Result<(), Error> {
        self.talk.go()
    }

    /// What another process needs to know to start it.
    pub(crate) fn rest(&self, gate: u32) -> Start {
        Start {
            first: gate,
            notes: self.talk.notes.get(gate as usize..).unwrap_or_default().to_vec(),
            programs: self.talk.programs.clone(),
        }
    }

    /// Executes the program. The way to the helper closes when that succeeds. A seccomp listener is handed on before
    /// anything waits for it.
    pub(crate) fn start(&self, listener: impl Fn(OwnedFd) -> Result<(), Error>) -> Result<(), Error> {
        self.talk.go()?;
        loop {
            match self.talk.receive(Phase::Exec)? {
                Answer::End => return Ok(()),
                Answer::Listener(fd) => listener(fd)?,
                _ => return Err(Error::Protocol { what: "an answer after the start".to_owned() }),
            }
        }
    }
}

/// The socket over which another process starts a container, by a descriptor of its directory: a path may be longer
/// than an address.
fn start_address(directory: &Path) -> rustix::io::Result<(OwnedFd, SocketAddrUnix)> {
    use rustix::fs::{Mode, OFlags};
    let directory =
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/start", directory.as_raw_fd()))?;
    Ok((directory, address))
}

/// Makes that socket, listening.
pub(crate) fn start_socket(place: &Place) -> Result<OwnedFd, Error> {
    let failed = |syscall, errno: rustix::io::Errno| {
        Error::host_call(Phase::State, syscall, place.directory().join("start").display().to_string(), errno)
    };
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| failed("socket", errno))?;
    start_address(place.directory())
        .and_then(|(_directory, address)| rustix::net::bind(&socket, &address))
        .map_err(|errno| failed("bind", errno))?;
    rustix::net::listen(&socket, 1).map_err(|errno| failed("listen", errno))?;
    Ok(socket)
}

/// Ends the process unless it became ready.
struct Unready {
    child: Arc<Child>,
    armed: bool,
}

impl Unready {
    fn new(child: Child) -> Self {
        Self { child: Arc::new(child), armed: true }
    }

    fn ready(mut self) -> Arc<Child> {
        self.armed = false;
        Arc::clone(&self.child)
    }

    fn died(self) -> Error {
        let how = self.child.wait().map_or_else(|_| "unknown".to_owned(), |exit| exit.status.to_string());
        Error::HelperDied { phase: Phase::Namespaces, how }
    }
}

impl Drop for Unready {
    fn drop(&mut self) {
        if self.armed {
            // Best effort: it ends by itself too when the way to the host closes.
            drop(self.child.kill(Signal::KILL));
            drop(self.child.wait());
        }
    }
}

/// The helper's own process, which ends once the container's process is born.
struct Stage(Option<Child>);

impl Stage {
    fn of_pid(pid: u32) -> Result<Self, Error> {
        let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let opened = raw.ok_or(rustix::io::Errno::SRCH).and_then(|pid| {
            // Nobody but this function reaps the pid, so it still is the helper's.
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        });
        let pidfd = opened.map_err(|errno| failed("pidfd_open", errno))?;
        Ok(Self(Some(Child::new(pid, pidfd))))
    }

    fn wait(self) {
        drop(self);
    }

    fn died(self) -> Error {
        let exit = self.0.as_ref().map(Child::wait);
        let how = match exit {
            Some(Ok(exit)) => exit.status.to_string(),
            _ => "unknown".to_owned(),
        };
        Error::HelperDied { phase: Phase::Launch, how }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(child) = &self.0 {
            // The helper ends by itself after it has answered or failed; and at the latest when the socket closes.
            drop(child.wait());
        }
    }
}

/// A memory file with this content that can no longer change.
fn sealed(name: &str, content: &[u8], extra: u32) -> std::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create(name, flags | MemfdFlags::from_bits_retain(extra)) {
        Err(rustix::io::Errno::INVAL) if extra != 0 => rustix::fs::memfd_create(name, flags)?,
        other => other?,
    };
    let mut rest = content;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(file)
}

/// Sends the plan and all its descriptors.
fn send_plan(socket: BorrowedFd<'_>, plan: &Plan, memory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let length = u32::try_from(plan.bytes.len()).unwrap_or(u32::MAX);
    let count = u32::try_from(plan.fds.len()).unwrap_or(u32::MAX);
    let (first, rest) = plan.fds.split_at(plan.fds.len().min(FDS_PER_MESSAGE - 1));
    let mut with_plan = vec![memory];
    with_plan.extend(first.iter().map(AsFd::as_fd));
    send_fds(socket, [message::HELLO, VERSION, length, count], &with_plan)?;
    for chunk in rest.chunks(FDS_PER_MESSAGE) {
        let fds: Vec<_> = chunk.iter().map(AsFd::as_fd).collect();
        send_fds(socket, [message::MORE, 0, 0, 0], &fds)?;
    }
    Ok(())
}
