//! A batch of file operations, and what came of it.

use std::io;
use std::os::fd::BorrowedFd;

use super::outcome::{Encoded, STATX};
use crate::plan::wire::{ANSWERS, Call, NONE, PATH_OF, REGISTERS, arg, then};

/// Descriptors that are handed over come first.
const FIRST_FREE: u32 = 256;
/// The most descriptors that are handed over.
const GIVEN: usize = 250;
/// The most calls.
const CALLS: usize = 4_000;
/// The most bytes of texts and room for answers.
const BYTES: usize = 1 << 20;
/// Room for one listing of a directory, one attribute, one list of attributes.
const ROOM: usize = 64 << 10;

/// An argument that is an offset into the room for answers.
const ROOM_KIND: u8 = u8::MAX;
const AT_FDCWD: i64 = libc::AT_FDCWD as i64;

impl Call {
    /// Appends the record as the helper reads it.
    fn write_to(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.nr.to_ne_bytes());
        bytes.extend_from_slice(&self.then.to_ne_bytes());
        bytes.extend_from_slice(&self.kinds);
        bytes.extend(self.args.iter().flat_map(|arg| arg.to_ne_bytes()));
        bytes.extend_from_slice(&self.out.to_ne_bytes());
        bytes.extend_from_slice(&self.pad.to_ne_bytes());
        bytes.extend_from_slice(&self.result.to_ne_bytes());
    }
}

/// A descriptor of the helper, while a batch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

/// A call of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub(super) usize);

/// File operations to be done in order. Names are one component of a directory that is open; paths are resolved below
/// a directory, through no link. Nothing is followed.
///
/// A name of more than one component, or a text with a zero byte, makes the whole batch invalid: nothing of it is done.
#[derive(Debug, Default)]
pub struct FileBatch<'a> {
    given: Vec<BorrowedFd<'a>>,
    calls: Vec<Call>,
    /// Texts and structures.
    blob: Vec<u8>,
    /// Bytes of room for answers.
    room: usize,
    /// Call, offset and length of the room for an answer.
    rooms: Vec<(usize, usize, usize)>,
    next: u32,
    free: Vec<u32>,
    back: usize,
    invalid: bool,
}

/// An argument.
#[derive(Clone, Copy)]
enum Arg {
    Value(i64),
    Blob(usize),
    Room(usize),
    Slot(Slot),
}

impl From<Slot> for Arg {
    fn from(slot: Slot) -> Self {
        Self::Slot(slot)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Value(value.into())
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Self::Value(value.into())
    }
}

impl<'a> FileBatch<'a> {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self { next: FIRST_FREE, ..Self::default() }
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Whether no more should be added: it has reached half of what a helper takes at once.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.calls.len() >= CALLS / 2
            || self.blob.len() + self.room >= BYTES / 2
            || self.given.len() >= GIVEN / 2
            || self.back >= ANSWERS / 2
            || self.next as usize >= REGISTERS / 2
    }

    fn push(&mut self, nr: i64, args: &[Arg]) -> CallId {
        let mut call = Call { nr: u32::try_from(nr).unwrap_or(PATH_OF), out: NONE, ..Call::default() };
        for ((kind, slot), value) in call.kinds.iter_mut().zip(&mut call.args).zip(args) {
            (*kind, *slot) = match *value {
                Arg::Value(value) => (arg::VALUE, value.cast_unsigned()),
                Arg::Blob(offset) => (arg::ADDRESS, offset as u64),
                // Until it is known where the rooms begin.
                Arg::Room(offset) => (ROOM_KIND, offset as u64),
                Arg::Slot(Slot(register)) => (arg::REGISTER, register.into()),
            };
        }
        self.calls.push(call);
        CallId(self.calls.len() - 1)
    }

    fn opened(&mut self, call: CallId) -> Slot {
        let register = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        if let Some(call) = self.calls.get_mut(call.0) {
            call.out = register;
        }
        Slot(register)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Arg {
        self.blob.resize(self.blob.len().next_multiple_of(8), 0);
        let at = self.blob.len();
        self.blob.extend_from_slice(bytes);
        Arg::Blob(at)
    }

    fn text(&mut self, text: &[u8]) -> Arg {
        self.invalid |= text.contains(&0);
        let at = self.blob.len();
        self.blob.extend_from_slice(text);
        self.blob.push(0);
        Arg::Blob(at)
    }

    /// A name in a directory: more than one component would be resolved through links.
    fn name(&mut self, name: &[u8]) -> Arg {
        self.invalid |= matches!(name, b"" | b"." | b"..") || name.contains(&b'/');
        self.text(name)
    }

    fn room(&mut self, length: usize) -> Arg {
        let at = self.room;
        self.room += length.next_multiple_of(8);
        Arg::Room(at)
    }

    fn answers_in(&mut self, call: CallId, room: Arg, length: usize) -> CallId {
        if let Arg::Room(at) = room {
            self.rooms.push((call.0, at, length));
        }
        call
    }

    /// Lets the batch go on when this call fails.
    pub fn pass_over(&mut self, call: CallId) -> CallId {
        if let Some(call) = self.calls.get_mut(call.0) {
            call.then |= then::GO_ON;
        }
        call
    }

    /// The last call so far.
    #[must_use]
    pub fn last(&self) -> Option<CallId> {
        self.calls.len().checked_sub(1).map(CallId)
    }

    /// A descriptor of ours for the helper.
    pub fn give(&mut self, fd: BorrowedFd<'a>) -> Slot {
        self.given.push(fd);
        Slot(u32::try_from(self.given.len() - 1).unwrap_or(u32::MAX))
    }

    /// Hands the descriptor that this call opens to us, in the order of the calls: see [`Outcome::take_fds`](crate::Outcome::take_fds).
    pub fn hand_back(&mut self, call: CallId) {
        if let Some(call) = self.calls.get_mut(call.0) {
            call.then |= then::HAND_BACK;
            self.back += 1;
        }
    }

    /// Opens `path` below `dir`, with `O_*` flags.
    pub fn open(&mut self, dir: Slot, path: &[u8], flags: i32) -> (CallId, Slot) {
        // `struct open_how`: flags, mode, resolve: no magic links, no symbolic links, beneath.
        let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
        let how: Vec<u8> = [u64::from(flags.cast_unsigned()), 0, 0x02 | 0x04 | 0x08]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        let (path, how) = (self.text(path), self.bytes(&how));
        let call = self.push(libc::SYS_openat2, &[dir.into(), path, how, Arg::Value(24)]);
        (call, self.opened(call))
    }

    /// Makes the file `name`, open for reading and writing.
    pub fn create(&mut self, dir: Slot, name: &[u8], mode: u32) -> (CallId, Slot) {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC | libc::O_NOFOLLOW;
        let name = self.name(name);
        let call = self.push(libc::SYS_openat, &[dir.into(), name, flags.into(), mode.into()]);
        (call, self.opened(call))
    }

    /// Closes what a call opened.
    pub fn close(&mut self, slot: Slot) {
        let call = self.push(libc::SYS_close, &[slot.into()]);
        self.pass_over(call);
        self.free.push(slot.0);
    }

    /// Writes all of `bytes`. A short write is seen in [`Outcome::result`](crate::Outcome::result).
    pub fn write(&mut self, file: Slot, bytes: &[u8]) -> CallId {
        let at = self.bytes(bytes);
        self.push(libc::SYS_write, &[file.into(), at, Arg::Value(bytes.len() as i64)])
    }

    /// Makes a directory.
    pub fn make_directory(&mut self, dir: Slot, name: &[u8], mode: u32) -> CallId {
        let name = self.name(name);
        self.push(libc::SYS_mkdirat, &[dir.into(), name, mode.into()])
    }

    /// Makes a symbolic link.
    pub fn symlink(&mut self, dir: Slot, name: &[u8], target: &[u8]) -> CallId {
        let (target, name) = (self.text(target), self.name(name));
        self.push(libc::SYS_symlinkat, &[target, dir.into(), name])
    }

    /// Makes a hard link to what `target` is open on.
    pub fn link(&mut self, dir: Slot, name: &[u8], target: Slot) -> CallId {
        let (path, name) = (self.path_of(target), self.name(name));
        self.push(
            libc::SYS_linkat,
            &[Arg::Value(AT_FDCWD), path, dir.into(), name, libc::AT_SYMLINK_FOLLOW.into()],
        )
    }

    /// Makes a device, a fifo or a file: `st_mode` and device number.
    pub fn make_node(&mut self, dir: Slot, name: &[u8], mode: u32, device: u64) -> CallId {
        let name = self.name(name);
        self.push(libc::SYS_mknodat, &[dir.into(), name, mode.into(), Arg::Value(device.cast_signed())])
    }

    /// Gives `name` to a user and a group of the namespace.
    pub fn chown(&mut self, dir: Slot, name: &[u8], uid: u32, gid: u32) -> CallId {
        let name = self.name(name);
        self.push(
            libc::SYS_fchownat,
            &[dir.into(), name, uid.into(), gid.into(), libc::AT_SYMLINK_NOFOLLOW.into()],
        )
    }

    /// Gives an open file to a user and a group of the namespace.
    pub fn chown_file(&mut self, file: Slot, uid: u32, gid: u32) -> CallId {
        self.push(libc::SYS_fchown, &[file.into(), uid.into(), gid.into()])
    }

    /// The path in `/proc` of what `slot` is open on, which names that very file.
    fn path_of(&mut self, slot: Slot) -> Arg {
        let room = self.room(40);
        self.push(i64::from(PATH_OF), &[room, slot.into()]);
        room
    }

    /// Sets permission bits of what `file` is open on, also with `O_PATH`.
    pub fn chmod(&mut self, file: Slot, mode: u32) -> CallId {
        let path = self.path_of(file);
        self.push(libc::SYS_fchmodat, &[Arg::Value(AT_FDCWD), path, mode.into()])
    }

    /// Sets permission bits of a file that is open for more than its path.
    pub fn chmod_file(&mut self, file: Slot, mode: u32) -> CallId {
        self.push(libc::SYS_fchmod, &[file.into(), mode.into()])
    }

    /// Sets an attribute of what `file` is open on, also with `O_PATH`.
    pub fn set_attribute(&mut self, file: Slot, name: &[u8], value: &[u8]) -> CallId {
        let path = self.path_of(file);
        let (name, at) = (self.text(name), self.bytes(value));
        self.push(libc::SYS_setxattr, &[path, name, at, Arg::Value(value.len() as i64), Arg::Value(0)])
    }

    /// Sets both times of `name`: seconds and nanoseconds.
    pub fn touch(&mut self, dir: Slot, name: &[u8], time: (i64, u32)) -> CallId {
        let (times, name) = (self.times(time), self.name(name));
        self.push(libc::SYS_utimensat, &[dir.into(), name, times, libc::AT_SYMLINK_NOFOLLOW.into()])
    }

    /// Sets both times of an open file.
    pub fn touch_file(&mut self, file: Slot, time: (i64, u32)) -> CallId {
        let times = self.times(time);
        self.push(libc::SYS_utimensat, &[file.into(), Arg::Value(0), times, Arg::Value(0)])
    }

    fn times(&mut self, (seconds, nanoseconds): (i64, u32)) -> Arg {
        let one = [seconds.to_ne_bytes(), i64::from(nanoseconds).to_ne_bytes()].concat();
        self.bytes(&[one.as_slice(), one.as_slice()].concat())
    }

    /// What `name` is: see [`Outcome::stat`](crate::Outcome::stat).
    pub fn stat(&mut self, dir: Slot, name: &[u8]) -> CallId {
        let name = self.name(name);
        self.statx(dir, name, libc::AT_SYMLINK_NOFOLLOW)
    }

    /// What `file` is open on: see [`Outcome::stat`](crate::Outcome::stat).
    pub fn stat_file(&mut self, file: Slot) -> CallId {
        let empty = self.text(b"");
        self.statx(file, empty, libc::AT_EMPTY_PATH)
    }

    fn statx(&mut self, dir: Slot, name: Arg, flags: i32) -> CallId {
        let room = self.room(STATX);
        // STATX_BASIC_STATS.
        let call = self.push(libc::SYS_statx, &[dir.into(), name, flags.into(), Arg::Value(0x7ff), room]);
        self.answers_in(call, room, STATX)
    }

    /// The next names in a directory that is open for reading: see [`Outcome::names`](crate::Outcome::names).
    pub fn list(&mut self, dir: Slot) -> CallId {
        let room = self.room(ROOM);
        let call = self.push(libc::SYS_getdents64, &[dir.into(), room, Arg::Value(ROOM as i64)]);
        self.answers_in(call, room, ROOM)
    }

    /// Where a symbolic link leads: see [`Outcome::bytes`](crate::Outcome::bytes).
    pub fn read_link(&mut self, dir: Slot, name: &[u8]) -> CallId {
        let length = libc::PATH_MAX;
        let (name, room) = (self.name(name), self.room(length as usize));
        let call = self.push(libc::SYS_readlinkat, &[dir.into(), name, room, length.into()]);
        self.answers_in(call, room, length as usize)
    }

    /// The names of all attributes of what `file` is open on, each with a zero behind: see [`Outcome::bytes`](crate::Outcome::bytes).
    pub fn list_attributes(&mut self, file: Slot, length: usize) -> CallId {
        let (path, room) = (self.path_of(file), self.room(length));
        let call = self.push(libc::SYS_listxattr, &[path, room, Arg::Value(length as i64)]);
        self.answers_in(call, room, length)
    }

    /// An attribute of what `file` is open on: see [`Outcome::bytes`](crate::Outcome::bytes).
    pub fn attribute(&mut self, file: Slot, name: &[u8]) -> CallId {
        let (path, name, room) = (self.path_of(file), self.text(name), self.room(ROOM));
        let call = self.push(libc::SYS_getxattr, &[path, name, room, Arg::Value(ROOM as i64)]);
        self.answers_in(call, room, ROOM)
    }

    /// Removes `name`, which is a directory or not.
    pub fn remove(&mut self, dir: Slot, name: &[u8], directory: bool) -> CallId {
        let name = self.name(name);
        let flags = if directory { libc::AT_REMOVEDIR } else { 0 };
        self.push(libc::SYS_unlinkat, &[dir.into(), name, flags.into()])
    }

    /// The batch as the helper takes it.
    pub(super) fn encode(self, memory: usize) -> io::Result<Encoded<'a>> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        if self.invalid {
            return Err(invalid("a name of more than one component, or a text with a zero byte"));
        }
        let base = self.calls.len() * size_of::<Call>();
        let rooms = (base + self.blob.len()).next_multiple_of(8);
        if rooms + self.room > memory
            || self.given.len() > GIVEN
            || self.back > ANSWERS
            || self.next as usize > REGISTERS
        {
            return Err(invalid("the batch is too large"));
        }
        let mut bytes = Vec::with_capacity(rooms);
        for mut call in self.calls.iter().copied() {
            for (kind, value) in call.kinds.iter().zip(&mut call.args) {
                match *kind {
                    arg::ADDRESS => *value += base as u64,
                    ROOM_KIND => *value += rooms as u64,
                    _ => {}
                }
            }
            call.kinds = call.kinds.map(|kind| if kind == ROOM_KIND { arg::ADDRESS } else { kind });
            call.write_to(&mut bytes);
        }
        bytes.extend_from_slice(&self.blob);
        Ok(Encoded {
            bytes,
            given: self.given,
            calls: u32::try_from(self.calls.len()).unwrap_or(u32::MAX),
            records: base,
            rooms: self.rooms.into_iter().map(|(call, at, length)| (call, rooms + at, length)).collect(),
        })
    }
}
