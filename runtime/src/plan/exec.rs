//! Another process in a container that runs.

use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{Linux, Process};

use super::assemble::{Assembler, Reg};
use super::cgroup::Joined;
use super::compile::{Beginning, Privilege, begin};
use super::process::{self, Loading, Program};
use super::reach::statx_scratch;
use super::{Plan, credential, namespace, schedule, setting, stdio, terminal, validate};
use crate::cgroup::Joining;
use crate::userns::IdMaps;
use crate::{Error, Io, Phase, seccomp};

/// Everything the plan of another process is made from.
#[derive(Debug)]
pub(crate) struct ExecRequest<'a> {
    pub(crate) process: &'a Process,
    pub(crate) io: Io,
    /// The container's first process.
    pub(crate) init: OwnedFd,
    /// The root directory of that process.
    pub(crate) root: OwnedFd,
    pub(crate) namespaces: u32,
    pub(crate) maps: Option<&'a IdMaps>,
    /// The container's section of the Spec.
    pub(crate) linux: Option<&'a Linux>,
    /// The container's cgroups.
    pub(crate) group: Option<Joining>,
}

/// Compiles the plan.
pub(super) fn compile(request: ExecRequest<'_>) -> Result<Plan, Error> {
    let ExecRequest { process, io, init, root, namespaces, maps, linux, group } = request;
    validate::check_process(process)?;
    credential::check(process.user(), maps)?;
    let privilege = Privilege::of_this_process();
    let mut asm = Assembler::new();
    let terminal = process.terminal().unwrap_or(false);
    let streams = stdio::hand_over(&mut asm, io, terminal)?;
    let group = group.map(|joining| Joined::hand_over(&mut asm, joining));
    let (init, root) = (asm.fd(init), asm.fd(root));
    let message = asm.bytes(&[0; 16]);
    if let Some(adjustment) = process.oom_score_adj() {
        setting::oom_score(&mut asm, adjustment);
    }

    asm.phase(Phase::Namespaces);
    let affinity = process.exec_cpu_affinity().as_ref();
    if let Some(list) = affinity.and_then(|affinity| affinity.initial().as_deref()) {
        schedule::affinity(&mut asm, list, "process.execCPUAffinity.initial")?;
    }
    enter(&mut asm, init, root, namespaces);
    namespace::birth(&mut asm, 0, group.as_ref().and_then(|group| group.unified));
    let processors = affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref());
    let processors = processors.map(|list| (list, "process.execCPUAffinity.final"));
    let user = namespaces & libc::CLONE_NEWUSER.cast_unsigned() != 0;
    let joined_user = user && maps.is_none();
    let beginning = Beginning { maps, group, joined_user, processors, ..Beginning::default() };
    begin(&mut asm, message, beginning)?;
    let slave = terminal.then(|| {
        let scratch = statx_scratch(&mut asm);
        terminal::open(&mut asm, None, process, scratch)
    });
    setting::rlimits(&mut asm, process.rlimits().as_deref().unwrap_or_default())?;
    process::schedule(&mut asm, process, linux)?;
    process::enter_directory(&mut asm, process.cwd());
    let profile = linux.and_then(|linux| linux.seccomp().as_ref());
    let filter = profile.map(seccomp::compiled).transpose()?;
    let loading = process::become_process(&mut asm, process, maps, user, &privilege, filter);
    // The change of ids may have made it so again.
    let args = [libc::PR_SET_DUMPABLE.into(), 0.into()];
    asm.call("prctl", libc::SYS_prctl, &args, "not dumpable");
    streams.place(&mut asm, slave);
    let program = Program::of(&mut asm, process)?;
    program.find(&mut asm);
    asm.phase(Phase::Gate);
    namespace::say_ready(&mut asm);
    namespace::await_go(&mut asm, message, "the host: start");
    program.execute(&mut asm, &loading, &streams);
    let mut plan = asm.finish()?;
    plan.programs = program.candidates;
    Ok(plan)
}

/// Enters the namespaces and the root of the container.
fn enter(asm: &mut Assembler, init: Reg, root: Reg, namespaces: u32) {
    // Until it executes its program, nobody in the container may look into or trace this process.
    let args = [libc::PR_SET_DUMPABLE.into(), 0.into()];
    asm.call("prctl", libc::SYS_prctl, &args, "not dumpable");
    if namespaces != 0 {
        let args = [init.into(), namespaces.into()];
        asm.call("setns", libc::SYS_setns, &args, "the namespaces of the container");
    }
    // Where the host's own root was not that of its mount namespace, neither is the container's.
    asm.call("fchdir", libc::SYS_fchdir, &[root.into()], "the root of the container");
    let dot = asm.text(".");
    asm.call("chroot", libc::SYS_chroot, &[dot.into()], "the root of the container");
    asm.close(root);
    asm.close(init);
}

/// A hook that runs in a container's namespaces.
#[derive(Debug)]
pub(crate) struct HookRequest<'a> {
    pub(crate) path: &'a Path,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) io: Io,
    pub(crate) init: OwnedFd,
    /// The root directory of the first process: the host's before the pivot, the container's after.
    pub(crate) root: OwnedFd,
    pub(crate) namespaces: u32,
    pub(crate) maps: Option<&'a IdMaps>,
}

/// Compiles its plan.
pub(super) fn compile_hook(request: HookRequest<'_>) -> Result<Plan, Error> {
    let HookRequest { path, args, env, io, init, root, namespaces, maps } = request;
    let mut asm = Assembler::new();
    let streams = stdio::hand_over(&mut asm, io, false)?;
    let (init, root) = (asm.fd(init), asm.fd(root));
    let message = asm.bytes(&[0; 16]);
    asm.phase(Phase::Hooks);
    enter(&mut asm, init, root, namespaces);
    namespace::birth(&mut asm, 0, None);
    begin(&mut asm, message, Beginning { maps, ..Beginning::default() })?;
    let slash = asm.text("/");
    asm.call("chdir", libc::SYS_chdir, &[slash.into()], "the root directory");
    streams.place(&mut asm, None);
    let program = Program::exactly(&mut asm, path, &args, &env);
    asm.phase(Phase::Gate);
    namespace::say_ready(&mut asm);
    namespace::await_go(&mut asm, message, "the host: start");
    program.execute(&mut asm, &Loading::default(), &streams);
    let mut plan = asm.finish()?;
    plan.programs = program.candidates;
    Ok(plan)
}
