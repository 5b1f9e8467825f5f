//! The helper: executes a plan of system calls and says where it failed.
//!
//! A static program without libc, allocator or threads, in a few kilobytes. It is the only code that runs between
//! the host and the container's program, so there is nothing in it that could take a lock, log or unwind. It knows
//! nothing of containers: what to do stands in the plan, which the host compiled and checked. See `wire.rs`.
#![no_std]
#![no_main]

mod copy;
mod make;
mod memory;
mod resident;
mod serve;
mod signal;
mod step;
mod syscall;
#[expect(dead_code, reason = "some of it is for the host's side")]
mod wire;

use syscall::{call, nr};
use wire::{CONTROL, FDS_PER_MESSAGE, HEADER, MAGIC, MESSAGE, NONE, REGISTERS, STEP, VERSION, arg, message};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    die(101)
}

/// The compiled core library names it; nothing ever unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// Ends the process.
pub(crate) fn die(code: usize) -> ! {
    loop {
        // SAFETY: exit_group takes a plain number and does not return.
        unsafe { call(nr::EXIT_GROUP, [code, 0, 0, 0, 0, 0]) };
    }
}

/// What the interpreter works on.
pub(crate) struct Machine {
    /// Start of the mapped plan.
    base: usize,
    /// Its length in bytes.
    len: usize,
    /// Offset of the steps.
    steps: usize,
    /// Their count.
    count: usize,
    /// The registers.
    registers: &'static mut [i64; REGISTERS],
    /// Where failures are reported.
    report: usize,
    /// The step that is made to fail, or `NONE`.
    inject_step: u32,
    /// The error number with which it fails.
    inject_errno: u32,
}

static mut REGISTER_FILE: [i64; REGISTERS] = [0; REGISTERS];

/// Exit codes of the helper itself, before it can report: the host shows them.
pub(crate) const BAD_HELLO: usize = 120;
const BAD_PLAN: usize = 121;
const CONTROL_CLOSED: usize = 122;

/// The program's entry, called by `_start` with an aligned stack.
#[unsafe(no_mangle)]
extern "C" fn entry() -> ! {
    plug_standard_streams();
    // SAFETY: closes only what the host's other threads may have leaked; 0, 1, 2 and CONTROL stay.
    unsafe { call(nr::CLOSE_RANGE, [CONTROL as usize + 1, u32::MAX as usize, 0, 0, 0, 0]) };
    // SAFETY: the process has one thread and this is the only reference ever made.
    let registers = unsafe { &mut *core::ptr::addr_of_mut!(REGISTER_FILE) };
    let mut machine = receive(registers);
    machine.relocate();
    step::run(&mut machine)
}

/// Descriptors that arrive must never land on a closed 0, 1 or 2 and be mistaken for a standard stream.
fn plug_standard_streams() {
    for fd in 0..3 {
        // SAFETY: F_GETFD reads a flag; memfd_create takes a terminated name and the lowest free descriptor.
        unsafe {
            if call(nr::FCNTL, [fd, 1, 0, 0, 0, 0]) < 0 {
                call(nr::MEMFD_CREATE, [c"closed".as_ptr() as usize, 0, 0, 0, 0, 0]);
            }
        }
    }
}

#[repr(C)]
struct IoVec {
    base: usize,
    len: usize,
}

#[repr(C)]
struct MessageHeader {
    name: usize,
    name_len: usize,
    iov: usize,
    iov_len: usize,
    control: usize,
    control_len: usize,
    flags: usize,
}

const CONTROL_HEADER: usize = 16;
const CONTROL_SPACE: usize = CONTROL_HEADER + FDS_PER_MESSAGE * 4 + 4;

#[repr(C, align(8))]
struct ControlBuffer([u8; CONTROL_SPACE]);

/// Receives one message and its descriptors; returns the message and how many descriptors came.
pub(crate) fn receive_message(fds: &mut [i32; FDS_PER_MESSAGE]) -> ([u32; 4], usize) {
    let mut body = [0u32; 4];
    let mut control = ControlBuffer([0; CONTROL_SPACE]);
    let iov = IoVec { base: body.as_mut_ptr() as usize, len: MESSAGE };
    let mut header = MessageHeader {
        name: 0,
        name_len: 0,
        iov: core::ptr::addr_of!(iov) as usize,
        iov_len: 1,
        control: control.0.as_mut_ptr() as usize,
        control_len: CONTROL_SPACE,
        flags: 0,
    };
    const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;
    let got = loop {
        // SAFETY: header points to live buffers of the given lengths.
        let got = unsafe {
            call(
                nr::RECVMSG,
                [CONTROL as usize, core::ptr::addr_of_mut!(header) as usize, MSG_CMSG_CLOEXEC, 0, 0, 0],
            )
        };
        if got != -4 {
            break got;
        }
    };
    if got == 0 {
        die(CONTROL_CLOSED);
    }
    // Bits 0x8 and 0x20 say that data or descriptors were cut off.
    if got != MESSAGE as isize || header.flags & 0x28 != 0 {
        die(BAD_HELLO);
    }
    let mut count = 0;
    if header.control_len >= CONTROL_HEADER {
        // SAFETY: the kernel wrote a control header at the start of the buffer, which is aligned for it.
        let len = unsafe { *(control.0.as_ptr() as *const usize) };
        if len >= CONTROL_HEADER && len <= CONTROL_SPACE {
            count = (len - CONTROL_HEADER) / 4;
            let mut at = 0;
            while at < count && at < FDS_PER_MESSAGE {
                // SAFETY: within the length the kernel gave; the data is aligned to 4 bytes.
                fds[at] = unsafe { *(control.0.as_ptr().add(CONTROL_HEADER + at * 4) as *const i32) };
                at += 1;
            }
        }
    }
    (body, count)
}

/// Sends one message, and descriptors with it.
pub(crate) fn send_message(body: [u32; 4], fds: &[i32]) {
    let iov = IoVec { base: body.as_ptr() as usize, len: MESSAGE };
    let mut control = ControlBuffer([0; CONTROL_SPACE]);
    // `struct cmsghdr`: the length, SOL_SOCKET, SCM_RIGHTS.
    let length = CONTROL_HEADER + fds.len().min(FDS_PER_MESSAGE) * 4;
    control.0[..8].copy_from_slice(&length.to_ne_bytes());
    control.0[8] = 1;
    control.0[12] = 1;
    let mut at = 0;
    while at < fds.len() && at < FDS_PER_MESSAGE {
        let place = CONTROL_HEADER + at * 4;
        control.0[place..place + 4].copy_from_slice(&fds[at].to_ne_bytes());
        at += 1;
    }
    let header = MessageHeader {
        name: 0,
        name_len: 0,
        iov: core::ptr::addr_of!(iov) as usize,
        iov_len: 1,
        control: control.0.as_ptr() as usize,
        control_len: if fds.is_empty() { 0 } else { (length + 7) & !7 },
        flags: 0,
    };
    const MSG_NOSIGNAL: usize = 0x4000;
    let at = core::ptr::addr_of!(header) as usize;
    // SAFETY: the header points to live buffers of the given lengths.
    unsafe { call(nr::SENDMSG, [CONTROL as usize, at, MSG_NOSIGNAL, 0, 0, 0]) };
}

/// Receives the plan and its descriptors.
fn receive(registers: &'static mut [i64; REGISTERS]) -> Machine {
    let mut fds = [0i32; FDS_PER_MESSAGE];
    let (mut body, mut count) = receive_message(&mut fds);
    if body[0] == message::RESIDE && body[1] == VERSION {
        // Comes back in the process that is to run a plan.
        resident::serve();
        (body, count) = receive_message(&mut fds);
    }
    let [kind, version, len, total] = body;
    let (len, total) = (len as usize, total as usize);
    if kind != message::HELLO || version != VERSION || count == 0 || len < HEADER || total > REGISTERS {
        die(BAD_HELLO);
    }
    let plan = fds[0];
    // SAFETY: a fresh private mapping of a file that the host sealed, so that it cannot shrink.
    let base = unsafe { call(nr::MMAP, [0, len, 3, 2, plan as usize, 0]) };
    if base < 0 {
        die(BAD_PLAN);
    }
    // SAFETY: the plan's descriptor is ours and no longer needed.
    unsafe { call(nr::CLOSE, [plan as usize, 0, 0, 0, 0, 0]) };
    let (mut have, mut at) = (0, 1);
    loop {
        while at < count {
            if have >= total {
                die(BAD_HELLO);
            }
            registers[have] = i64::from(fds[at]);
            have += 1;
            at += 1;
        }
        if have == total {
            break;
        }
        let (body, more) = receive_message(&mut fds);
        if body[0] != message::MORE || more == 0 {
            die(BAD_HELLO);
        }
        (count, at) = (more, 0);
    }
    let mut machine = Machine {
        base: base as usize,
        len,
        steps: 0,
        count: 0,
        registers,
        report: CONTROL as usize,
        inject_step: NONE,
        inject_errno: 0,
    };
    machine.steps = machine.u32_at(12) as usize;
    machine.count = machine.u32_at(16) as usize;
    machine.inject_step = machine.u32_at(32);
    machine.inject_errno = machine.u32_at(36);
    let steps_end = machine.steps + machine.count * STEP;
    if machine.u32_at(0) != MAGIC
        || machine.u32_at(4) != VERSION
        || machine.u32_at(8) as usize != len
        || steps_end > len
    {
        die(BAD_PLAN);
    }
    machine
}

impl Machine {
    /// The arguments of a call, by their kinds.
    pub(crate) fn arguments(&self, kinds: [u8; 8], raw: [u64; 6]) -> [usize; 6] {
        let mut args = [0usize; 6];
        let mut at = 0;
        while at < 6 {
            let value = raw[at] as usize;
            args[at] = match kinds[at] {
                arg::VALUE => value,
                arg::ADDRESS if value <= self.len => self.base + value,
                arg::REGISTER if value < REGISTERS => self.registers[value] as usize,
                _ => die(BAD_PLAN),
            };
            at += 1;
        }
        args
    }

    /// The `u32` at an offset of the plan.
    pub(crate) fn u32_at(&self, offset: usize) -> u32 {
        if offset + 4 > self.len {
            die(BAD_PLAN);
        }
        // SAFETY: within the mapping, which lives as long as the process.
        unsafe { core::ptr::read_unaligned((self.base + offset) as *const u32) }
    }

    /// The number of `size` bytes at an offset of the plan.
    pub(crate) fn load(&self, offset: usize, size: usize) -> u64 {
        if offset + size > self.len {
            die(BAD_PLAN);
        }
        let at = self.base + offset;
        // SAFETY: within the mapping.
        unsafe {
            match size {
                1 => u64::from(core::ptr::read_unaligned(at as *const u8)),
                2 => u64::from(core::ptr::read_unaligned(at as *const u16)),
                4 => u64::from(core::ptr::read_unaligned(at as *const u32)),
                _ => core::ptr::read_unaligned(at as *const u64),
            }
        }
    }

    /// Writes a number of `size` bytes (4 or 8) at an offset of the plan.
    pub(crate) fn store(&self, offset: usize, size: usize, value: u64) {
        if offset + size > self.len {
            die(BAD_PLAN);
        }
        let at = self.base + offset;
        // SAFETY: within the mapping, which is private and writable.
        unsafe {
            if size == 4 {
                core::ptr::write_unaligned(at as *mut u32, value as u32);
            } else {
                core::ptr::write_unaligned(at as *mut u64, value);
            }
        }
    }

    /// Turns offsets into addresses where the plan says so.
    fn relocate(&mut self) {
        let (offset, count) = (self.u32_at(20) as usize, self.u32_at(24) as usize);
        let mut at = 0;
        while at < count {
            let place = self.u32_at(offset + at * 4) as usize;
            let value = self.load(place, 8);
            self.store(place, 8, self.base as u64 + value);
            at += 1;
        }
    }
}
