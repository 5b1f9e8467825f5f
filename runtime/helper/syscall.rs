//! System calls by register, and the few numbers the helper itself needs. All others stand in the plan.

use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
pub(crate) mod nr {
    pub(crate) const CLOSE: usize = 3;
    pub(crate) const MMAP: usize = 9;
    pub(crate) const RT_SIGACTION: usize = 13;
    pub(crate) const NANOSLEEP: usize = 35;
    pub(crate) const SENDFILE: usize = 40;
    pub(crate) const SENDTO: usize = 44;
    pub(crate) const SENDMSG: usize = 46;
    pub(crate) const RECVMSG: usize = 47;
    pub(crate) const EXECVE: usize = 59;
    pub(crate) const FCNTL: usize = 72;
    pub(crate) const CHDIR: usize = 80;
    pub(crate) const FCHMOD: usize = 91;
    pub(crate) const FCHOWN: usize = 93;
    pub(crate) const UMASK: usize = 95;
    pub(crate) const GETDENTS64: usize = 217;
    pub(crate) const EXIT_GROUP: usize = 231;
    pub(crate) const OPENAT: usize = 257;
    pub(crate) const MKDIRAT: usize = 258;
    pub(crate) const MKNODAT: usize = 259;
    pub(crate) const FCHOWNAT: usize = 260;
    pub(crate) const SYMLINKAT: usize = 266;
    pub(crate) const READLINKAT: usize = 267;
    pub(crate) const FCHMODAT: usize = 268;
    pub(crate) const FACCESSAT: usize = 269;
    pub(crate) const FACCESSAT2: usize = 439;
    pub(crate) const DUP3: usize = 292;
    pub(crate) const MEMFD_CREATE: usize = 319;
    pub(crate) const STATX: usize = 332;
    pub(crate) const CLONE3: usize = 435;
    pub(crate) const CLOSE_RANGE: usize = 436;
    pub(crate) const OPENAT2: usize = 437;
}

#[cfg(target_arch = "aarch64")]
pub(crate) mod nr {
    pub(crate) const DUP3: usize = 24;
    pub(crate) const FCNTL: usize = 25;
    pub(crate) const MKNODAT: usize = 33;
    pub(crate) const MKDIRAT: usize = 34;
    pub(crate) const SYMLINKAT: usize = 36;
    pub(crate) const FACCESSAT: usize = 48;
    pub(crate) const FACCESSAT2: usize = 439;
    pub(crate) const CHDIR: usize = 49;
    pub(crate) const FCHMOD: usize = 52;
    pub(crate) const FCHMODAT: usize = 53;
    pub(crate) const FCHOWNAT: usize = 54;
    pub(crate) const FCHOWN: usize = 55;
    pub(crate) const OPENAT: usize = 56;
    pub(crate) const CLOSE: usize = 57;
    pub(crate) const GETDENTS64: usize = 61;
    pub(crate) const SENDFILE: usize = 71;
    pub(crate) const READLINKAT: usize = 78;
    pub(crate) const NANOSLEEP: usize = 101;
    pub(crate) const RT_SIGACTION: usize = 134;
    pub(crate) const UMASK: usize = 166;
    pub(crate) const EXIT_GROUP: usize = 94;
    pub(crate) const SENDTO: usize = 206;
    pub(crate) const SENDMSG: usize = 211;
    pub(crate) const RECVMSG: usize = 212;
    pub(crate) const EXECVE: usize = 221;
    pub(crate) const MMAP: usize = 222;
    pub(crate) const MEMFD_CREATE: usize = 279;
    pub(crate) const STATX: usize = 291;
    pub(crate) const CLONE3: usize = 435;
    pub(crate) const CLOSE_RANGE: usize = 436;
    pub(crate) const OPENAT2: usize = 437;
}

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call entry", "ud2");

#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "bl entry", "brk #1");

/// How often a lookup that met a rename is tried: no rename that somebody else makes should fail a container, and nobody
/// who renames without end should keep it waiting.
const LOOKUPS: u32 = 1024;

/// Makes a system call that the host chose, again when a signal came in between. A lookup beneath a root that goes up
/// (`..`) also is made again when anything on the host was renamed or mounted meanwhile, as `openat2(2)` wants it.
pub(crate) fn repeat(nr: usize, args: [usize; 6]) -> isize {
    const EINTR: isize = -4;
    const EAGAIN: isize = -11;
    let mut lookups = 1;
    loop {
        // SAFETY: the host compiled the call, and made room for what it writes.
        let answer = unsafe { call(nr, args) };
        match answer {
            EINTR => {}
            EAGAIN if nr == nr::OPENAT2 && lookups < LOOKUPS => lookups += 1,
            _ => return answer,
        }
    }
}

/// Makes a system call; a result from -4095 to -1 is a negated error number.
///
/// # Safety
///
/// The arguments must be what the call with this number expects.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn call(nr: usize, args: [usize; 6]) -> isize {
    let answer;
    // SAFETY: the kernel's calling convention of x86_64; rcx and r11 are overwritten by `syscall`.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr as isize => answer,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

/// Makes a system call; a result from -4095 to -1 is a negated error number.
///
/// # Safety
///
/// The arguments must be what the call with this number expects.
#[cfg(target_arch = "aarch64")]
pub(crate) unsafe fn call(nr: usize, args: [usize; 6]) -> isize {
    let answer;
    // SAFETY: the kernel's calling convention of aarch64.
    unsafe {
        asm!(
            "svc 0",
            in("x8") nr,
            inlateout("x0") args[0] as isize => answer,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x5") args[5],
            options(nostack),
        );
    }
    answer
}
