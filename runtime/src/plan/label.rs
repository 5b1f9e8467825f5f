//! Labels of security modules: AppArmor and SELinux.

use std::path::Path;

use super::assemble::{Assembler, Reg};
use crate::{Error, Hint, Phase};

/// Whether the kernel has AppArmor switched on.
pub(crate) fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

/// Whether the kernel has SELinux switched on.
pub(crate) fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn absent(field: &str, module: &str) -> Error {
    Error::Host {
        what: format!("{module}, which {field} asks for"),
        hint: Hint::new(
            format!("{module} is not switched on in this kernel"),
            "switch it on, or take the label out of the Spec",
        ),
    }
}

/// Refuses labels of modules that are not there. Before anything is made.
pub(super) fn check(apparmor: Option<&str>, selinux: Option<&str>, mount: Option<&str>) -> Result<(), Error> {
    let set = |label: Option<&str>| label.is_some_and(|label| !label.is_empty());
    if set(apparmor) && !has_apparmor() {
        return Err(absent("process.apparmorProfile", "AppArmor"));
    }
    if set(selinux) && !has_selinux() {
        return Err(absent("process.selinuxLabel", "SELinux"));
    }
    if set(mount) && !has_selinux() {
        return Err(absent("linux.mountLabel", "SELinux"));
    }
    Ok(())
}

/// Sets what the program will be labelled with, through a procfs that is attached nowhere.
pub(super) fn apply(asm: &mut Assembler, proc: Reg, apparmor: Option<&str>, selinux: Option<&str>) {
    asm.phase(Phase::Process);
    if let Some(profile) = apparmor.filter(|profile| !profile.is_empty()) {
        let (new, done) = (asm.label(), asm.label());
        let text = format!("exec {profile}");
        // Since Linux 5.8 each module has a directory of its own.
        let fd = open(asm, proc, "thread-self/attr/apparmor/exec", Some(new));
        write(asm, fd, &text);
        asm.jump(done);
        asm.here(new);
        let fd = open(asm, proc, "thread-self/attr/exec", None);
        write(asm, fd, &text);
        asm.here(done);
    }
    if let Some(label) = selinux.filter(|label| !label.is_empty()) {
        let fd = open(asm, proc, "thread-self/attr/exec", None);
        write(asm, fd, label);
    }
}

fn open(asm: &mut Assembler, proc: Reg, path: &str, absent: Option<super::assemble::Label>) -> Reg {
    let name = asm.text(path);
    let args = [proc.into(), name.into(), (libc::O_WRONLY | libc::O_CLOEXEC).into()];
    let pending = asm.call("openat", libc::SYS_openat, &args, format!("/proc/{path}"));
    match absent {
        Some(label) => pending.on(libc::ENOENT, label).out(),
        None => pending.out(),
    }
}

fn write(asm: &mut Assembler, fd: Reg, text: &str) {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let at = asm.text(text);
    asm.call("write", libc::SYS_write, &[fd.into(), at.into(), length.into()], format!("the label {text:?}"));
    asm.close(fd);
}
