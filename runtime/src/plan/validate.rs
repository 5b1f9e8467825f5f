//! What this version does not do is said before anything is made.

use oci_spec::runtime::{Linux, Process, Spec};

use crate::{Error, hook};

/// Refuses what is contradictory or not done.
pub(super) fn check(spec: &Spec) -> Result<(), Error> {
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
    let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    for (name, present) in [
        ("process.terminal", process.terminal().unwrap_or(false)),
        ("process.apparmorProfile", set(process.apparmor_profile())),
        ("process.selinuxLabel", set(process.selinux_label())),
        ("process.ioPriority", process.io_priority().is_some()),
        ("process.scheduler", process.scheduler().is_some()),
        ("process.execCPUAffinity", process.exec_cpu_affinity().is_some()),
    ] {
        if present {
            return Err(Error::unsupported(name));
        }
    }
    Ok(())
}

fn check_linux(linux: &Linux) -> Result<(), Error> {
    let set = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    for (name, present) in [
        ("linux.mountLabel", set(linux.mount_label())),
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.personality", linux.personality().is_some()),
        ("linux.timeOffsets", linux.time_offsets().as_ref().is_some_and(|map| !map.is_empty())),
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|map| !map.is_empty())),
    ] {
        if present {
            return Err(Error::unsupported(name));
        }
    }
    match linux.rootfs_propagation().as_deref() {
        None | Some("" | "private" | "rprivate") => {}
        Some(other) => return Err(Error::unsupported(format!("linux.rootfsPropagation {other:?}"))),
    }
    Ok(())
}
