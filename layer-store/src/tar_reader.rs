//! Reads a foreign tar stream strictly: one entry at a time, everything bounded, nothing guessed.
//!
//! v7, ustar and GNU headers (see [`header`]); PAX `x` and `g` and GNU `L` and `K` (see [`pax`]); sparse files in all
//! four forms (see [`sparse`]). What readers are known to disagree on is refused: a header whose magic, checksum or
//! numbers are odd, two answers to one question (a PAX size beside another size, a PAX path beside a GNU long name),
//! content where there is none, global records that change entries, an unknown type, data after the end.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use crate::authority::Content;
use crate::budget::Budget;
use crate::error::{Error, Result};

mod header;
mod list;
mod pax;
mod sparse;

use header::{BLOCK, Header};
pub use list::list;
pub(crate) use sparse::Segment;

/// What a header describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    File,
    Link(Vec<u8>),
    Symlink(Vec<u8>),
    Char(u64),
    Block(u64),
    Directory,
    Fifo,
}

/// One entry's header, with PAX and long names applied.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Type,
    /// Of the file; of a sparse one with its holes.
    pub(crate) size: u64,
    /// Where a sparse file has bytes, ascending; the stream has them one after the other.
    pub(crate) segments: Option<Vec<Segment>>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The reader. After each [`Self::next`] the member's content is read through [`Self::content`].
pub(crate) struct TarReader<R> {
    inner: R,
    budget: Budget,
    begun: bool,
    entries: u64,
    /// Bytes that sparse files have beyond what is in the stream.
    holes: u64,
    /// Content and padding of the current member that are not read yet.
    left: u64,
    padding: u64,
    /// The padding that was skipped last was of zeros.
    padded: bool,
}

impl<R: BufRead> TarReader<R> {
    pub(crate) fn new(inner: R, budget: Budget) -> Self {
        Self { inner, budget, begun: false, entries: 0, holes: 0, left: 0, padding: 0, padded: true }
    }

    fn stream(source: io::Error) -> Error {
        Error::Stream { format: "tar", source }
    }

    /// What is at hand, at most `limit` bytes; empty at the end of the stream.
    fn at_hand(&mut self, limit: u64) -> Result<&[u8]> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        while let Err(error) = self.inner.fill_buf() {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(Self::stream(error));
            }
        }
        let buffer = self.inner.fill_buf().map_err(Self::stream)?;
        Ok(buffer.get(..limit.min(buffer.len())).unwrap_or_default())
    }

    /// Fills `buffer`; `false` when the stream ends before its first byte.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut at = 0;
        while let Some(rest) = buffer.get_mut(at..).filter(|rest| !rest.is_empty()) {
            let found = self.at_hand(rest.len() as u64)?;
            let count = found.len();
            if count == 0 {
                return if at == 0 {
                    Ok(false)
                } else {
                    Err(Self::stream(io::ErrorKind::UnexpectedEof.into()))
                };
            }
            for (out, byte) in rest.iter_mut().zip(found) {
                *out = *byte;
            }
            self.inner.consume(count);
            at += count;
        }
        Ok(true)
    }

    /// Some of the current member's content, at most `limit` bytes; empty at its end. [`Self::consume`] goes on.
    pub(crate) fn content(&mut self, limit: u64) -> Result<&[u8]> {
        let limit = self.left.min(limit);
        if limit == 0 {
            return Ok(&[]);
        }
        let found = self.at_hand(limit)?;
        if found.is_empty() {
            return Err(Self::stream(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(found)
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.left = self.left.saturating_sub(count as u64);
    }

    /// All that is left of the current member's content. Where it is at hand as a whole, `share` may give it from
    /// there: the next so many bytes of the stream. For members of which the caller knows that they are small.
    pub(crate) fn whole(&mut self, share: impl FnOnce(&R, usize) -> Option<Content>) -> Result<Content> {
        let at_hand = self.content(u64::MAX)?.len();
        if at_hand as u64 == self.left
            && let Some(content) = share(&self.inner, at_hand)
        {
            self.consume(at_hand);
            return Ok(content);
        }
        let mut content = Vec::with_capacity(usize::try_from(self.left).unwrap_or(0));
        loop {
            let found = self.content(u64::MAX)?;
            if found.is_empty() {
                return Ok(content.into());
            }
            content.extend_from_slice(found);
            let count = found.len();
            self.consume(count);
        }
    }

    /// The stream that it reads.
    pub(crate) const fn inner(&self) -> &R {
        &self.inner
    }

    /// Fills `buffer` from the current member's content.
    fn content_exact(&mut self, buffer: &mut [u8]) -> Result<()> {
        let count = buffer.len() as u64;
        if self.left < count {
            return Err(Error::layer(b"", "a member that is shorter than what it must hold"));
        }
        if !self.fill(buffer)? && count > 0 {
            return Err(Self::stream(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= count;
        Ok(())
    }

    fn skip(&mut self) -> Result<()> {
        loop {
            let count = self.content(u64::MAX)?.len();
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        let mut padding = [0; BLOCK];
        let wanted = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(0);
        let wanted = padding.get_mut(..wanted).unwrap_or_default();
        if !wanted.is_empty() && !self.fill(wanted)? {
            return Err(Self::stream(io::ErrorKind::UnexpectedEof.into()));
        }
        self.padded = padding.iter().all(|byte| *byte == 0);
        Ok(())
    }

    fn frame(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    /// The whole content of a PAX or long-name member.
    fn text(&mut self, size: u64) -> Result<Vec<u8>> {
        Budget::check(self.budget.pax, size, "bytes of a PAX header or long name")?;
        self.frame(size);
        let mut text = vec![0; usize::try_from(size).unwrap_or(0)];
        self.content_exact(&mut text)?;
        self.skip()?;
        Ok(text)
    }

    /// A GNU long name: ended by its first NUL, and nothing after it. Without one, the padding must end it.
    fn long(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut text = self.text(size)?;
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        let ended = end < text.len() || (self.padded && !size.is_multiple_of(BLOCK as u64));
        let tail = text.split_off(end);
        if text.is_empty() || !ended || tail.iter().any(|byte| *byte != 0) {
            return Err(Error::layer(&text, "a malformed GNU long name"));
        }
        Ok(text)
    }

    /// The next member, or `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Member>> {
        let (mut pax, mut long_name, mut long_link) = (None, None, None);
        let mut global = false;
        loop {
            self.skip()?;
            let mut block = [0; BLOCK];
            let found = self.fill(&mut block)?;
            if !found && !self.begun {
                return Err(Error::layer(b"", "an empty stream, which is no archive"));
            }
            self.begun = true;
            if block.iter().all(|byte| *byte == 0) {
                if global || pax.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(Error::layer(b"", "a PAX header or long name without its entry"));
                }
                return Ok(None);
            }
            self.entries += 1;
            Budget::check(self.budget.entries, self.entries, "entries")?;
            let header = Header::read(&block)?;
            match header.kind() {
                b'x' if pax.is_none() => pax = Some(pax::Records::read(&self.text(header.size()?)?)?),
                b'x' => return Err(Error::layer(b"", "two PAX headers for one entry")),
                b'g' => {
                    global = true;
                    pax::Records::read(&self.text(header.size()?)?)?.refuse_global()?;
                }
                b'L' if long_name.is_none() => long_name = Some(self.long(header.size()?)?),
                b'K' if long_link.is_none() => long_link = Some(self.long(header.size()?)?),
                b'L' | b'K' => return Err(Error::layer(b"", "two long names for one entry")),
                _ => return self.member(&header, pax.unwrap_or_default(), long_name, long_link).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        header: &Header<'_>,
        mut pax: pax::Records,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Member> {
        let named = pax.text(b"path")?;
        let sparse_name = pax.text(b"GNU.sparse.name")?;
        if (named.is_some() || sparse_name.is_some()) && long_name.is_some() {
            return Err(Error::layer(b"", "both a PAX path and a GNU long name"));
        }
        let path = sparse_name.or(named).or(long_name);
        let path = path.map_or_else(|| header.path(), Ok)?;
        Budget::check(self.budget.path, path.len() as u64, "bytes of a path")?;
        let refuse = |reason| Error::layer(&path, reason);
        if path.is_empty() || path.contains(&0) {
            return Err(refuse("an empty path, or a NUL in it"));
        }
        let linked = pax.text(b"linkpath")?;
        if linked.is_some() && long_link.is_some() {
            return Err(refuse("both a PAX link and a GNU long link"));
        }
        let link = linked.or(long_link).map_or_else(|| header.link(), Ok)?;
        Budget::check(self.budget.path, link.len() as u64, "bytes of a link target")?;
        let link = || {
            let odd = link.is_empty() || link.contains(&0);
            if odd { Err(refuse("a link without a target")) } else { Ok(link.clone()) }
        };
        let stored = header.stored_size(pax.number(b"size")?, &path)?;
        let slash = path.ends_with(b"/");
        let kind = match header.kind() {
            // Before POSIX, a name that ends in a slash was a directory.
            0 if slash => Type::Directory,
            b'0' | 0 | b'7' | b'S' => Type::File,
            b'1' => Type::Link(link()?),
            b'2' => Type::Symlink(link()?),
            b'3' => Type::Char(header.device(&path)?),
            b'4' => Type::Block(header.device(&path)?),
            b'5' => Type::Directory,
            b'6' => Type::Fifo,
            _ => return Err(refuse("an unknown type of entry")),
        };
        if slash && kind != Type::Directory {
            return Err(refuse("a name that ends in a slash and is no directory"));
        }
        // A hard link may repeat its file's size; every reader takes it for 0.
        if stored > 0 && !matches!(kind, Type::File | Type::Link(_)) {
            return Err(refuse("content where there can be none"));
        }
        self.frame(if kind == Type::File { stored } else { 0 });
        let map = if header.kind() == b'S' {
            pax.refuse_sparse(&path)?;
            Some(self.old_sparse(header, &path)?)
        } else {
            header.refuse_extension(&path)?;
            self.pax_sparse(&mut pax, &path)?
        };
        if map.is_some() && kind != Type::File {
            return Err(refuse("a sparse map on something that is no file"));
        }
        let (size, segments) = match map {
            Some((size, segments)) => {
                if header.kind() != b'S' && !header.is_ustar() {
                    return Err(refuse("a PAX sparse map beside a header of another format"));
                }
                let filled =
                    sparse::check(&segments, size).ok_or_else(|| refuse("a malformed sparse map"))?;
                if filled != self.left {
                    return Err(refuse("a sparse map that does not fit its content"));
                }
                self.holes = self.holes.saturating_add(size - filled);
                Budget::check(self.budget.holes, self.holes, "bytes of holes")?;
                (size, Some(segments))
            }
            None => (if kind == Type::File { stored } else { 0 }, None),
        };
        let uid = owner(pax.number(b"uid")?.map_or_else(|| header.uid(), Ok)?, &path)?;
        let gid = owner(pax.number(b"gid")?.map_or_else(|| header.gid(), Ok)?, &path)?;
        let mtime = pax.time(b"mtime", &path)?.map_or_else(|| header.mtime().map(|whole| (whole, 0)), Ok)?;
        let xattrs = pax.xattrs();
        Budget::check(self.budget.xattrs, xattrs.len() as u64, "attributes of one entry")?;
        Ok(Member { path, kind, size, segments, mode: header.mode()?, uid, gid, mtime, xattrs })
    }

    /// As [`Self::finish`], after parsing went as `parsed` says, and gives the stream back. When the stream itself
    /// failed, `failure` says why.
    pub(crate) fn end(
        mut self,
        parsed: Result<()>,
        failure: impl FnOnce(&mut R) -> Option<Error>,
    ) -> Result<R> {
        match parsed.and_then(|()| self.trailer()) {
            Ok(()) => Ok(self.inner),
            Err(error) => Err(self.cause(error, failure)),
        }
    }

    /// Why reading failed: `error`, or what `failure` knows of the stream.
    pub(crate) fn cause(&mut self, error: Error, failure: impl FnOnce(&mut R) -> Option<Error>) -> Error {
        failure(&mut self.inner).unwrap_or(error)
    }

    /// Reads to the end of the stream, which must be zeros.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.trailer()
    }

    fn trailer(&mut self) -> Result<()> {
        loop {
            let found = self.at_hand(u64::MAX)?;
            let count = found.len();
            if count == 0 {
                return Ok(());
            }
            if found.iter().any(|byte| *byte != 0) {
                return Err(Error::layer(b"", "data after the end of the archive"));
            }
            self.inner.consume(count);
        }
    }
}

/// The last value means "no change" to the kernel.
fn owner(value: u64, path: &[u8]) -> Result<u32> {
    let id = u32::try_from(value).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| Error::layer(path, "an owner out of range"))
}
