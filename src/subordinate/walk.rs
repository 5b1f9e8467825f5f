//! Reading and removing whole trees through a helper: a few batches a directory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use layer_store::authority::Found;
use runtime::{CallId, FileBatch, FileStat, UserNamespace};

use super::compile::{O_DIRECTORY, O_NOATIME, O_PATH, again};

/// Deeper trees are refused: recursion is bounded.
const DEPTH_LIMIT: usize = 1_024;
/// Room for a list of attributes, at first and at most.
const LIST: (usize, usize) = (256, 64 << 10);

/// Every entry below `root`, depth first.
pub(super) fn tree(namespace: &UserNamespace, root: BorrowedFd<'_>) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let (top, names) = enter(namespace, root, b".")?;
    below(namespace, &top, names, &mut Vec::new(), 0, &mut found)?;
    Ok(found)
}

/// A directory that is open, and what is in it, sorted.
type Entered = (OwnedFd, Vec<(Vec<u8>, Option<bool>)>);

/// Opens `name` in `dir` and reads it to its end.
fn enter(namespace: &UserNamespace, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Entered> {
    let mut batch = FileBatch::new();
    let slot = batch.give(dir);
    let (open, inner) = batch.open(slot, name, O_DIRECTORY | O_NOATIME);
    batch.hand_back(open);
    let mut list = batch.list(inner);
    let mut outcome = namespace.perform(batch)?;
    failure(&outcome)?;
    let opened = outcome.take_fds().pop().ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut names = Vec::new();
    loop {
        if outcome.result(list)? == 0 {
            break;
        }
        names.extend(outcome.names(list).into_iter().map(|found| (found.name, found.directory)));
        let mut batch = FileBatch::new();
        let slot = batch.give(opened.as_fd());
        list = batch.list(slot);
        outcome = namespace.perform(batch)?;
        failure(&outcome)?;
    }
    names.sort_unstable();
    Ok((opened, names))
}

fn failure(outcome: &runtime::Outcome) -> io::Result<()> {
    outcome.failure().map_or(Ok(()), |(_, error)| Err(again(error)))
}

/// What was asked about one name.
struct Asked {
    name: Vec<u8>,
    stat: CallId,
    link: CallId,
    attributes: CallId,
}

fn below(
    namespace: &UserNamespace,
    dir: &OwnedFd,
    names: Vec<(Vec<u8>, Option<bool>)>,
    prefix: &mut Vec<u8>,
    depth: usize,
    found: &mut Vec<Found>,
) -> io::Result<()> {
    if depth > DEPTH_LIMIT {
        return Err(io::Error::other("the tree is too deep"));
    }
    let mut names = names.into_iter().peekable();
    while names.peek().is_some() {
        let mut batch = FileBatch::new();
        let slot = batch.give(dir.as_fd());
        let mut asked = Vec::new();
        while !batch.is_full()
            && let Some((name, _)) = names.next()
        {
            asked.push(ask(&mut batch, slot, name));
        }
        let outcome = namespace.perform(batch)?;
        failure(&outcome)?;
        for one in asked {
            let stat = outcome.stat(one.stat).ok_or(io::ErrorKind::UnexpectedEof)?;
            let kind = rustix::fs::FileType::from_raw_mode(stat.mode);
            let link = kind == rustix::fs::FileType::Symlink;
            let target = if link { outcome.result(one.link)? } else { 0 };
            let target =
                if target > 0 { outcome.bytes(one.link).unwrap_or_default().to_vec() } else { Vec::new() };
            let xattrs = if link { Vec::new() } else { attributes(namespace, dir, &one, &outcome)? };
            let length = prefix.len();
            if length > 0 {
                prefix.push(b'/');
            }
            prefix.extend_from_slice(&one.name);
            found.push(entry(prefix.clone(), &stat, target, xattrs));
            if kind == rustix::fs::FileType::Directory {
                let (inner, names) = enter(namespace, dir.as_fd(), &one.name)?;
                below(namespace, &inner, names, prefix, depth + 1, found)?;
            }
            prefix.truncate(length);
        }
    }
    Ok(())
}

fn ask(batch: &mut FileBatch<'_>, dir: runtime::Slot, name: Vec<u8>) -> Asked {
    let stat = batch.stat(dir, &name);
    // Which of the two it is shows in the stat; the other fails.
    let link = batch.read_link(dir, &name);
    let link = batch.pass_over(link);
    let (_, file) = batch.open(dir, &name, O_PATH);
    let attributes = batch.list_attributes(file, LIST.0);
    let attributes = batch.pass_over(attributes);
    batch.close(file);
    Asked { name, stat, link, attributes }
}

fn entry(path: Vec<u8>, stat: &FileStat, target: Vec<u8>, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Found {
    Found {
        path,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        size: stat.size,
        blocks: stat.blocks,
        rdev: stat.rdev,
        mtime: stat.mtime,
        inode: (stat.inode, stat.links),
        target,
        xattrs,
    }
}

/// The attributes of one name, sorted. Few files have any: these cost a batch of their own.
fn attributes(
    namespace: &UserNamespace,
    dir: &OwnedFd,
    one: &Asked,
    outcome: &runtime::Outcome,
) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    use rustix::io::Errno;
    let code = |error: &io::Error| Errno::from_io_error(error);
    let list = match outcome.result(one.attributes) {
        Ok(0) => return Ok(Vec::new()),
        Ok(_) => outcome.bytes(one.attributes).unwrap_or_default().to_vec(),
        Err(error) if code(&error) == Some(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) if code(&error) == Some(Errno::RANGE) => {
            let mut batch = FileBatch::new();
            let slot = batch.give(dir.as_fd());
            let (_, file) = batch.open(slot, &one.name, O_PATH);
            let call = batch.list_attributes(file, LIST.1);
            let outcome = namespace.perform(batch)?;
            failure(&outcome)?;
            outcome.bytes(call).unwrap_or_default().to_vec()
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut batch = FileBatch::new();
        let slot = batch.give(dir.as_fd());
        let (_, file) = batch.open(slot, &one.name, O_PATH);
        let call = batch.attribute(file, name);
        let call = batch.pass_over(call);
        let outcome = namespace.perform(batch)?;
        failure(&outcome)?;
        match outcome.result(call) {
            Ok(_) => found.push((name.to_vec(), outcome.bytes(call).unwrap_or_default().to_vec())),
            // Gone meanwhile, or not ours to read.
            Err(error)
                if [Errno::NODATA, Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP]
                    .iter()
                    .any(|errno| code(&error) == Some(*errno)) => {}
            Err(error) => return Err(error),
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes `path` with everything below; not being there is fine.
pub(super) fn remove(namespace: &UserNamespace, root: BorrowedFd<'_>, path: &[u8]) -> io::Result<()> {
    let at = path.iter().rposition(|byte| *byte == b'/');
    let (parent, name) = at.map_or((&b"."[..], path), |at| {
        (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default())
    });
    if matches!(name, b"" | b"." | b"..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut batch = FileBatch::new();
    let slot = batch.give(root);
    let (open, inner) = batch.open(slot, parent, O_PATH | O_DIRECTORY);
    batch.hand_back(open);
    let removed = batch.remove(inner, name, false);
    let removed = batch.pass_over(removed);
    let mut outcome = namespace.perform(batch)?;
    failure(&outcome)?;
    let dir = outcome.take_fds().pop().ok_or(io::ErrorKind::UnexpectedEof)?;
    match outcome.result(removed) {
        Err(error) if is_directory(&error) => empty(namespace, dir.as_fd(), name, 0),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_directory(error: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::ISDIR)
}

/// Removes the directory `name` and all that is in it.
fn empty(namespace: &UserNamespace, dir: BorrowedFd<'_>, name: &[u8], depth: usize) -> io::Result<()> {
    if depth > DEPTH_LIMIT {
        return Err(io::Error::other("the tree is too deep"));
    }
    let (inner, names) = enter(namespace, dir, name)?;
    let mut directories = Vec::new();
    let mut names = names.into_iter().peekable();
    while names.peek().is_some() {
        let mut batch = FileBatch::new();
        let slot = batch.give(inner.as_fd());
        let mut removed = Vec::new();
        while !batch.is_full()
            && let Some((name, directory)) = names.next()
        {
            if directory == Some(true) {
                directories.push(name);
                continue;
            }
            let call = batch.remove(slot, &name, false);
            removed.push((batch.pass_over(call), name));
        }
        let outcome = namespace.perform(batch)?;
        failure(&outcome)?;
        for (call, name) in removed {
            match outcome.result(call) {
                Err(error) if is_directory(&error) => directories.push(name),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    for directory in directories {
        empty(namespace, inner.as_fd(), &directory, depth + 1)?;
    }
    let mut batch = FileBatch::new();
    let slot = batch.give(dir);
    let call = batch.remove(slot, name, true);
    let call = batch.pass_over(call);
    let outcome = namespace.perform(batch)?;
    match outcome.result(call) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
