//! Index and tree to tar: the same bytes whatever the order on disk, the machine or the time.
//!
//! POSIX ustar, entries sorted by path, depth first. A PAX header comes before an entry only when ustar cannot say it: a long
//! path or link, a large number, a time with nanoseconds or before 1970, extended attributes. No user or group names.
//! Whiteouts are written in OCI form. Source: POSIX.1-2024 `pax`; image-spec `layer.md`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use image_core::{Algorithm, Digest, Digester, whiteout};
use tar::{EntryType, Header};

use crate::authority::{FileAuthority, Op, Reply};
use crate::index::{Entry, Kind};

mod ahead;

const BLOCK: usize = 512;
const BUFFER: usize = 256 << 10;
/// The largest number that an octal field of eight and of twelve bytes can say.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;

/// Writes `entries`, whose files are in the tree at `root`, to `out`. With `hash`, gives the digest of each content.
///
/// Other threads read ahead (see [`ahead`]); the bytes do not depend on how many.
///
/// # Errors
/// When a file cannot be read, is not as long as the index says, or `out` does not take the bytes.
pub(crate) fn pack<W: Write>(
    entries: &BTreeMap<Vec<u8>, Entry>,
    root: BorrowedFd<'_>,
    authority: &dyn FileAuthority,
    out: &mut W,
    hash: bool,
) -> io::Result<Vec<(Vec<u8>, Digest)>> {
    let open = |paths: &[&[u8]]| {
        let ops: Vec<Op> = paths.iter().map(|path| Op::Open(path.to_vec())).collect();
        let replies = authority.perform(root, &ops).map_err(io::Error::other)?;
        let file = |reply| match reply {
            Reply::File(fd) => Ok(std::fs::File::from(fd)),
            _ => Err(io::Error::other("the authority gave no file")),
        };
        replies.into_iter().map(file).collect()
    };
    pack_from(entries, &open, out, hash)
}

/// A directory's entries follow it at once, whatever else begins with its name: GNU tar sets a directory's time as
/// soon as something else comes.
pub(crate) fn depth_first(one: &[u8], other: &[u8]) -> std::cmp::Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    one.iter().map(rank).cmp(other.iter().map(rank))
}

/// Makes the name of a file that is written first the file, and all others links to it.
pub(crate) fn first_name_is_the_file(entries: &mut BTreeMap<Vec<u8>, Entry>) {
    let mut names: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for (path, entry) in entries.iter() {
        if let Kind::Hardlink { target } = &entry.kind {
            names.entry(target.clone()).or_default().push(path.clone());
        }
    }
    for (target, mut others) in names {
        others.sort_by(|one, other| depth_first(one, other));
        let Some(first) = others.first().filter(|first| depth_first(first, &target).is_lt()).cloned() else {
            continue;
        };
        let Some(file) = entries.get(&target).cloned() else { continue };
        others.push(target);
        for other in others {
            if let Some(entry) = entries.get_mut(&other) {
                entry.kind = Kind::Hardlink { target: first.clone() };
            }
        }
        entries.insert(first, file);
    }
}

/// Opens the files at these paths.
pub(crate) type Open<'a> = dyn Fn(&[&[u8]]) -> io::Result<Vec<std::fs::File>> + Sync + 'a;

/// As [`pack`], with files from wherever `open` finds them.
pub(crate) fn pack_from<W: Write>(
    entries: &BTreeMap<Vec<u8>, Entry>,
    open: &Open<'_>,
    out: &mut W,
    hash: bool,
) -> io::Result<Vec<(Vec<u8>, Digest)>> {
    let mut digests = Vec::new();
    let mut entries: Vec<(&Vec<u8>, &Entry)> = entries.iter().collect();
    entries.sort_by(|(one, _), (other, _)| depth_first(one, other));
    let plan = ahead::plan(&entries);
    ahead::run(&plan, open, hash, |files| {
        let mut buffer = Vec::new();
        for (path, entry) in &entries {
            let (path, entry) = (*path, *entry);
            header(path, entry, out)?;
            match &entry.kind {
                Kind::File { size, .. } if *size > ahead::WHOLE => {
                    buffer.resize(BUFFER, 0);
                    let mut file = open(&[path])?.pop().ok_or(io::ErrorKind::NotFound)?;
                    let mut digester = hash.then(|| Digester::new(Algorithm::Sha256));
                    copy(&mut file, *size, &mut buffer, out, digester.as_mut())?;
                    digests.extend(digester.map(|digester| (path.clone(), digester.finish())));
                }
                Kind::File { size, .. } if *size > 0 => {
                    let (content, digest) = files.next()?;
                    out.write_all(&content)?;
                    pad(*size, out)?;
                    digests.extend(digest.map(|digest| (path.clone(), digest)));
                }
                Kind::Directory { opaque: true } => {
                    let mut marker = path.clone();
                    if !marker.is_empty() {
                        marker.push(b'/');
                    }
                    marker.extend_from_slice(whiteout::OPAQUE);
                    let entry = Entry::new(Kind::Fifo, 0, 0, 0, (0, 0));
                    write_entry(&marker, &entry, EntryType::Regular, 0, &[], out)?;
                }
                _ => {}
            }
        }
        out.write_all(&[0; 2 * BLOCK])
    })?;
    Ok(digests)
}

pub(crate) fn open(
    authority: &dyn FileAuthority,
    root: BorrowedFd<'_>,
    path: &[u8],
) -> io::Result<std::fs::File> {
    let replies = authority.perform(root, &[Op::Open(path.to_vec())]).map_err(io::Error::other)?;
    match replies.into_iter().next() {
        Some(Reply::File(fd)) => Ok(fd.into()),
        _ => Err(io::Error::other("the authority gave no file")),
    }
}

fn too_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than its index says")
}

fn copy(
    file: &mut impl Read,
    size: u64,
    buffer: &mut [u8],
    out: &mut impl Write,
    mut digester: Option<&mut Digester>,
) -> io::Result<()> {
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let got = file.read(buffer.get_mut(..want).unwrap_or_default())?;
        if got == 0 {
            return Err(too_short());
        }
        let chunk = buffer.get(..got).unwrap_or_default();
        if let Some(digester) = &mut digester {
            digester.update(chunk);
        }
        out.write_all(chunk)?;
        left -= got as u64;
    }
    pad(size, out)
}

fn pad(size: u64, out: &mut impl Write) -> io::Result<()> {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over > 0 { out.write_all([0; BLOCK].get(over..).unwrap_or_default()) } else { Ok(()) }
}

fn header(path: &[u8], entry: &Entry, out: &mut impl Write) -> io::Result<()> {
    let (kind, size, link): (EntryType, u64, &[u8]) = match &entry.kind {
        Kind::Directory { .. } => (EntryType::Directory, 0, &[]),
        Kind::File { size, .. } => (EntryType::Regular, *size, &[]),
        Kind::Symlink { target } => (EntryType::Symlink, 0, target),
        Kind::Hardlink { target } => (EntryType::Link, 0, target),
        Kind::CharDevice(_) => (EntryType::Char, 0, &[]),
        Kind::BlockDevice(_) => (EntryType::Block, 0, &[]),
        Kind::Fifo => (EntryType::Fifo, 0, &[]),
        Kind::Whiteout => {
            let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
            let (parent, name) = path.split_at(at);
            let marker = [parent, whiteout::PREFIX, name].concat();
            return write_entry(&marker, entry, EntryType::Regular, 0, &[], out);
        }
    };
    let mut name = if path.is_empty() { b".".to_vec() } else { path.to_vec() };
    if entry.is_directory() {
        name.push(b'/');
    }
    write_entry(&name, entry, kind, size, link, out)
}

fn write_entry(
    path: &[u8],
    entry: &Entry,
    kind: EntryType,
    size: u64,
    link: &[u8],
    out: &mut impl Write,
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    let mut records = Vec::new();
    if !set_path(&mut header, path) {
        record(&mut records, b"path", path);
    }
    if link.len() <= 100 {
        put(&mut header.as_old_mut().linkname, link);
    } else {
        record(&mut records, b"linkpath", link);
    }
    let mut numbers = [(b"uid".as_slice(), u64::from(entry.uid)), (b"gid", entry.gid.into())];
    for (name, value) in &mut numbers {
        if *value > OCTAL_7 {
            record(&mut records, name, value.to_string().as_bytes());
            *value = 0;
        }
    }
    header.set_uid(numbers[0].1);
    header.set_gid(numbers[1].1);
    header.set_mode(entry.mode & 0o7777);
    if size > OCTAL_11 {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    header.set_size(if size > OCTAL_11 { 0 } else { size });
    let (seconds, nanoseconds) = entry.mtime;
    let plain = u64::try_from(seconds).ok().filter(|seconds| *seconds <= OCTAL_11);
    if plain.is_none() || nanoseconds > 0 {
        record(&mut records, b"mtime", time(seconds, nanoseconds).as_bytes());
    }
    header.set_mtime(plain.unwrap_or(0));
    if let Kind::CharDevice(device) | Kind::BlockDevice(device) = entry.kind {
        header.set_device_major(rustix::fs::major(device))?;
        header.set_device_minor(rustix::fs::minor(device))?;
    } else {
        header.set_device_major(0)?;
        header.set_device_minor(0)?;
    }
    for (name, value) in &entry.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    header.set_entry_type(kind);
    header.set_cksum();
    if !records.is_empty() {
        let mut before = Header::new_ustar();
        put(&mut before.as_old_mut().name, b"././@PaxHeader");
        before.set_entry_type(EntryType::XHeader);
        before.set_size(records.len() as u64);
        before.set_mode(0o644);
        before.set_uid(0);
        before.set_gid(0);
        before.set_mtime(0);
        before.set_device_major(0)?;
        before.set_device_minor(0)?;
        before.set_cksum();
        out.write_all(before.as_bytes())?;
        out.write_all(&records)?;
        pad(records.len() as u64, out)?;
    }
    out.write_all(header.as_bytes())
}

/// Puts `path` into name and prefix; `false` when it does not fit.
fn set_path(header: &mut Header, path: &[u8]) -> bool {
    let Some(ustar) = header.as_ustar_mut() else { return false };
    if path.len() <= 100 {
        put(&mut ustar.name, path);
        return true;
    }
    // The cut must be at a slash, the name at most 100 bytes, the prefix at most 155.
    let earliest = path.len() - 101;
    let cut =
        path.iter().enumerate().skip(earliest).find(|(at, byte)| **byte == b'/' && *at + 1 < path.len());
    match cut {
        Some((at, _)) if (1..=155).contains(&at) => {
            put(&mut ustar.prefix, path.get(..at).unwrap_or_default());
            put(&mut ustar.name, path.get(at + 1..).unwrap_or_default());
            true
        }
        _ => {
            put(&mut ustar.name, path.get(path.len() - 100..).unwrap_or_default());
            false
        }
    }
}

fn put(field: &mut [u8], bytes: &[u8]) {
    for (out, byte) in field.iter_mut().zip(bytes) {
        *out = *byte;
    }
}

/// One PAX record: its own length in decimal, a space, `name=value`, a newline.
fn record(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let rest = name.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(name);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds with a decimal fraction, as PAX wants it, also before 1970.
fn time(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let (sign, whole, fraction) = if seconds < 0 {
        ("-", -(seconds + 1), 1_000_000_000 - nanoseconds)
    } else {
        ("", seconds, nanoseconds)
    };
    format!("{sign}{whole}.{fraction:09}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_length() {
        for length in 1..1_200 {
            let mut out = Vec::new();
            record(&mut out, b"path", &vec![b'x'; length]);
            let text = String::from_utf8(out.clone()).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, out.len());
        }
    }

    #[test]
    fn times_before_1970() {
        assert_eq!(time(-1, 500_000_000), "-0.5");
        assert_eq!(time(-2, 250_000_000), "-1.75");
        assert_eq!(time(1, 10), "1.00000001");
    }
}
