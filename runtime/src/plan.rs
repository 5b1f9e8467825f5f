//! The plan: a container as a flat list of system calls.
//!
//! The host compiles a Spec into steps, each of which is one system call with its arguments, or one of a few
//! jumps and checks. What a step is for is kept here, in the host, so the helper can be a small interpreter that
//! answers a failure with no more than the step's number and the kernel's error number.

mod assemble;
mod bind;
mod capability;
mod cgroup;
mod compile;
mod control;
mod credential;
mod device;
mod exec;
mod label;
mod mount;
mod namespace;
mod option;
mod pivot;
mod process;
mod reach;
mod rootfs;
mod schedule;
mod setting;
mod stdio;
mod terminal;
mod validate;
#[path = "../helper/wire.rs"]
pub(crate) mod wire;

use std::borrow::Cow;
use std::fmt;
use std::os::fd::OwnedFd;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

pub(crate) use capability::{all_names as capability_names, of_mask as capabilities_of};
pub(crate) use compile::{Privilege, Request};
pub(crate) use exec::{ExecRequest, HookRequest};
pub(crate) use label::{has_apparmor, has_selinux};
pub(crate) use option::known as mount_options;

use crate::userns::IdMaps;
use crate::{Error, Phase, Rootfs, Warning};

/// What will be done to make a container, step by step.
#[derive(Debug)]
pub struct Plan {
    pub(crate) bytes: Vec<u8>,
    pub(crate) notes: Vec<Note>,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) maps: Option<IdMaps>,
    /// `CLONE_NEW*` flags of the namespaces that will not be the host's.
    pub(crate) namespaces: u32,
    pub(crate) programs: Vec<String>,
    /// The index of the first step after the gate.
    pub(crate) gate: u32,
    /// The index of the first step of the new process: those before are its maker's.
    pub(crate) born: u32,
    pub(crate) warnings: Vec<Warning>,
}

/// What a step is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) phase: Phase,
    pub(crate) syscall: Cow<'static, str>,
    pub(crate) target: String,
}

impl Plan {
    /// Compiles a Spec for this process's privileges, without making anything: what `create` would do.
    ///
    /// # Errors
    ///
    /// [`Error::Spec`], [`Error::Unsupported`], [`Error::UnmappedId`] or [`Error::Host`].
    pub fn compile(spec: &Spec, rootfs: Rootfs) -> Result<Self, Error> {
        Self::create(Request::new(spec, rootfs, crate::Io::null()))
    }

    pub(crate) fn create(request: Request<'_>) -> Result<Self, Error> {
        compile::create(request)
    }

    /// A plan that runs another process in a container.
    pub(crate) fn exec(request: ExecRequest<'_>) -> Result<Self, Error> {
        exec::compile(request)
    }

    /// A plan that runs a hook in the namespaces of a container.
    pub(crate) fn hook(request: HookRequest<'_>) -> Result<Self, Error> {
        exec::compile_hook(request)
    }

    /// A plan that makes a user namespace and waits in it.
    pub(crate) fn user_namespace(maps: IdMaps) -> Result<Self, Error> {
        compile::user_namespace(maps)
    }

    /// A plan that makes a user namespace and serves calls in it.
    pub(crate) fn file_server(maps: IdMaps) -> Result<Self, Error> {
        compile::file_server(maps)
    }

    /// A plan that only finds out whether namespaces can be made, and overlay mounted in them.
    pub(crate) fn probe(maps: Option<IdMaps>, overlay: bool) -> Result<Self, Error> {
        compile::probe(maps, overlay)
    }

    /// What is left out of the Spec.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// How many steps there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.notes.len()
    }

    /// Whether there are none, which never is the case for a compiled plan.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// The steps as text, one per line: index, phase, system call, target.
    #[must_use]
    pub fn explain(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, note) in self.notes.iter().enumerate() {
            writeln!(f, "{index:4} {:<10} {:<16} {}", note.phase, note.syscall, note.target)?;
        }
        Ok(())
    }
}
