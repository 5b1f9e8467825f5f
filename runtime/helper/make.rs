//! Making a mount point behind symbolic links that lead nowhere yet, inside a root.
//!
//! The kernel's own lookup (`openat2(2)` with RESOLVE_IN_ROOT) finds what exists; where it ends, the next name is either
//! made in the directory that was reached, by its descriptor, or is a link whose text takes its place in the path. So no
//! text that an image chose is ever looked up but beneath the root.

use crate::syscall::{call, nr, repeat};

const ENOENT: u32 = 2;
const EEXIST: u32 = 17;
const EINVAL: u32 = 22;
const ENAMETOOLONG: u32 = 36;
const ELOOP: u32 = 40;
const O_CLOEXEC: usize = 0o2000000;
const O_PATH: usize = 0o10000000;
const O_DIRECTORY: usize = if cfg!(target_arch = "aarch64") { 0o40000 } else { 0o200000 };
const O_NOFOLLOW: usize = if cfg!(target_arch = "aarch64") { 0o100000 } else { 0o400000 };
const O_WRONLY: usize = 1;
const O_CREAT: usize = 0o100;
const O_EXCL: usize = 0o200;
/// RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS.
const RESOLVE: u64 = 0x10 | 0x02;

const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;
/// How many links may be followed, as the kernel has it, and how many rounds there may be in all: each makes a name or
/// follows a link, unless somebody changes the directories meanwhile.
const MAX_LINKS: u32 = 40;
const MAX_ROUNDS: u32 = 4096;

fn check(answer: isize) -> Result<usize, u32> {
    if (-4095..0).contains(&answer) { Err(-answer as u32) } else { Ok(answer as usize) }
}

/// A path with room for its end.
struct Path {
    bytes: [u8; PATH_MAX + 1],
    len: usize,
}

impl Path {
    const fn empty() -> Self {
        Self { bytes: [0; PATH_MAX + 1], len: 0 }
    }

    fn push(&mut self, byte: u8) -> Result<(), u32> {
        if self.len + 1 >= PATH_MAX {
            return Err(ENAMETOOLONG);
        }
        self.bytes[self.len] = byte;
        self.len += 1;
        self.bytes[self.len] = 0;
        Ok(())
    }

    /// Opens the first `len` bytes of it beneath the root.
    fn open(&mut self, root: usize, len: usize, flags: usize) -> Result<usize, u32> {
        let how = [(O_PATH | O_CLOEXEC | flags) as u64, 0, RESOLVE];
        let kept = self.bytes[len];
        self.bytes[len] = 0;
        let name = if len == 0 { c".".as_ptr() as usize } else { self.bytes.as_ptr() as usize };
        let answer = repeat(nr::OPENAT2, [root, name, how.as_ptr() as usize, 24, 0, 0]);
        self.bytes[len] = kept;
        check(answer)
    }
}

/// Where a path ends that exists in part.
struct End {
    /// So much of it exists.
    exists: usize,
    /// The name after that.
    name: (usize, usize),
}

fn end_of(path: &mut Path, root: usize) -> Result<End, u32> {
    let mut exists = 0;
    let mut at = 0;
    loop {
        while at < path.len && path.bytes[at] == b'/' {
            at += 1;
        }
        let start = at;
        while at < path.len && path.bytes[at] != b'/' {
            at += 1;
        }
        if start == at {
            // All of it exists by now.
            return Err(EEXIST);
        }
        match path.open(root, at, 0) {
            Ok(fd) => close(fd),
            Err(ENOENT) => return Ok(End { exists, name: (start, at) }),
            Err(errno) => return Err(errno),
        }
        exists = at;
    }
}

fn close(fd: usize) {
    // SAFETY: a descriptor of our own that nobody else knows.
    unsafe { call(nr::CLOSE, [fd, 0, 0, 0, 0, 0]) };
}

/// Opens a path beneath the root; makes what is missing of it, at last a file or a directory.
pub(crate) fn behind_links(root: usize, text: usize, file: bool) -> Result<usize, u32> {
    let mut path = Path::empty();
    let mut at = 0;
    loop {
        // SAFETY: the text stands in the plan and ends with a zero byte.
        let byte = unsafe { *((text + at) as *const u8) };
        if byte == 0 {
            break;
        }
        path.push(byte)?;
        at += 1;
    }
    let (mut links, mut rounds) = (0, 0);
    loop {
        let len = path.len;
        match path.open(root, len, 0) {
            Err(ENOENT) => {}
            other => return other,
        }
        rounds += 1;
        if rounds > MAX_ROUNDS {
            return Err(ELOOP);
        }
        let end = match end_of(&mut path, root) {
            Err(EEXIST) => continue,
            other => other?,
        };
        let parent = path.open(root, end.exists, O_DIRECTORY)?;
        let result = one(&mut path, &end, parent, file);
        close(parent);
        match result? {
            Made::Name => {}
            Made::File(fd) => return Ok(fd),
            Made::Link => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(ELOOP);
                }
            }
        }
    }
}

/// What became of a name.
enum Made {
    Name,
    File(usize),
    Link,
}

/// Makes one name in its directory, or puts a link's text in its place.
fn one(path: &mut Path, end: &End, parent: usize, file: bool) -> Result<Made, u32> {
    let (start, stop) = end.name;
    if stop - start > NAME_MAX {
        return Err(ENAMETOOLONG);
    }
    let mut name = [0u8; NAME_MAX + 1];
    let mut at = start;
    while at < stop {
        name[at - start] = path.bytes[at];
        at += 1;
    }
    let name = name.as_ptr() as usize;
    let mut link = [0u8; PATH_MAX];
    // SAFETY: the name is terminated, and the buffer has the size that is given.
    let read = unsafe { call(nr::READLINKAT, [parent, name, link.as_mut_ptr() as usize, PATH_MAX, 0, 0]) };
    match check(read) {
        Ok(length) => {
            let mut next = Path::empty();
            if link[0] != b'/' {
                copy(&mut next, &path.bytes, 0, end.exists)?;
                next.push(b'/')?;
            }
            copy(&mut next, &link, 0, length)?;
            copy(&mut next, &path.bytes, stop, path.len)?;
            *path = next;
            return Ok(Made::Link);
        }
        // It came to be meanwhile: the next round finds it.
        Err(EINVAL) => return Ok(Made::Name),
        Err(ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let mut rest = stop;
    while rest < path.len && path.bytes[rest] == b'/' {
        rest += 1;
    }
    let answer = if file && rest == path.len {
        let flags = O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_WRONLY;
        // SAFETY: the name is terminated.
        let opened = unsafe { call(nr::OPENAT, [parent, name, flags, 0o644, 0, 0]) };
        match check(opened) {
            Ok(fd) => return Ok(Made::File(fd)),
            Err(errno) => Err(errno),
        }
    } else {
        // SAFETY: the name is terminated.
        check(unsafe { call(nr::MKDIRAT, [parent, name, 0o755, 0, 0, 0]) })
    };
    match answer {
        Ok(_) | Err(EEXIST) => Ok(Made::Name),
        Err(errno) => Err(errno),
    }
}

fn copy(path: &mut Path, bytes: &[u8], from: usize, to: usize) -> Result<(), u32> {
    let mut at = from;
    while at < to {
        path.push(bytes[at])?;
        at += 1;
    }
    Ok(())
}
