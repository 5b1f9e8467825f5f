//! Mounts: each is made detached, given its attributes, and attached to a descriptor beneath the root.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::runtime::Mount;

use super::assemble::{Assembler, At, Pending, Reg};
use super::bind;
use super::control::{self, Shown};
use super::option::{Attributes, Options};
use super::reach::{Kind, Links, clean, make_in_root, mode_of, open_in_root};
use super::rootfs::{self, FSCONFIG_CMD_CREATE, FSCONFIG_SET_STRING, Source, fs_flag, fs_string};
use crate::rootfs::Tree;
use crate::{Error, Phase};

/// Attributes of `mount_setattr(2)` and `fsmount(2)`.
pub(super) const MOUNT_ATTR_RDONLY: u64 = 0x01;
pub(super) const MOUNT_ATTR_NOSUID: u64 = 0x02;
pub(super) const MOUNT_ATTR_NODEV: u64 = 0x04;
pub(super) const MOUNT_ATTR_NOEXEC: u64 = 0x08;
pub(super) const MOUNT_ATTR_ATIME: u64 = 0x70;
pub(super) const MOUNT_ATTR_NOATIME: u64 = 0x10;
pub(super) const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
pub(super) const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
pub(super) const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

/// `OPEN_TREE_CLONE` of `open_tree(2)`.
pub(super) const OPEN_TREE_CLONE: u32 = 1;
/// `MOVE_MOUNT_F_EMPTY_PATH` and `MOVE_MOUNT_T_EMPTY_PATH` of `move_mount(2)`.
const MOVE_MOUNT_EMPTY_PATHS: u32 = 0x04 | 0x40;
/// `MOVE_MOUNT_F_EMPTY_PATH` alone.
pub(super) const MOVE_MOUNT_FROM_EMPTY_PATH: u32 = 0x04;

/// Opens what a descriptor stands for as a mount; with `OPEN_TREE_CLONE` as a detached copy.
pub(super) fn open_tree(asm: &mut Assembler, fd: Reg, flags: u32, what: &str) -> Reg {
    let empty = asm.text("");
    let flags = flags | libc::AT_EMPTY_PATH.cast_unsigned() | libc::O_CLOEXEC.cast_unsigned();
    let args = [fd.into(), empty.into(), flags.into()];
    asm.call("open_tree", libc::SYS_open_tree, &args, what.to_owned()).out()
}

/// Attaches a detached mount to a descriptor; `wrong_kind` is where to go when one is a directory, the other not.
pub(super) fn attach(
    asm: &mut Assembler,
    mount: Reg,
    target: Reg,
    what: &str,
    wrong_kind: Option<super::assemble::Label>,
) {
    let empty = asm.text("");
    let args = [mount.into(), empty.into(), target.into(), empty.into(), MOVE_MOUNT_EMPTY_PATHS.into()];
    let pending = asm.call("move_mount", libc::SYS_move_mount, &args, what.to_owned());
    if let Some(label) = wrong_kind {
        // The kernel's word for a directory that meets a file.
        let _ = pending.on(libc::EINVAL, label).on(libc::ENOTDIR, label);
    }
}

/// Attaches a detached mount over the host's root: out of the way of every path, as `/` never leads onto it.
pub(super) fn attach_over_root(asm: &mut Assembler, mount: Reg, what: &str) {
    let (empty, root) = (asm.text(""), asm.text("/"));
    let args =
        [mount.into(), empty.into(), libc::AT_FDCWD.into(), root.into(), MOVE_MOUNT_FROM_EMPTY_PATH.into()];
    asm.call("move_mount", libc::SYS_move_mount, &args, what.to_owned());
}

/// Changes the attributes of a mount alone.
pub(super) fn change_attributes<'a>(
    asm: &'a mut Assembler,
    mount: Reg,
    set: u64,
    clear: u64,
    what: &str,
) -> Pending<'a> {
    let attributes = asm.words(&[set.into(), clear.into(), 0.into(), 0.into()]);
    let empty = asm.text("");
    let args = [mount.into(), empty.into(), libc::AT_EMPTY_PATH.into(), attributes.into(), 32.into()];
    asm.call("mount_setattr", libc::SYS_mount_setattr, &args, what.to_owned())
}

/// Changes the attributes of a mount, or of it and all below it.
pub(super) fn set_attributes(
    asm: &mut Assembler,
    mount: Reg,
    set: u64,
    clear: u64,
    propagation: u64,
    recursive: bool,
    what: &str,
) {
    let attributes = asm.words(&[set.into(), clear.into(), propagation.into(), 0.into()]);
    let empty = asm.text("");
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let args = [mount.into(), empty.into(), flags.into(), attributes.into(), 32.into()];
    asm.call("mount_setattr", libc::SYS_mount_setattr, &args, what.to_owned());
}

/// What mounts are made from besides the Spec.
#[derive(Debug)]
pub(super) struct Given<'a> {
    /// Sources that the host has opened, by the mount's place in the list.
    pub(super) opened: BTreeMap<usize, OwnedFd>,
    /// What a mount of type cgroup shows.
    pub(super) shown: Shown<'a>,
    /// Whether the container has a user namespace of its own.
    pub(super) in_user_namespace: bool,
}

/// Compiles the Spec's mounts, in their order. A tree comes before the first mount that goes below it.
pub(super) fn all(
    asm: &mut Assembler,
    root: Reg,
    mounts: &[Mount],
    trees: &[Arc<Tree>],
    mut given: Given<'_>,
    scratch: At,
) -> Result<(), Error> {
    asm.phase(Phase::Mounts);
    let mut waiting: Vec<&Tree> = trees.iter().map(|tree| &**tree).collect();
    waiting.sort_by_key(|tree| clean(&tree.destination).components().count());
    for (index, mount) in mounts.iter().enumerate() {
        let dest = clean(mount.destination());
        let (before, after) =
            waiting.into_iter().partition(|tree| dest.starts_with(clean(&tree.destination)));
        waiting = after;
        self::trees(asm, root, mounts, trees, before, scratch)?;
        one(asm, root, mount, index, &mut given, scratch)?;
    }
    self::trees(asm, root, mounts, trees, waiting, scratch)
}

fn trees(
    asm: &mut Assembler,
    root: Reg,
    mounts: &[Mount],
    all: &[Arc<Tree>],
    now: Vec<&Tree>,
    scratch: At,
) -> Result<(), Error> {
    for tree in now {
        let dest = clean(&tree.destination);
        if dest.as_os_str().is_empty() {
            return Err(Error::spec("a tree's destination", "it is the root itself"));
        }
        let nested: Vec<(PathBuf, Kind)> = points(mounts, all)
            .into_iter()
            .chain(mounts.iter().map(|mount| (clean(mount.destination()), kind_of(mount))))
            .filter_map(|(path, kind)| Some((path.strip_prefix(&dest).ok()?.to_path_buf(), kind)))
            .filter(|(path, _)| !path.as_os_str().is_empty())
            .collect();
        asm.phase(Phase::Mounts);
        let made = rootfs::tree(asm, Source::of(&tree.source)?, &nested, tree.read_only, scratch);
        asm.phase(Phase::Mounts);
        let what = format!("a tree at {}", tree.destination.display());
        let target = make_in_root(asm, root, &tree.destination, Kind::Directory, Links::Follow);
        attach(asm, made, target, &what, None);
        asm.close(target);
        asm.close(made);
    }
    Ok(())
}

/// What the mount point of `mount` has to be.
fn kind_of(mount: &Mount) -> Kind {
    let options = Options::parse(mount.options().as_deref().unwrap_or_default());
    let bound = options.bind || mount.typ().as_deref() == Some("bind");
    let is_file = bound && mount.source().as_ref().is_some_and(|source| !source.is_dir());
    if is_file { Kind::File } else { Kind::Directory }
}

/// Where mounts go that stand on the root filesystem itself, not on another mount, and what each place has to be.
pub(super) fn points(mounts: &[Mount], trees: &[Arc<Tree>]) -> Vec<(PathBuf, Kind)> {
    let mut points: Vec<(PathBuf, Kind)> = vec![("dev".into(), Kind::Directory)];
    let of_trees = trees.iter().map(|tree| (clean(&tree.destination), Kind::Directory));
    let of_mounts = mounts.iter().map(|mount| (clean(mount.destination()), kind_of(mount)));
    for (dest, kind) in of_trees.chain(of_mounts) {
        if points.iter().any(|(other, kind)| *kind == Kind::Directory && dest.starts_with(other)) {
            continue;
        }
        points.push((dest, kind));
    }
    points
}

fn one(
    asm: &mut Assembler,
    root: Reg,
    mount: &Mount,
    index: usize,
    given: &mut Given<'_>,
    scratch: At,
) -> Result<(), Error> {
    let (field, shown) = (format!("mounts[{index}]"), given.shown);
    let field = field.as_str();
    let options = Options::parse(mount.options().as_deref().unwrap_or_default());
    if let Some(option) = options.unsupported.first() {
        return Err(Error::unsupported(format!("mount option {option:?} ({field}.options)")));
    }
    let dest = mount.destination();
    if clean(dest).as_os_str().is_empty() {
        return Err(Error::spec(format!("{field}.destination"), "a mount over the root itself"));
    }
    let typ = mount.typ().as_deref().unwrap_or_default();
    if options.bind || typ == "bind" {
        let source =
            bind::From { opened: given.opened.remove(&index), in_user_namespace: given.in_user_namespace };
        bind::mount(asm, root, mount, &options, field, source, scratch)
    } else if typ == "cgroup" || (typ == "cgroup2" && !shown.trees.is_empty()) {
        if shown.trees.is_empty() {
            return Err(crate::cgroup::missing(format!("{field} of type cgroup")));
        }
        control::mount(asm, root, mount, &options, shown, scratch)
    } else {
        filesystem(asm, root, mount, typ, &options, field, scratch)
    }
}

fn filesystem(
    asm: &mut Assembler,
    root: Reg,
    mount: &Mount,
    typ: &str,
    options: &Options,
    field: &str,
    scratch: At,
) -> Result<(), Error> {
    if typ.is_empty() {
        return Err(Error::spec(format!("{field}.type"), "missing"));
    }
    let what = format!("{} of type {typ}", mount.destination().display());
    let kind = asm.text(typ);
    let fs = asm.call("fsopen", libc::SYS_fsopen, &[kind.into(), 1.into()], what.clone()).out();
    let source = mount.source().as_ref().map(|source| source.to_string_lossy().into_owned());
    fs_string(asm, fs, "source", source.as_deref().unwrap_or(typ), &what);
    for (key, value) in &options.data {
        match value {
            Some(value) => fs_string(asm, fs, key, value, &what),
            None => fs_flag(asm, fs, key, &what),
        }
    }
    if typ == "tmpfs" && !options.copy_up && !options.data.iter().any(|(key, _)| key == "mode") {
        inherit_mode(asm, root, mount.destination(), fs, scratch, &what);
    }
    let args = [fs.into(), FSCONFIG_CMD_CREATE.into(), 0.into(), 0.into(), 0.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, what.clone());
    if options.copy_up && typ != "tmpfs" {
        return Err(Error::spec(format!("{field}.options"), "tmpcopyup goes with a tmpfs alone"));
    }
    let mut set = options.attributes.set;
    if is_dev(mount) {
        // What goes into it comes later, see `finish_dev`.
        set &= !MOUNT_ATTR_RDONLY;
    }
    let first = if options.copy_up { set & !(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV) } else { set };
    let args = [fs.into(), 1.into(), first.into()];
    let made = asm.call("fsmount", libc::SYS_fsmount, &args, what.clone()).out();
    asm.close(fs);
    if options.copy_up {
        copy_up(asm, root, mount.destination(), made, &what);
        set_attributes(asm, made, set, 0, 0, false, &what);
    }
    // A link where /proc or /sys should be would let an image choose what the later steps write to.
    let links = if matches!(typ, "proc" | "sysfs") { Links::Refuse } else { Links::Follow };
    place(asm, root, mount.destination(), made, Kind::Directory, links, options, &what);
    Ok(())
}

fn is_dev(mount: &Mount) -> bool {
    clean(mount.destination()) == Path::new("dev") && mount.typ().as_deref() == Some("tmpfs")
}

/// Makes `/dev` read-only where that is asked for: once everything is in it.
pub(super) fn finish_dev(asm: &mut Assembler, root: Reg, mounts: &[Mount]) {
    let asks = |mount: &&Mount| {
        let options = Options::parse(mount.options().as_deref().unwrap_or_default());
        is_dev(mount) && options.attributes.set & MOUNT_ATTR_RDONLY != 0
    };
    if mounts.iter().rev().find(|mount| is_dev(mount)).filter(asks).is_some() {
        let dev = open_in_root(asm, root, Path::new("/dev"), 0, Links::Follow, None);
        set_attributes(asm, dev, MOUNT_ATTR_RDONLY, 0, 0, false, "/dev, read-only");
        asm.close(dev);
    }
}

/// Gives a filesystem that is to be made the mode of the directory that it covers, if there is one.
fn inherit_mode(asm: &mut Assembler, root: Reg, dest: &Path, fs: Reg, scratch: At, what: &str) {
    let absent = asm.label();
    let covered = open_in_root(asm, root, dest, libc::O_DIRECTORY, Links::Follow, Some(absent));
    let mode = mode_of(asm, covered, scratch, what);
    asm.close(covered);
    let what = format!("{what}: the mode of its place");
    let (key, text) = (asm.text("mode"), asm.octal(mode, &what));
    let args = [fs.into(), FSCONFIG_SET_STRING.into(), key.into(), text.into(), 0.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, what);
    asm.here(absent);
}

/// Fills a filesystem with what the root filesystem has at its place.
fn copy_up(asm: &mut Assembler, root: Reg, dest: &Path, made: Reg, what: &str) {
    let covered = make_in_root(asm, root, dest, Kind::Directory, Links::Follow);
    let dot = asm.text(".");
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let from = asm.call("openat", libc::SYS_openat, &[covered.into(), dot.into(), flags.into()], what).out();
    let to = asm.call("openat", libc::SYS_openat, &[made.into(), dot.into(), flags.into()], what).out();
    asm.copy_tree(from, to, format!("{what}: a copy of what it covers"));
    for fd in [to, from, covered] {
        asm.close(fd);
    }
}

pub(super) fn finish_attributes(
    asm: &mut Assembler,
    mount: Reg,
    attributes: Attributes,
    recursive: bool,
    what: &str,
) {
    if !attributes.is_empty() {
        set_attributes(asm, mount, attributes.set, attributes.clear, 0, recursive, what);
    }
}

#[expect(clippy::too_many_arguments, reason = "one mount has that many sides")]
pub(super) fn place(
    asm: &mut Assembler,
    root: Reg,
    dest: &Path,
    made: Reg,
    kind: Kind,
    links: Links,
    options: &Options,
    what: &str,
) {
    finish_attributes(asm, made, options.recursive_attributes, true, what);
    let target = make_in_root(asm, root, dest, kind, links);
    attach(asm, made, target, what, None);
    asm.close(target);
    for (flag, recursive) in &options.propagation {
        set_attributes(asm, made, 0, 0, *flag, *recursive, &format!("propagation of {}", dest.display()));
    }
    asm.close(made);
}

/// Hides paths: directories beneath an empty read-only filesystem, files beneath the null device.
pub(super) fn mask(asm: &mut Assembler, root: Reg, paths: &[String], null: Reg) {
    asm.phase(Phase::Mounts);
    if paths.is_empty() {
        return;
    }
    let kind = asm.text("tmpfs");
    let fs = asm
        .call("fsopen", libc::SYS_fsopen, &[kind.into(), 1.into()], "an empty filesystem to mask with")
        .out();
    fs_string(asm, fs, "mode", "0555", "an empty filesystem to mask with");
    fs_string(asm, fs, "nr_inodes", "1", "an empty filesystem to mask with");
    let args = [fs.into(), FSCONFIG_CMD_CREATE.into(), 0.into(), 0.into(), 0.into()];
    asm.call("fsconfig", libc::SYS_fsconfig, &args, "an empty filesystem to mask with");
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    let args = [fs.into(), 1.into(), attributes.into()];
    let empty = asm.call("fsmount", libc::SYS_fsmount, &args, "an empty filesystem to mask with").out();
    asm.close(fs);
    // Only what is attached can be copied before Linux 6.15: the first directory gets the filesystem itself, the others
    // copies of it. One superblock serves them all.
    let attached = asm.value(0u32, "the empty filesystem is attached nowhere");
    let mut seen = std::collections::BTreeSet::new();
    for path in paths.iter().filter(|path| seen.insert(path.as_str())) {
        let (file, done, copy) = (asm.label(), asm.label(), asm.label());
        let target = open_in_root(asm, root, Path::new(path), 0, Links::Follow, Some(done));
        asm.jump_if(attached, u64::MAX, 1, copy, "the empty filesystem is attached");
        attach(asm, empty, target, &format!("{path}, masked as a directory"), Some(file));
        asm.set(attached, 1u32, "the empty filesystem is attached");
        asm.jump(done);
        asm.here(copy);
        let made = open_tree(asm, empty, OPEN_TREE_CLONE, &format!("{path}, masked"));
        attach(asm, made, target, &format!("{path}, masked as a directory"), Some(file));
        asm.close(made);
        asm.jump(done);
        asm.here(file);
        let made = open_tree(asm, null, OPEN_TREE_CLONE, &format!("{path}, masked"));
        attach(asm, made, target, &format!("{path}, masked as a file"), None);
        asm.here(done);
    }
}

/// Makes paths read-only, keeping their mounts' other attributes.
pub(super) fn read_only(asm: &mut Assembler, root: Reg, paths: &[String]) {
    asm.phase(Phase::Mounts);
    for path in paths {
        let done = asm.label();
        let target = open_in_root(asm, root, Path::new(path), 0, Links::Follow, Some(done));
        let what = format!("{path}, read-only");
        let made = open_tree(asm, target, OPEN_TREE_CLONE | libc::AT_RECURSIVE.cast_unsigned(), &what);
        set_attributes(asm, made, MOUNT_ATTR_RDONLY, 0, 0, true, &what);
        attach(asm, made, target, &what, None);
        asm.here(done);
    }
}
