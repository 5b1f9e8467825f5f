//! Carrying a plan to the helper and its answers back.

mod serve;

use std::collections::VecDeque;
use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::child::Child;
use crate::plan::wire::{CONTROL, EXEC_EXISTS, FDS_PER_MESSAGE, MESSAGE, VERSION, message};
use crate::plan::{Note, Plan};
use crate::state::{Place, Start};
use crate::{Errno, Error, Hint, Phase, Signal, hint, sys};

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

    /// Runs the plan until the container's process is ready. `hooks` is called when the plan has a point for them.
    pub(crate) fn launch(
        &self,
        plan: Plan,
        hooks: &mut dyn FnMut(&Arc<Child>) -> Result<(), Error>,
    ) -> Result<Launched, Error> {
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
        let mut terminal = None;
        loop {
            match early.pop_front().unwrap_or_else(|| talk.receive(Phase::Namespaces))? {
                Answer::Ready => {
                    stage.wait();
                    return Ok(Launched { talk, child: child.ready(), terminal });
                }
                Answer::End => return Err(child.died()),
                Answer::Terminal(fd) => terminal = Some(fd),
                Answer::Hooks => {
                    hooks(&child.child)?;
                    talk.go()?;
                }
                Answer::Process(_) | Answer::Listener(_) => {
                    return Err(Error::Protocol { what: "something else than ready".to_owned() });
                }
            }
        }
    }
}

/// A process that is ready to execute its program.
#[derive(Debug)]
pub(crate) struct Launched {
    talk: Talk,
    pub(crate) child: Arc<Child>,
    /// The controlling side of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
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
        Ok(Self { talk, child, terminal: None })
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

/// The resident helper, started when it is first needed.
#[derive(Debug, Default)]
struct Resident {
    running: Mutex<Option<Running>>,
}

/// It runs: the way to it, and the process, which ends when the way is closed.
#[derive(Debug)]
struct Running {
    socket: OwnedFd,
    process: Child,
}

impl Resident {
    /// Has it make a process.
    fn stage(&self, helper: &Helper, theirs: BorrowedFd<'_>) -> Result<Stage, Error> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = running.as_ref() {
            match ask(known, theirs) {
                Ok(stage) => return Ok(stage),
                // It was ended by somebody: a new one is started.
                Err(Error::HelperDied { .. }) => {}
                Err(error) => return Err(error),
            }
            if let Some(Running { socket, process }) = running.take() {
                drop(socket);
                process.wait()?;
            }
        }
        let (ours, its) = pair()?;
        let pid = helper.spawn(its.as_fd())?;
        drop(its);
        let mut stage = Stage::of_pid(pid)?;
        let Some(process) = stage.0.take() else {
            return Err(Error::Protocol { what: "a helper without a process".to_owned() });
        };
        let started = Running { socket: ours, process };
        let body = message_bytes([message::RESIDE, VERSION, 0, 0]);
        rustix::net::send(&started.socket, &body, SendFlags::NOSIGNAL)
            .map_err(|errno| failed("send", errno))?;
        let stage = ask(&started, theirs);
        *running = Some(started);
        stage
    }

    /// Ends it.
    fn end(&self) {
        let taken = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { socket, process }) = taken {
            drop(socket);
            // It ends by itself when the socket closes.
            drop(process.wait());
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends a socket to the resident helper, and receives the process that listens on it.
fn ask(running: &Running, theirs: BorrowedFd<'_>) -> Result<Stage, Error> {
    let died = |_| Error::HelperDied { phase: Phase::Launch, how: "the resident helper is gone".to_owned() };
    send_fds(running.socket.as_fd(), [message::LAUNCH, 0, 0, 0], &[theirs]).map_err(died)?;
    let (body, fd) = receive_from(running.socket.as_fd(), Phase::Launch)?;
    match (body, fd) {
        (None, _) => Err(died(rustix::io::Errno::PIPE)),
        (Some([message::PID, pid, ..]), Some(pidfd)) => Ok(Stage(Some(Child::new(pid, pidfd)))),
        (Some([message::FAILED, _, errno, _]), _) => {
            let errno = Errno::from_raw(i32::try_from(errno).unwrap_or(libc::EIO));
            Err(failed("clone3", errno).with_hint(hint::exec_helper(errno)))
        }
        _ => Err(Error::Protocol { what: "an answer of the resident helper".to_owned() }),
    }
}

/// Receives a message and the descriptor that rides along; no message when the other side is gone.
fn receive_from(socket: BorrowedFd<'_>, phase: Phase) -> Result<(Option<[u32; 4]>, Option<OwnedFd>), Error> {
    let mut body = [0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut iov = [IoSliceMut::new(&mut body)];
        match rustix::net::recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => break 0,
            Err(errno) => return Err(Error::host_call(phase, "recvmsg", "the helper", errno)),
        }
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match received {
        0 => Ok((None, fd)),
        MESSAGE => Ok((Some(words(&body)), fd)),
        other => Err(Error::Protocol { what: format!("a message of {other} bytes") }),
    }
}

/// One answer of the helper.
enum Answer {
    Process(Child),
    Ready,
    Hooks,
    Listener(OwnedFd),
    Terminal(OwnedFd),
    End,
}

/// The conversation with the helper.
#[derive(Debug)]
struct Talk {
    socket: OwnedFd,
    /// What the steps from `first` on are for.
    notes: Vec<Note>,
    first: u32,
    programs: Vec<String>,
}

impl Talk {
    fn go(&self) -> Result<(), Error> {
        let body = message_bytes([message::GO, 0, 0, 0]);
        match rustix::net::send(&self.socket, &body, SendFlags::NOSIGNAL) {
            // A peer that is gone has left an answer, or its absence is one.
            Ok(_) | Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(Error::host_call(Phase::Gate, "send", "the helper", errno)),
        }
    }

    fn receive(&self, phase: Phase) -> Result<Answer, Error> {
        let (body, fd) = receive_from(self.socket.as_fd(), phase)?;
        let Some([kind, a, b, c]) = body else { return Ok(Answer::End) };
        match (kind, fd) {
            (message::PID, Some(pidfd)) => Ok(Answer::Process(Child::new(a, pidfd))),
            (message::LISTENER, Some(fd)) => Ok(Answer::Listener(fd)),
            (message::TERMINAL, Some(fd)) => Ok(Answer::Terminal(fd)),
            (message::HOOKS, None) => Ok(Answer::Hooks),
            (message::READY, None) => Ok(Answer::Ready),
            (message::FAILED, None) => Err(self.failure(a, b, c)),
            _ => Err(Error::Protocol { what: format!("a message of kind {kind}") }),
        }
    }

    /// The error that a failed step stands for.
    fn failure(&self, step: u32, errno: u32, detail: u32) -> Error {
        let Some(note) = step.checked_sub(self.first).and_then(|at| self.notes.get(at as usize)) else {
            return Error::Protocol { what: format!("step {step} failed, which the plan does not have") };
        };
        let errno = Errno::from_raw(i32::try_from(errno).unwrap_or(libc::EIO));
        let mut target = note.target.clone();
        let mut explained = hint::step(note, errno);
        if note.phase == Phase::Exec && note.syscall == "execve" {
            let tried = self.programs.get((detail & !EXEC_EXISTS) as usize);
            if detail & EXEC_EXISTS != 0 {
                target = tried.cloned().unwrap_or(target);
                explained = Some(Hint::new(
                    "the file exists, so what is missing is its interpreter: the one in its first line, or the loader",
                    "add that to the root filesystem, or use a static program",
                ));
            } else if errno.raw() != libc::ENOENT {
                target = tried.cloned().unwrap_or(target);
            }
        }
        Error::Step {
            phase: note.phase,
            step: Some(step),
            syscall: note.syscall.clone(),
            target,
            errno,
            hint: explained,
        }
    }
}

fn words(body: &[u8; MESSAGE]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(body.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
    }
    words
}

fn message_bytes(words: [u32; 4]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
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

fn send_fds(socket: BorrowedFd<'_>, body: [u32; 4], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let body = message_bytes(body);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(rustix::io::Errno::TOOBIG);
    }
    let iov = [IoSlice::new(&body)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(socket, &iov, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}
