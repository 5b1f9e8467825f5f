//! An interpreter of the instructions that the compiler makes, for tests: strict where the kernel's checker is.

use super::bpf::{AND, Instruction, JA, JEQ, JGE, JGT, LD_ABS, RET};

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(&self.number.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.arch.to_le_bytes());
        for (at, arg) in self.args.iter().enumerate() {
            bytes[16 + at * 8..24 + at * 8].copy_from_slice(&arg.to_le_bytes());
        }
        let at = offset as usize;
        assert!(at.is_multiple_of(4) && at < 64, "load at {at}");
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }
}

/// Runs a program; panics where the kernel would refuse it.
pub(super) fn run(program: &[Instruction], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        let jump = |yes: bool| usize::from(if yes { jt } else { jf });
        at += 1 + match code {
            LD_ABS => {
                accumulator = call.word(k);
                0
            }
            AND => {
                accumulator &= k;
                0
            }
            JA => k as usize,
            JEQ => jump(accumulator == k),
            JGT => jump(accumulator > k),
            JGE => jump(accumulator >= k),
            RET => return k,
            other => panic!("instruction {other:#x}"),
        };
    }
}
