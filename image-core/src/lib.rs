//! What an OCI image *is*: digests, names, manifests, configs. Pure data: no IO, no clock, no environment.
//!
//! ```text
//!  Reference  ──────────▶  Index ──▶ Manifest ──▶ Config        its digest is the ImageId
//!  docker.io/library/x:1     │          │           │ rootfs.diff_ids ─▶ DiffId, DiffId, …
//!  (a name, may move)        │          │           │ history         ─▶ History, History, …
//!                     one a platform    └─▶ layer, layer, …           each a compressed tar:
//!                                                                     Digest of the compressed bytes,
//!                                                                     DiffId of the tar itself
//!  ChainId = the identity of layers 0..n, stacked in that order
//! ```
//!
//! Three rules hold everywhere:
//! - **bytes are the identity**: a [`Document`] keeps the bytes that it was parsed from, and digests are of those;
//! - a value that would be wrong cannot be made: texts are parsed into [`Digest`], [`Reference`], [`Platform`];
//! - what we do not know we keep: unknown members survive typed edits.
//!
//! ```
//! use image_core::{AnyManifest, Descriptor, Document, Manifest, MediaType};
//!
//! let config = Descriptor::of(MediaType::OciConfig, b"{}");
//! let manifest = Document::from_value(Manifest::oci(config, Vec::new()))?;
//! let read = AnyManifest::parse(manifest.bytes().to_vec(), Some(&MediaType::OciManifest))?;
//! assert_eq!(read.bytes(), manifest.bytes());
//! # Ok::<(), image_core::DocumentError>(())
//! ```
#![forbid(unsafe_code)]

pub mod blob;
mod builder;
mod config;
mod convert;
mod descriptor;
mod digest;
mod document;
mod error;
pub mod history;
mod id;
mod index;
pub mod json;
pub mod layout;
mod manifest;
mod media_type;
mod platform;
mod reference;
#[cfg(feature = "proptest")]
pub mod strategies;
mod timestamp;
pub mod whiteout;

// The public interface is:
pub use blob::{BlobSink, BlobSource, MemoryBlob};
pub use builder::ConfigBuilder;
pub use config::{ContainerConfig, Healthcheck, ImageConfig, Rootfs};
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, Digester, hex};
pub use document::{AnyManifest, CONFIG_LIMIT, Document, MANIFEST_LIMIT};
pub use error::{DigestError, DocumentError, JsonError, PlatformError, ReferenceError, TimestampError};
pub use history::History;
pub use id::{ChainId, DiffId, ImageId};
pub use index::Index;
pub use manifest::Manifest;
pub use media_type::{Compression, MediaType};
pub use platform::Platform;
pub use reference::{DEFAULT_DOMAIN, DEFAULT_TAG, Reference};
pub use timestamp::Timestamp;

/// The OCI types that the conversions speak.
pub use oci_spec::image as oci;
