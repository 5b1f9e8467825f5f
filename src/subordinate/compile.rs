//! From the store's operations to calls of a helper.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use layer_store::authority::{BatchError, Op, Reply, Stamp};
use runtime::{CallId, FileBatch, Outcome, Slot, UserNamespace};

/// A longer content is written by us, to a file that the helper has made.
const INLINE: usize = 128 << 10;

/// What an operation that was compiled waits for.
struct Pending {
    /// Its place in the store's batch.
    index: usize,
    /// Its last call.
    end: Option<CallId>,
    answer: Answer,
}

enum Answer {
    Done,
    File,
    /// The attributes that were tried, the write and its length, and the stat at the end.
    Stamped {
        attributes: Vec<(CallId, Vec<u8>)>,
        written: Option<(CallId, u64)>,
        stat: CallId,
    },
}

/// Compiles operations below one root, and has them done whenever enough have come together.
pub(super) struct Compiler<'a> {
    namespace: &'a UserNamespace,
    root: BorrowedFd<'a>,
    batch: FileBatch<'a>,
    root_slot: Option<Slot>,
    /// The directory that was worked in last, open.
    parent: Option<(Vec<u8>, Slot)>,
    pending: Vec<Pending>,
    replies: Vec<Reply>,
}

fn fail(index: usize, op: &Op, source: io::Error) -> BatchError {
    let path = String::from_utf8_lossy(op.path()).into_owned();
    let owner = match op {
        Op::Put(_, _, stamp) | Op::Stamp(_, stamp) => stamp.owner,
        _ => None,
    };
    let source = match owner {
        Some(owner) if rustix::io::Errno::from_io_error(&source) == Some(rustix::io::Errno::INVAL) => {
            io::Error::new(source.kind(), NoSuchId { owner, source })
        }
        _ => source,
    };
    BatchError { index, path, source }
}

/// Ids beyond the map's end are what the kernel calls invalid.
#[derive(Debug, thiserror::Error)]
#[error("the owner {}:{} is outside of the ranges of this user in /etc/subuid and /etc/subgid", .owner.0, .owner.1)]
struct NoSuchId {
    owner: (u32, u32),
    source: io::Error,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(namespace: &'a UserNamespace, root: BorrowedFd<'a>) -> Self {
        Self {
            namespace,
            root,
            batch: FileBatch::new(),
            root_slot: None,
            parent: None,
            pending: Vec::new(),
            replies: Vec::new(),
        }
    }

    pub(super) fn perform(mut self, ops: &[Op]) -> Result<Vec<Reply>, BatchError> {
        for (index, op) in ops.iter().enumerate() {
            match op {
                Op::Put(path, content, stamp) if content.len() > INLINE => {
                    self.add(index, &Op::File(path.clone())).map_err(|error| fail(index, op, error))?;
                    self.flush(ops)?;
                    let Some(Reply::File(file)) = self.replies.pop() else {
                        return Err(fail(index, op, io::ErrorKind::UnexpectedEof.into()));
                    };
                    write_all(file, content).map_err(|error| fail(index, op, error))?;
                    self.add(index, &Op::Stamp(path.clone(), stamp.clone()))
                        .map_err(|error| fail(index, op, error))?;
                }
                Op::Remove(path) => {
                    self.flush(ops)?;
                    super::walk::remove(self.namespace, self.root, path)
                        .map_err(|error| fail(index, op, error))?;
                    self.replies.push(Reply::Done);
                }
                op => self.add(index, op).map_err(|error| fail(index, op, error))?,
            }
            if self.batch.is_full() {
                self.flush(ops)?;
            }
        }
        self.flush(ops)?;
        Ok(self.replies)
    }

    /// The parent of `path`, open, and the last component.
    fn place<'p>(&mut self, path: &'p [u8]) -> io::Result<(Slot, &'p [u8])> {
        let at = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = at.map_or((&[][..], path), |at| {
            (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default())
        });
        if matches!(name, b"" | b"." | b"..") {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let root = self.root();
        if parent.is_empty() {
            return Ok((root, name));
        }
        if let Some((known, slot)) = &self.parent
            && known == parent
        {
            return Ok((*slot, name));
        }
        if let Some((_, slot)) = self.parent.take() {
            self.batch.close(slot);
        }
        let (_, slot) = self.batch.open(root, parent, O_PATH | O_DIRECTORY);
        self.parent = Some((parent.to_vec(), slot));
        Ok((slot, name))
    }

    fn root(&mut self) -> Slot {
        if let Some(slot) = self.root_slot {
            return slot;
        }
        let slot = self.batch.give(self.root);
        self.root_slot = Some(slot);
        slot
    }

    fn add(&mut self, index: usize, op: &Op) -> io::Result<()> {
        let mut answer = Answer::Done;
        match op {
            Op::Directory(path) => {
                let (dir, name) = self.place(path)?;
                self.batch.make_directory(dir, name, 0o700);
            }
            Op::File(path) => {
                let (dir, name) = self.place(path)?;
                let (call, _) = self.batch.create(dir, name, 0o600);
                self.batch.hand_back(call);
                answer = Answer::File;
            }
            Op::Put(path, content, stamp) => answer = self.put(path, content, stamp)?,
            Op::Symlink(path, target) => {
                let (dir, name) = self.place(path)?;
                self.batch.symlink(dir, name, target);
            }
            Op::Link(path, target) => {
                let (dir, name) = self.place(path)?;
                let root = self.root();
                let (_, target) = self.batch.open(root, target, O_PATH);
                self.batch.link(dir, name, target);
                self.batch.close(target);
            }
            Op::Node(path, mode, device) => {
                let (dir, name) = self.place(path)?;
                self.batch.make_node(dir, name, (mode & 0o170_000) | 0o600, *device);
            }
            Op::Stamp(path, stamp) => answer = self.stamp(path, stamp)?,
            Op::Touch(path, seconds, nanoseconds) => {
                let (dir, name) = self.place(path)?;
                self.batch.touch(dir, name, (*seconds, *nanoseconds));
            }
            Op::Open(path) => {
                let (dir, name) = self.place(path)?;
                // Reading leaves no trace: what steps make of a file may have its time of access in it.
                let (call, _) = self.batch.open(dir, name, O_NONBLOCK | O_NOATIME);
                self.batch.hand_back(call);
                answer = Answer::File;
            }
            _ => return Err(io::ErrorKind::Unsupported.into()),
        }
        self.pending.push(Pending { index, end: self.batch.last(), answer });
        Ok(())
    }

    /// A whole file: owner, then mode (a change of owner takes setuid away), then attributes (and capabilities), then
    /// time.
    fn put(&mut self, path: &[u8], content: &[u8], stamp: &Stamp) -> io::Result<Answer> {
        let (dir, name) = self.place(path)?;
        let batch = &mut self.batch;
        let (_, file) = batch.create(dir, name, 0o600);
        let written = (!content.is_empty()).then(|| (batch.write(file, content), content.len() as u64));
        if let Some((uid, gid)) = stamp.owner {
            batch.chown_file(file, uid, gid);
        }
        batch.chmod_file(file, stamp.mode.unwrap_or(0o600) & 0o7777);
        let attributes = set_attributes(batch, file, stamp);
        batch.touch_file(file, stamp.mtime);
        let stat = batch.stat_file(file);
        batch.close(file);
        Ok(Answer::Stamped { attributes, written, stat })
    }

    fn stamp(&mut self, path: &[u8], stamp: &Stamp) -> io::Result<Answer> {
        let (dir, name) = self.place(path)?;
        let batch = &mut self.batch;
        if let Some((uid, gid)) = stamp.owner {
            batch.chown(dir, name, uid, gid);
        }
        let mut attributes = Vec::new();
        if stamp.mode.is_some() || !stamp.xattrs.is_empty() {
            let (_, file) = batch.open(dir, name, O_PATH);
            if let Some(mode) = stamp.mode {
                batch.chmod(file, mode & 0o7777);
            }
            attributes = set_attributes(batch, file, stamp);
            batch.close(file);
        }
        batch.touch(dir, name, stamp.mtime);
        let stat = batch.stat(dir, name);
        Ok(Answer::Stamped { attributes, written: None, stat })
    }

    /// Has done what was compiled so far.
    fn flush(&mut self, ops: &[Op]) -> Result<(), BatchError> {
        let batch = std::mem::replace(&mut self.batch, FileBatch::new());
        (self.root_slot, self.parent) = (None, None);
        let pending = std::mem::take(&mut self.pending);
        let failed = |index: usize, source: io::Error| match ops.get(index) {
            Some(op) => fail(index, op, source),
            None => BatchError { index, path: String::new(), source },
        };
        let first = pending.first().map_or(0, |pending| pending.index);
        let mut outcome = self.namespace.perform(batch).map_err(|error| failed(first, error))?;
        if let Some((call, error)) = outcome.failure() {
            let at =
                pending.iter().find(|pending| pending.end >= Some(call)).map_or(first, |found| found.index);
            return Err(failed(at, again(error)));
        }
        let mut files = outcome.take_fds().into_iter();
        for Pending { index, answer, .. } in pending {
            let reply = reply(&outcome, answer, &mut files).map_err(|error| failed(index, error))?;
            self.replies.push(reply);
        }
        Ok(())
    }
}

fn reply(outcome: &Outcome, answer: Answer, files: &mut impl Iterator<Item = OwnedFd>) -> io::Result<Reply> {
    match answer {
        Answer::Done => Ok(Reply::Done),
        Answer::File => files.next().map(Reply::File).ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
        Answer::Stamped { attributes, written, stat } => {
            if let Some((call, length)) = written
                && outcome.result(call)? != length
            {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let mut without = Vec::new();
            for (call, name) in attributes {
                match outcome.result(call) {
                    Ok(_) => {}
                    Err(error) if is_refusal(&error) => without.push(name),
                    Err(error) => return Err(error),
                }
            }
            let blocks = outcome.stat(stat).map_or(0, |stat| stat.blocks);
            Ok(Reply::Stamped { blocks, without })
        }
    }
}

fn set_attributes(batch: &mut FileBatch<'_>, file: Slot, stamp: &Stamp) -> Vec<(CallId, Vec<u8>)> {
    let mut calls = Vec::with_capacity(stamp.xattrs.len());
    for (name, value) in &stamp.xattrs {
        let call = batch.set_attribute(file, name, value);
        calls.push((batch.pass_over(call), name.clone()));
    }
    calls
}

/// Whether the file system or the namespace does not allow an attribute.
fn is_refusal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let refusals = [Errno::OPNOTSUPP, Errno::PERM, Errno::ACCESS, Errno::INVAL];
    error.raw_os_error().is_some_and(|code| refusals.iter().any(|errno| errno.raw_os_error() == code))
}

pub(super) fn again(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn write_all(file: OwnedFd, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    std::fs::File::from(file).write_all(content)
}

const fn flag(flags: rustix::fs::OFlags) -> i32 {
    flags.bits().cast_signed()
}

pub(super) const O_PATH: i32 = flag(rustix::fs::OFlags::PATH);
pub(super) const O_DIRECTORY: i32 = flag(rustix::fs::OFlags::DIRECTORY);
pub(super) const O_NONBLOCK: i32 = flag(rustix::fs::OFlags::NONBLOCK);
pub(super) const O_NOATIME: i32 = flag(rustix::fs::OFlags::NOATIME);
