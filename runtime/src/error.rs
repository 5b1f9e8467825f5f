//! What can go wrong, and exactly where it did.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A Linux error number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Wraps a raw, positive error number as in `errno(3)`.
    #[must_use]
    pub const fn from_raw(raw: i32) -> Self {
        Self(raw)
    }

    /// The raw, positive number.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    pub(crate) fn of(error: &std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = nix::errno::Errno::from_raw(self.0);
        if name == nix::errno::Errno::UnknownErrno {
            write!(f, "error number {}", self.0)
        } else {
            write!(f, "{} ({name:?})", name.desc())
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", nix::errno::Errno::from_raw(self.0))
    }
}

impl std::error::Error for Errno {}

/// The part of a container's life in which a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Phase {
    /// Starting the helper program and handing it the plan.
    Launch,
    /// Making and joining cgroups.
    Cgroup,
    /// Making and joining namespaces, and writing the id maps.
    Namespaces,
    /// Assembling the root filesystem.
    Rootfs,
    /// Mounting what the Spec asks for.
    Mounts,
    /// Making device nodes and their links.
    Devices,
    /// Running hooks.
    Hooks,
    /// Making the root filesystem the root.
    Pivot,
    /// Names, limits, sysctls and the network of the container.
    Settings,
    /// Ids, capabilities and the working directory of the process.
    Process,
    /// Waiting for `start`.
    Gate,
    /// Loading the seccomp filter.
    Seccomp,
    /// Executing the program.
    Exec,
    /// Keeping the state directory.
    State,
    /// Signals, waiting and removal.
    Lifecycle,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Launch => "launch",
            Self::Cgroup => "cgroup",
            Self::Namespaces => "namespaces",
            Self::Rootfs => "rootfs",
            Self::Mounts => "mounts",
            Self::Devices => "devices",
            Self::Hooks => "hooks",
            Self::Pivot => "pivot",
            Self::Settings => "settings",
            Self::Process => "process",
            Self::Gate => "gate",
            Self::Seccomp => "seccomp",
            Self::Exec => "exec",
            Self::State => "state",
            Self::Lifecycle => "lifecycle",
        })
    }
}

/// A fact about the host that explains an error, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hint {
    fact: Cow<'static, str>,
    remedy: Cow<'static, str>,
}

impl Hint {
    pub(crate) fn new(fact: impl Into<Cow<'static, str>>, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self { fact: fact.into(), remedy: remedy.into() }
    }

    /// What is the case, for instance `user.max_user_namespaces is 0`.
    #[must_use]
    pub fn fact(&self) -> &str {
        &self.fact
    }

    /// What the operator can do about it.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.fact, self.remedy)
    }
}

/// Everything the runtime can fail with.
///
/// [`Error::Step`] is the common one: it names the phase, the step of the plan, the system call, its target and
/// the error number, so that a failure reads the same in a log as in a debugger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed, in the helper (then `step` is its place in the plan) or in this process.
    #[error("{phase}: {syscall} failed: {target}")]
    #[non_exhaustive]
    Step {
        /// The phase the step belongs to.
        phase: Phase,
        /// The step's index in the plan; none for what this process does itself.
        step: Option<u32>,
        /// The system call's name.
        syscall: Cow<'static, str>,
        /// What the call was meant to act on, in words.
        target: String,
        /// The kernel's answer.
        #[source]
        errno: Errno,
        /// A fact about the host that explains it, when one is known.
        hint: Option<Hint>,
    },
    /// The Spec contradicts itself or the runtime-spec.
    #[error("invalid spec: {field}: {problem}")]
    #[non_exhaustive]
    Spec {
        /// The field, as a JSON path such as `process.args`.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The Spec or the call asks for something this version does not do.
    #[error("not supported: {what}")]
    #[non_exhaustive]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// The container's user needs ids that this user namespace does not map.
    #[error("process.user: id {id} is not mapped in the user namespace")]
    #[non_exhaustive]
    UnmappedId {
        /// The id inside the container.
        id: u32,
        /// How to get more ids.
        hint: Hint,
    },
    /// The host lacks what is needed; found before anything was made.
    #[error("the host lacks {what}")]
    #[non_exhaustive]
    Host {
        /// What is missing.
        what: String,
        /// The fact and the remedy.
        hint: Hint,
    },
    /// A hook of the Spec failed.
    #[error("error running {point} hook #{index}: {}: {problem}{}", path.display(), shown(output))]
    #[non_exhaustive]
    Hook {
        /// When it ran: the field's name in the Spec.
        point: &'static str,
        /// Which of them.
        index: usize,
        /// The program.
        path: PathBuf,
        /// What went wrong.
        problem: String,
        /// The last of what it wrote.
        output: String,
        /// The cause, when it could not be run.
        #[source]
        source: Option<Box<Self>>,
    },
    /// The helper ended without an answer.
    #[error("{phase}: the helper ended without an answer ({how})")]
    #[non_exhaustive]
    HelperDied {
        /// The phase in which it was.
        phase: Phase,
        /// How it ended, in words.
        how: String,
    },
    /// The helper said something this version does not understand.
    #[error("the helper's answer is malformed: {what}")]
    #[non_exhaustive]
    Protocol {
        /// What is wrong with it.
        what: String,
    },
    /// A container id is not acceptable.
    #[error("invalid container id {id:?}: {problem}")]
    #[non_exhaustive]
    InvalidId {
        /// The text.
        id: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The name of a signal is not known.
    #[error("unknown signal {name:?}")]
    #[non_exhaustive]
    UnknownSignal {
        /// The text.
        name: String,
    },
    /// A container with this id exists already.
    #[error("container {id} exists already")]
    #[non_exhaustive]
    Exists {
        /// The id.
        id: String,
    },
    /// No container has this id.
    #[error("no container {id}")]
    #[non_exhaustive]
    NoSuchContainer {
        /// The id.
        id: String,
    },
    /// The container is not in a state in which this can be done.
    #[error("container {id} is {actual}, cannot {action}")]
    #[non_exhaustive]
    WrongState {
        /// The id.
        id: String,
        /// Its state.
        actual: &'static str,
        /// What was asked for.
        action: &'static str,
    },
    /// A file of the state directory could not be read or written.
    #[error("cannot {action} {}", path.display())]
    #[non_exhaustive]
    StateFile {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A state file is there but not readable as one.
    #[error("{} is not a state file this version reads: {problem}", path.display())]
    #[non_exhaustive]
    StateFormat {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

fn shown(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!(": {output}") }
}

impl Error {
    pub(crate) fn host_call(
        phase: Phase,
        syscall: &'static str,
        target: impl Into<String>,
        errno: impl Into<Errno>,
    ) -> Self {
        Self::Step {
            phase,
            step: None,
            syscall: Cow::Borrowed(syscall),
            target: target.into(),
            errno: errno.into(),
            hint: None,
        }
    }

    pub(crate) fn spec(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Spec { field: field.into(), problem: problem.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }

    pub(crate) fn with_hint(self, new: Hint) -> Self {
        match self {
            Self::Step { phase, step, syscall, target, errno, .. } => {
                Self::Step { phase, step, syscall, target, errno, hint: Some(new) }
            }
            other => other,
        }
    }

    /// The program was not found in the container: docker's exit status 127.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Step { phase: Phase::Exec, errno, .. }
            if matches!(errno.raw(), libc::ENOENT | libc::ENOTDIR))
    }

    /// The program was found and cannot be executed: docker's exit status 126.
    #[must_use]
    pub fn is_not_executable(&self) -> bool {
        matches!(self, Self::Step { phase: Phase::Exec, errno, .. }
            if !matches!(errno.raw(), libc::ENOENT | libc::ENOTDIR))
    }

    /// The exit status a shell or docker would report for this error, when the program could not be executed.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            _ if self.is_not_found() => Some(127),
            _ if self.is_not_executable() => Some(126),
            _ => None,
        }
    }

    /// The container's user needs a second id, and only one is mapped.
    #[must_use]
    pub fn needs_second_id(&self) -> bool {
        matches!(self, Self::UnmappedId { .. })
    }

    /// The feature is not there, as opposed to: it failed.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported { .. })
    }

    /// The index of the plan's step that failed, when one did.
    #[must_use]
    pub fn step(&self) -> Option<u32> {
        match self {
            Self::Step { step, .. } => *step,
            _ => None,
        }
    }

    /// The phase in which it happened, when it happened in one.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        match self {
            Self::Step { phase, .. } | Self::HelperDied { phase, .. } => Some(*phase),
            _ => None,
        }
    }

    /// The error number, when a system call failed.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Step { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// A fact about the host that explains the error, with what to do.
    #[must_use]
    pub fn hint(&self) -> Option<&Hint> {
        match self {
            Self::Step { hint, .. } => hint.as_ref(),
            Self::UnmappedId { hint, .. } | Self::Host { hint, .. } => Some(hint),
            _ => None,
        }
    }
}
