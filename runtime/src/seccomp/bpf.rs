//! Instructions of classic BPF, as `linux/filter.h` and `linux/bpf_common.h` define them.

/// The longest program the kernel takes (`BPF_MAXINSNS`).
pub(super) const MAX_LEN: usize = 4096;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

/// A compiled profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) flags: u32,
}

/// The instructions as the kernel reads them.
pub(crate) fn to_bytes(program: &[Instruction]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for one in program {
        bytes.extend(one.code.to_ne_bytes());
        bytes.extend([one.jt, one.jf]);
        bytes.extend(one.k.to_ne_bytes());
    }
    bytes
}

/// Loads a word of `struct seccomp_data` into the accumulator.
pub(super) const LD_ABS: u16 = 0x20;
/// Accumulator &= k.
pub(super) const AND: u16 = 0x54;
/// Jumps by k, always.
pub(super) const JA: u16 = 0x05;
/// Jumps by `jt` if accumulator == k, else by `jf`.
pub(super) const JEQ: u16 = 0x15;
/// The same for >.
pub(super) const JGT: u16 = 0x25;
/// The same for >=.
pub(super) const JGE: u16 = 0x35;
/// Ends with k.
pub(super) const RET: u16 = 0x06;

/// Offset of the number in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
/// Offset of the architecture.
pub(super) const ARCH: u32 = 4;
/// Offset of the low and the high half of an argument; both kinds of machine here are little-endian.
pub(super) const fn argument(index: u32, high: bool) -> u32 {
    16 + index * 8 + if high { 4 } else { 0 }
}

pub(super) const fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

pub(super) const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}
