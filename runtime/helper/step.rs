//! The interpreter of steps.

use crate::syscall::{call, nr, repeat};
use crate::wire::{ANY, EXEC_EXISTS, NONE, PAUSE, REGISTERS, STEP, message, op};
use crate::{Machine, die};

const ENOENT: u32 = 2;
const EACCES: u32 = 13;
const ENOTDIR: u32 = 20;

/// One step, as it stands in the plan.
#[repr(C)]
#[derive(Clone, Copy)]
struct Step {
    op: u32,
    nr: u32,
    kinds: [u8; 8],
    args: [u64; 6],
    out: u32,
    on_ok: u32,
    errno_a: u32,
    goto_a: u32,
    errno_b: u32,
    goto_b: u32,
}

/// Runs the plan to its end, which is an `EXEC`, an `EXIT` or a failure.
pub(crate) fn run(machine: &mut Machine) -> ! {
    let mut at = 0;
    loop {
        if at >= machine.count {
            die(0);
        }
        let place = machine.base + machine.steps + at * STEP;
        // SAFETY: `receive` checked that all steps lie within the mapping.
        let step = unsafe { core::ptr::read_unaligned(place as *const Step) };
        let mut injected = at as u32 == machine.inject_step;
        if injected && machine.inject_errno == PAUSE {
            injected = false;
            // `struct timespec`: 400 ms.
            let time = [0u64, 400_000_000];
            // SAFETY: the structure lives until the call returns.
            unsafe { call(nr::NANOSLEEP, [time.as_ptr() as usize, 0, 0, 0, 0, 0]) };
        }
        let answer = if injected { Err((machine.inject_errno, 0)) } else { execute(machine, &step) };
        at = match answer {
            Ok(Next::Step) => at + 1,
            Ok(Next::Jump) => step.on_ok as usize,
            Err((errno, detail)) => {
                if !injected && (step.errno_a == errno || step.errno_a == ANY) {
                    step.goto_a as usize
                } else if !injected && (step.errno_b == errno || step.errno_b == ANY) {
                    step.goto_b as usize
                } else {
                    fail(machine, at as u32, errno, detail)
                }
            }
        };
    }
}

/// Where to go after a step that succeeded.
enum Next {
    Step,
    Jump,
}

fn execute(machine: &mut Machine, step: &Step) -> Result<Next, (u32, u32)> {
    let args = machine.arguments(step.kinds, step.args);
    let mut next = if step.on_ok == NONE { Next::Step } else { Next::Jump };
    let mut result = None;
    match step.op {
        op::CALL => {
            // The plan's calls are those the host compiled; addresses point into the plan.
            let answer = repeat(step.nr as usize, args);
            if (-4095..0).contains(&answer) {
                return Err((-answer as u32, 0));
            }
            result = Some(answer as i64);
        }
        op::LOAD => result = Some(machine.load(args[0] - machine.base, args[1]) as i64),
        op::STORE => machine.store(args[0] - machine.base, args[1], args[2] as u64),
        op::OCTAL => {
            let digit = |place: u32| b'0' + (args[1] >> (place * 3) & 7) as u8;
            let text = u32::from_ne_bytes([digit(3), digit(2), digit(1), digit(0)]);
            machine.store(args[0] - machine.base, 4, u64::from(text));
        }
        op::JUMP_IF => {
            if args[0] & args[1] != args[2] {
                next = Next::Step;
            }
        }
        op::CHECK => {
            if args[0] & args[1] != args[2] {
                return Err((args[3] as u32, 0));
            }
        }
        op::EXEC => return Err(exec(args)),
        op::FIND => find(args)?,
        op::COPY_TREE => crate::copy::tree(args[0], args[1], 0).map_err(|errno| (errno, 0))?,
        op::MAKE => {
            let made = crate::make::behind_links(args[0], args[1], args[2] == 1);
            result = Some(made.map_err(|errno| (errno, 0))? as i64);
        }
        op::BE_MORTAL => crate::signal::be_mortal().map_err(|errno| (errno, 0))?,
        op::CLOSE_OTHERS => close_others(machine, args[0], args[1]),
        op::EXIT => die(args[0]),
        op::SERVE => crate::serve::run(machine),
        op::REPORT_TO => machine.report = args[0],
        op::SET => result = Some(args[0] as i64),
        _ => return Err((38, 0)),
    }
    if let Some(value) = result {
        if step.out != NONE {
            machine.registers[step.out as usize % REGISTERS] = value;
        }
    }
    Ok(next)
}

/// Executes the first candidate that exists; returns only the reason why none could be executed.
fn exec(args: [usize; 6]) -> (u32, u32) {
    let mut denied = None;
    let mut at = 0;
    while at < args[3] {
        // SAFETY: the pointers were made by `relocate`, and end with a null pointer where a vector is meant.
        let (path, answer) = unsafe {
            let path = *((args[0] + at * 8) as *const usize);
            (path, call(nr::EXECVE, [path, args[1], args[2], 0, 0, 0]))
        };
        match -answer as u32 {
            ENOENT => {
                const AT_FDCWD: usize = -100isize as usize;
                // SAFETY: the same path; F_OK asks whether the file is there.
                if unsafe { call(nr::FACCESSAT, [AT_FDCWD, path, 0, 0, 0, 0]) } == 0 {
                    return (ENOENT, at as u32 | EXEC_EXISTS);
                }
            }
            ENOTDIR => {}
            EACCES => denied = denied.or(Some(at as u32)),
            errno => return (errno, at as u32),
        }
        at += 1;
    }
    match denied {
        Some(at) => (EACCES, at),
        None => (ENOENT, 0),
    }
}

/// Looks for the first candidate that could be executed, as `exec` would: an error is that of `exec`.
fn find(args: [usize; 6]) -> Result<(), (u32, u32)> {
    const AT_FDCWD: usize = -100isize as usize;
    const X_OK: usize = 1;
    // With the ids and capabilities that execve will have.
    const AT_EACCESS: usize = 0x200;
    const O_PATH_DIRECTORY: usize = 0o10000000 | if cfg!(target_arch = "aarch64") { 0o40000 } else { 0o200000 };
    let mut denied = None;
    let mut at = 0;
    while at < args[3] {
        // SAFETY: as in `exec`.
        let (path, answer) = unsafe {
            let path = *((args[0] + at * 8) as *const usize);
            (path, call(nr::FACCESSAT2, [AT_FDCWD, path, X_OK, AT_EACCESS, 0, 0]))
        };
        match -answer as u32 {
            0 => {
                // A directory passes for executable, and is none.
                // SAFETY: the same path.
                let opened = unsafe { call(nr::OPENAT, [AT_FDCWD, path, O_PATH_DIRECTORY, 0, 0, 0]) };
                if opened < 0 {
                    return Ok(());
                }
                // SAFETY: opened above.
                unsafe { call(nr::CLOSE, [opened as usize, 0, 0, 0, 0, 0]) };
                denied = denied.or(Some(at as u32));
            }
            EACCES => denied = denied.or(Some(at as u32)),
            ENOENT | ENOTDIR => {}
            errno => return Err((errno, at as u32)),
        }
        at += 1;
    }
    match denied {
        Some(at) => Err((EACCES, at)),
        None => Err((ENOENT, 0)),
    }
}

/// Closes everything that is not kept: the gaps between the kept descriptors, in ascending order.
fn close_others(machine: &Machine, list: usize, count: usize) {
    let keep = |fd: usize| {
        if fd < 3 || fd == machine.report {
            return true;
        }
        let mut at = 0;
        while at < count {
            // SAFETY: the list lies in the plan and has `count` entries.
            let register = unsafe { core::ptr::read_unaligned((list + at * 4) as *const u32) };
            if machine.registers[register as usize % REGISTERS] == fd as i64 {
                return true;
            }
            at += 1;
        }
        false
    };
    let mut highest = machine.report;
    let mut at = 0;
    while at < count {
        // SAFETY: as above.
        let register = unsafe { core::ptr::read_unaligned((list + at * 4) as *const u32) };
        let fd = machine.registers[register as usize % REGISTERS];
        if fd > highest as i64 {
            highest = fd as usize;
        }
        at += 1;
    }
    let mut fd = 3;
    while fd < highest {
        if !keep(fd) {
            // SAFETY: closes a descriptor nobody uses any more.
            unsafe { call(nr::CLOSE, [fd, 0, 0, 0, 0, 0]) };
        }
        fd += 1;
    }
    // SAFETY: closes only what lies above every descriptor that is kept.
    unsafe { call(nr::CLOSE_RANGE, [highest + 1, u32::MAX as usize, 0, 0, 0, 0]) };
}

/// Reports the failure and ends the process.
fn fail(machine: &Machine, step: u32, errno: u32, detail: u32) -> ! {
    let body = [message::FAILED, step, errno, detail];
    // MSG_NOSIGNAL: a host that is gone must not turn the failure into a SIGPIPE.
    // SAFETY: body lives until the call returns.
    unsafe { call(nr::SENDTO, [machine.report, body.as_ptr() as usize, 16, 0x4000, 0, 0]) };
    die(1)
}
