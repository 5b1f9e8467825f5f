//! Device nodes and the links of `/dev`, all made through one descriptor of that directory.

use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};

use super::assemble::{Assembler, At, Reg};
use super::mount::{OPEN_TREE_CLONE, attach, open_tree};
use super::option::Options;
use super::reach::{Kind, Links, check_device, clean, make_in_root, path_bytes};
use crate::{Error, Phase};

/// A device node to make.
#[derive(Debug)]
struct Node {
    path: std::path::PathBuf,
    mode: u32,
    dev: (u32, u32),
    owner: Option<(u32, u32)>,
}

/// The devices that runtime-spec's `config-linux.md` supplies to every container.
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The links of `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// Whether the container brings a `/dev` of the host's, which is left as it is.
fn is_bound(mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| {
        clean(mount.destination()) == Path::new("dev")
            && (mount.typ().as_deref() == Some("bind")
                || Options::parse(mount.options().as_deref().unwrap_or_default()).bind)
    })
}

/// Makes the nodes and links. Without the right to make nodes, the host's are bound.
pub(super) fn all(
    asm: &mut Assembler,
    root: Reg,
    mounts: &[Mount],
    devices: &[LinuxDevice],
    can_mknod: bool,
    scratch: At,
) -> Result<(), Error> {
    asm.phase(Phase::Devices);
    if is_bound(mounts) {
        return match devices {
            [] => Ok(()),
            _ => Err(Error::spec("linux.devices", "cannot be made in a /dev that is bound from the host")),
        };
    }
    let dev = make_in_root(asm, root, Path::new("/dev"), Kind::Directory, Links::Refuse);
    for (name, major, minor) in DEFAULT {
        let path = Path::new("/dev").join(name);
        if devices.iter().any(|device| clean(device.path()) == clean(&path)) {
            continue;
        }
        let node = Node { path, mode: libc::S_IFCHR | 0o666, dev: (major, minor), owner: None };
        make(asm, dev, name.as_bytes(), &node, can_mknod, scratch);
    }
    for (index, device) in devices.iter().enumerate() {
        let node = node(device, &format!("linux.devices[{index}]"))?;
        let relative = clean(&node.path);
        let (Some(parent), Some(name)) = (relative.parent(), relative.file_name()) else {
            return Err(Error::spec(format!("linux.devices[{index}].path"), "it names no file"));
        };
        let directory = make_in_root(asm, root, parent, Kind::Directory, Links::Refuse);
        make(asm, directory, path_bytes(Path::new(name)), &node, can_mknod, scratch);
        asm.close(directory);
    }
    for (leads_to, name) in LINKS {
        let there = asm.label();
        let (content, link) = (asm.text(leads_to), asm.text(name));
        let args = [content.into(), dev.into(), link.into()];
        asm.call("symlinkat", libc::SYS_symlinkat, &args, format!("/dev/{name} -> {leads_to}"))
            .on(libc::EEXIST, there)
            .on(libc::EROFS, there);
        asm.here(there);
    }
    asm.close(dev);
    Ok(())
}

fn node(device: &LinuxDevice, field: &str) -> Result<Node, Error> {
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => return Err(Error::spec(format!("{field}.type"), "a device is c, b, u or p")),
    };
    let number = |value: i64, name: &str| {
        u32::try_from(value).map_err(|_| Error::spec(format!("{field}.{name}"), "not a device number"))
    };
    let owner = match (device.uid(), device.gid()) {
        (None, None) => None,
        (uid, gid) => Some((uid.unwrap_or(0), gid.unwrap_or(0))),
    };
    Ok(Node {
        path: device.path().clone(),
        mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
        dev: (number(device.major(), "major")?, number(device.minor(), "minor")?),
        owner,
    })
}

fn make(asm: &mut Assembler, parent: Reg, name: &[u8], node: &Node, can_mknod: bool, scratch: At) {
    let shown = node.path.display().to_string();
    let name = asm.text(name);
    if !can_mknod && node.mode & libc::S_IFMT != libc::S_IFIFO {
        return bind(asm, parent, name, node, &shown, scratch);
    }
    let (there, done) = (asm.label(), asm.label());
    let dev = libc::makedev(node.dev.0, node.dev.1);
    let args = [parent.into(), name.into(), node.mode.into(), dev.into()];
    asm.call("mknodat", libc::SYS_mknodat, &args, format!("{shown}, a new node")).on(libc::EEXIST, there);
    if let Some((uid, gid)) = node.owner {
        let args = [parent.into(), name.into(), uid.into(), gid.into(), libc::AT_SYMLINK_NOFOLLOW.into()];
        asm.call("fchownat", libc::SYS_fchownat, &args, shown.clone());
    }
    asm.jump(done);
    asm.here(there);
    // The root filesystem has something of this name. It serves if it is that very device, and is not a link.
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let found = asm
        .call(
            "openat",
            libc::SYS_openat,
            &[parent.into(), name.into(), flags.into()],
            format!("{shown}, as it is"),
        )
        .out();
    check_device(asm, found, scratch, node.mode, node.dev, &shown);
    asm.close(found);
    asm.here(done);
}

fn bind(asm: &mut Assembler, parent: Reg, name: At, node: &Node, shown: &str, scratch: At) {
    let host = asm.text(path_bytes(&node.path));
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let args = [libc::AT_FDCWD.into(), host.into(), flags.into()];
    let source = asm.call("openat", libc::SYS_openat, &args, format!("the host's {shown}")).out();
    check_device(asm, source, scratch, node.mode, node.dev, &format!("the host's {shown}"));
    let made = open_tree(asm, source, OPEN_TREE_CLONE, &format!("the host's {shown}"));
    asm.close(source);
    let (there, open) = (asm.label(), asm.label());
    let args = [parent.into(), name.into(), (libc::S_IFREG | 0o666).into(), 0.into()];
    asm.call("mknodat", libc::SYS_mknodat, &args, format!("{shown}, an empty file")).on(libc::EEXIST, there);
    asm.here(there);
    let target =
        asm.call("openat", libc::SYS_openat, &[parent.into(), name.into(), flags.into()], shown).out();
    asm.here(open);
    attach(asm, made, target, shown, None);
    asm.close(target);
    asm.close(made);
}

/// Opens the host's null device, checked, as something to bind.
pub(super) fn host_null(asm: &mut Assembler, scratch: At) -> Reg {
    asm.phase(Phase::Mounts);
    let host = asm.text("/dev/null");
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let args = [libc::AT_FDCWD.into(), host.into(), flags.into()];
    let fd = asm.call("openat", libc::SYS_openat, &args, "the host's /dev/null").out();
    check_device(asm, fd, scratch, libc::S_IFCHR, (1, 3), "the host's /dev/null");
    fd
}
