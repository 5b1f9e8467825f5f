//! Signals that end a process which waits.
//!
//! The kernel keeps signals without a handler from the first process of a pid namespace. While it waits to be started
//! it has handlers for those that ask a process to end; executing the program takes them away again.

use crate::die;
use crate::syscall::{call, nr};

/// SIGHUP, SIGINT, SIGQUIT and SIGTERM.
const ASKING: [usize; 4] = [1, 2, 3, 15];
/// SA_RESTORER: x86_64 wants a way back from the handler, which is never taken; aarch64 has its own.
const FLAGS: usize = if cfg!(target_arch = "x86_64") { 0x0400_0000 } else { 0 };

/// Ends the process as a shell reports a signal.
extern "C" fn end(signal: i32) -> ! {
    die(128 + signal as usize)
}

/// The kernel's `struct sigaction`.
#[repr(C)]
struct Action {
    handler: usize,
    flags: usize,
    restorer: usize,
    mask: u64,
}

/// Installs the handlers.
pub(crate) fn be_mortal() -> Result<(), u32> {
    let end = end as extern "C" fn(i32) -> ! as usize;
    let action = Action { handler: end, flags: FLAGS, restorer: end, mask: 0 };
    for signal in ASKING {
        let at = core::ptr::addr_of!(action) as usize;
        // SAFETY: the structure lives until the call returns; 8 is the length of the mask.
        let answer = unsafe { call(nr::RT_SIGACTION, [signal, at, 0, 8, 0, 0]) };
        if answer < 0 {
            return Err(-answer as u32);
        }
    }
    Ok(())
}
