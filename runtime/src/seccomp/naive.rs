//! What a profile means, straight from its entries, and tests that the compiler's programs mean the same.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator as Op, LinuxSyscall, LinuxSyscallBuilder,
};
use proptest::prelude::*;

use super::abi::{Abi, X32_BIT};
use super::compile::{ENOSYS, KILL_PROCESS, action, compile};
use super::interpret::{Call, run};

fn holds(arg: &LinuxSeccompArg, call: &Call) -> bool {
    let (have, value) = (call.args[arg.index()], arg.value());
    match arg.op() {
        Op::ScmpCmpEq => have == value,
        Op::ScmpCmpNe => have != value,
        Op::ScmpCmpLt => have < value,
        Op::ScmpCmpLe => have <= value,
        Op::ScmpCmpGt => have > value,
        Op::ScmpCmpGe => have >= value,
        Op::ScmpCmpMaskedEq => have & value == arg.value_two().unwrap_or(0),
    }
}

fn matches(entry: &LinuxSyscall, call: &Call) -> bool {
    let args = entry.args().clone().unwrap_or_default();
    let twice = (0..6).any(|index| args.iter().filter(|arg| arg.index() == index).count() > 1);
    if twice { args.iter().any(|arg| holds(arg, call)) } else { args.iter().all(|arg| holds(arg, call)) }
}

/// The verdict by the words of the module's page.
fn verdict(profile: &LinuxSeccomp, call: &Call) -> u32 {
    let mut abis: Vec<Abi> =
        profile.architectures().iter().flatten().filter_map(|arch| Abi::of(*arch)).collect();
    abis.push(Abi::NATIVE);
    // Numbers with bit 31 are no calls of any ABI; libseccomp too takes them for the upper one.
    let x32 = call.arch == Abi::X86_64.audit() && call.number >= X32_BIT;
    let Some(abi) = abis.iter().find(|abi| abi.audit() == call.arch && (**abi == Abi::X32) == x32) else {
        return KILL_PROCESS;
    };
    let default = action(profile.default_action(), profile.default_errno_ret(), "").unwrap();
    let entries = profile.syscalls().clone().unwrap_or_default();
    let value = |entry: &LinuxSyscall| action(entry.action(), entry.errno_ret(), "").unwrap();
    let named =
        |entry: &&LinuxSyscall| entry.names().iter().any(|name| abi.number(name) == Some(call.number));
    let deciding = |entry: &&LinuxSyscall| named(entry) && value(entry) != default;
    let plain = entries.iter().filter(deciding).find(|entry| entry.args().as_ref().is_none_or(Vec::is_empty));
    if let Some(entry) = plain.or_else(|| entries.iter().filter(deciding).find(|entry| matches(entry, call)))
    {
        return value(entry);
    }
    let numbers = entries.iter().flat_map(LinuxSyscall::names).filter_map(|name| abi.number(name));
    let denies =
        !matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
    let above = numbers.max().is_some_and(|highest| call.number > highest);
    if denies && profile.default_errno_ret() != Some(38) && above { ENOSYS } else { default }
}

/// Calls with arguments, without any, of the socket family (which x86 multiplexes) left out: those have a test.
const NAMES: [&str; 12] = [
    "read",
    "write",
    "openat",
    "clone",
    "personality",
    "mount",
    "ptrace",
    "fork",
    "stat64",
    "execve",
    "mseal",
    "no_such_call",
];

fn op() -> impl Strategy<Value = Op> {
    prop::sample::select(vec![
        Op::ScmpCmpNe,
        Op::ScmpCmpLt,
        Op::ScmpCmpLe,
        Op::ScmpCmpEq,
        Op::ScmpCmpGe,
        Op::ScmpCmpGt,
        Op::ScmpCmpMaskedEq,
    ])
}

/// Few values, close together and in both halves, so that comparisons meet their edges.
fn value() -> impl Strategy<Value = u64> {
    (0u64..3, 0u64..4, any::<bool>())
        .prop_map(|(high, low, top)| (high << 32) | if top { 0xffff_fffc + low } else { low })
}

fn arg() -> impl Strategy<Value = LinuxSeccompArg> {
    (0usize..6, op(), value(), value()).prop_map(|(index, op, value, second)| {
        LinuxSeccompArgBuilder::default().index(index).op(op).value(value).value_two(second).build().unwrap()
    })
}

fn act() -> impl Strategy<Value = (Action, Option<u32>)> {
    prop::sample::select(vec![
        (Action::ScmpActAllow, None),
        (Action::ScmpActErrno, None),
        (Action::ScmpActErrno, Some(38)),
        (Action::ScmpActErrno, Some(13)),
        (Action::ScmpActKillProcess, None),
        (Action::ScmpActKill, None),
        (Action::ScmpActTrap, None),
        (Action::ScmpActTrace, Some(7)),
        (Action::ScmpActLog, None),
    ])
}

fn entry() -> impl Strategy<Value = LinuxSyscall> {
    let names = prop::collection::vec(prop::sample::select(NAMES.to_vec()), 1..4);
    (names, act(), prop::collection::vec(arg(), 0..4)).prop_map(|(names, (action, errno), args)| {
        let names = names.into_iter().map(str::to_owned).collect::<Vec<_>>();
        let mut entry = LinuxSyscallBuilder::default().names(names).action(action);
        if let Some(errno) = errno {
            entry = entry.errno_ret(errno);
        }
        if !args.is_empty() {
            entry = entry.args(args);
        }
        entry.build().unwrap()
    })
}

fn profile() -> impl Strategy<Value = LinuxSeccomp> {
    let arches = vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32, Arch::ScmpArchMips];
    (act(), prop::sample::subsequence(arches, 0..=4), prop::collection::vec(entry(), 0..12)).prop_map(
        |((action, errno), arches, entries)| {
            let mut profile = LinuxSeccomp::default();
            profile
                .set_default_action(action)
                .set_default_errno_ret(errno)
                .set_architectures(Some(arches))
                .set_syscalls(Some(entries));
            profile
        },
    )
}

fn call() -> impl Strategy<Value = Call> {
    let abis = vec![Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64];
    let number = prop_oneof![
        3 => (prop::sample::select(abis.clone()), prop::sample::select(NAMES.to_vec()))
            .prop_map(|(abi, name)| abi.number(name).unwrap_or(9999) | abi.base()),
        1 => 0u32..1000,
        1 => any::<u32>(),
    ];
    (number, prop::sample::select(abis), prop::array::uniform6(value()))
        .prop_map(|(number, abi, args)| Call { number, arch: abi.audit(), args })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn programs_mean_what_profiles_say(
        profile in profile(),
        calls in prop::collection::vec(call(), 40),
    ) {
        let program = compile(&profile).unwrap().program;
        for call in calls {
            prop_assert_eq!(run(&program, &call), verdict(&profile, &call), "{:?}", call);
        }
    }
}

#[test]
fn dockers_profile_is_compiled_right_and_short() {
    let profile = super::default_profile(&[]);
    let program = compile(&profile).unwrap().program;
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        for number in (0..600).map(|number| number | abi.base()) {
            for first in [0, 2, 8, 12, 16, 38, 40, 41, 131_072, 0xffff_ffff, 0x7e02_0000, 0x1_0000_0000] {
                let call = Call { number, arch: abi.audit(), args: [first, 0, 0, 0, 0, 0] };
                // On x86 the profile lets all of socketcall and ipc through, so multiplexing changes nothing.
                assert_eq!(run(&program, &call), verdict(&profile, &call), "{abi:?} {number} {first:#x}");
            }
        }
    }
    // libseccomp 2.5.4 makes 1144 of the same profile's predecessor.
    assert!(program.len() < 1144 / 2, "{} instructions", program.len());
}

#[test]
fn a_call_denied_by_name_is_denied_through_its_multiplexer() {
    let entry = LinuxSyscallBuilder::default().names(["accept4".to_owned()]).action(Action::ScmpActErrno);
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(Action::ScmpActAllow)
        .set_architectures(Some(vec![Arch::ScmpArchX86]))
        .set_syscalls(Some(vec![entry.build().unwrap()]));
    let program = compile(&profile).unwrap().program;
    let call =
        |number, first| run(&program, &Call { number, arch: Abi::X86.audit(), args: [first, 0, 0, 0, 0, 0] });
    let number = Abi::X86.number("socketcall").unwrap();
    assert_eq!(call(number, 18), 0x0005_0001);
    assert_eq!(call(number, 1), 0x7fff_0000);
    assert_eq!(call(Abi::X86.number("accept4").unwrap(), 0), 0x0005_0001);
}

#[test]
fn contradictions_are_refused() {
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(Action::ScmpActNotify);
    assert!(compile(&profile).is_err());
    profile.set_default_action(Action::ScmpActErrno).set_default_errno_ret(Some(5000));
    assert!(compile(&profile).is_err());
    profile.set_default_errno_ret(None);
    let bad = LinuxSeccompArgBuilder::default().index(6usize).build().unwrap();
    let entry = || LinuxSyscallBuilder::default().names(["read".to_owned()]).action(Action::ScmpActAllow);
    profile.set_syscalls(Some(vec![entry().args([bad]).build().unwrap()]));
    assert!(compile(&profile).is_err());
    profile.set_syscalls(Some(vec![entry().action(Action::ScmpActNotify).build().unwrap()]));
    assert!(compile(&profile).is_err(), "a listener path is missing");
}
