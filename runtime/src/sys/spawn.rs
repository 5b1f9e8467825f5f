//! Starting the helper from a threaded process.
#![expect(unsafe_code, reason = "posix_spawn has no safe wrapper in the crates at hand")]

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Starts `program` with one argument, an empty environment and `control` as descriptor 3; returns its pid.
///
/// The C library does this with a vfork-like clone: no memory is copied, no lock is taken and no code of ours runs
/// in the child. All signals get their default disposition and none is blocked.
pub(crate) fn spawn(program: &CStr, name: &CStr, control: BorrowedFd<'_>, target: i32) -> io::Result<u32> {
    let mut actions = MaybeUninit::<libc::posix_spawn_file_actions_t>::uninit();
    // SAFETY: init fills the structure; it is destroyed below on every path.
    check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
    let mut attributes = MaybeUninit::<libc::posix_spawnattr_t>::uninit();
    // SAFETY: as above.
    if let Err(error) = check(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) }) {
        // SAFETY: initialised above, destroyed once.
        unsafe { libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr()) };
        return Err(error);
    }
    let result = start(program, name, control, target, &mut actions, &mut attributes);
    // SAFETY: both were initialised above and are destroyed once.
    unsafe {
        libc::posix_spawnattr_destroy(attributes.as_mut_ptr());
        libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
    }
    result
}

fn start(
    program: &CStr,
    name: &CStr,
    control: BorrowedFd<'_>,
    target: i32,
    actions: &mut MaybeUninit<libc::posix_spawn_file_actions_t>,
    attributes: &mut MaybeUninit<libc::posix_spawnattr_t>,
) -> io::Result<u32> {
    let argv = [name.as_ptr().cast_mut(), ptr::null_mut()];
    let envp = [ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: the structures are initialised; the signal sets are filled before use; the strings and vectors live
    // until posix_spawn returns, which is after the program was executed.
    unsafe {
        check(libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), control.as_raw_fd(), target))?;
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        check(libc::posix_spawnattr_setsigmask(attributes.as_mut_ptr(), set.as_ptr()))?;
        libc::sigfillset(set.as_mut_ptr());
        check(libc::posix_spawnattr_setsigdefault(attributes.as_mut_ptr(), set.as_ptr()))?;
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        let flags = libc::c_short::try_from(flags).unwrap_or_default();
        check(libc::posix_spawnattr_setflags(attributes.as_mut_ptr(), flags))?;
        check(libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            actions.as_ptr(),
            attributes.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
        ))?;
    }
    u32::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::EIO))
}

fn check(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}
