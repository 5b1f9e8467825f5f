//! A terminal of the container's own: its controlling side goes to the host, the other becomes the standard streams.

use oci_spec::runtime::Process;

use super::assemble::{Assembler, Reg};
use super::mount::{OPEN_TREE_CLONE, attach, open_tree};
use super::namespace::send_fd;
use super::reach::{Kind, Links, check_device, make_in_root, open_exactly};
use super::wire::{CONTROL, message};
use crate::Phase;

/// `ioctl_tty(2)`: unlock, give the other side, set the size, become the controlling terminal.
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCGPTPEER: u32 = 0x5441;
const TIOCSWINSZ: u32 = 0x5414;
const TIOCSCTTY: u32 = 0x540e;
/// The device `ptmx`.
const PTMX: (u32, u32) = (5, 2);

/// Opens a terminal of the devpts that is mounted on `/dev/pts`, and hands its controlling side to the host. Returns
/// the other side. `root` is none when this process is in the container's root already.
pub(super) fn open(
    asm: &mut Assembler,
    root: Option<Reg>,
    process: &Process,
    scratch: super::assemble::At,
) -> Reg {
    asm.phase(Phase::Devices);
    let what = "/dev/pts/ptmx in the container";
    // No links: an image could lead somewhere else with one.
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let master = open_exactly(asm, root, "/dev/pts/ptmx", flags, what);
    check_device(asm, master, scratch, libc::S_IFCHR, PTMX, what);
    let zero = asm.bytes(&[0; 4]);
    asm.call(
        "ioctl",
        libc::SYS_ioctl,
        &[master.into(), TIOCSPTLCK.into(), zero.into()],
        "unlock the terminal",
    );
    let args = [master.into(), TIOCGPTPEER.into(), flags.into()];
    let slave = asm.call("ioctl", libc::SYS_ioctl, &args, "the other side of the terminal").out();
    if let Some(size) = process.console_size() {
        // `struct winsize`: rows, columns, and two that are unused.
        let short = |value: u64| u16::try_from(value).unwrap_or(u16::MAX).to_ne_bytes();
        let mut bytes = [short(size.height()), short(size.width())].concat();
        bytes.resize(8, 0);
        let size = asm.bytes(&bytes);
        asm.call("ioctl", libc::SYS_ioctl, &[slave.into(), TIOCSWINSZ.into(), size.into()], "its size");
    }
    send_fd(asm, CONTROL.into(), message::TERMINAL, None, master, "the terminal");
    asm.close(master);
    // Its user may use it, whoever that is.
    let uid = process.user().uid();
    let args = [slave.into(), uid.into(), u64::from(u32::MAX).into()];
    asm.call("fchown", libc::SYS_fchown, &args, format!("the terminal, to uid {uid}"));
    slave
}

/// Puts the terminal on `/dev/console`.
pub(super) fn console(asm: &mut Assembler, root: Reg, slave: Reg) {
    asm.phase(Phase::Devices);
    let made = open_tree(asm, slave, OPEN_TREE_CLONE, "the terminal, for /dev/console");
    let target = make_in_root(asm, root, std::path::Path::new("/dev/console"), Kind::File, Links::Refuse);
    attach(asm, made, target, "/dev/console", None);
    asm.close(target);
    asm.close(made);
}

/// Makes standard input the controlling terminal of the session.
pub(super) fn control(asm: &mut Assembler) {
    asm.call("ioctl", libc::SYS_ioctl, &[0.into(), TIOCSCTTY.into(), 0.into()], "the controlling terminal");
}
