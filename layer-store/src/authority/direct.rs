//! Work on trees in this process, relative to open directories.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use super::{BatchError, FileAuthority, Found, Op, Owners, Reply, Stamp};

/// The largest value of one attribute and the longest list of names, in bytes (the kernel's own limits).
const XATTR_LIMIT: usize = 64 << 10;
/// In what file systems give room at least, in bytes.
const BLOCK: u64 = 4_096;
/// Deeper trees than this are refused: recursion is bounded.
const DEPTH_LIMIT: usize = 1_024;

/// The authority of the calling process: everything as root, files of a single owner otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Direct {
    owners: Owners,
    devices: bool,
    /// Who owns what this process makes.
    ids: (u32, u32),
}

thread_local! {
    static OWN_UMASK: Cell<bool> = const { Cell::new(false) };
}

/// Gives this thread a umask of its own, which is 0: then a file can be made with its mode at once. For threads of
/// this crate only.
pub(crate) fn own_umask() {
    if nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).is_ok() {
        rustix::process::umask(Mode::empty());
        OWN_UMASK.set(true);
    }
}

/// The ids that images use: up to nobody, 65534.
const USUAL_IDS: u64 = 65_535;
/// All that there are: only the first user namespace has them.
const ALL_IDS: u64 = u32::MAX as u64;

/// How many user ids this process's user namespace has; all when that cannot be read.
fn mapped_ids() -> u64 {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else { return u64::MAX };
    let counts = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    counts.sum()
}

impl Direct {
    /// What the calling process is able to do: true owners when it is root, and not only by name: in a user namespace
    /// that has the usual ids.
    #[must_use]
    pub fn detect() -> Self {
        let root = rustix::process::geteuid().is_root();
        let owners = if root && mapped_ids() >= USUAL_IDS { Owners::True } else { Owners::Single };
        let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { owners, devices: owners == Owners::True && mapped_ids() >= ALL_IDS, ids }
    }
}

impl FileAuthority for Direct {
    fn perform(&self, root: BorrowedFd<'_>, batch: &[Op]) -> Result<Vec<Reply>, BatchError> {
        let mut parents = Parents { root, last: None };
        let mut replies = Vec::with_capacity(batch.len());
        for (index, op) in batch.iter().enumerate() {
            let reply = perform(&mut parents, op, self.ids).map_err(|errno| BatchError {
                index,
                path: String::from_utf8_lossy(op.path()).into_owned(),
                source: errno.into(),
            })?;
            replies.push(reply);
        }
        Ok(replies)
    }

    fn walk(&self, root: BorrowedFd<'_>) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        walk(root, &mut Vec::new(), 0, &mut found)?;
        found.sort_unstable_by(|one, other| crate::pack::depth_first(&one.path, &other.path));
        Ok(found)
    }

    fn owners(&self) -> Owners {
        self.owners
    }

    fn makes_devices(&self) -> bool {
        self.devices
    }

    fn usage(&self, root: BorrowedFd<'_>) -> io::Result<u64> {
        disk_usage(root)
    }
}

/// The directory that was worked in last, kept open: batches come sorted.
struct Parents<'a> {
    root: BorrowedFd<'a>,
    last: Option<Parent>,
}

struct Parent {
    path: Vec<u8>,
    /// None for the root.
    fd: Option<OwnedFd>,
    /// Its group, once somebody wanted to know.
    group: Option<u32>,
}

impl Parent {
    fn fd<'a>(&'a self, root: BorrowedFd<'a>) -> BorrowedFd<'a> {
        self.fd.as_ref().map_or(root, AsFd::as_fd)
    }
}

impl<'a> Parents<'a> {
    /// The parent of `path`, open, and the last component.
    fn of<'p>(&mut self, path: &'p [u8]) -> Result<(BorrowedFd<'_>, &'p [u8]), Errno> {
        let (root, parent, name) = self.turn_to(path)?;
        Ok((parent.fd(root), name))
    }

    /// As [`Self::of`], and the parent's group.
    fn and_group_of<'p>(&mut self, path: &'p [u8]) -> Result<(BorrowedFd<'_>, &'p [u8], u32), Errno> {
        let (root, parent, name) = self.turn_to(path)?;
        let group = match parent.group {
            Some(group) => group,
            None => fs::fstat(parent.fd(root))?.st_gid,
        };
        parent.group = Some(group);
        Ok((parent.fd(root), name, group))
    }

    fn turn_to<'p>(&mut self, path: &'p [u8]) -> Result<(BorrowedFd<'a>, &mut Parent, &'p [u8]), Errno> {
        let (parent, name) = split(path);
        if name.is_empty() || name == b"." || name == b".." {
            return Err(Errno::INVAL);
        }
        if self.last.as_ref().is_none_or(|last| last.path != parent) {
            let open = || open_beneath(self.root, parent, OFlags::PATH | OFlags::DIRECTORY);
            let fd = if parent.is_empty() { None } else { Some(open()?) };
            self.last = Some(Parent { path: parent.to_vec(), fd, group: None });
        }
        self.last.as_mut().map(|last| (self.root, last, name)).ok_or(Errno::NOENT)
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

/// Opens `path` below `root`, through no symbolic link.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match fs::openat2(root, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve) {
            // The kernel asks to try again when something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

fn perform(parents: &mut Parents<'_>, op: &Op, ids: (u32, u32)) -> Result<Reply, Errno> {
    match op {
        Op::Directory(path) => {
            let (dir, name) = parents.of(path)?;
            fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))?;
        }
        Op::File(path) => {
            let (dir, name) = parents.of(path)?;
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            return fs::openat(dir, name, flags, Mode::from_raw_mode(0o600)).map(Reply::File);
        }
        Op::Put(path, content, stamp) => return put(parents, path, content, stamp, ids),
        Op::Symlink(path, target) => {
            let (dir, name) = parents.of(path)?;
            fs::symlinkat(target.as_slice(), dir, name)?;
        }
        Op::Link(path, target) => {
            let target = open_beneath(parents.root, target, OFlags::PATH)?;
            let (dir, name) = parents.of(path)?;
            link(&target, dir, name)?;
        }
        Op::Node(path, mode, device) => {
            let (dir, name) = parents.of(path)?;
            let kind = FileType::from_raw_mode(*mode);
            fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), *device)?;
        }
        Op::Stamp(path, stamp) => return self::stamp(parents, path, stamp),
        Op::Touch(path, seconds, nanoseconds) => {
            let (dir, name) = parents.of(path)?;
            touch(dir, name, (*seconds, *nanoseconds))?;
        }
        Op::Open(path) => {
            let (dir, name) = parents.of(path)?;
            return open_for_reading(dir, name).map(Reply::File);
        }
        Op::Remove(path) => {
            parents.last = None;
            let (dir, name) = parents.of(path)?;
            remove_tree(dir, name).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
    }
    Ok(Reply::Done)
}

/// Links what `target` is open on. Without CAP_DAC_READ_SEARCH this goes through `/proc`, which names this very
/// descriptor and so cannot be led elsewhere.
fn link(target: &OwnedFd, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match fs::linkat(target, "", dir, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT | Errno::PERM) => {
            fs::linkat(fs::CWD, proc_path(target).as_str(), dir, name, AtFlags::SYMLINK_FOLLOW)
        }
        other => other,
    }
}

fn proc_path(fd: &impl std::os::fd::AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn touch(dir: BorrowedFd<'_>, name: &[u8], mtime: (i64, u32)) -> Result<(), Errno> {
    fs::utimensat(dir, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// As [`stamp`], through the open file and with as few calls as will do.
fn put(
    parents: &mut Parents<'_>,
    path: &[u8],
    content: &[u8],
    stamp: &Stamp,
    ids: (u32, u32),
) -> Result<Reply, Errno> {
    let (dir, name, group) = parents.and_group_of(path)?;
    let mode = stamp.mode.unwrap_or(0o600) & 0o7777;
    // On some mounts (`grpid`) what is made has the group of its directory and not its maker's.
    let owner = stamp.owner.filter(|owner| *owner != ids || group != ids.1);
    // Set-id bits only after the owner is right.
    let at_once = OWN_UMASK.get() && owner.is_none() && mode & 0o7000 == 0;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = fs::openat(dir, name, flags, Mode::from_raw_mode(if at_once { mode } else { 0o600 }))?;
    let mut rest = content;
    while !rest.is_empty() {
        let count = match rustix::io::write(&file, rest) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        rest = rest.get(count..).unwrap_or_default();
    }
    if let Some((uid, gid)) = owner {
        fs::fchown(&file, Some(fs::Uid::from_raw(uid)), Some(fs::Gid::from_raw(gid)))?;
    }
    if !at_once {
        fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    }
    let mut without = Vec::new();
    for (name, value) in &stamp.xattrs {
        match fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL) => without.push(name.clone()),
            Err(errno) => return Err(errno),
        }
    }
    fs::futimens(&file, &times(stamp.mtime))?;
    Ok(Reply::Stamped { blocks: blocks(&fs::fstat(&file)?), without })
}

/// The 512-byte blocks that a new file keeps: what XFS has in store behind its end goes by itself, some time later.
fn blocks(stat: &fs::Stat) -> u64 {
    let taken = u64::try_from(stat.st_blocks).unwrap_or(0);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return taken;
    }
    let unit = u64::try_from(stat.st_blksize).unwrap_or(0).max(BLOCK);
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    taken.min(size.div_ceil(unit).saturating_mul(unit / 512))
}

/// Owner, then mode (chown clears setuid), then attributes (chown clears capabilities), then time.
fn stamp(parents: &mut Parents<'_>, path: &[u8], stamp: &Stamp) -> Result<Reply, Errno> {
    let (dir, name) = parents.of(path)?;
    if let Some((uid, gid)) = stamp.owner {
        let (uid, gid) = (fs::Uid::from_raw(uid), fs::Gid::from_raw(gid));
        fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let mut without = Vec::new();
    if !stamp.xattrs.is_empty() || stamp.mode.is_some() {
        let file = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if let Some(mode) = stamp.mode {
            fs::chmod(proc_path(&file).as_str(), Mode::from_raw_mode(mode & 0o7777))?;
        }
        for (name, value) in &stamp.xattrs {
            match fs::setxattr(proc_path(&file).as_str(), name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL) => {
                    without.push(name.clone());
                }
                Err(errno) => return Err(errno),
            }
        }
    }
    touch(dir, name, stamp.mtime)?;
    let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Reply::Stamped { blocks: blocks(&stat), without })
}

/// Opens `name` for reading, also when its mode forbids that to its owner, who is us.
///
/// Reading leaves no trace: a time of access that tells when a layer was made would be in what steps make of its files,
/// as zip writes it down.
fn open_for_reading(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let plain = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let flags = plain | OFlags::NOATIME;
    match fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::ACCESS) => {}
        // Somebody else's: no tree of a store's own.
        Err(Errno::PERM) => return fs::openat(dir, name, plain, Mode::empty()),
        other => return other,
    }
    let path = fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mode = Mode::from_raw_mode(fs::fstat(&path)?.st_mode & 0o7777);
    fs::chmod(proc_path(&path).as_str(), mode | Mode::RUSR | Mode::XUSR)?;
    let opened = fs::openat(dir, name, flags, Mode::empty());
    fs::chmod(proc_path(&path).as_str(), mode)?;
    opened
}

fn walk(dir: BorrowedFd<'_>, prefix: &mut Vec<u8>, depth: usize, found: &mut Vec<Found>) -> io::Result<()> {
    if depth > DEPTH_LIMIT {
        return Err(io::Error::other("the tree is too deep"));
    }
    for name in names(dir)? {
        let stat = fs::statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
        let length = prefix.len();
        if length > 0 {
            prefix.push(b'/');
        }
        prefix.extend_from_slice(&name);
        let kind = FileType::from_raw_mode(stat.st_mode);
        let target = match kind {
            FileType::Symlink => fs::readlinkat(dir, name.as_slice(), Vec::new())?.into_bytes(),
            _ => Vec::new(),
        };
        found.push(Found {
            path: prefix.clone(),
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            rdev: stat.st_rdev,
            mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            inode: (stat.st_ino, stat.st_nlink),
            target,
            xattrs: xattrs(dir, &name, kind)?,
        });
        if kind == FileType::Directory {
            let inner = open_for_reading(dir, &name)?;
            walk(inner.as_fd(), prefix, depth + 1, found)?;
        }
        prefix.truncate(length);
    }
    Ok(())
}

fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let plain = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut names = Vec::new();
    // As with files: who looks leaves no trace.
    let listing = match fs::openat(dir, ".", plain | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => fs::openat(dir, ".", plain, Mode::empty())?,
        other => other?,
    };
    for entry in fs::Dir::new(listing)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_bytes().to_vec());
        }
    }
    Ok(names)
}

/// All attributes of `name`, sorted. It is one component under a directory that is held open, and is not followed.
fn xattrs(dir: BorrowedFd<'_>, name: &[u8], kind: FileType) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    if kind == FileType::Symlink {
        return Ok(Vec::new());
    }
    let path = [proc_path(&dir).as_bytes(), b"/", name].concat();
    let mut list = [0_u8; 1 << 10];
    let mut long = Vec::new();
    let list: &[u8] = match fs::llistxattr(path.as_slice(), &mut list[..]) {
        Ok(length) => list.get(..length).unwrap_or_default(),
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            long.resize(XATTR_LIMIT, 0);
            let length = fs::llistxattr(path.as_slice(), long.as_mut_slice())?;
            long.get(..length).unwrap_or_default()
        }
        Err(errno) => return Err(errno.into()),
    };
    let mut found = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; XATTR_LIMIT];
        match fs::lgetxattr(path.as_slice(), name, value.as_mut_slice()) {
            Ok(length) => {
                value.truncate(length);
                found.push((name.to_vec(), value));
            }
            // Gone meanwhile, or not ours to read.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Bytes on disk of `dir` and everything below, each inode once.
fn disk_usage(dir: BorrowedFd<'_>) -> io::Result<u64> {
    let own = u64::try_from(fs::fstat(dir)?.st_blocks).unwrap_or(0);
    Ok((own + blocks_below(dir, 0, &mut BTreeSet::new())?) * 512)
}

fn blocks_below(dir: BorrowedFd<'_>, depth: usize, seen: &mut BTreeSet<u64>) -> io::Result<u64> {
    if depth > DEPTH_LIMIT {
        return Err(io::Error::other("the tree is too deep"));
    }
    let mut blocks = 0;
    for name in names(dir)? {
        let Ok(stat) = fs::statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory || stat.st_nlink == 1 || seen.insert(stat.st_ino) {
            blocks += u64::try_from(stat.st_blocks).unwrap_or(0);
        }
        if is_directory {
            match open_for_reading(dir, &name) {
                Ok(inner) => blocks += blocks_below(inner.as_fd(), depth + 1, seen)?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(blocks)
}

/// Removes `name` in `dir`, whatever it is. Not being there is fine.
fn remove_tree(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    remove(dir, name, 0)
}

fn remove(dir: BorrowedFd<'_>, name: &[u8], depth: usize) -> io::Result<()> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    match fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    if depth > DEPTH_LIMIT {
        return Err(io::Error::other("the tree is too deep"));
    }
    let path = fs::openat(
        dir,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // A directory without write or search bits hides its content even from the owner.
    if fs::fstat(&path)?.st_mode & 0o700 != 0o700 {
        fs::chmod(proc_path(&path).as_str(), Mode::RWXU)?;
    }
    for inner in names(path.as_fd())? {
        remove(path.as_fd(), &inner, depth + 1)?;
    }
    fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    Ok(())
}
