//! From a profile to rules, and from rules to ranges of numbers with one verdict.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use super::abi::Abi;
use super::bpf::{Filter, MAX_LEN};
use super::emit;
use crate::Error;

/// `SECCOMP_RET_ERRNO` with ENOSYS.
pub(super) const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;
/// `SECCOMP_RET_KILL_PROCESS`.
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRAP: u32 = 0x0003_0000;
const RET_KILL_THREAD: u32 = 0;

/// `SECCOMP_FILTER_FLAG_*` of `seccomp(2)`.
const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
pub(crate) const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_TSYNC_ESRCH: u32 = 1 << 4;
const FLAG_WAIT_KILLABLE: u32 = 1 << 5;

/// One comparison of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) index: u32,
    pub(super) op: LinuxSeccompOperator,
    pub(super) value: u64,
    pub(super) second: u64,
}

/// What to do when all comparisons hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) all: Vec<Comparison>,
    pub(super) verdict: u32,
}

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Always this.
    Always(u32),
    /// The first rule that holds, else the default.
    First(Vec<Rule>),
}

/// What becomes of the calls of one ABI: ranges that begin where they say and end before the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) abi: Abi,
    pub(super) ranges: Vec<(u32, Verdict)>,
}

/// Compiles a profile.
pub(super) fn compile(profile: &LinuxSeccomp) -> Result<Filter, Error> {
    let default =
        action(profile.default_action(), profile.default_errno_ret(), "linux.seccomp.defaultAction")?;
    if default == RET_USER_NOTIF {
        return Err(Error::spec(
            "linux.seccomp.defaultAction",
            "SCMP_ACT_NOTIFY cannot be the default action",
        ));
    }
    let mut sections = Vec::new();
    for abi in abis(profile) {
        sections.push(section(profile, abi, default)?);
    }
    let program = emit::program(&sections, default);
    if program.len() > MAX_LEN {
        return Err(Error::unsupported(format!(
            "a seccomp profile this large: {} instructions, and the kernel takes {MAX_LEN}",
            program.len()
        )));
    }
    Ok(Filter { program, flags: flags(profile)? })
}

/// The ABIs a profile is for: the native one always.
fn abis(profile: &LinuxSeccomp) -> Vec<Abi> {
    let mut abis = vec![Abi::NATIVE];
    abis.extend(profile.architectures().iter().flatten().filter_map(|arch| Abi::of(*arch)));
    abis.sort_unstable();
    abis.dedup();
    abis
}

fn flags(profile: &LinuxSeccomp) -> Result<u32, Error> {
    // Without a word about flags runc leaves speculation alone, which the kernel's own default stopped restricting
    // for filters in 5.16.
    let mut flags = if profile.flags().is_none() { FLAG_SPEC_ALLOW } else { 0 };
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => FLAG_WAIT_KILLABLE,
        };
    }
    let entries = profile.syscalls().iter().flatten();
    let mut notifying =
        entries.filter(|entry| entry.action() == LinuxSeccompAction::ScmpActNotify).peekable();
    if notifying.peek().is_some() {
        if profile.listener_path().is_none() {
            return Err(Error::spec("linux.seccomp.listenerPath", "missing, with an action SCMP_ACT_NOTIFY"));
        }
        // The helper hands the listener over with these; were they to wait for the listener, nobody would have it.
        let hands_over = |name: &&String| matches!(name.as_str(), "write" | "sendmsg");
        if let Some(name) = notifying.flat_map(|entry| entry.names()).find(hands_over) {
            return Err(Error::spec(
                "linux.seccomp.syscalls",
                format!(
                    "SCMP_ACT_NOTIFY cannot be used for the {name} syscall, which hands the listener over"
                ),
            ));
        }
        flags |= FLAG_NEW_LISTENER;
        if flags & FLAG_TSYNC != 0 {
            flags |= FLAG_TSYNC_ESRCH;
        }
    } else if profile.listener_path().is_some() {
        tracing::warn!("linux.seccomp.listenerPath is given without an action SCMP_ACT_NOTIFY, and not used");
    } else if flags & FLAG_WAIT_KILLABLE != 0 {
        // The kernel takes it only together with a listener.
        flags &= !FLAG_WAIT_KILLABLE;
    }
    Ok(flags)
}

/// The value that a program returns for an action.
pub(super) fn action(action: LinuxSeccompAction, data: Option<u32>, field: &str) -> Result<u32, Error> {
    use LinuxSeccompAction as A;
    let base = match action {
        A::ScmpActKill | A::ScmpActKillThread => RET_KILL_THREAD,
        A::ScmpActKillProcess => KILL_PROCESS,
        A::ScmpActTrap => RET_TRAP,
        A::ScmpActErrno => RET_ERRNO,
        A::ScmpActTrace => RET_TRACE,
        A::ScmpActNotify => RET_USER_NOTIF,
        A::ScmpActLog => RET_LOG,
        A::ScmpActAllow => RET_ALLOW,
    };
    let with_data = matches!(action, A::ScmpActErrno | A::ScmpActTrace);
    match data {
        Some(_) if !with_data => {
            Err(Error::spec(field, "an errnoRet goes with SCMP_ACT_ERRNO and SCMP_ACT_TRACE alone"))
        }
        // The kernel's own bounds: MAX_ERRNO, and 16 bits of data.
        Some(data) if data > if base == RET_ERRNO { 4095 } else { 0xffff } => {
            Err(Error::spec(field, format!("errnoRet {data} is too large")))
        }
        Some(data) => Ok(base | data),
        None if with_data => Ok(base | libc::EPERM.cast_unsigned()),
        None => Ok(base),
    }
}

/// Whether a default action lets calls through.
fn allows(verdict: u32) -> bool {
    matches!(verdict & 0xffff_0000, RET_ALLOW | RET_LOG | RET_TRACE)
}

fn section(profile: &LinuxSeccomp, abi: Abi, default: u32) -> Result<Section, Error> {
    let mut calls: BTreeMap<u32, Verdict> = BTreeMap::new();
    let mut highest = None;
    for (index, entry) in profile.syscalls().iter().flatten().enumerate() {
        let field = format!("linux.seccomp.syscalls[{index}]");
        let verdict = action(entry.action(), entry.errno_ret(), &field)?;
        let args = entry.args().as_deref().unwrap_or_default();
        let rules = rules(args, verdict, &field)?;
        for name in entry.names() {
            let number = abi.number(name);
            highest = highest.max(number);
            if verdict == default {
                continue;
            }
            if let Some(number) = number {
                add(&mut calls, number, &rules);
            }
            if let (Some((call, selector)), true) = (abi.multiplexed(name), args.is_empty())
                && let Some(number) = abi.number(call)
            {
                let all = vec![Comparison {
                    index: 0,
                    op: LinuxSeccompOperator::ScmpCmpEq,
                    value: selector,
                    second: 0,
                }];
                add(&mut calls, number, &[Rule { all, verdict }]);
            }
        }
    }
    let mut ranges = vec![(abi.base(), Verdict::Always(default))];
    for (number, verdict) in calls {
        push(&mut ranges, number, verdict);
        push(&mut ranges, number + 1, Verdict::Always(default));
    }
    let own_words = profile.default_errno_ret() == Some(libc::ENOSYS.cast_unsigned());
    if let (Some(highest), false) = (highest, allows(default) || own_words) {
        push(&mut ranges, highest + 1, Verdict::Always(ENOSYS));
    }
    Ok(Section { abi, ranges })
}

fn add(calls: &mut BTreeMap<u32, Verdict>, number: u32, rules: &[Rule]) {
    let always = match rules {
        [Rule { all, verdict }] if all.is_empty() => Some(*verdict),
        _ => None,
    };
    match (always, calls.get_mut(&number)) {
        (_, Some(Verdict::Always(_))) => {}
        (Some(verdict), _) => {
            calls.insert(number, Verdict::Always(verdict));
        }
        (None, Some(Verdict::First(list))) => list.extend(rules.iter().cloned()),
        (None, None) => {
            calls.insert(number, Verdict::First(rules.to_vec()));
        }
    }
}

fn push(ranges: &mut Vec<(u32, Verdict)>, start: u32, verdict: Verdict) {
    if ranges.last().is_some_and(|(last, _)| *last == start) {
        ranges.pop();
    }
    if ranges.last().is_none_or(|(_, last)| *last != verdict) {
        ranges.push((start, verdict));
    }
}

/// The rules of an entry; without arguments, one that always holds.
fn rules(args: &[LinuxSeccompArg], verdict: u32, field: &str) -> Result<Vec<Rule>, Error> {
    let mut comparisons = Vec::with_capacity(args.len());
    for arg in args {
        let index = u32::try_from(arg.index()).ok().filter(|index| *index < 6);
        let index = index.ok_or_else(|| {
            Error::spec(format!("{field}.args"), format!("there is no argument {}", arg.index()))
        })?;
        let second = arg.value_two().unwrap_or(0);
        comparisons.push(Comparison { index, op: arg.op(), value: arg.value(), second });
    }
    let twice = comparisons
        .iter()
        .enumerate()
        .any(|(at, one)| comparisons.iter().skip(at + 1).any(|other| other.index == one.index));
    Ok(if twice {
        comparisons.into_iter().map(|one| Rule { all: vec![one], verdict }).collect()
    } else {
        vec![Rule { all: comparisons, verdict }]
    })
}
