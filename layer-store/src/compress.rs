//! Compression of layers: decoding what others made, encoding what leaves the store.
//!
//! The encoder is pinned: `zlib-rs` of one exact version at one level, raw deflate in a gzip frame that we write
//! ourselves. Its name goes into the record of every blob that it made, and its bytes have a known-answer test, so a
//! changed encoder cannot change a manifest digest unnoticed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use image_core::Compression;
use zlib_rs::{Deflate, DeflateFlush, Status};

/// The name of the encoder, as it is recorded beside what it made.
pub const GZIP_ENCODER: &str = "gzip/zlib-rs-0.6.8/level-6";

const LEVEL: i32 = 6;
/// The largest window: 32 KiB.
const WINDOW_BITS: u8 = 15;
const BUFFER: usize = 128 << 10;
/// ID, deflate, no flags, no time, no extra flags, unknown system: nothing of the host gets in.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The largest zstd window that is accepted, as a power of two: 128 MiB, what `zstd --long` writes by default.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Reads `source` uncompressed. All members of a gzip stream and all frames of a zstd stream are read.
///
/// # Errors
/// When the decoder cannot be set up.
pub fn decoder<'a>(
    source: impl Read + Send + 'a,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::Gzip => {
            Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(BUFFER, source)))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        _ => Box::new(source),
    })
}

/// Looks at the first bytes of `source`: how is it compressed, whatever its name says?
///
/// # Errors
/// When the first bytes cannot be read.
pub fn sniff<R: Read>(source: R) -> io::Result<(Compression, BufReader<R>)> {
    let mut source = BufReader::with_capacity(BUFFER, source);
    let compression = match source.fill_buf()? {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => Compression::None,
    };
    Ok((compression, source))
}

/// A stream to unpack, and how much of its compressed form was read.
pub(crate) struct Source<'a> {
    reader: Box<dyn Read + Send + 'a>,
    consumed: Option<Arc<AtomicU64>>,
}

impl<'a> Source<'a> {
    /// A stream that is plain.
    pub(crate) fn plain(reader: impl Read + Send + 'a) -> Self {
        Self { reader: Box::new(reader), consumed: None }
    }

    /// A stream that may be compressed. The bytes decide, not the label: registries serve gzip under the plain type.
    pub(crate) fn sniffed(reader: impl Read + Send + 'a) -> io::Result<Self> {
        let consumed = Arc::new(AtomicU64::new(0));
        let counted = Counted { inner: reader, count: consumed.clone() };
        let (compression, source) = sniff(counted)?;
        let reader = decoder(source, compression)?;
        Ok(Self { reader, consumed: (compression != Compression::None).then_some(consumed) })
    }

    /// How many compressed bytes were read so far; `None` when the stream is plain.
    pub(crate) fn consumed(&self) -> Option<u64> {
        self.consumed.as_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Writes a gzip stream. [`Self::finish`] must be called.
pub struct GzipWriter<W> {
    inner: W,
    deflate: Deflate,
    buffer: Vec<u8>,
    checksum: u32,
    length: u32,
}

impl<W> std::fmt::Debug for GzipWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipWriter").field("length", &self.length).finish_non_exhaustive()
    }
}

impl<W: Write> GzipWriter<W> {
    /// Starts a stream.
    ///
    /// # Errors
    /// When `inner` does not take the header.
    pub fn new(mut inner: W) -> io::Result<Self> {
        inner.write_all(&GZIP_HEADER)?;
        let deflate = Deflate::new(LEVEL, false, WINDOW_BITS);
        Ok(Self { inner, deflate, buffer: vec![0; BUFFER], checksum: 0, length: 0 })
    }

    fn push(&mut self, mut data: &[u8], flush: DeflateFlush) -> io::Result<()> {
        loop {
            let (read, written) = (self.deflate.total_in(), self.deflate.total_out());
            let status = self
                .deflate
                .compress(data, &mut self.buffer, flush)
                .map_err(|error| io::Error::other(format!("deflate: {error:?}")))?;
            let moved = |now: u64, then: u64| usize::try_from(now - then).unwrap_or(usize::MAX);
            data = data.get(moved(self.deflate.total_in(), read)..).unwrap_or_default();
            let made = moved(self.deflate.total_out(), written);
            self.inner.write_all(self.buffer.get(..made).unwrap_or_default())?;
            let done = match flush {
                DeflateFlush::Finish => status == Status::StreamEnd,
                _ => data.is_empty() && made < self.buffer.len(),
            };
            if done {
                return Ok(());
            }
        }
    }

    /// Ends the stream and gives the inner writer back.
    ///
    /// # Errors
    /// When `inner` does not take the rest.
    pub fn finish(mut self) -> io::Result<W> {
        self.push(&[], DeflateFlush::Finish)?;
        self.inner.write_all(&self.checksum.to_le_bytes())?;
        self.inner.write_all(&self.length.to_le_bytes())?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.checksum = zlib_rs::crc32::crc32(self.checksum, data);
        // The length is modulo 2^32 by definition (RFC 1952, ISIZE).
        self.length = self.length.wrapping_add(u32::try_from(data.len() & 0xffff_ffff).unwrap_or(0));
        self.push(data, DeflateFlush::NoFlush)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use image_core::Digest;

    use super::*;

    fn sample() -> Vec<u8> {
        (0_u32..300_000).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 20).to_le_bytes()).collect()
    }

    #[test]
    fn known_answer_of_the_pinned_encoder() {
        let mut writer = GzipWriter::new(Vec::new()).unwrap();
        writer.write_all(&sample()).unwrap();
        let bytes = writer.finish().unwrap();
        let mut back = Vec::new();
        decoder(bytes.as_slice(), Compression::Gzip).unwrap().read_to_end(&mut back).unwrap();
        assert!(back == sample());
        assert_eq!(
            Digest::sha256(&bytes).to_string(),
            KNOWN,
            "{} bytes: the encoder's bytes changed",
            bytes.len()
        );
    }

    const KNOWN: &str = "sha256:26954f1e32333e7e0f89bd20362c741a7de6a75af7af4b4ccf2d4186133ff10b";

    #[test]
    fn all_members_are_read() {
        let mut bytes = Vec::new();
        for part in ["one ", "two"] {
            let mut writer = GzipWriter::new(&mut bytes).unwrap();
            writer.write_all(part.as_bytes()).unwrap();
            writer.finish().unwrap();
        }
        let mut text = String::new();
        decoder(bytes.as_slice(), Compression::Gzip).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
    }
}
