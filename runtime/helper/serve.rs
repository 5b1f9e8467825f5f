//! Serves calls: the host hands over a shared memory file, and says again and again how many records in it to work off.
//!
//! This is how a threaded host works on files of a user namespace that it cannot enter itself. See `wire::Call`.

use crate::syscall::{call, nr, repeat};
use crate::wire::{ANSWERS, CONTROL, Call, FDS_PER_MESSAGE, NONE, PATH_OF, message, then};
use crate::{BAD_HELLO, Machine, die, receive_message, send_message};

/// Serves until the host is gone.
pub(crate) fn run(machine: &mut Machine) -> ! {
    let mut fds = [0i32; FDS_PER_MESSAGE];
    let (body, count) = receive_message(&mut fds);
    let length = body[1] as usize;
    if body[0] != message::SERVE || count != 1 || length < 4096 {
        die(BAD_HELLO);
    }
    // SAFETY: a shared mapping of a file that the host sealed against shrinking; everything above it is closed then,
    // and files are made with the modes that are asked for.
    let base = unsafe {
        let base = call(nr::MMAP, [0, length, 3, 1, fds[0] as usize, 0]);
        call(nr::CLOSE_RANGE, [CONTROL as usize + 1, u32::MAX as usize, 0, 0, 0, 0]);
        call(nr::UMASK, [0, 0, 0, 0, 0, 0]);
        base
    };
    if base < 0 {
        die(BAD_HELLO);
    }
    machine.base = base as usize;
    machine.len = length;
    loop {
        let (body, count) = receive_message(&mut fds);
        let calls = body[1] as usize;
        if body[0] != message::CALLS || calls.saturating_mul(size_of::<Call>()) > length {
            die(BAD_HELLO);
        }
        let mut at = 0;
        while at < count {
            machine.registers[at] = i64::from(fds[at]);
            at += 1;
        }
        work_off(machine, calls);
        // SAFETY: what a batch opened is the host's by now, or nobody's.
        unsafe { call(nr::CLOSE_RANGE, [CONTROL as usize + 1, u32::MAX as usize, 0, 0, 0, 0]) };
    }
}

/// Works off the first `calls` records and answers.
fn work_off(machine: &mut Machine, calls: usize) {
    let mut back = [0i32; ANSWERS];
    let mut given = 0;
    let mut answer = [message::DONE, NONE, 0, 0];
    let mut at = 0;
    while at < calls {
        // SAFETY: `run` checked that all records lie within the mapping, which is aligned for them.
        let record = unsafe { &mut *((machine.base + at * size_of::<Call>()) as *mut Call) };
        let args = machine.arguments(record.kinds, record.args);
        let result = if record.nr == PATH_OF {
            path_of(machine, args[0], args[1])
        } else {
            // The calls are those the host compiled; addresses point into the mapping, with room for the answers.
            repeat(record.nr as usize, args)
        };
        record.result = result as i64;
        if result < 0 && record.then & then::GO_ON == 0 {
            answer[1] = at as u32;
            answer[2] = -result as u32;
            break;
        }
        if record.out != NONE && (record.out as usize) < machine.registers.len() {
            // A failure that is passed over opened nothing.
            machine.registers[record.out as usize] = if result < 0 { -1 } else { result as i64 };
        }
        if result >= 0 && record.then & then::HAND_BACK != 0 {
            if given == ANSWERS {
                die(BAD_HELLO);
            }
            back[given] = result as i32;
            given += 1;
        }
        at += 1;
    }
    answer[3] = given as u32;
    send_message(answer, &back[..given]);
}

/// Writes `/proc/self/fd/N` for the descriptor at an address, with a zero byte behind.
fn path_of(machine: &Machine, to: usize, fd: usize) -> isize {
    const PREFIX: &[u8; 14] = b"/proc/self/fd/";
    let mut digits = [0u8; 20];
    let mut count = 0;
    let mut rest = fd;
    loop {
        digits[count] = b'0' + (rest % 10) as u8;
        rest /= 10;
        count += 1;
        if rest == 0 || count == digits.len() {
            break;
        }
    }
    if to < machine.base || to + PREFIX.len() + count + 1 > machine.base + machine.len {
        die(BAD_HELLO);
    }
    let to = to as *mut u8;
    let mut at = 0;
    // SAFETY: within the mapping, as was just checked.
    unsafe {
        while at < PREFIX.len() {
            to.add(at).write(PREFIX[at]);
            at += 1;
        }
        while count > 0 {
            count -= 1;
            to.add(at).write(digits[count]);
            at += 1;
        }
        to.add(at).write(0);
    }
    0
}
