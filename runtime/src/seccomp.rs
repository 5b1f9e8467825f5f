//! Seccomp filters: from the Spec's profile to a program for the kernel, without libseccomp.
//!
//! ```text
//!   LinuxSeccomp ──resolve──▶ rules per ABI ──merge──▶ ranges of numbers ──emit──▶ classic BPF
//!                 names to     (syscalls.tsv)           with one verdict            balanced jumps
//! ```
//!
//! What a profile means (runtime-spec `config-linux.md`, "Seccomp", leaves most of it open; where it does, this is
//! what runc does):
//!
//! - Entries whose action is the default one are without effect. Names that no table has are skipped.
//! - An entry without arguments beats every entry with arguments for the same call; the first such entry counts.
//! - Arguments of one entry must all hold. When an entry names the same argument twice, each comparison stands alone.
//! - The first entry that holds decides; none: the default action.
//! - A call of an ABI that is not in `architectures` ends the process.
//! - When the default action denies, and does not deny with ENOSYS by its own words, a number above every one that the
//!   profile names gets ENOSYS: programs then fall back from calls that are newer than the profile.

mod abi;
mod bpf;
mod cache;
mod compile;
mod emit;
#[cfg(test)]
mod interpret;
mod listener;
#[cfg(test)]
mod naive;
mod profile;

pub use profile::default_profile;

pub(crate) use bpf::{Filter, to_bytes};
pub(crate) use cache::compiled;
pub(crate) use compile::FLAG_NEW_LISTENER;
pub(crate) use listener::hand_over;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};

use crate::Error;

/// What a container's first process still calls once everything is in place, up to its program.
const LAST_CALLS: [&str; 17] = [
    "accept4",
    "capset",
    "close",
    "close_range",
    "dup3",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "fcntl",
    "openat",
    "prctl",
    "read",
    "recvmsg",
    "sendmsg",
    "sendto",
    "write",
];

/// Whether a filter with a listener can be loaded while the container is created: when it has no say in those calls.
/// One that has is loaded by `start`, when hardly any of them remains.
pub(crate) fn can_be_loaded_early(profile: &LinuxSeccomp) -> bool {
    let mut rules = profile.syscalls().iter().flatten();
    profile.listener_path().is_some()
        && profile.default_action() == LinuxSeccompAction::ScmpActAllow
        && profile.syscalls().iter().flatten().any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify)
        && !rules.any(|rule| rule.names().iter().any(|name| LAST_CALLS.contains(&name.as_str())))
}

/// Compiles a profile and says how many instructions the program has: what the kernel will run for every call.
///
/// # Errors
///
/// [`Error::Spec`] when the profile contradicts itself, [`Error::Unsupported`] when it asks for what the kernel's
/// programs cannot do.
pub fn instruction_count(profile: &LinuxSeccomp) -> Result<usize, Error> {
    compile::compile(profile).map(|filter| filter.program.len())
}
