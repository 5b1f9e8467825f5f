//! The device rules of version 2: a small eBPF program on the group (`BPF_PROG_TYPE_CGROUP_DEVICE`).
//!
//! The last rule that matches decides, so the program tries them from the last to the first. An allowing rule matches
//! when it covers all that is asked for, a denying one when it covers any of it.

use std::path::Path;

use super::devices::{READ, Rule, WRITE};
use crate::sys;

/// `struct bpf_insn`: opcode, registers, offset, immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Insn(u8, u8, i16, i32);

/// Opcodes of `linux/bpf.h` that are used.
const LOAD_WORD: u8 = 0x61;
const AND_IMMEDIATE: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE_IMMEDIATE: u8 = 0xb4;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const JUMP_EQUAL: u8 = 0x15;
const EXIT: u8 = 0x95;

/// Registers: the context comes in 1, where scratch values go later; 2 to 5 hold type, access, major and minor.
const SCRATCH: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// All that can be asked for.
const ALL: u32 = super::devices::MKNOD | READ | WRITE;

fn program(rules: &[Rule]) -> Vec<Insn> {
    let load = |register: u8, offset: i16| Insn(LOAD_WORD, register | (SCRATCH << 4), offset, 0);
    let mut code = vec![
        load(TYPE, 0),
        Insn(AND_IMMEDIATE, TYPE, 0, 0xffff),
        load(ACCESS, 0),
        Insn(SHIFT_RIGHT, ACCESS, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        code.extend(one(*rule));
        if rule.kind == 'a' && rule.access == ALL {
            // It decides everything that comes this far.
            return code;
        }
    }
    code.extend([Insn(MOVE_IMMEDIATE, 0, 0, 0), Insn(EXIT, 0, 0, 0)]);
    code
}

fn one(rule: Rule) -> Vec<Insn> {
    let number = |value: u32| i32::from_ne_bytes(value.to_ne_bytes());
    let mut code = Vec::new();
    match rule.kind {
        'b' => code.push(Insn(JUMP_NOT_EQUAL, TYPE, 0, 1)),
        'c' => code.push(Insn(JUMP_NOT_EQUAL, TYPE, 0, 2)),
        _ => {}
    }
    if rule.access != ALL {
        code.push(Insn(MOVE_REGISTER, SCRATCH | (ACCESS << 4), 0, 0));
        code.push(Insn(AND_IMMEDIATE, SCRATCH, 0, number(rule.access)));
        code.push(if rule.allow {
            Insn(JUMP_NOT_EQUAL_REGISTER, SCRATCH | (ACCESS << 4), 0, 0)
        } else {
            Insn(JUMP_EQUAL, SCRATCH, 0, 0)
        });
    }
    for (register, wanted) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(wanted) = wanted {
            code.push(Insn(JUMP_NOT_EQUAL, register, 0, number(wanted)));
        }
    }
    code.extend([Insn(MOVE_IMMEDIATE, 0, 0, i32::from(rule.allow)), Insn(EXIT, 0, 0, 0)]);
    let count = code.len();
    for (at, insn) in code.iter_mut().enumerate() {
        if matches!(insn.0, JUMP_NOT_EQUAL | JUMP_NOT_EQUAL_REGISTER | JUMP_EQUAL) {
            // Rules have at most nine instructions.
            insn.2 = i16::try_from(count - at - 1).unwrap_or(0);
        }
    }
    code
}

/// Loads the program of these rules and attaches it to the group. It goes with the group.
pub(super) fn attach(directory: &Path, rules: &[Rule]) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for Insn(code, registers, offset, immediate) in program(rules) {
        bytes.extend([code, registers]);
        bytes.extend(offset.to_ne_bytes());
        bytes.extend(immediate.to_ne_bytes());
    }
    let group = std::fs::File::open(directory)?;
    sys::attach_device_program(&group, &bytes)
}

#[cfg(test)]
mod tests {
    use super::super::devices::{MKNOD, rules};
    use super::*;
    use oci_spec::runtime::{LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxResources};

    /// Runs a program on a request.
    fn run(code: &[Insn], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [(access << 16) | kind, major, minor];
        let mut registers = [0u64; 10];
        let mut at = 0usize;
        loop {
            let Insn(op, both, offset, immediate) = code[at];
            let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
            let value = u64::from(immediate as u32);
            let mut jump = |yes: bool| {
                if yes {
                    at += offset as usize;
                }
            };
            match op {
                LOAD_WORD => registers[to] = u64::from(context[offset as usize / 4]),
                AND_IMMEDIATE => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                MOVE_REGISTER => registers[to] = registers[from],
                MOVE_IMMEDIATE => registers[to] = value,
                JUMP_NOT_EQUAL => jump(registers[to] != value),
                JUMP_NOT_EQUAL_REGISTER => jump(registers[to] != registers[from]),
                JUMP_EQUAL => jump(registers[to] == value),
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            }
            at += 1;
        }
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let rule = |allow, typ, major: Option<i64>, access: &str| {
            let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(typ).access(access);
            if let Some(major) = major {
                rule = rule.major(major).minor(1i64);
            }
            rule.build().unwrap()
        };
        let mut resources = LinuxResources::default();
        resources.set_devices(Some(vec![
            rule(false, LinuxDeviceType::A, None, "rwm"),
            rule(true, LinuxDeviceType::B, Some(8), "rw"),
            rule(false, LinuxDeviceType::B, Some(8), "w"),
        ]));
        let code = program(&rules(&resources).unwrap());
        let (block, char) = (1, 2);
        assert!(run(&code, block, READ, 8, 1) && !run(&code, block, READ | WRITE, 8, 1));
        assert!(!run(&code, block, READ, 8, 2) && run(&code, block, MKNOD, 8, 2));
        assert!(run(&code, char, READ | WRITE, 1, 3) && run(&code, char, READ, 136, 7));
        assert!(!run(&code, char, READ, 10, 200));
    }
}
