//! How the kernel schedules a process: processors, policy, I/O priority, memory policy, and the personality.

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonality, LinuxPersonalityDomain,
    LinuxSchedulerFlag, LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Scheduler,
};

use super::assemble::Assembler;
use crate::{Error, Phase};

/// The largest number of processors and memory nodes that lists may name.
const MAX_LISTED: usize = 8192;

/// Reads a list as `0-3,7`: the bits of a mask, as the kernel takes them.
pub(super) fn mask(list: &str, field: &str) -> Result<Vec<u8>, Error> {
    let wrong = || Error::spec(field, format!("{list:?} is not a list such as 0-3,7"));
    let mut bits = vec![0u8; MAX_LISTED / 8];
    let mut highest = 0;
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number < MAX_LISTED);
        let (from, to) = (number(from).ok_or_else(wrong)?, number(to).ok_or_else(wrong)?);
        if from > to {
            return Err(wrong());
        }
        for bit in from..=to {
            if let Some(byte) = bits.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
        highest = highest.max(to + 1);
    }
    if highest == 0 {
        return Err(wrong());
    }
    bits.truncate(highest.div_ceil(64) * 8);
    Ok(bits)
}

/// Binds the process to processors.
pub(super) fn affinity(asm: &mut Assembler, list: &str, field: &str) -> Result<(), Error> {
    let bits = mask(list, field)?;
    let shown: String =
        bits.iter().rev().skip_while(|byte| **byte == 0).map(|byte| format!("{byte:02x}")).collect();
    tracing::debug!("affinity: 0x{} ({field})", shown.trim_start_matches('0'));
    let length = u32::try_from(bits.len()).unwrap_or(0);
    let at = asm.bytes(&bits);
    let args = [0.into(), length.into(), at.into()];
    asm.call("sched_setaffinity", libc::SYS_sched_setaffinity, &args, format!("processors {list}"));
    Ok(())
}

/// Takes back what binds this process to processors: the cgroup's are left, not those of whoever runs us.
pub(super) fn any_processor(asm: &mut Assembler) {
    let at = asm.bytes(&[0xff; MAX_LISTED / 8]);
    let length = u32::try_from(MAX_LISTED / 8).unwrap_or(0);
    // Best effort: it only ever widens.
    let args = [0.into(), length.into(), at.into()];
    asm.call("sched_setaffinity", libc::SYS_sched_setaffinity, &args, "all processors of the cgroup")
        .ignore();
}

/// Sets the scheduling policy.
pub(super) fn scheduler(asm: &mut Assembler, scheduler: &Scheduler) -> Result<(), Error> {
    asm.phase(Phase::Process);
    let field = "process.scheduler";
    let policy: u32 = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let mut flags = 0u64;
    for flag in scheduler.flags().iter().flatten() {
        flags |= match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        };
    }
    let deadline = [scheduler.runtime(), scheduler.deadline(), scheduler.period()];
    if policy != 6 && deadline.iter().any(|value| value.is_some_and(|value| value != 0)) {
        return Err(Error::spec(field, "runtime, deadline and period go with SCHED_DEADLINE alone"));
    }
    let priority = scheduler.priority().unwrap_or(0);
    if !matches!(policy, 1 | 2) && priority != 0 {
        return Err(Error::spec(field, "a priority goes with SCHED_FIFO and SCHED_RR alone"));
    }
    let nice = scheduler.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        return Err(Error::spec(field, format!("nice {nice} is not between -20 and 19")));
    }
    let priority = u32::try_from(priority).map_err(|_| Error::spec(field, "a priority below zero"))?;
    // `struct sched_attr` of sched_setattr(2), in its first form.
    const LENGTH: u32 = 48;
    let mut attributes = Vec::new();
    attributes.extend(LENGTH.to_ne_bytes());
    attributes.extend(policy.to_ne_bytes());
    attributes.extend(flags.to_ne_bytes());
    attributes.extend(nice.to_ne_bytes());
    attributes.extend(priority.to_ne_bytes());
    attributes.extend(deadline.iter().flat_map(|value| value.unwrap_or(0).to_ne_bytes()));
    let at = asm.bytes(&attributes);
    let args = [0.into(), at.into(), 0.into()];
    asm.call("sched_setattr", libc::SYS_sched_setattr, &args, format!("{:?}", scheduler.policy()));
    Ok(())
}

/// Sets the I/O priority.
pub(super) fn io_priority(asm: &mut Assembler, priority: &LinuxIOPriority) -> Result<(), Error> {
    asm.phase(Phase::Process);
    let class: u32 = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u32::try_from(priority.priority())
        .ok()
        .filter(|level| *level <= 7)
        .ok_or_else(|| Error::spec("process.ioPriority", "the priority is not between 0 and 7"))?;
    // IOPRIO_WHO_PROCESS, this process.
    let args = [1.into(), 0.into(), ((class << 13) | level).into()];
    asm.call("ioprio_set", libc::SYS_ioprio_set, &args, format!("class {class}, priority {level}"));
    Ok(())
}

/// Sets the personality: which kernel the process believes to run on.
pub(super) fn personality(asm: &mut Assembler, personality: &LinuxPersonality) -> Result<(), Error> {
    asm.phase(Phase::Process);
    if personality.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        return Err(Error::spec("linux.personality.flags", "runtime-spec knows none"));
    }
    let domain: u32 = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    asm.call("personality", libc::SYS_personality, &[domain.into()], format!("{:?}", personality.domain()));
    Ok(())
}

/// Sets the memory policy.
pub(super) fn memory_policy(asm: &mut Assembler, policy: &LinuxMemoryPolicy) -> Result<(), Error> {
    asm.phase(Phase::Process);
    use MemoryPolicyModeType as Mode;
    let mode: u32 = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flags = policy.flags().iter().flatten().fold(0u32, |flags, flag| {
        flags
            | match flag {
                MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
                MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            }
    });
    let nodes = policy.nodes().as_deref().filter(|nodes| !nodes.is_empty());
    let (at, bits) = match nodes {
        Some(nodes) => {
            let bits = mask(nodes, "linux.memoryPolicy.nodes")?;
            // The kernel takes one bit less than it is told.
            let count = u32::try_from(bits.len() * 8 + 1).unwrap_or(0);
            (asm.bytes(&bits).into(), count)
        }
        None if matches!(policy.mode(), Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred) => {
            (0.into(), 0)
        }
        None => return Err(Error::spec("linux.memoryPolicy.nodes", "this mode needs nodes")),
    };
    let args = [(mode | flags).into(), at, bits.into()];
    asm.call("set_mempolicy", libc::SYS_set_mempolicy, &args, format!("{:?}", policy.mode()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_masks() {
        assert_eq!(mask("0-1,3", "x").unwrap(), [0b1011, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(mask("64", "x").unwrap().len(), 16);
        for wrong in ["", "a", "3-1", "99999", "-1"] {
            assert!(mask(wrong, "x").is_err(), "{wrong}");
        }
    }
}
