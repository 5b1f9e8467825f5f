//! The process itself: directory, ids, capabilities, and the program.

use std::path::Path;

use oci_spec::runtime::Process;

use super::assemble::{Assembler, At};
use super::capability::Sets;
use super::compile::Privilege;
use super::credential;
use super::wire::CONTROL;
use crate::userns::IdMaps;
use crate::{Error, Phase};

/// Where programs are looked up when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The umask when the Spec gives none.
const DEFAULT_UMASK: u32 = 0o022;
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

/// Becomes the Spec's user with the Spec's capabilities.
pub(super) fn become_process(
    asm: &mut Assembler,
    process: &Process,
    maps: Option<&IdMaps>,
    privilege: &Privilege,
) -> Result<(), Error> {
    asm.phase(Phase::Process);
    let sets = Sets::of(process.capabilities().as_ref());
    if let Some(number) = sets.first_outside(privilege.available(maps.is_some())) {
        return Err(Error::Host {
            what: format!("{}, which process.capabilities asks for", super::capability::name(number)),
            hint: crate::Hint::new(
                "this process does not have it, so it cannot give it",
                "take it out of the Spec, or run with it",
            ),
        });
    }
    sets.bound(asm, privilege.last_capability);
    Sets::keep(asm);
    credential::become_user(asm, process.user(), maps);
    sets.apply(asm, privilege.last_capability);
    let umask = process.user().umask().unwrap_or(DEFAULT_UMASK);
    asm.call("umask", libc::SYS_umask, &[umask.into()], format!("{umask:#05o}"));
    if process.no_new_privileges().unwrap_or(false) {
        let args = [libc::PR_SET_NO_NEW_PRIVS.into(), 1.into(), 0.into(), 0.into(), 0.into()];
        asm.call("prctl", libc::SYS_prctl, &args, "no new privileges");
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

    /// Replaces the helper by the program.
    pub(super) fn execute(&self, asm: &mut Assembler) {
        asm.phase(Phase::Exec);
        asm.close_others(&[]);
        let args = [CONTROL.into(), libc::F_SETFD.into(), libc::FD_CLOEXEC.into()];
        asm.call("fcntl", libc::SYS_fcntl, &args, "close the way to the host when the program starts");
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
