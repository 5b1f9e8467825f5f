//! Instructions from ranges. Every piece of code made here ends in returns on all its ways, so pieces are put one
//! behind the other and joined by the jump in front of them.

use oci_spec::runtime::LinuxSeccompOperator as Op;

use super::abi::{Abi, X32_BIT};
use super::bpf::{AND, ARCH, Instruction, JA, JEQ, JGE, JGT, LD_ABS, NUMBER, RET, argument, jump, op};
use super::compile::{Comparison, KILL_PROCESS, Rule, Section, Verdict};

/// The whole program.
pub(super) fn program(sections: &[Section], default: u32) -> Vec<Instruction> {
    let code = |abi: Abi| -> Option<Vec<Instruction>> {
        let section = sections.iter().find(|section| section.abi == abi)?;
        Some(tree(&section.ranges, default))
    };
    let mut rest = vec![op(RET, KILL_PROCESS)];
    // The last one tried first stands first: the native one.
    for abi in [Abi::Arm, Abi::X86, Abi::Aarch64, Abi::X86_64] {
        let Some(mut own) = code(abi) else { continue };
        if abi == Abi::X86_64 {
            let x32 = code(Abi::X32).unwrap_or_else(|| vec![op(RET, KILL_PROCESS)]);
            own = branch(JGE, X32_BIT, x32, own);
        }
        own.insert(0, op(LD_ABS, NUMBER));
        rest = branch(JEQ, abi.audit(), own, rest);
    }
    rest.insert(0, op(LD_ABS, ARCH));
    rest
}

/// A balanced search for the range of a number.
fn tree(ranges: &[(u32, Verdict)], default: u32) -> Vec<Instruction> {
    match ranges {
        [] => vec![op(RET, default)],
        [(_, verdict)] => leaf(verdict, default),
        _ if ranges.len() <= CHAIN
            && ranges.iter().all(|(_, verdict)| matches!(verdict, Verdict::Always(_))) =>
        {
            chain(ranges)
        }
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let start = high.first().map_or(0, |(start, _)| *start);
            branch(JGE, start, tree(high, default), tree(low, default))
        }
    }
}

/// The most ranges that are tried one after the other.
const CHAIN: usize = 6;

/// A few ranges with plain verdicts, from the highest down: shorter than a tree, as they share their returns.
fn chain(ranges: &[(u32, Verdict)]) -> Vec<Instruction> {
    let value = |verdict: &Verdict| match verdict {
        Verdict::Always(value) => *value,
        Verdict::First(_) => KILL_PROCESS,
    };
    let mut returns: Vec<u32> = Vec::new();
    for (_, verdict) in ranges {
        if !returns.contains(&value(verdict)) {
            returns.push(value(verdict));
        }
    }
    let mut out = Vec::new();
    for (at, (start, verdict)) in ranges.iter().enumerate().skip(1).rev() {
        let place = returns.iter().position(|known| *known == value(verdict)).unwrap_or(0);
        // Behind this one are `at - 1` comparisons, then the returns.
        out.push(jump(JGE, *start, u8::try_from(at - 1 + place).unwrap_or(u8::MAX), 0));
    }
    out.extend(returns.into_iter().map(|value| op(RET, value)));
    out
}

/// `yes` if the accumulator compares to `k`, else `no`.
fn branch(code: u16, k: u32, yes: Vec<Instruction>, no: Vec<Instruction>) -> Vec<Instruction> {
    let mut out = Vec::with_capacity(yes.len() + no.len() + 2);
    match u8::try_from(no.len()) {
        Ok(distance) => out.push(jump(code, k, distance, 0)),
        Err(_) => {
            out.push(jump(code, k, 0, 1));
            out.push(op(JA, u32::try_from(no.len()).unwrap_or(u32::MAX)));
        }
    }
    out.extend(no);
    out.extend(yes);
    out
}

fn leaf(verdict: &Verdict, default: u32) -> Vec<Instruction> {
    match verdict {
        Verdict::Always(value) => vec![op(RET, *value)],
        Verdict::First(rules) => {
            let mut out = Vec::new();
            let mut rest = rules.as_slice();
            while let Some((first, others)) = rest.split_first() {
                let alike = 1 + others.iter().take(MAX_ALIKE).take_while(|other| alike(first, other)).count();
                let (group, behind) = rest.split_at(alike);
                out.extend(if alike == 1 { rule(first) } else { any_of(group) });
                rest = behind;
            }
            out.push(op(RET, default));
            out
        }
    }
}

/// The most rules that are tried as one: jumps over them have 8 bits.
const MAX_ALIKE: usize = 200;

/// Whether two rules compare the same argument with a value each, and differ in the low half of that alone.
fn alike(one: &Rule, other: &Rule) -> bool {
    match (one.all.as_slice(), other.all.as_slice()) {
        ([a], [b]) => {
            a.op == Op::ScmpCmpEq
                && b.op == Op::ScmpCmpEq
                && a.index == b.index
                && a.value >> 32 == b.value >> 32
                && one.verdict == other.verdict
        }
        _ => false,
    }
}

/// Rules that are alike, with one look at the argument.
fn any_of(rules: &[Rule]) -> Vec<Instruction> {
    let values: Vec<u64> = rules.iter().flat_map(|rule| &rule.all).map(|one| one.value).collect();
    let Some((index, verdict)) = rules.first().and_then(|rule| Some((rule.all.first()?.index, rule.verdict)))
    else {
        return Vec::new();
    };
    let halves = |value: u64| {
        (u32::try_from(value >> 32).unwrap_or(0), u32::try_from(value & 0xffff_ffff).unwrap_or(0))
    };
    let (high, _) = halves(values.first().copied().unwrap_or(0));
    let distance = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
    let mut out = vec![
        op(LD_ABS, argument(index, true)),
        jump(JEQ, high, 0, distance(values.len() + 2)),
        op(LD_ABS, argument(index, false)),
    ];
    for (at, value) in values.iter().enumerate() {
        let left = values.len() - at - 1;
        out.push(jump(JEQ, halves(*value).1, distance(left), u8::from(left == 0)));
    }
    out.push(op(RET, verdict));
    out
}

/// Returns the verdict if all comparisons hold; else goes on behind its own end.
fn rule(rule: &Rule) -> Vec<Instruction> {
    let mut code = vec![op(RET, rule.verdict)];
    for comparison in rule.all.iter().rev() {
        let mut one = compare(*comparison, code.len());
        one.append(&mut code);
        code = one;
    }
    code
}

/// Where a jump of `compare` leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// The next instruction.
    Next,
    /// The comparison holds.
    Holds,
    /// It does not.
    Fails,
}

/// Falls through if the comparison holds; else jumps over the `behind` instructions that follow.
fn compare(comparison: Comparison, behind: usize) -> Vec<Instruction> {
    use Goal::{Fails, Holds, Next};
    let (value, index) = (comparison.value, comparison.index);
    let halves = |value: u64| {
        let low = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
        (u32::try_from(value >> 32).unwrap_or(0), low)
    };
    let (high, low) = halves(value);
    let (load_high, load_low) = (op(LD_ABS, argument(index, true)), op(LD_ABS, argument(index, false)));
    let plain = |instruction| (instruction, Next, Next);
    let test = |code, k, yes, no| (jump(code, k, 0, 0), yes, no);
    let steps = match comparison.op {
        Op::ScmpCmpEq => {
            vec![
                plain(load_high),
                test(JEQ, high, Next, Fails),
                plain(load_low),
                test(JEQ, low, Holds, Fails),
            ]
        }
        Op::ScmpCmpNe => {
            vec![
                plain(load_high),
                test(JEQ, high, Next, Holds),
                plain(load_low),
                test(JEQ, low, Fails, Holds),
            ]
        }
        Op::ScmpCmpMaskedEq => {
            let (want_high, want_low) = halves(comparison.second);
            vec![
                plain(load_high),
                plain(op(AND, high)),
                test(JEQ, want_high, Next, Fails),
                plain(load_low),
                plain(op(AND, low)),
                test(JEQ, want_low, Holds, Fails),
            ]
        }
        // The high halves decide unless they are equal.
        Op::ScmpCmpGt | Op::ScmpCmpGe => vec![
            plain(load_high),
            test(JGT, high, Holds, Next),
            test(JEQ, high, Next, Fails),
            plain(load_low),
            test(if comparison.op == Op::ScmpCmpGt { JGT } else { JGE }, low, Holds, Fails),
        ],
        // Less is not greater or equal, and the other way round.
        Op::ScmpCmpLt | Op::ScmpCmpLe => vec![
            plain(load_high),
            test(JGT, high, Fails, Next),
            test(JEQ, high, Next, Holds),
            plain(load_low),
            test(if comparison.op == Op::ScmpCmpLt { JGE } else { JGT }, low, Fails, Holds),
        ],
    };
    let count = steps.len();
    let distance = |at: usize, goal: Goal| {
        let steps = match goal {
            Next => 0,
            Holds => count - at - 1,
            // At most six comparisons of six instructions stand in a rule: it fits.
            Fails => count - at - 1 + behind,
        };
        u8::try_from(steps).unwrap_or(u8::MAX)
    };
    let place = |(at, (mut instruction, yes, no)): (usize, (Instruction, Goal, Goal))| {
        instruction.jt = distance(at, yes);
        instruction.jf = distance(at, no);
        instruction
    };
    steps.into_iter().enumerate().map(place).collect()
}
