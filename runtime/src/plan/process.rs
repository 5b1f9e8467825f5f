//! The process itself: directory, ids, capabilities, and the program.

use std::path::Path;
use std::sync::Arc;

use oci_spec::runtime::{Linux, Process};

use super::assemble::{Arg, Assembler, At};
use super::capability::Sets;
use super::compile::Privilege;
use super::stdio::Streams;
use super::wire::{CONTROL, message};
use super::{credential, label, namespace, schedule, setting};
use crate::seccomp::{FLAG_NEW_LISTENER, Filter, to_bytes};
use crate::userns::IdMaps;
use crate::{Error, Phase};

/// Where programs are looked up when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The umask when the Spec gives none.
const DEFAULT_UMASK: u32 = 0o022;
/// `SECCOMP_SET_MODE_FILTER` of `seccomp(2)`.
const SECCOMP_SET_MODE_FILTER: u32 = 1;
/// `PATH_MAX`.
const PATH_MAX: usize = 4096;

/// Enters the working directory and makes sure that it lies beneath the root.
pub(super) fn enter_directory(asm: &mut Assembler, cwd: &Path) {
    asm.phase(Phase::Process);
    let path = asm.text(super::reach::path_bytes(cwd));
    let shown = cwd.display().to_string();
    asm.call("chdir", libc::SYS_chdir, &[path.into()], shown.clone());
    // A directory outside of the root, reached through a descriptor that leaked, has no path: the kernel then
    // answers "(unreachable)…".
    let buffer = asm.bytes(&[0; PATH_MAX]);
    asm.call("getcwd", libc::SYS_getcwd, &[buffer.into(), 4096.into()], shown.clone());
    let first = asm.load(buffer, 0, 1, "the first byte of the working directory");
    asm.check(first, u64::MAX, u64::from(b'/'), libc::EXDEV, format!("{shown}: it lies beneath the root"));
}

/// Becomes the Spec's user with those of the Spec's capabilities that can be given.
///
/// A filter is loaded by `Program::execute`, as late as can be, so that it need not allow what happens here. The kernel
/// wants CAP_SYS_ADMIN for that, unless the process can gain no privileges: it is kept until then.
pub(super) fn become_process(
    asm: &mut Assembler,
    process: &Process,
    maps: Option<&IdMaps>,
    in_user_namespace: bool,
    privilege: &Privilege,
    filter: Option<Arc<Filter>>,
) -> Loading {
    asm.phase(Phase::Process);
    let sets = Sets::of(process.capabilities().as_ref()).granted(privilege, in_user_namespace, asm);
    sets.bound(asm, privilege.last_capability);
    Sets::keep(asm);
    credential::become_user(asm, process.user(), maps);
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let given_up = (filter.is_some() && !no_new_privileges && !sets.may_administer()).then_some(sets);
    match &given_up {
        Some(sets) => sets.with_administration().apply(asm),
        None => sets.apply(asm),
    }
    sets.raise_ambient(asm, privilege.last_capability);
    let umask = process.user().umask().unwrap_or(DEFAULT_UMASK);
    asm.call("umask", libc::SYS_umask, &[umask.into()], format!("{umask:#05o}"));
    if no_new_privileges {
        let args = [libc::PR_SET_NO_NEW_PRIVS.into(), 1.into(), 0.into(), 0.into(), 0.into()];
        asm.call("prctl", libc::SYS_prctl, &args, "no new privileges");
    }
    Loading { filter, given_up }
}

/// A filter that is loaded last, and the capabilities to have after it.
#[derive(Debug, Default)]
pub(super) struct Loading {
    filter: Option<Arc<Filter>>,
    given_up: Option<Sets>,
}

impl Loading {
    pub(super) fn load(&self, asm: &mut Assembler, way: Arg) {
        let Some(filter) = &self.filter else { return };
        asm.phase(Phase::Seccomp);
        let program = asm.bytes(&to_bytes(&filter.program));
        // `struct sock_fprog`: a length of 16 bits, padding, an address.
        let length = u64::try_from(filter.program.len()).unwrap_or(0);
        let header = asm.words(&[length.to_le().into(), program.into()]);
        let args = [SECCOMP_SET_MODE_FILTER.into(), filter.flags.into(), header.into()];
        let what = format!("a filter of {} instructions", filter.program.len());
        let listener = asm.call("seccomp", libc::SYS_seccomp, &args, what).out();
        if filter.flags & FLAG_NEW_LISTENER != 0 {
            namespace::send_fd(asm, way, message::LISTENER, None, listener, "the seccomp listener");
            asm.close(listener);
        }
        if let Some(sets) = &self.given_up {
            sets.apply(asm);
        }
    }
}

/// How the kernel schedules it, while the process may still say so.
pub(super) fn schedule(asm: &mut Assembler, process: &Process, linux: Option<&Linux>) -> Result<(), Error> {
    if let Some(scheduler) = process.scheduler() {
        schedule::scheduler(asm, scheduler)?;
    }
    if let Some(priority) = process.io_priority() {
        schedule::io_priority(asm, priority)?;
    }
    if let Some(policy) = linux.and_then(|linux| linux.memory_policy().as_ref()) {
        schedule::memory_policy(asm, policy)?;
    }
    if let Some(personality) = linux.and_then(|linux| linux.personality().as_ref()) {
        schedule::personality(asm, personality)?;
    }
    let (apparmor, selinux) = (process.apparmor_profile().as_deref(), process.selinux_label().as_deref());
    if [apparmor, selinux].iter().flatten().any(|label| !label.is_empty()) {
        let proc = setting::private_proc(asm);
        label::apply(asm, proc, apparmor, selinux);
        asm.close(proc);
    }
    Ok(())
}

/// What to execute.
#[derive(Debug)]
pub(super) struct Program {
    args: At,
    env: At,
    pub(super) candidates: Vec<String>,
    shown: String,
}

impl Program {
    /// Reads the program, its arguments and its environment.
    pub(super) fn of(asm: &mut Assembler, process: &Process) -> Result<Self, Error> {
        let args = process.args().as_deref().unwrap_or_default();
        let first = args.first().ok_or_else(|| Error::spec("process.args", "empty"))?;
        let env = process.env().as_deref().unwrap_or_default();
        let candidates = candidates(first, env);
        let shown = match candidates.as_slice() {
            [one] => one.clone(),
            many => format!("{first} (tried {})", many.join(", ")),
        };
        Ok(Self { args: asm.vector(args), env: asm.vector(env), candidates, shown })
    }

    /// A program by its path alone.
    pub(super) fn exactly(asm: &mut Assembler, path: &Path, args: &[String], env: &[String]) -> Self {
        let shown = path.display().to_string();
        Self { args: asm.vector(args), env: asm.vector(env), candidates: vec![shown.clone()], shown }
    }

    /// Makes sure that there is something to execute: so late an error would come at `start`.
    pub(super) fn find(&self, asm: &mut Assembler) {
        asm.phase(Phase::Exec);
        asm.find(&self.candidates, self.shown.clone());
    }

    /// Replaces the helper by the program.
    pub(super) fn execute(&self, asm: &mut Assembler, loading: &Loading, streams: &Streams) {
        asm.phase(Phase::Exec);
        let (preserved, way) = streams.place_preserved(asm);
        if preserved.is_empty() {
            let args = [CONTROL.into(), libc::F_SETFD.into(), libc::FD_CLOEXEC.into()];
            asm.call("fcntl", libc::SYS_fcntl, &args, "close the way to the host when the program starts");
        }
        asm.close_others(&preserved);
        loading.load(asm, way);
        asm.phase(Phase::Exec);
        asm.exec(&self.candidates, self.args, self.env, self.shown.clone());
    }
}

/// The files that a program's name may mean.
fn candidates(name: &str, env: &[String]) -> Vec<String> {
    if name.contains('/') || name.is_empty() {
        return vec![name.to_owned()];
    }
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|directory| match directory {
            "" => format!("./{name}"),
            directory => format!("{}/{name}", directory.trim_end_matches('/')),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_the_containers_path() {
        let env = ["A=1".to_owned(), "PATH=/a:/b/::/".to_owned()];
        assert_eq!(candidates("sh", &env), ["/a/sh", "/b/sh", "./sh", "/sh"]);
        assert_eq!(candidates("./sh", &env), ["./sh"]);
        assert_eq!(candidates("sh", &[]).len(), 6);
    }
}
