//! Bind mounts.

use std::os::fd::OwnedFd;

use oci_spec::runtime::Mount;

use super::assemble::{Assembler, At, Reg};
use super::mount::{
    MOUNT_ATTR_ATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, OPEN_TREE_CLONE, change_attributes, finish_attributes,
    open_tree, place,
};
use super::option::{Attributes, Options};
use super::reach::{HostFile, Kind, Links};
use crate::{Error, Phase};

/// Where a bind mount comes from, besides its path.
#[derive(Debug)]
pub(super) struct From {
    /// The source, when the host has opened it.
    pub(super) opened: Option<OwnedFd>,
    /// Whether the container has a user namespace of its own.
    pub(super) in_user_namespace: bool,
}

/// Mounts it, detached, with its attributes, and attaches it.
pub(super) fn mount(
    asm: &mut Assembler,
    root: Reg,
    mount: &Mount,
    options: &Options,
    field: &str,
    from: From,
    scratch: At,
) -> Result<(), Error> {
    let source =
        mount.source().as_deref().ok_or_else(|| Error::spec(format!("{field}.source"), "missing"))?;
    if !source.is_absolute() {
        return Err(Error::spec(format!("{field}.source"), format!("{} is not absolute", source.display())));
    }
    // A bind mount has no filesystem to configure: such options have no effect in mount(8) and runc either.
    for (key, _) in &options.data {
        tracing::warn!(option = %key, mount = %field, "an option that a bind mount does not have");
    }
    let file = HostFile::of_path(source, Phase::Mounts, "source")?;
    let made = match from.opened {
        Some(fd) => asm.fd(fd),
        None => {
            let opened = file.open(asm, scratch, "source");
            let recursive = if options.recursive { libc::AT_RECURSIVE.cast_unsigned() } else { 0 };
            let what = format!("a copy of {}", source.display());
            let made = open_tree(asm, opened, OPEN_TREE_CLONE | recursive, &what);
            asm.close(opened);
            made
        }
    };
    let what = format!("{} from {}", mount.destination().display(), source.display());
    attributes(asm, made, options, from.in_user_namespace, &what);
    let kind = if file.directory { Kind::Directory } else { Kind::File };
    place(asm, root, mount.destination(), made, kind, Links::Follow, options, &what);
    Ok(())
}

/// Gives a bind mount the flags that are named, and of its source's no others, as `mount(2)` does it: one that is bound
/// with `ro` alone is no longer `noexec`. Where none is named it keeps its source's. A flag that the kernel keeps, as this
/// user namespace is not its owner, stays unless an option takes it away, which then fails.
fn attributes(asm: &mut Assembler, mount: Reg, options: &Options, in_user_namespace: bool, what: &str) {
    const FLAGS: [u64; 5] =
        [MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSYMFOLLOW];
    if !options.named {
        return;
    }
    let Attributes { set, mut clear } = options.attributes;
    // Access times are one choice: who names a part of it names all.
    if clear & MOUNT_ATTR_ATIME != 0 || set & MOUNT_ATTR_NODIRATIME != 0 {
        clear |= MOUNT_ATTR_ATIME | (MOUNT_ATTR_NODIRATIME & !set);
    }
    // The kernel keeps these in another user namespace, unless the host's own process has opened the source: which one
    // does is a matter of the directories above, and not to be seen in the flags.
    let kept = if in_user_namespace { !MOUNT_ATTR_NOSYMFOLLOW } else { 0 };
    let free = FLAGS.iter().filter(|flag| (set | clear | kept) & **flag == 0);
    let others = free.fold(0, |all, flag| all | flag);
    let (done, locked) = (asm.label(), asm.label());
    change_attributes(asm, mount, set, clear | others, what).on(libc::EPERM, locked).then(done);
    asm.here(locked);
    for flag in FLAGS.iter().filter(|flag| others & **flag != 0) {
        change_attributes(asm, mount, 0, *flag, what).ignore();
    }
    finish_attributes(asm, mount, Attributes { set, clear }, false, what);
    asm.here(done);
}
