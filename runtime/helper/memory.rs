//! The four functions that the compiler may call for copies and comparisons, as there is no libc.
//!
//! Volatile accesses keep the compiler from recognising the loops and calling these very functions for them.

use core::ptr::{read_volatile, write_volatile};

/// # Safety
///
/// As `memcpy(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(dest: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    let mut at = 0;
    while at < len {
        // SAFETY: the caller vouches for both ranges.
        unsafe { write_volatile(dest.add(at), read_volatile(src.add(at))) };
        at += 1;
    }
    dest
}

/// # Safety
///
/// As `memmove(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(dest: *mut u8, src: *const u8, len: usize) -> *mut u8 {
    if (dest as usize) < src as usize {
        // SAFETY: ascending order is right when the destination lies below.
        return unsafe { memcpy(dest, src, len) };
    }
    let mut at = len;
    while at > 0 {
        at -= 1;
        // SAFETY: the caller vouches for both ranges.
        unsafe { write_volatile(dest.add(at), read_volatile(src.add(at))) };
    }
    dest
}

/// # Safety
///
/// As `memset(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(dest: *mut u8, byte: i32, len: usize) -> *mut u8 {
    let mut at = 0;
    while at < len {
        // SAFETY: the caller vouches for the range.
        unsafe { write_volatile(dest.add(at), byte as u8) };
        at += 1;
    }
    dest
}

/// # Safety
///
/// As `memcmp(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    let mut at = 0;
    while at < len {
        // SAFETY: the caller vouches for both ranges.
        let (a, b) = unsafe { (read_volatile(left.add(at)), read_volatile(right.add(at))) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        at += 1;
    }
    0
}

/// # Safety
///
/// As `bcmp(3)`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, len) }
}
