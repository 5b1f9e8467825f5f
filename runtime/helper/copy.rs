//! Copying a directory's content into an empty filesystem, which `tmpcopyup` asks for.

use crate::syscall::{call, nr};

const EMFILE: u32 = 24;
const ELOOP: u32 = 40;
const AT_SYMLINK_NOFOLLOW: usize = 0x100;
const AT_EMPTY_PATH: usize = 0x1000;
const O_DIRECTORY: usize = if cfg!(target_arch = "aarch64") { 0o40000 } else { 0o200000 };
const O_NOFOLLOW: usize = if cfg!(target_arch = "aarch64") { 0o100000 } else { 0o400000 };
const O_CLOEXEC: usize = 0o2000000;
const O_WRONLY: usize = 1;
const O_CREAT: usize = 0o100;
const O_EXCL: usize = 0o200;
const S_IFMT: u32 = 0o170000;
const S_IFDIR: u32 = 0o040000;
const S_IFREG: u32 = 0o100000;
const S_IFLNK: u32 = 0o120000;

/// How deep directories may be: each level takes some kilobytes of stack and two descriptors.
const MAX_DEPTH: usize = 128;

/// What `statx` says that is of use.
struct Stat {
    mode: u32,
    uid: u32,
    gid: u32,
    device: (u32, u32),
}

#[repr(C, align(8))]
struct Buffer<const LEN: usize>([u8; LEN]);

fn check(answer: isize) -> Result<usize, u32> {
    if (-4095..0).contains(&answer) { Err(-answer as u32) } else { Ok(answer as usize) }
}

fn stat(directory: usize, name: usize, flags: usize) -> Result<Stat, u32> {
    let mut buffer = Buffer([0u8; 256]);
    const BASIC: usize = 0x7ff;
    // SAFETY: the name is terminated and the buffer has the size of `struct statx`.
    check(unsafe { call(nr::STATX, [directory, name, flags, BASIC, buffer.0.as_mut_ptr() as usize, 0]) })?;
    let word = |at: usize| {
        u32::from_ne_bytes([buffer.0[at], buffer.0[at + 1], buffer.0[at + 2], buffer.0[at + 3]])
    };
    Ok(Stat { mode: word(28) & 0xffff, uid: word(20), gid: word(24), device: (word(128), word(132)) })
}

fn open(directory: usize, name: usize, flags: usize, mode: usize) -> Result<usize, u32> {
    // SAFETY: the name is terminated.
    check(unsafe { call(nr::OPENAT, [directory, name, flags | O_NOFOLLOW | O_CLOEXEC, mode, 0, 0]) })
}

fn close(fd: usize) {
    // SAFETY: a descriptor of our own that nobody else knows.
    unsafe { call(nr::CLOSE, [fd, 0, 0, 0, 0, 0]) };
}

/// Copies everything in one directory into another, with modes, owners and links.
pub(crate) fn tree(from: usize, to: usize, depth: usize) -> Result<(), u32> {
    if depth > MAX_DEPTH {
        return Err(ELOOP);
    }
    let own = stat(from, c"".as_ptr() as usize, AT_EMPTY_PATH)?;
    let mut entries = Buffer([0u8; 2048]);
    loop {
        let buffer = entries.0.as_mut_ptr() as usize;
        // SAFETY: the buffer has the size that is given.
        let filled = check(unsafe { call(nr::GETDENTS64, [from, buffer, 2048, 0, 0, 0]) })?;
        if filled == 0 {
            break;
        }
        let mut at = 0;
        while at + 19 < filled {
            // `struct linux_dirent64`: the length of the entry is at 16, the name at 19.
            let length = usize::from(entries.0[at + 16]) | usize::from(entries.0[at + 17]) << 8;
            let name = &entries.0[at + 19..];
            let dots = name[0] == b'.' && (name[1] == 0 || (name[1] == b'.' && name[2] == 0));
            if !dots {
                entry(from, to, name.as_ptr() as usize, depth)?;
            }
            if length == 0 {
                break;
            }
            at += length;
        }
    }
    // SAFETY: plain numbers.
    check(unsafe { call(nr::FCHOWN, [to, own.uid as usize, own.gid as usize, 0, 0, 0]) })?;
    // SAFETY: plain numbers.
    check(unsafe { call(nr::FCHMOD, [to, own.mode as usize & 0o7777, 0, 0, 0, 0]) })?;
    Ok(())
}

fn entry(from: usize, to: usize, name: usize, depth: usize) -> Result<(), u32> {
    let found = stat(from, name, AT_SYMLINK_NOFOLLOW)?;
    match found.mode & S_IFMT {
        S_IFDIR => {
            // SAFETY: the name is terminated.
            check(unsafe { call(nr::MKDIRAT, [to, name, 0o700, 0, 0, 0]) })?;
            let inner = open(from, name, O_DIRECTORY, 0)?;
            let result = match open(to, name, O_DIRECTORY, 0) {
                Ok(made) => {
                    let result = tree(inner, made, depth + 1);
                    close(made);
                    result
                }
                Err(errno) => Err(errno),
            };
            close(inner);
            return result;
        }
        S_IFREG => {
            let source = open(from, name, 0, 0)?;
            let result = match open(to, name, O_WRONLY | O_CREAT | O_EXCL, 0o600) {
                Ok(dest) => {
                    let result = content(source, dest);
                    close(dest);
                    result
                }
                Err(errno) => Err(errno),
            };
            close(source);
            result?;
        }
        S_IFLNK => {
            let mut target = Buffer([0u8; 4097]);
            let buffer = target.0.as_mut_ptr() as usize;
            // SAFETY: the buffer has one byte more than is given, which stays the terminating zero.
            let length = check(unsafe { call(nr::READLINKAT, [from, name, buffer, 4096, 0, 0]) })?;
            if length > 4096 {
                return Err(EMFILE);
            }
            // SAFETY: both texts are terminated.
            check(unsafe { call(nr::SYMLINKAT, [buffer, to, name, 0, 0, 0]) })?;
        }
        _ => {
            let (major, minor) = (found.device.0 as usize, found.device.1 as usize);
            let device = (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12);
            // SAFETY: the name is terminated.
            check(unsafe { call(nr::MKNODAT, [to, name, found.mode as usize, device, 0, 0]) })?;
        }
    }
    let (uid, gid) = (found.uid as usize, found.gid as usize);
    // SAFETY: the name is terminated.
    check(unsafe { call(nr::FCHOWNAT, [to, name, uid, gid, AT_SYMLINK_NOFOLLOW, 0]) })?;
    if found.mode & S_IFMT != S_IFLNK {
        // SAFETY: the name is terminated, and that of a file that was just made in a filesystem nobody else sees.
        check(unsafe { call(nr::FCHMODAT, [to, name, found.mode as usize & 0o7777, 0, 0, 0]) })?;
    }
    Ok(())
}

fn content(from: usize, to: usize) -> Result<(), u32> {
    loop {
        // SAFETY: plain numbers; no offset is given, so the kernel keeps it.
        if check(unsafe { call(nr::SENDFILE, [to, from, 0, 1 << 20, 0, 0]) })? == 0 {
            return Ok(());
        }
    }
}
