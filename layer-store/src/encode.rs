//! Layers as they leave the store: tar streams and compressed blobs.

use std::io::{self, BufReader, Read, Write};

use image_core::{Compression, Descriptor, MediaType};

use crate::blob::Encoding;
use crate::compress::{GZIP_ENCODER, GzipWriter, decoder, sniff};
use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::pack::pack;
use crate::store::Store;
use crate::transaction::Transaction;

/// What our own encoder makes.
const LAYER: MediaType = MediaType::OciLayer(Compression::Gzip);

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
            pack(&layer.index().entries, layer.tree(), self.authority(), &mut out).map_err(fail)?;
            return out.flush().map_err(fail);
        }
        let kept = self.encodings(&layer.diff_id())?.pop();
        let kept = kept.ok_or_else(|| Error::NotFound {
            kind: "blob of the layer",
            name: layer.diff_id().to_string(),
        })?;
        let blob = self.blob(&kept.blob)?.verified().map_err(fail)?;
        let (compression, source) = sniff(blob).map_err(fail)?;
        let mut tar = decoder(source, compression).map_err(fail)?;
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
        let ingest = self.ingest_unknown(LAYER)?;
        let fail = |source| Error::Stream { format: "gzip", source };
        let mut gzip = GzipWriter::new(io::BufWriter::with_capacity(256 << 10, ingest)).map_err(fail)?;
        self.store().write_tar(layer, &mut gzip)?;
        let ingest = gzip.finish().map_err(fail)?.into_inner().map_err(|error| fail(error.into_error()))?;
        let blob = ingest.finish()?;
        self.record_encoding(
            layer.diff_id(),
            Encoding { blob: blob.clone(), encoder: GZIP_ENCODER.to_owned() },
        );
        Ok(blob)
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
