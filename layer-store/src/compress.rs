//! Compression of layers: decoding what others made, encoding what leaves the store.
//!
//! The encoder is pinned: `zlib-rs` of one exact version at one level, raw deflate in blocks of a fixed size in a gzip
//! frame that we write ourselves (see [`gzip`]). Its name goes into the record of every blob that it made, and its
//! bytes have a known-answer test, so a changed encoder cannot change a manifest digest unnoticed.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use image_core::Compression;

mod gzip;
mod rare;

pub use gzip::{GZIP_ENCODER, GzipWriter};

const BUFFER: usize = 128 << 10;
/// The level of our own zstd.
pub(crate) const ZSTD_LEVEL: i32 = 3;
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

/// The name of our zstd encoder, as it is recorded beside what it made: the library says its version.
#[must_use]
pub fn zstd_encoder() -> String {
    format!("zstd/libzstd-{}/level-{ZSTD_LEVEL}", zstd::zstd_safe::version_string())
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
        let (is_compressed, reader) = match compression {
            Compression::None => rare::decoder(source)?,
            known => (true, decoder(source, known)?),
        };
        Ok(Self { reader, consumed: is_compressed.then_some(consumed) })
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

#[cfg(test)]
mod tests {
    use std::io::Write;

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

    const KNOWN: &str = "sha256:12418de466d6d24a52f7fa4d3208c55863489fa4774b4ab1fc64a6a9ae930c53";

    #[test]
    fn bytes_do_not_depend_on_threads_or_on_the_sizes_of_writes() {
        let text: Vec<u8> = sample().into_iter().cycle().take(5_000_000).collect();
        let encode = |threads: usize, step: usize| {
            let mut writer = GzipWriter::with_threads(Vec::new(), threads).unwrap();
            for part in text.chunks(step) {
                writer.write_all(part).unwrap();
            }
            Digest::sha256(&writer.finish().unwrap())
        };
        let first = encode(1, 5_000_000);
        for (threads, step) in [(1, 777), (2, 100_000), (3, 262_144), (8, 262_143), (5, 1_000_000)] {
            assert_eq!(encode(threads, step), first, "{threads} threads, {step} bytes");
        }
        let mut back = Vec::new();
        let mut writer = GzipWriter::new(Vec::new()).unwrap();
        writer.write_all(&text).unwrap();
        let bytes = writer.finish().unwrap();
        decoder(bytes.as_slice(), Compression::Gzip).unwrap().read_to_end(&mut back).unwrap();
        assert!(back == text);
    }

    #[cfg(all(feature = "bzip2", feature = "xz"))]
    #[test]
    fn bzip2_and_xz_are_read_and_bounded() {
        let text: Vec<u8> = sample().into_iter().take(600_000).collect();
        let mut bzip2 = Vec::new();
        for part in text.chunks(250_000) {
            let mut writer = bzip2::write::BzEncoder::new(&mut bzip2, bzip2::Compression::fast());
            writer.write_all(part).unwrap();
            writer.finish().unwrap();
        }
        let options = lzma_rust2::XzOptions::with_preset(6);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(&text).unwrap();
        let xz = writer.finish().unwrap();
        for bytes in [bzip2, xz] {
            let mut back = Vec::new();
            let mut source = Source::sniffed(bytes.as_slice()).unwrap();
            source.read_to_end(&mut back).unwrap();
            assert!(back == text);
            assert_eq!(source.consumed(), Some(bytes.len() as u64), "the ratio is watched");
        }
        let mut options = lzma_rust2::XzOptions::with_preset(1);
        options.lzma_options.dict_size = 512 << 20;
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(b"small").unwrap();
        let huge = writer.finish().unwrap();
        let error = Source::sniffed(huge.as_slice()).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("mem"), "{error}");
        // A name is no mark.
        let mut plain = b"BZh91AY".to_vec();
        plain.resize(1_024, 0);
        assert_eq!(Source::sniffed(plain.as_slice()).unwrap().consumed(), None);
    }

    #[test]
    fn an_empty_stream_is_a_stream() {
        let bytes = GzipWriter::new(Vec::new()).unwrap().finish().unwrap();
        let mut back = Vec::new();
        decoder(bytes.as_slice(), Compression::Gzip).unwrap().read_to_end(&mut back).unwrap();
        assert!(back.is_empty());
    }

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
