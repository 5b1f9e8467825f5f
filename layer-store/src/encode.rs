//! Layers as they leave the store: tar streams and compressed blobs.

use std::io::{self, BufReader, Read, Write};

use image_core::{Compression, Descriptor, Digest, MediaType};

use crate::blob::Encoding;
use crate::compress::{GZIP_ENCODER, GzipWriter, Source, zstd_encoder};
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::pack::pack;
use crate::store::Store;
use crate::transaction::Transaction;

/// How a layer is encoded when it leaves the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Encoder {
    /// Gzip, which everybody reads.
    #[default]
    Gzip,
    /// Zstandard: smaller and three times as fast to read.
    Zstd,
    /// The plain tar stream; its digest is the diff ID.
    Plain,
}

impl Encoder {
    pub(crate) const ALL: [Self; 3] = [Self::Gzip, Self::Zstd, Self::Plain];

    /// What is recorded beside a blob that it made: program, version, level.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Gzip => GZIP_ENCODER.to_owned(),
            Self::Zstd => zstd_encoder(),
            Self::Plain => "tar".to_owned(),
        }
    }

    /// The type of what it makes.
    #[must_use]
    pub const fn media_type(self) -> MediaType {
        MediaType::OciLayer(match self {
            Self::Gzip => Compression::Gzip,
            Self::Zstd => Compression::Zstd,
            Self::Plain => Compression::None,
        })
    }
}

impl Store {
    /// Writes the layer's tar stream, byte for byte what its diff ID was computed of.
    ///
    /// A layer that was made here is packed again; one that was pulled is decoded from the blob that was kept.
    ///
    /// # Errors
    /// [`Error::NotFound`] when it was pulled and its blob is gone: pull it again.
    pub fn write_tar(&self, layer: &Layer, out: &mut dyn Write) -> Result<()> {
        let fail = |source| Error::Stream { format: "tar", source };
        if layer.index().packed {
            let mut out = io::BufWriter::with_capacity(256 << 10, out);
            pack(&layer.index().entries, layer.tree(), self.authority(), &mut out, false).map_err(fail)?;
            return out.flush().map_err(fail);
        }
        let kept = self.encodings(&layer.diff_id())?.pop();
        let kept = kept.ok_or_else(|| Error::NotFound {
            kind: "blob of the layer",
            name: layer.diff_id().to_string(),
        })?;
        let blob = self.blob(&kept.blob)?.verified().map_err(fail)?;
        let mut tar = Source::sniffed(blob).map_err(fail)?;
        io::copy(&mut tar, out).map_err(fail)?;
        Ok(())
    }
}

impl Transaction {
    /// The blob of `layer` to ship: the one that was pulled, or one of our own gzip encoder, made once.
    ///
    /// # Errors
    /// As [`Store::write_tar`].
    pub fn encoded(&self, layer: &Layer) -> Result<Descriptor> {
        for encoding in self.store().encodings(&layer.diff_id())? {
            if self.has_blob(&encoding.blob)? {
                return Ok(encoding.blob);
            }
        }
        self.encoded_as(layer, Encoder::Gzip)
    }

    /// The blob of `layer` by `encoder`: the one that it made before, or a new one.
    ///
    /// # Errors
    /// As [`Store::write_tar`].
    pub fn encoded_as(&self, layer: &Layer, encoder: Encoder) -> Result<Descriptor> {
        let name = encoder.name();
        for encoding in self.store().encodings(&layer.diff_id())? {
            if encoding.encoder == name && self.has_blob(&encoding.blob)? {
                return Ok(encoding.blob);
            }
        }
        let (blob, _) = self.encode_with(layer, encoder, None)?;
        self.record_encoding(layer.diff_id(), Encoding { blob: blob.clone(), encoder: name });
        Ok(blob)
    }

    /// Encodes `layer`; when its digest is `expected`, or nothing is, the blob is kept, which the second value says.
    pub(crate) fn encode_with(
        &self,
        layer: &Layer,
        encoder: Encoder,
        expected: Option<&Digest>,
    ) -> Result<(Descriptor, bool)> {
        let ingest = self.ingest_unknown(encoder.media_type())?;
        let out = io::BufWriter::with_capacity(256 << 10, ingest);
        let out = match encoder {
            Encoder::Gzip => {
                let fail = |source| Error::Stream { format: "gzip", source };
                let mut gzip = GzipWriter::new(out).map_err(fail)?;
                self.store().write_tar(layer, &mut gzip)?;
                gzip.finish().map_err(fail)?
            }
            Encoder::Zstd => {
                let fail = |source| Error::Stream { format: "zstd", source };
                let mut zstd = zstd::Encoder::new(out, crate::compress::ZSTD_LEVEL).map_err(fail)?;
                self.store().write_tar(layer, &mut zstd)?;
                zstd.finish().map_err(fail)?
            }
            Encoder::Plain => {
                let mut out = out;
                self.store().write_tar(layer, &mut out)?;
                out
            }
        };
        let fail = |source| Error::Stream { format: "compressed", source };
        let ingest = out.into_inner().map_err(|error| fail(error.into_error()))?;
        ingest.finish_if(|digest| expected.is_none_or(|expected| expected == digest))
    }
}

/// Reads a small member of an archive, at most `limit` bytes.
pub(crate) fn read_bounded(source: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    BufReader::new(source).take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(bytes)
}
