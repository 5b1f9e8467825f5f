//! What this version does not do is said before anything is made.

use oci_spec::runtime::{Linux, Process, Spec};

use super::label;
use crate::{Error, hook};

/// Refuses what is contradictory or not done.
pub(super) fn check(spec: &Spec) -> Result<(), Error> {
    let version = spec.version();
    let mut parts = version.split(['.', '-', '+']);
    let number = |part: Option<&str>| part.and_then(|part| part.parse::<u32>().ok());
    if (number(parts.next()), number(parts.next()).is_some(), number(parts.next()).is_some())
        != (Some(1), true, true)
    {
        return Err(Error::spec("ociVersion", format!("{version:?} is no version 1 of the runtime-spec")));
    }
    let process = spec.process().as_ref().ok_or_else(|| Error::spec("process", "missing"))?;
    check_process(process)?;
    if let Some(linux) = spec.linux() {
        check_linux(linux)?;
    }
    hook::check(spec)?;
    for (name, present) in [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ] {
        if present {
            return Err(Error::unsupported(format!("the Spec's section {name}")));
        }
    }
    Ok(())
}

/// Refuses what a process asks for and does not get.
pub(super) fn check_process(process: &Process) -> Result<(), Error> {
    if process.args().as_deref().unwrap_or_default().is_empty() {
        return Err(Error::spec("process.args", "empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::spec("process.cwd", format!("{} is not absolute", process.cwd().display())));
    }
    label::check(process.apparmor_profile().as_deref(), process.selinux_label().as_deref(), None)
}

fn check_linux(linux: &Linux) -> Result<(), Error> {
    label::check(None, None, linux.mount_label().as_deref())?;
    if linux.intel_rdt().is_some() { Err(Error::unsupported("linux.intelRdt")) } else { Ok(()) }
}
