//! The two calls by which files share extents: `FIDEDUPERANGE`, which has the kernel compare two files under their locks
//! and share what is equal, and `FS_IOC_FIEMAP`, which says where a file's blocks are. Source: `ioctl_fideduperange(2)`,
//! the kernel's `fiemap.rst`.
#![expect(
    unsafe_code,
    reason = "FIDEDUPERANGE and FS_IOC_FIEMAP have no safe wrappers in the crates at hand"
)]

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// File systems take no more than this in one call, in bytes; it is a multiple of every block size.
const PIECE: u64 = 16 << 20;
/// Extents that one call asks for.
const EXTENTS: usize = 64;
/// A file in more pieces than this is not compared by its extents.
const RUN_LIMIT: usize = 1 << 16;

/// `struct file_dedupe_range`, without the array at its end: this is what the number of the call is made of.
#[repr(C)]
#[derive(Default)]
struct Source {
    offset: u64,
    length: u64,
    count: u16,
    reserved: [u16; 3],
}

/// `struct file_dedupe_range` with one `struct file_dedupe_range_info`.
#[repr(C)]
#[derive(Default)]
struct Range {
    source: Source,
    fd: i64,
    offset: u64,
    deduped: u64,
    status: i32,
    reserved: u32,
}

const FIDEDUPERANGE: Opcode = opcode::read_write::<Source>(0x94, 54);
const DIFFERS: i32 = 1;

/// `struct fiemap`, without the array at its end.
#[repr(C)]
#[derive(Default)]
struct Asked {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more: [u32; 3],
}

/// `struct fiemap` with room for the answer.
#[repr(C)]
struct Map {
    asked: Asked,
    extents: [Extent; EXTENTS],
}

const FS_IOC_FIEMAP: Opcode = opcode::read_write::<Asked>(b'f', 11);
const LAST: u32 = 0x1;
/// Where the bytes are is not known yet: they have not been written to the disk.
const UNKNOWN: u32 = 0x2;
const DATA_INLINE: u32 = 0x200;
const SHARED: u32 = 0x2000;

/// What came of a try to share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// Equal, and shared now: so many bytes.
    Equal(u64),
    /// Other bytes. What is before the piece with the difference is shared: so many bytes.
    Differs(u64),
}

/// Has the kernel compare the first `size` bytes of two files and share the extents of `from` with `to` where they are
/// equal. A descriptor that is open for reading will do for `to` when the file is the caller's, or with `CAP_SYS_ADMIN`.
/// No time and no attribute changes.
pub(crate) fn share(from: &File, to: &File, size: u64) -> io::Result<Compared> {
    let mut at = 0;
    while at < size {
        let length = PIECE.min(size - at);
        let mut range = Range {
            source: Source { offset: at, length, count: 1, reserved: [0; 3] },
            fd: to.as_raw_fd().into(),
            offset: at,
            ..Range::default()
        };
        // To compare, the kernel reads page by page and none ahead.
        for file in [from, to] {
            read_ahead(file, at, length);
        }
        call(from, &mut range)?;
        match range.status {
            0 if range.deduped > 0 => at += range.deduped.min(length),
            // The file became shorter meanwhile.
            0 => return Ok(Compared::Differs(at)),
            DIFFERS => return Ok(Compared::Differs(at)),
            failed => return Err(io::Error::from_raw_os_error(failed.saturating_neg())),
        }
    }
    Ok(Compared::Equal(at))
}

/// Begins to read these bytes of `file`, and does not wait for them.
pub(crate) fn read_ahead(file: &File, at: u64, length: u64) {
    _ = fadvise(file, at, NonZeroU64::new(length), Advice::WillNeed);
}

fn call(from: &File, range: &mut Range) -> Result<(), Errno> {
    // SAFETY: the call reads and writes the source and as many ranges behind it as `count` says, which is one; `Range`
    // is laid out as the kernel has these.
    let updater = unsafe { Updater::<FIDEDUPERANGE, Range>::new(range) };
    // SAFETY: as above; the kernel checks both descriptors.
    unsafe { ioctl(from.as_fd(), updater) }
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// In these runs of blocks: offset in the file, place on the disk, length, all in bytes. Holes are left out.
    Runs {
        /// See above.
        runs: Vec<(u64, u64, u64)>,
        /// All of them belong to another file as well.
        shared: bool,
    },
    /// Beside the file's metadata: there is nothing to share.
    Inline,
    /// Not known: not written yet, or in too many runs.
    Unknown,
}

/// Where the bytes of `file` are. Nothing of them is read.
pub(crate) fn layout(file: &File) -> io::Result<Layout> {
    let (mut runs, mut shared): (Vec<(u64, u64, u64)>, bool) = (Vec::new(), true);
    let mut start = 0;
    loop {
        let mut map = Map {
            asked: Asked {
                start,
                length: u64::MAX - start,
                count: u32::try_from(EXTENTS).unwrap_or(0),
                ..Asked::default()
            },
            extents: [Extent::default(); EXTENTS],
        };
        // SAFETY: the call reads the head and writes at most `count` extents behind it; `Map` is laid out as the kernel
        // has these and has room for so many.
        let updater = unsafe { Updater::<FS_IOC_FIEMAP, Map>::new(&mut map) };
        // SAFETY: as above; the kernel checks the descriptor.
        unsafe { ioctl(file.as_fd(), updater) }?;
        let count = usize::try_from(map.asked.mapped).unwrap_or(0);
        let mut last = count == 0;
        for extent in map.extents.iter().take(count) {
            if extent.flags & DATA_INLINE != 0 {
                return Ok(Layout::Inline);
            }
            if extent.flags & UNKNOWN != 0 || runs.len() >= RUN_LIMIT {
                return Ok(Layout::Unknown);
            }
            shared &= extent.flags & SHARED != 0;
            last |= extent.flags & LAST != 0;
            let end = extent.logical.saturating_add(extent.length);
            // The same blocks may be told in one piece or in several.
            match runs.last_mut() {
                Some((logical, physical, length))
                    if logical.saturating_add(*length) == extent.logical
                        && physical.saturating_add(*length) == extent.physical =>
                {
                    *length += extent.length;
                }
                _ => runs.push((extent.logical, extent.physical, extent.length)),
            }
            last |= end <= start;
            start = end;
        }
        if last {
            return Ok(Layout::Runs { shared: shared && !runs.is_empty(), runs });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_structures_are_as_long_as_the_kernels() {
        assert_eq!((size_of::<Source>(), size_of::<Range>()), (24, 56));
        assert_eq!((size_of::<Asked>(), size_of::<Extent>()), (32, 56));
        assert_eq!(size_of::<Map>(), 32 + 56 * EXTENTS);
    }

    #[test]
    fn a_file_system_says_where_bytes_are_or_that_it_cannot() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 20_000]).unwrap();
        file.sync_all().unwrap();
        match layout(&file) {
            Ok(Layout::Runs { runs, shared }) => {
                assert!(!shared);
                assert!(runs.iter().map(|run| run.2).sum::<u64>() >= 20_000);
            }
            Ok(other) => assert_ne!(other, Layout::Inline),
            // As on tmpfs.
            Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::OPNOTSUPP.raw_os_error())),
        }
    }
}
