//! Mounts of type `cgroup`: the container's own groups.

use std::path::Path;

use oci_spec::runtime::Mount;

use super::assemble::{Assembler, At, Reg};
use super::mount::{MOUNT_ATTR_RDONLY, OPEN_TREE_CLONE, attach, open_tree, set_attributes};
use super::option::Options;
use super::reach::{HostFile, Kind, Links, make_in_root};
use super::rootfs::{FSCONFIG_CMD_CREATE, fs_flag, fs_string};
use crate::cgroup::TreeRecord;
use crate::{Error, Phase};

/// The trees that a container sees, and whether it has a cgroup namespace, in which it sees no more than its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a> {
    pub(super) trees: &'a [TreeRecord],
    pub(super) namespace: bool,
}

/// Mounts them: version 2 alone as it is; with version 1 as directories in a tmpfs, as the host has them.
pub(super) fn mount(
    asm: &mut Assembler,
    root: Reg,
    mount: &Mount,
    options: &Options,
    shown: Shown<'_>,
    scratch: At,
) -> Result<(), Error> {
    let dest = mount.destination();
    let what = format!("{} of type cgroup", dest.display());
    let attributes = options.attributes.set;
    let target = make_in_root(asm, root, dest, Kind::Directory, Links::Follow);
    if let [only] = shown.trees
        && only.unified
    {
        let made = tree(asm, only, shown.namespace, attributes, scratch)?;
        attach(asm, made, target, &what, None);
        asm.close(made);
        asm.close(target);
        return Ok(());
    }
    let kind = asm.text("tmpfs");
    let fs = asm.call("fsopen", libc::SYS_fsopen, &[kind.into(), 1.into()], what.clone()).out();
    fs_string(asm, fs, "mode", "755", &what);
    let args = [fs.into(), FSCONFIG_CMD_CREATE.into(), 0.into(), 0.into(), 0.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, what.clone());
    let args = [fs.into(), 1.into(), (attributes & !MOUNT_ATTR_RDONLY).into()];
    let folder = asm.call("fsmount", libc::SYS_fsmount, &args, what.clone()).out();
    asm.close(fs);
    attach(asm, folder, target, &what, None);
    asm.close(target);
    for one in shown.trees {
        let Some(name) = one.point.file_name() else { continue };
        let shown_name = format!("{}/{}", dest.display(), name.to_string_lossy());
        let text = asm.text(std::os::unix::ffi::OsStrExt::as_bytes(name));
        asm.call(
            "mkdirat",
            libc::SYS_mkdirat,
            &[folder.into(), text.into(), 0o755.into()],
            shown_name.clone(),
        );
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let args = [folder.into(), text.into(), flags.into()];
        let place = asm.call("openat", libc::SYS_openat, &args, shown_name.clone()).out();
        let made = tree(asm, one, shown.namespace, attributes, scratch)?;
        attach(asm, made, place, &shown_name, None);
        asm.close(made);
        asm.close(place);
        // Controllers that share a tree are found by their own names too.
        for controller in one.controllers.iter().filter(|_| !one.unified && one.controllers.len() > 1) {
            let (content, link) =
                (asm.text(std::os::unix::ffi::OsStrExt::as_bytes(name)), asm.text(controller));
            let args = [content.into(), folder.into(), link.into()];
            asm.call("symlinkat", libc::SYS_symlinkat, &args, format!("{controller} in {}", dest.display()))
                .ignore();
        }
    }
    if attributes & MOUNT_ATTR_RDONLY != 0 {
        set_attributes(asm, folder, MOUNT_ATTR_RDONLY, 0, 0, false, &format!("{what}, read-only"));
    }
    asm.close(folder);
    Ok(())
}

/// One tree, detached.
fn tree(
    asm: &mut Assembler,
    tree: &TreeRecord,
    namespace: bool,
    attributes: u64,
    scratch: At,
) -> Result<Reg, Error> {
    let what = format!("the cgroup {}", tree.directory.display());
    if !namespace {
        let file = HostFile::of_path(Path::new(&tree.directory), Phase::Mounts, "cgroup")?;
        let opened = file.open(asm, scratch, "cgroup");
        let made = open_tree(asm, opened, OPEN_TREE_CLONE, &what);
        asm.close(opened);
        set_attributes(asm, made, attributes, 0, 0, false, &what);
        return Ok(made);
    }
    let kind = asm.text(if tree.unified { "cgroup2" } else { "cgroup" });
    let fs = asm.call("fsopen", libc::SYS_fsopen, &[kind.into(), 1.into()], what.clone()).out();
    if !tree.unified {
        for controller in &tree.controllers {
            match controller.split_once('=') {
                // A named tree has no controller.
                Some((key, value)) => {
                    fs_flag(asm, fs, "none", &what);
                    fs_string(asm, fs, key, value, &what);
                }
                None => fs_flag(asm, fs, controller, &what),
            }
        }
    }
    let args = [fs.into(), FSCONFIG_CMD_CREATE.into(), 0.into(), 0.into(), 0.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, what.clone());
    let args = [fs.into(), 1.into(), attributes.into()];
    let made = asm.call("fsmount", libc::SYS_fsmount, &args, what).out();
    asm.close(fs);
    Ok(made)
}
