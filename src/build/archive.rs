//! ADD of an archive: its entries become entries of the layer.
//!
//! What begins like gzip, bzip2, xz, zstd or tar is taken for an archive. No entry leads out of the destination: names
//! are cleaned, and links are followed inside the image's root only. Owners, modes and times are the archive's.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use layer_store::{Composer, Entry, Kind};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use tar::{Archive, EntryType};

use super::copy::resolve;
use super::hashes::{Hashes, Stat};
use super::tree::{Content, Disk, Node, NodeKind, Tree, components};
use crate::error::{Error, Result};

/// What an archive may be: a small file may claim to be endless.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes when it is decoded.
    pub(super) bytes: u64,
    /// Entries, which are what takes memory.
    pub(super) entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 1 << 40, entries: 5_000_000 }
    }
}

/// Gives an error instead of more than so many bytes: an archive that is cut would be another archive.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let over = || std::io::Error::other("the archive is larger than is allowed");
        self.left = self.left.checked_sub(count as u64).ok_or_else(over)?;
        Ok(count)
    }
}

/// What is read ahead to find out what it is.
const HEAD: usize = 1 << 10;

pub(super) type Entries = Archive<Box<dyn Read + Send>>;

fn fail(source_name: &str) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: source_name.into(), source }
}

/// Opens `content` as an archive; `None` when it is none.
pub(super) fn open(content: Box<dyn Read + Send>, name: &str) -> Result<Option<Entries>> {
    open_within(content, name, Limits::default().bytes)
}

fn open_within(content: Box<dyn Read + Send>, name: &str, bytes: u64) -> Result<Option<Entries>> {
    let mut content = BufReader::with_capacity(HEAD.max(64 << 10), content);
    let head = content.fill_buf().map_err(fail(name))?;
    let starts = |magic: &[u8]| head.starts_with(magic);
    let decoded: Box<dyn Read + Send> = if starts(&[0x1f, 0x8b]) || starts(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let (compression, content) = layer_store::sniff(content).map_err(fail(name))?;
        Box::new(layer_store::decoder(content, compression).map_err(fail(name))?)
    } else if starts(b"BZh") {
        Box::new(bzip2::read::MultiBzDecoder::new(content))
    } else if starts(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        Box::new(lzma_rust2::XzReader::new(content, true))
    } else {
        Box::new(content)
    };
    let mut decoded = BufReader::with_capacity(64 << 10, decoded);
    // Compressed bytes that are no archive are a file like any other; so is what cannot be decoded.
    let is_tar = decoded.fill_buf().is_ok_and(is_tar);
    let bounded: Box<dyn Read + Send> = Box::new(Bounded { inner: decoded, left: bytes });
    Ok(is_tar.then(|| Archive::new(bounded)))
}

/// The header's checksum is right: `ustar` alone would miss the oldest form and believe any text with the word.
fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.get(..512) else { return false };
    let stored = block.get(148..156).unwrap_or_default();
    let text: String =
        stored.iter().map(|byte| char::from(*byte)).filter(|digit| digit.is_digit(8)).collect();
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*byte) })
        .sum();
    u32::from_str_radix(&text, 8) == Ok(sum)
}

/// Puts all entries below `dest`.
pub(super) fn extract(mut archive: Entries, composer: &mut Composer, dest: &[u8], name: &str) -> Result<()> {
    let refuse = |path: &[u8], reason: &str| Error::Step {
        step: format!("ADD {name}"),
        reason: format!("{}: {reason}", String::from_utf8_lossy(path)),
    };
    for (count, entry) in archive.entries().map_err(fail(name))?.enumerate() {
        let mut entry = entry.map_err(fail(name))?;
        if count as u64 >= Limits::default().entries {
            return Err(refuse(dest, "the archive has too many entries"));
        }
        let path = entry.path_bytes().into_owned();
        let Some(relative) = clean(&path) else {
            return Err(refuse(&path, "the name leads out of the archive"));
        };
        let below = if dest.is_empty() { relative.clone() } else { [dest, relative.as_slice()].join(&b'/') };
        // Only the way to the entry goes through links; the entry itself replaces a link.
        let (parent, last) = match below.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (below.get(..at).unwrap_or_default(), below.get(at + 1..).unwrap_or_default()),
            None => (&b""[..], below.as_slice()),
        };
        let parent = resolve(composer, parent)?;
        let target = if parent.is_empty() { last.to_vec() } else { [parent.as_slice(), last].join(&b'/') };
        if relative.is_empty() || target.is_empty() {
            continue;
        }
        make(composer, &mut entry, &target, dest).map_err(|error| match error {
            Failure::Refused(reason) => refuse(&path, reason),
            Failure::Error(error) => error,
        })?;
    }
    Ok(())
}

/// A tar stream as a tree: what a context in a tar is; `None` when it is no archive. Contents go to a scratch directory.
pub(super) fn tree(
    stream: Box<dyn Read + Send>,
    name: &str,
    limits: Limits,
    state: &Path,
    hashes: &Arc<Hashes>,
) -> Result<Option<Tree>> {
    let refuse =
        |reason: &str| Error::Io { path: name.into(), source: std::io::Error::other(reason.to_owned()) };
    let Some(mut archive) = open_within(stream, name, limits.bytes)? else { return Ok(None) };
    let scratch = super::git::scratch(state)?;
    let root = rustix::fs::open(&scratch.0, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = Arc::new(root.map_err(|errno| fail(name)(errno.into()))?);
    let mut nodes: BTreeMap<Vec<u8>, Node> = BTreeMap::new();
    for (count, entry) in archive.entries().map_err(fail(name))?.enumerate() {
        let mut entry = entry.map_err(fail(name))?;
        if count as u64 >= limits.entries {
            return Err(refuse("it has too many entries"));
        }
        let path = clean(&entry.path_bytes()).ok_or_else(|| refuse("a name leads out of it"))?;
        let header = entry.header().clone();
        let number = |value: std::io::Result<u64>| {
            value
                .ok()
                .and_then(|value| u32::try_from(value).ok())
                .ok_or_else(|| refuse("a header cannot be read"))
        };
        let kind = match header.entry_type() {
            EntryType::Directory => NodeKind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let file = scratch.0.join(count.to_string());
                let mut out = std::fs::File::create(&file).map_err(fail(name))?;
                std::io::copy(&mut entry, &mut out).map_err(fail(name))?;
                let seen = rustix::fs::statx(&out, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
                let seen = Stat::of(&seen.map_err(|errno| fail(name)(errno.into()))?);
                let disk = Disk::new(root.clone(), count.to_string().into_bytes(), seen, hashes.clone());
                NodeKind::File(Content::Disk(Arc::new(disk)))
            }
            EntryType::Symlink => NodeKind::Symlink(
                entry.link_name_bytes().ok_or_else(|| refuse("a link to nothing"))?.into_owned(),
            ),
            EntryType::Link => {
                let link = entry.link_name_bytes().and_then(|link| clean(&link));
                let first = link.and_then(|link| nodes.get_mut(&link));
                let first = first.ok_or_else(|| refuse("a hard link to nothing"))?;
                first.link.get_or_insert((0, count as u64));
                let node = first.clone();
                nodes.insert(path, node);
                continue;
            }
            EntryType::XGlobalHeader => continue,
            _ => NodeKind::Other,
        };
        let mut node = Node::plain(kind, header.mode().map_err(fail(name))? & 0o7777);
        (node.uid, node.gid) = (number(header.uid())?, number(header.gid())?);
        node.mtime = (i64::try_from(header.mtime().map_err(fail(name))?).unwrap_or(0), 0);
        nodes.insert(path, node);
    }
    // Directories that have no entry of their own.
    let paths: Vec<Vec<u8>> = nodes.keys().cloned().collect();
    for path in paths {
        let mut parent = path.as_slice();
        while let Some(at) = parent.iter().rposition(|byte| *byte == b'/') {
            parent = parent.get(..at).unwrap_or_default();
            nodes.entry(parent.to_vec()).or_insert_with(|| Node::plain(NodeKind::Directory, 0o755));
        }
    }
    let mut tree = Tree::new(nodes, false);
    tree.held = Some(Arc::new(scratch));
    Ok(Some(tree))
}

enum Failure {
    Refused(&'static str),
    Error(Error),
}

impl From<layer_store::Error> for Failure {
    fn from(error: layer_store::Error) -> Self {
        Self::Error(error.into())
    }
}

fn make(
    composer: &mut Composer,
    entry: &mut tar::Entry<'_, impl Read>,
    target: &[u8],
    dest: &[u8],
) -> std::result::Result<(), Failure> {
    let bad = |_| Failure::Refused("the header cannot be read");
    let header = entry.header();
    let id = |id: u64| u32::try_from(id).map_err(|_| Failure::Refused("an owner that is no 32-bit number"));
    let (uid, gid) = (id(header.uid().map_err(bad)?)?, id(header.gid().map_err(bad)?)?);
    let mode = header.mode().map_err(bad)? & 0o7777;
    let mtime = i64::try_from(header.mtime().map_err(bad)?).unwrap_or(i64::MAX);
    let kind = header.entry_type();
    let device = || -> std::result::Result<u64, Failure> {
        let number = |part: Option<u32>| part.ok_or(Failure::Refused("a device without a number"));
        let (major, minor) = (header.device_major().map_err(bad)?, header.device_minor().map_err(bad)?);
        Ok(rustix::fs::makedev(number(major)?, number(minor)?))
    };
    let mut made = Entry::new(Kind::Fifo, mode, uid, gid, (mtime, 0));
    match kind {
        EntryType::Char => made.kind = Kind::CharDevice(device()?),
        EntryType::Block => made.kind = Kind::BlockDevice(device()?),
        _ => {}
    }
    let extensions = entry.pax_extensions().map_err(bad)?;
    for extension in extensions.into_iter().flatten().flatten() {
        let name = extension.key_bytes();
        if let Some(attribute) = name.strip_prefix(b"SCHILY.xattr.") {
            // Others, such as `trusted.*`, are the host's affair, as in docker.
            if attribute.starts_with(b"user.") || attribute == b"security.capability" {
                made.xattrs.insert(attribute.to_vec(), extension.value_bytes().to_vec());
            }
        } else if name == b"mtime"
            && let Some(time) = std::str::from_utf8(extension.value_bytes()).ok().and_then(time)
        {
            made.mtime = time;
        }
    }
    let there = composer.find(target).map(Entry::is_directory);
    if there == Some(true) && kind != EntryType::Directory {
        // As docker: a directory in the way of a file goes.
        composer.whiteout(target)?;
    }
    match kind {
        EntryType::Directory => composer.directory(target, made)?,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            composer.file(target, entry, made)?;
        }
        EntryType::Symlink => {
            let link = entry.link_name_bytes().ok_or(Failure::Refused("a link to nothing"))?.into_owned();
            made.mode = 0o777;
            composer.symlink(target, &link, made)?;
        }
        EntryType::Link => {
            let link = entry.link_name_bytes().ok_or(Failure::Refused("a link to nothing"))?.into_owned();
            let link = clean(&link).ok_or(Failure::Refused("a hard link that leads out of the archive"))?;
            let link = if dest.is_empty() { link } else { [dest, link.as_slice()].join(&b'/') };
            let first = resolve(composer, &link).map_err(Failure::Error)?;
            composer.hardlink(target, &first)?;
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => composer.node(target, made)?,
        // Global headers and labels say nothing about a file.
        EntryType::XGlobalHeader => {}
        _ => return Err(Failure::Refused("an entry of a kind that is not known")),
    }
    Ok(())
}

/// `path` without empty components and dots; `None` when it leads above where it starts.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in components(path) {
        if name == b".." {
            names.pop()?;
        } else {
            names.push(name);
        }
    }
    Some(names.join(&b'/'))
}

/// `1234.5678` of a PAX record.
fn time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let seconds: i64 = whole.parse().ok()?;
    let nanoseconds: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = nanoseconds.parse().ok()?;
    match (seconds, nanoseconds) {
        (_, 0) => Some((seconds, 0)),
        (seconds, part) if text.starts_with('-') => Some((seconds - 1, 1_000_000_000 - part)),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        assert_eq!(clean(b"./a//b/."), Some(b"a/b".to_vec()));
        assert_eq!(clean(b"a/../b"), Some(b"b".to_vec()));
        assert_eq!(clean(b"/etc/x"), Some(b"etc/x".to_vec()));
        assert_eq!(clean(b"../x"), None);
        assert_eq!(clean(b"a/../../x"), None);
    }

    #[test]
    fn times_with_fractions() {
        assert_eq!(time("12.5"), Some((12, 500_000_000)));
        assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time("7"), Some((7, 0)));
        assert_eq!(time("x"), None);
    }

    #[test]
    fn text_is_no_archive() {
        let text = "ustar ".repeat(200);
        assert!(open(Box::new(std::io::Cursor::new(text.into_bytes())), "x").unwrap().is_none());
        assert!(open(Box::new(std::io::Cursor::new(vec![0x1f, 0x8b, 1, 2])), "x").unwrap().is_none());
    }
}
