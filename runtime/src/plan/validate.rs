//! What this version does not do is said before anything is made.

use oci_spec::runtime::{Hooks, Linux, LinuxResources, Process, Spec};

use crate::Error;

/// Refuses what is contradictory or not done.
pub(super) fn check(spec: &Spec) -> Result<(), Error> {
    let process = spec.process().as_ref().ok_or_else(|| Error::spec("process", "missing"))?;
    check_process(process)?;
    if let Some(linux) = spec.linux() {
        check_linux(linux)?;
    }
    if spec.hooks().as_ref().is_some_and(has_hooks) {
        return Err(Error::unsupported("hooks"));
    }
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
        ("linux.seccomp", linux.seccomp().is_some()),
        ("linux.mountLabel", set(linux.mount_label())),
        ("linux.cgroupsPath", linux.cgroups_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty())),
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
    linux.resources().as_ref().map_or(Ok(()), check_resources)
}

fn check_resources(resources: &LinuxResources) -> Result<(), Error> {
    for (name, present) in [
        ("devices", resources.devices().as_ref().is_some_and(|list| !list.is_empty())),
        ("memory", resources.memory().is_some()),
        ("cpu", resources.cpu().is_some()),
        ("pids", resources.pids().is_some()),
        ("blockIO", resources.block_io().is_some()),
        ("hugepageLimits", resources.hugepage_limits().as_ref().is_some_and(|list| !list.is_empty())),
        ("network", resources.network().is_some()),
        ("rdma", resources.rdma().as_ref().is_some_and(|map| !map.is_empty())),
        ("unified", resources.unified().as_ref().is_some_and(|map| !map.is_empty())),
    ] {
        if present {
            return Err(Error::unsupported(format!("linux.resources.{name}: cgroups are not there yet")));
        }
    }
    Ok(())
}

fn has_hooks(hooks: &Hooks) -> bool {
    let prestart = hooks.prestart();
    [
        prestart,
        hooks.create_runtime(),
        hooks.create_container(),
        hooks.start_container(),
        hooks.poststart(),
        hooks.poststop(),
    ]
    .iter()
    .any(|list| list.as_ref().is_some_and(|list| !list.is_empty()))
}
