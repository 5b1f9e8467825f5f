//! bzip2 and xz: no specification of layers or archives names them, but both are met. Read where the features of these
//! names are on; refused by name where they are not.

use std::io::{self, BufRead, Read};

/// What bzip2 writes first: its name, a block size and the mark of a block or of the end. A tar archive whose first
/// name begins with `BZh` has other bytes there.
const BZIP2: [&[u8]; 2] = [&[0x31, 0x41, 0x59, 0x26, 0x53, 0x59], &[0x17, 0x72, 0x45, 0x38, 0x50, 0x90]];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// What xz may use, in KiB: `xz -9` takes 65 MiB.
#[cfg(feature = "xz")]
const XZ_MEMORY: u32 = 130 << 10;

/// Decodes `source` where it begins like bzip2 or xz.
pub(super) fn decoder<'a>(
    mut source: impl BufRead + Send + 'a,
) -> io::Result<(bool, Box<dyn Read + Send + 'a>)> {
    let head = source.fill_buf()?;
    let marked = |mark: &&[u8]| head.get(4..10) == Some(*mark);
    let is_bzip2 = head.starts_with(b"BZh") && BZIP2.iter().any(marked);
    let is_xz = head.starts_with(XZ);
    if is_bzip2 {
        #[cfg(feature = "bzip2")]
        return Ok((true, Box::new(bzip2::read::MultiBzDecoder::new(source))));
        #[cfg(not(feature = "bzip2"))]
        return Err(without("bzip2"));
    }
    if is_xz {
        #[cfg(feature = "xz")]
        return Ok((true, Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, XZ_MEMORY))));
        #[cfg(not(feature = "xz"))]
        return Err(without("xz"));
    }
    Ok((false, Box::new(source)))
}

#[cfg(not(all(feature = "bzip2", feature = "xz")))]
fn without(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{name}: this program was built without it"))
}
