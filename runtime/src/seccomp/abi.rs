//! The ABIs of a kernel and their numbers of system calls.

use std::collections::HashMap;
use std::sync::OnceLock;

use oci_spec::runtime::Arch;

/// One way to call the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

/// The bit that tells calls of x32 from those of x86_64, which have the same architecture.
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// The ABI of this program.
    pub(super) const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// None for an architecture whose calls this kernel never sees: entries for it are without effect.
    pub(super) fn of(arch: Arch) -> Option<Self> {
        let abi = match arch {
            Arch::ScmpArchNative => Self::NATIVE,
            Arch::ScmpArchX86_64 => Self::X86_64,
            Arch::ScmpArchX86 => Self::X86,
            Arch::ScmpArchX32 => Self::X32,
            Arch::ScmpArchAarch64 => Self::Aarch64,
            Arch::ScmpArchArm => Self::Arm,
            _ => return None,
        };
        let family = matches!(abi, Self::Aarch64 | Self::Arm);
        (family == cfg!(target_arch = "aarch64")).then_some(abi)
    }

    /// `AUDIT_ARCH_*` of `linux/audit.h`.
    pub(super) const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// What is added to the numbers of the table.
    pub(super) const fn base(self) -> u32 {
        match self {
            Self::X32 => X32_BIT,
            _ => 0,
        }
    }

    const fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::X86 => 1,
            Self::X32 => 2,
            Self::Aarch64 => 3,
            Self::Arm => 4,
        }
    }

    /// The number of a call; none when this ABI does not have it.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let row = table().get(name)?;
        row.get(self.column()).copied().flatten().map(|number| number | self.base())
    }

    /// The call by which old programs make the call `name`, and the first argument that selects it: on x86 the calls
    /// of sockets and System V IPC share one number each (`linux/net.h`, `linux/ipc.h`).
    pub(super) fn multiplexed(self, name: &str) -> Option<(&'static str, u64)> {
        if self != Self::X86 {
            return None;
        }
        let find = |names: &[&str]| names.iter().position(|other| *other == name);
        if let Some(at) = find(&SOCKET_CALLS) {
            return Some(("socketcall", at as u64 + 1));
        }
        IPC_CALLS.iter().find(|(other, _)| *other == name).map(|(_, call)| ("ipc", *call))
    }
}

const SOCKET_CALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

const IPC_CALLS: [(&str, u64); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

type Table = HashMap<&'static str, [Option<u32>; 5]>;

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        include_str!("syscalls.tsv")
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let mut fields = line.split('\t');
                let name = fields.next()?;
                let mut row = [None; 5];
                for slot in &mut row {
                    *slot = fields.next().and_then(|field| field.parse().ok());
                }
                Some((name, row))
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_this_kernel() {
        let native = |name| Abi::NATIVE.number(name).map(i64::from);
        assert_eq!(native("read"), Some(libc::SYS_read));
        assert_eq!(native("openat2"), Some(libc::SYS_openat2));
        assert_eq!(native("newfstatat"), Some(libc::SYS_newfstatat));
        assert_eq!(native("clone3"), Some(libc::SYS_clone3));
        assert_eq!(native("no_such_call"), None);
    }

    #[test]
    fn the_other_abis_have_their_own() {
        assert_eq!(Abi::X86.number("read"), Some(3));
        assert_eq!(Abi::X32.number("read"), Some(X32_BIT));
        assert_eq!(Abi::X32.number("execve"), Some(X32_BIT | 520));
        assert_eq!(Abi::Arm.number("set_tls"), Some(0xf0005));
        assert_eq!(Abi::Aarch64.number("mmap"), Some(222));
        assert_eq!(Abi::X86.multiplexed("accept4"), Some(("socketcall", 18)));
        assert_eq!(Abi::X86_64.multiplexed("accept4"), None);
    }
}
