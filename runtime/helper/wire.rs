//! The format in which the host hands a plan to the helper. Both sides compile this file; nothing else is shared.
//!
//! All numbers are in the byte order of the machine: a plan never leaves it. A plan is one memory file:
//!
//! ```text
//! header (HEADER bytes) | steps (STEP bytes each) | relocations (4 bytes each) | blob
//! ```
//!
//! The helper maps the file privately and writable. A relocation is the offset of an 8-byte offset into the file,
//! which the helper turns into an address. An argument of kind `ADDRESS` is an offset too. So strings, argument
//! vectors and kernel structures all stand in the blob as they are, and every step is one plain system call.

/// The first four bytes of a plan.
pub(crate) const MAGIC: u32 = 0x504f_4f43;
/// Counts up with every change of this file.
pub(crate) const VERSION: u32 = 2;
/// Length of the header, in bytes: ten `u32`.
///
/// magic, version, total length, offset of the steps, their count, offset of the relocations, their count,
/// number of descriptors handed over, the step at which a failure is injected (or `NONE`), the injected error number.
pub(crate) const HEADER: usize = 40;
/// Length of a step, in bytes: see `Step` in the helper for the fields.
pub(crate) const STEP: usize = 88;
/// In place of an injected error number: wait for a while, and then do the step. For tests of what dies meanwhile.
pub(crate) const PAUSE: u32 = 0xffff;
/// Says "no register" and "no step".
pub(crate) const NONE: u32 = u32::MAX;
/// Matches every error number.
pub(crate) const ANY: u32 = u32::MAX;
/// How many registers there are. Register n holds at first the n-th descriptor that was handed over.
pub(crate) const REGISTERS: usize = 2048;
/// The descriptor over which host and helper talk, at first.
pub(crate) const CONTROL: i32 = 3;
/// The most descriptors one message carries: the kernel's SCM_MAX_FD.
pub(crate) const FDS_PER_MESSAGE: usize = 253;
/// Length of a message in either direction: four `u32`, the first of which is its kind.
pub(crate) const MESSAGE: usize = 16;

/// Kinds of arguments.
pub(crate) mod arg {
    /// The value itself.
    pub(crate) const VALUE: u8 = 0;
    /// An offset into the plan, passed as an address.
    pub(crate) const ADDRESS: u8 = 1;
    /// The content of a register.
    pub(crate) const REGISTER: u8 = 2;
}

/// Kinds of steps.
pub(crate) mod op {
    /// A system call. EINTR is retried, and EAGAIN of openat2 a bounded number of times.
    pub(crate) const CALL: u32 = 0;
    /// `out` = the number at offset arg 0, of arg 1 bytes (1, 2, 4 or 8).
    pub(crate) const LOAD: u32 = 1;
    /// The number at offset arg 0, of arg 1 bytes, = arg 2.
    pub(crate) const STORE: u32 = 2;
    /// Go to `on_ok` if arg 0 & arg 1 == arg 2.
    pub(crate) const JUMP_IF: u32 = 3;
    /// Fail with error number arg 3 unless arg 0 & arg 1 == arg 2.
    pub(crate) const CHECK: u32 = 4;
    /// Execute the first of the programs at address arg 0 (arg 3 many pointers) that exists,
    /// with argument vector arg 1 and environment arg 2.
    pub(crate) const EXEC: u32 = 5;
    /// Close every descriptor but 0, 1, 2, the reporting one, and those in the registers listed at address arg 0
    /// (arg 1 many `u32`).
    pub(crate) const CLOSE_OTHERS: u32 = 6;
    /// End the process with exit code arg 0.
    pub(crate) const EXIT: u32 = 7;
    /// Report over the descriptor in arg 0 from now on.
    pub(crate) const REPORT_TO: u32 = 8;
    /// `out` = arg 0.
    pub(crate) const SET: u32 = 9;
    /// Fail as `EXEC` would, if none of its programs could be executed. The same arguments.
    pub(crate) const FIND: u32 = 10;
    /// Copy all that is in the directory arg 0 into the directory arg 1.
    pub(crate) const COPY_TREE: u32 = 11;
    /// Serve calls until the host is gone: see `Call`.
    pub(crate) const SERVE: u32 = 12;
    /// `out` = the path arg 1 beneath the directory arg 0, opened; what is missing of it is made, behind links too, as
    /// directories, and the last name as a file if arg 2 is 1.
    pub(crate) const MAKE: u32 = 13;
    /// From now on a signal that asks the process to end ends it, also the first one of a pid namespace.
    pub(crate) const BE_MORTAL: u32 = 14;
    /// The text at offset arg 0 = the permissions in the mode arg 1, as four octal digits.
    pub(crate) const OCTAL: u32 = 15;
}

/// A call that a serving helper makes for the host. Records stand at the start of a memory file that both have; texts,
/// structures and room for answers stand behind them. The helper writes `result`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Call {
    /// The number of the system call, or `PATH_OF`.
    pub(crate) nr: u32,
    /// Bits of `then`.
    pub(crate) then: u32,
    /// Kinds of the arguments; an `ADDRESS` is an offset into the file.
    pub(crate) kinds: [u8; 8],
    /// The arguments.
    pub(crate) args: [u64; 6],
    /// The register that gets the result, or `NONE`.
    pub(crate) out: u32,
    /// Zero.
    pub(crate) pad: u32,
    /// What the kernel answered; a negated error number from -4095 to -1.
    pub(crate) result: i64,
}

/// In place of a system call's number: writes the path in `/proc` of the descriptor arg 1 at the address arg 0.
pub(crate) const PATH_OF: u32 = u32::MAX;
/// The most descriptors that are handed back at once.
pub(crate) const ANSWERS: usize = 250;

/// What happens after a call that is served.
pub(crate) mod then {
    /// A failure does not end the batch.
    pub(crate) const GO_ON: u32 = 1;
    /// The result is a descriptor for the host.
    pub(crate) const HAND_BACK: u32 = 2;
}

/// Kinds of messages.
pub(crate) mod message {
    /// Host to helper, first: version, length of the plan, number of descriptors. The plan rides along.
    pub(crate) const HELLO: u32 = 1;
    /// Host to helper: more descriptors.
    pub(crate) const MORE: u32 = 2;
    /// Host to helper: go on.
    pub(crate) const GO: u32 = 3;
    /// Host to helper, in place of `HELLO`: stay, and serve. Version.
    pub(crate) const RESIDE: u32 = 4;
    /// Host to resident helper: make a process that takes a plan from the socket that rides along. Answered by `PID`,
    /// or by `FAILED` with no step.
    pub(crate) const LAUNCH: u32 = 5;
    /// Host to serving helper, first: length of the memory file, which rides along.
    pub(crate) const SERVE: u32 = 6;
    /// Host to serving helper: work off so many records. Descriptors that ride along go to the first registers.
    pub(crate) const CALLS: u32 = 7;
    /// Helper to host: the pid of the new process; its pidfd rides along.
    pub(crate) const PID: u32 = 16;
    /// Helper to host: it waits to be told `GO`.
    pub(crate) const READY: u32 = 17;
    /// Helper to host: step, error number, detail.
    pub(crate) const FAILED: u32 = 18;
    /// Helper to host: the descriptor of a seccomp listener rides along.
    pub(crate) const LISTENER: u32 = 19;
    /// Helper to host: the controlling side of the terminal rides along.
    pub(crate) const TERMINAL: u32 = 20;
    /// Helper to host: it waits for hooks to run, and to be told `GO`.
    pub(crate) const HOOKS: u32 = 21;
    /// Serving helper to host: the record that failed or `NONE`, its error number, how many descriptors ride along.
    pub(crate) const DONE: u32 = 22;
    /// Helper to host: its network namespace rides along; it waits for the host's devices, and to be told `GO`.
    pub(crate) const NETWORK: u32 = 23;
}

/// In the detail of a failed `EXEC`: the file exists, so its interpreter or loader does not.
pub(crate) const EXEC_EXISTS: u32 = 1 << 31;
