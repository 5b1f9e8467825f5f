//! Making and joining namespaces, and the birth of the container's first process.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use super::assemble::{Arg, Assembler, At, Reg};
use super::wire::{CONTROL, MESSAGE, message};
use crate::{Errno, Error, Phase};

/// `CLONE_PIDFD`, `CLONE_PARENT` and `CLONE_INTO_CGROUP` of `clone3(2)`.
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Length of `struct clone_args` with the `cgroup` field, and the offset of that field.
const CLONE_ARGS: u32 = 88;
const CLONE_ARGS_CGROUP: u32 = 80;

/// The namespaces a Spec asks for.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// `CLONE_NEW*` flags of those to make.
    new: u64,
    /// Those to join, in the order in which they are joined.
    joined: Vec<(u64, String, File)>,
    /// What is written to `timens_offsets`.
    offsets: String,
}

/// `CLONE_NEWTIME`.
const CLONE_NEWTIME: u64 = 0x80;

/// The kinds in the order of joining: the user namespace first, as it may give the right to join the others.
const KINDS: [(LinuxNamespaceType, u64, &str); 8] = [
    (LinuxNamespaceType::User, libc::CLONE_NEWUSER as u64, "user"),
    (LinuxNamespaceType::Ipc, libc::CLONE_NEWIPC as u64, "ipc"),
    (LinuxNamespaceType::Uts, libc::CLONE_NEWUTS as u64, "uts"),
    (LinuxNamespaceType::Network, libc::CLONE_NEWNET as u64, "network"),
    (LinuxNamespaceType::Pid, libc::CLONE_NEWPID as u64, "pid"),
    (LinuxNamespaceType::Cgroup, libc::CLONE_NEWCGROUP as u64, "cgroup"),
    (LinuxNamespaceType::Time, 0x80, "time"),
    (LinuxNamespaceType::Mount, libc::CLONE_NEWNS as u64, "mount"),
];

impl Namespaces {
    /// Reads the Spec's list, and opens those that exist already.
    pub(super) fn of(list: &[LinuxNamespace]) -> Result<Self, Error> {
        let mut found = Self::default();
        for (kind, flag, name) in KINDS {
            let mut matching = list.iter().filter(|namespace| namespace.typ() == kind);
            let Some(namespace) = matching.next() else { continue };
            if matching.next().is_some() {
                return Err(Error::spec(
                    "linux.namespaces",
                    format!("the {name} namespace stands there twice"),
                ));
            }
            // An empty path is none, as in runc.
            let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) else {
                found.new |= flag;
                continue;
            };
            found.joined.push((flag, format!("{name} namespace {}", path.display()), open(path)?));
        }
        Ok(found)
    }

    /// Offsets of the clocks of a new time namespace (`time_namespaces(7)`).
    pub(super) fn set_offsets(&mut self, offsets: &BTreeMap<&str, (i64, u32)>) -> Result<(), Error> {
        if offsets.is_empty() {
            return Ok(());
        }
        if self.new & CLONE_NEWTIME == 0 {
            return Err(Error::spec("linux.timeOffsets", "given without a new time namespace"));
        }
        for (clock, (seconds, nanoseconds)) in offsets {
            if !matches!(*clock, "monotonic" | "boottime") {
                return Err(Error::spec("linux.timeOffsets", format!("there is no clock {clock:?}")));
            }
            self.offsets.push_str(&format!("{clock} {seconds} {nanoseconds}\n"));
        }
        Ok(())
    }

    /// `CLONE_NEW*` flags of all that are made or joined.
    pub(super) fn flags(&self) -> u32 {
        let all = self.joined.iter().fold(self.new, |all, (flag, ..)| all | flag);
        u32::try_from(all).unwrap_or(0)
    }

    /// The kinds that are made, without those that are joined.
    pub(super) fn only_new(&self) -> Self {
        Self { new: self.new, ..Self::default() }
    }

    /// Whether a namespace of this kind is made.
    pub(super) fn makes(&self, flag: libc::c_int) -> bool {
        self.new & u64::from(flag.cast_unsigned()) != 0
    }

    /// Whether a namespace of this kind is joined.
    pub(super) fn joins(&self, flag: libc::c_int) -> bool {
        self.joined.iter().any(|(joined, ..)| *joined == u64::from(flag.cast_unsigned()))
    }

    /// Joins and makes the namespaces. The steps after this are those of the new process.
    ///
    /// A time namespace of a new user namespace cannot be made before that: the caller makes it then.
    pub(super) fn enter(self, asm: &mut Assembler, unified: Option<Reg>) -> Option<Clocks> {
        asm.phase(Phase::Namespaces);
        let user = u64::from(libc::CLONE_NEWUSER.cast_unsigned());
        let (first, others): (Vec<_>, Vec<_>) = self.joined.into_iter().partition(|(flag, ..)| *flag == user);
        let others: Vec<_> =
            others.into_iter().map(|(flag, what, file)| (flag, what, asm.fd(file.into()))).collect();
        // Those of this process's own user namespace can only be joined before another one is entered, those of the
        // other one only after it.
        let close = |asm: &mut Assembler, fd: Reg| {
            asm.call("close", libc::SYS_close, &[fd.into()], "a namespace that was joined").ignore();
        };
        for (flag, what, fd) in others.iter().filter(|_| !first.is_empty()) {
            let not_yet = asm.label();
            let args = [(*fd).into(), (*flag).into()];
            asm.call("setns", libc::SYS_setns, &args, what.clone()).on(libc::EPERM, not_yet);
            close(asm, *fd);
            asm.here(not_yet);
        }
        for (flag, what, file) in first {
            let fd = asm.fd(file.into());
            asm.call("setns", libc::SYS_setns, &[fd.into(), flag.into()], what);
            close(asm, fd);
        }
        for (flag, what, fd) in others {
            let joined = asm.label();
            // A descriptor that is closed was joined above.
            asm.call("setns", libc::SYS_setns, &[fd.into(), flag.into()], what).on(libc::EBADF, joined);
            close(asm, fd);
            asm.here(joined);
        }
        let mut new = self.new & !u64::from(libc::CLONE_NEWCGROUP.cast_unsigned());
        let mut later = None;
        if !self.offsets.is_empty() {
            // They can only be set while nobody is in it.
            new &= !CLONE_NEWTIME;
            if new & user == 0 {
                time(asm, &self.offsets);
            } else {
                later = Some(Clocks(self.offsets));
            }
        }
        // The cgroup namespace is made once the groups are joined.
        birth(asm, new, unified);
        later
    }
}

/// A time namespace that is still to be made, and entered by executing the program.
#[derive(Debug)]
pub(super) struct Clocks(String);

impl Clocks {
    pub(super) fn make(&self, asm: &mut Assembler) {
        asm.phase(Phase::Namespaces);
        // The change of ids has taken this process's own files in procfs from it.
        let dumpable = |asm: &mut Assembler, yes: i32| {
            let args = [libc::PR_SET_DUMPABLE.into(), yes.into()];
            asm.call("prctl", libc::SYS_prctl, &args, "dumpable while it sets its clocks, and not after");
        };
        dumpable(asm, 1);
        time(asm, &self.0);
        dumpable(asm, 0);
    }
}

fn time(asm: &mut Assembler, offsets: &str) {
    asm.call("unshare", libc::SYS_unshare, &[CLONE_NEWTIME.into()], "a time namespace");
    let path = asm.text("/proc/self/timens_offsets");
    let args = [libc::AT_FDCWD.into(), path.into(), (libc::O_WRONLY | libc::O_CLOEXEC).into()];
    let fd = asm.call("openat", libc::SYS_openat, &args, "/proc/self/timens_offsets").out();
    let text = asm.text(offsets);
    let length = u32::try_from(offsets.len()).unwrap_or(0);
    let args = [fd.into(), text.into(), length.into()];
    asm.call("write", libc::SYS_write, &args, format!("{:?} to /proc/self/timens_offsets", offsets.trim()));
    asm.close(fd);
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|error| {
        Error::host_call(Phase::Namespaces, "open", path.display().to_string(), Errno::of(&error))
    })
}

/// Makes the new process, as a child of the host, and tells the host about it.
pub(super) fn birth(asm: &mut Assembler, flags: u64, unified: Option<Reg>) {
    let pidfd = asm.bytes(&[0; 8]);
    let into_cgroup = if unified.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let zero = || 0.into();
    let args = asm.words(&[
        (flags | CLONE_PIDFD | CLONE_PARENT | into_cgroup).into(),
        pidfd.into(),
        zero(),
        zero(),
        zero(),
        zero(),
        zero(),
        zero(),
        zero(),
        zero(),
        zero(),
    ]);
    if let Some(unified) = unified {
        asm.store(args, CLONE_ARGS_CGROUP, 8, unified, "the cgroup to be born in");
    }
    let what = format!("a process in new namespaces ({})", names(flags));
    let pid = asm.call("clone3", libc::SYS_clone3, &[args.into(), CLONE_ARGS.into()], what).out();
    let child = asm.label();
    asm.jump_if(pid, u64::MAX, 0, child, "this is the new process");
    let fd = asm.load(pidfd, 0, 4, "the pidfd");
    send_fd(asm, CONTROL.into(), message::PID, Some(pid), fd, "pid and pidfd");
    asm.exit(0);
    asm.here(child);
    asm.is_born();
}

fn names(flags: u64) -> String {
    let names: Vec<_> = KINDS.iter().filter(|kind| flags & kind.1 != 0).map(|kind| kind.2).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Sends a descriptor to the host, with a number.
pub(super) fn send_fd(asm: &mut Assembler, way: Arg, kind: u32, number: Option<Reg>, fd: Reg, what: &str) {
    let body = asm.bytes(&words(&[kind, 0, 0, 0]));
    if let Some(number) = number {
        asm.store(body, 4, 4, number, what);
    }
    let mut control = 20u64.to_ne_bytes().to_vec();
    control.extend(words(&[libc::SOL_SOCKET.cast_unsigned(), libc::SCM_RIGHTS.cast_unsigned(), 0, 0]));
    let control = asm.bytes(&control);
    asm.store(control, 16, 4, fd, what);
    let iov = asm.words(&[body.into(), 16.into()]);
    let header = asm.words(&[0.into(), 0.into(), iov.into(), 1.into(), control.into(), 24.into(), 0.into()]);
    let args = [way, header.into(), libc::MSG_NOSIGNAL.into()];
    asm.call("sendmsg", libc::SYS_sendmsg, &args, format!("the host: {what}"));
}

/// Tells the host that everything before this step is done.
pub(super) fn say_ready(asm: &mut Assembler) {
    say(asm, message::READY, "ready");
}

/// Sends the host a message without a descriptor.
pub(super) fn say(asm: &mut Assembler, kind: u32, what: &str) {
    let body = asm.bytes(&words(&[kind, 0, 0, 0]));
    let length = u32::try_from(MESSAGE).unwrap_or(16);
    let args = [CONTROL.into(), body.into(), length.into(), libc::MSG_NOSIGNAL.into(), 0.into(), 0.into()];
    asm.call("sendto", libc::SYS_sendto, &args, format!("the host: {what}"));
}

/// Hands this process's network namespace to the host, and waits until the host's devices are in it.
pub(super) fn await_devices(asm: &mut Assembler, scratch: At) {
    asm.phase(Phase::Settings);
    let path = asm.text("/proc/self/ns/net");
    let args = [libc::AT_FDCWD.into(), path.into(), (libc::O_RDONLY | libc::O_CLOEXEC).into()];
    let fd = asm.call("openat", libc::SYS_openat, &args, "/proc/self/ns/net").out();
    send_fd(asm, CONTROL.into(), message::NETWORK, None, fd, "the network namespace");
    asm.close(fd);
    await_go(asm, scratch, "the host: its network devices are there");
}

/// Waits for whoever starts the container to connect, and talks to that one from then on. Returns the index of the
/// first step that can report to it.
pub(super) fn await_starter(asm: &mut Assembler, socket: Reg) -> u32 {
    let args = [socket.into(), 0.into(), 0.into(), 0.into()];
    let way = asm.call("accept4", libc::SYS_accept4, &args, "whoever starts the container").out();
    asm.call("dup3", libc::SYS_dup3, &[way.into(), CONTROL.into(), 0.into()], "the way to the starter");
    let first = asm.len();
    asm.close(way);
    asm.close(socket);
    first
}

/// Waits until the host says to go on; ends the process when the host is gone.
pub(super) fn await_go(asm: &mut Assembler, scratch: At, what: &str) {
    let length = u32::try_from(MESSAGE).unwrap_or(16);
    let args = [CONTROL.into(), scratch.into(), length.into()];
    let got = asm.call("read", libc::SYS_read, &args, what.to_owned()).out();
    let gone = asm.label();
    let there = asm.label();
    asm.jump_if(got, u64::MAX, 0, gone, "the host is gone");
    asm.jump(there);
    asm.here(gone);
    asm.exit(0);
    asm.here(there);
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}
