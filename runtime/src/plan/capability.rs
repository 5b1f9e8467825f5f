//! Capabilities: the five sets of a process.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::assemble::Assembler;
use super::compile::Privilege;
use crate::Warning;

/// `_LINUX_CAPABILITY_VERSION_3` of `capset(2)`.
const VERSION_3: u32 = 0x2008_0522;
const SYS_ADMIN: u64 = 1 << 21;

/// The sets as the kernel's bit masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sets {
    bounding: u64,
    effective: u64,
    inheritable: u64,
    permitted: u64,
    ambient: u64,
}

impl Sets {
    /// Reads the Spec's sets; without any, the process has none.
    pub(super) fn of(sets: Option<&LinuxCapabilities>) -> Self {
        let Some(sets) = sets else { return Self::default() };
        Self {
            bounding: mask(sets.bounding().as_ref()),
            effective: mask(sets.effective().as_ref()),
            inheritable: mask(sets.inheritable().as_ref()),
            permitted: mask(sets.permitted().as_ref()),
            ambient: mask(sets.ambient().as_ref()),
        }
    }

    /// The part of the sets that can be given, never more than was asked for; with a warning for each of the rest.
    pub(super) fn granted(
        &self,
        privilege: &Privilege,
        in_user_namespace: bool,
        asm: &mut Assembler,
    ) -> Self {
        let available = privilege.available(in_user_namespace);
        let bounding = privilege.bounding(in_user_namespace);
        let missing = (self.effective | self.permitted | self.inheritable | self.ambient) & !available
            | self.bounding & !bounding;
        for number in (0..u64::BITS).filter(|number| missing & (1 << number) != 0) {
            asm.warn(Warning::CapabilityNotGranted { capability: name(number) });
        }
        Self {
            bounding: self.bounding & bounding,
            effective: self.effective & available,
            inheritable: self.inheritable & available,
            permitted: self.permitted & available,
            ambient: self.ambient & available,
        }
    }

    /// Shrinks the bounding set; while the process still may.
    pub(super) fn bound(&self, asm: &mut Assembler, last: u32) {
        for number in 0..=last {
            if self.bounding & (1 << number) == 0 {
                let args = [libc::PR_CAPBSET_DROP.into(), number.into()];
                asm.call(
                    "prctl",
                    libc::SYS_prctl,
                    &args,
                    format!("drop {} from the bounding set", name(number)),
                );
            }
        }
    }

    /// Keeps the permitted set over the change of ids, for `apply`.
    pub(super) fn keep(asm: &mut Assembler) {
        let args = [libc::PR_SET_KEEPCAPS.into(), 1.into()];
        asm.call("prctl", libc::SYS_prctl, &args, "keep capabilities over the change of ids");
    }

    /// Whether CAP_SYS_ADMIN is among what the process has.
    pub(super) fn may_administer(&self) -> bool {
        self.permitted & self.effective & SYS_ADMIN != 0
    }

    /// The same with CAP_SYS_ADMIN.
    pub(super) fn with_administration(&self) -> Self {
        Self { effective: self.effective | SYS_ADMIN, permitted: self.permitted | SYS_ADMIN, ..*self }
    }

    /// Sets the sets that `capset(2)` knows.
    pub(super) fn apply(&self, asm: &mut Assembler) {
        let mut header = VERSION_3.to_ne_bytes().to_vec();
        header.extend([0; 4]);
        let header = asm.bytes(&header);
        let mut data = Vec::new();
        for shift in [0, 32] {
            for set in [self.effective, self.permitted, self.inheritable] {
                let half = u32::try_from((set >> shift) & u64::from(u32::MAX)).unwrap_or(0);
                data.extend(half.to_ne_bytes());
            }
        }
        let data = asm.bytes(&data);
        asm.call(
            "capset",
            libc::SYS_capset,
            &[header.into(), data.into()],
            "the capabilities of the process",
        );
    }

    /// Sets the ambient set.
    pub(super) fn raise_ambient(&self, asm: &mut Assembler, last: u32) {
        let args = [libc::PR_CAP_AMBIENT.into(), libc::PR_CAP_AMBIENT_CLEAR_ALL.into()];
        asm.call("prctl", libc::SYS_prctl, &args, "clear the ambient set");
        // What is ambient must be permitted and inheritable; the rest of the set is without effect, as in runc.
        for number in 0..=last {
            if self.ambient & self.permitted & self.inheritable & (1 << number) != 0 {
                let args = [libc::PR_CAP_AMBIENT.into(), libc::PR_CAP_AMBIENT_RAISE.into(), number.into()];
                asm.call("prctl", libc::SYS_prctl, &args, format!("add {} to the ambient set", name(number)));
            } else if self.ambient & (1 << number) != 0 {
                asm.warn(Warning::AmbientNotRaised { capability: name(number) });
            }
        }
    }
}

fn mask(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().fold(0, |mask, capability| mask | 1 << number(*capability))
}

/// The name of a capability by its number.
pub(super) fn name(number: u32) -> String {
    NUMBERS
        .iter()
        .find(|(_, known)| *known == number)
        .map_or_else(|| format!("capability {number}"), |(capability, _)| format!("CAP_{capability}"))
}

/// The names of all capabilities.
pub(crate) fn all_names() -> Vec<String> {
    NUMBERS.iter().map(|(_, number)| name(*number)).collect()
}

/// The capabilities of a mask.
pub(crate) fn of_mask(mask: u64) -> Capabilities {
    NUMBERS
        .iter()
        .filter(|(_, number)| mask & (1 << number) != 0)
        .map(|(capability, _)| *capability)
        .collect()
}

fn number(capability: Capability) -> u32 {
    NUMBERS.iter().find(|(known, _)| *known == capability).map_or(0, |(_, number)| *number)
}

/// The numbers of `linux/capability.h`.
const NUMBERS: [(Capability, u32); 41] = [
    (Capability::Chown, 0),
    (Capability::DacOverride, 1),
    (Capability::DacReadSearch, 2),
    (Capability::Fowner, 3),
    (Capability::Fsetid, 4),
    (Capability::Kill, 5),
    (Capability::Setgid, 6),
    (Capability::Setuid, 7),
    (Capability::Setpcap, 8),
    (Capability::LinuxImmutable, 9),
    (Capability::NetBindService, 10),
    (Capability::NetBroadcast, 11),
    (Capability::NetAdmin, 12),
    (Capability::NetRaw, 13),
    (Capability::IpcLock, 14),
    (Capability::IpcOwner, 15),
    (Capability::SysModule, 16),
    (Capability::SysRawio, 17),
    (Capability::SysChroot, 18),
    (Capability::SysPtrace, 19),
    (Capability::SysPacct, 20),
    (Capability::SysAdmin, 21),
    (Capability::SysBoot, 22),
    (Capability::SysNice, 23),
    (Capability::SysResource, 24),
    (Capability::SysTime, 25),
    (Capability::SysTtyConfig, 26),
    (Capability::Mknod, 27),
    (Capability::Lease, 28),
    (Capability::AuditWrite, 29),
    (Capability::AuditControl, 30),
    (Capability::Setfcap, 31),
    (Capability::MacOverride, 32),
    (Capability::MacAdmin, 33),
    (Capability::Syslog, 34),
    (Capability::WakeAlarm, 35),
    (Capability::BlockSuspend, 36),
    (Capability::AuditRead, 37),
    (Capability::Perfmon, 38),
    (Capability::Bpf, 39),
    (Capability::CheckpointRestore, 40),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        for (index, (_, number)) in NUMBERS.iter().enumerate() {
            assert_eq!(index, *number as usize);
        }
        assert_eq!(name(21), "CAP_SYS_ADMIN");
        assert_eq!(name(60), "capability 60");
    }

    #[test]
    fn what_is_granted_is_asked_for_and_there() {
        let privilege =
            Privilege { euid: 0, egid: 0, capabilities: 0b0110, bounding: 0b1010, last_capability: 3 };
        let asked = Sets {
            bounding: 0b0011,
            effective: 0b0011,
            inheritable: 0b0100,
            permitted: 0b0111,
            ambient: 0b1000,
        };
        let mut asm = Assembler::new();
        let granted = asked.granted(&privilege, false, &mut asm);
        let wanted =
            Sets { bounding: 0b0010, effective: 0b0010, inheritable: 0b0100, permitted: 0b0110, ambient: 0 };
        assert_eq!(granted, wanted);
        let plan = asm.finish().unwrap();
        let lacking = [0, 3].map(|number| Warning::CapabilityNotGranted { capability: name(number) });
        assert_eq!(plan.warnings, lacking);
        let mut asm = Assembler::new();
        assert_eq!(asked.granted(&privilege, true, &mut asm), asked);
    }
}
