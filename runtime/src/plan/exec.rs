//! Another process in a container that runs.

use std::os::fd::OwnedFd;

use oci_spec::runtime::Process;

use super::assemble::Assembler;
use super::compile::{Privilege, begin};
use super::process::{self, Program};
use super::{Plan, credential, namespace, setting, stdio, validate};
use crate::userns::IdMaps;
use crate::{Error, Io, Phase};

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
}

/// Compiles the plan.
pub(super) fn compile(request: ExecRequest<'_>) -> Result<Plan, Error> {
    let ExecRequest { process, io, init, root, namespaces, maps } = request;
    validate::check_process(process)?;
    credential::check(process.user(), maps)?;
    if process.oom_score_adj().is_some() {
        return Err(Error::unsupported("process.oomScoreAdj of a process in a running container"));
    }
    let privilege = Privilege::of_this_process();
    let mut asm = Assembler::new();
    let streams = stdio::hand_over(&mut asm, io)?;
    let (init, root) = (asm.fd(init), asm.fd(root));
    let message = asm.bytes(&[0; 16]);

    asm.phase(Phase::Namespaces);
    // Until it executes its program, nobody in the container may look into or trace this process.
    let args = [libc::PR_SET_DUMPABLE.into(), 0.into()];
    asm.call("prctl", libc::SYS_prctl, &args, "not dumpable");
    asm.call("setns", libc::SYS_setns, &[init.into(), namespaces.into()], "the namespaces of the container");
    // Where the host's own root was not that of its mount namespace, neither is the container's.
    asm.call("fchdir", libc::SYS_fchdir, &[root.into()], "the root of the container");
    let dot = asm.text(".");
    asm.call("chroot", libc::SYS_chroot, &[dot.into()], "the root of the container");
    asm.close(root);
    asm.close(init);
    namespace::birth(&mut asm, 0, None);
    begin(&mut asm, maps, message);
    setting::rlimits(&mut asm, process.rlimits().as_deref().unwrap_or_default())?;
    process::enter_directory(&mut asm, process.cwd());
    process::become_process(&mut asm, process, maps, &privilege)?;
    // The change of ids may have made it so again.
    let args = [libc::PR_SET_DUMPABLE.into(), 0.into()];
    asm.call("prctl", libc::SYS_prctl, &args, "not dumpable");
    stdio::place(&mut asm, streams);
    let program = Program::of(&mut asm, process)?;
    asm.phase(Phase::Gate);
    namespace::say_ready(&mut asm);
    namespace::await_go(&mut asm, message, "the host: start");
    program.execute(&mut asm);
    let mut plan = asm.finish()?;
    plan.programs = program.candidates;
    Ok(plan)
}
