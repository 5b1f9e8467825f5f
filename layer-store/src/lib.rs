//! Where images live: layers, blobs, images, containers and build cache, as plain files.
//!
//! ```text
//!  <root>/                      0700; nobody else looks in
//!    VERSION                    {"format":1,"compatible":[],"read_only_compatible":[],"incompatible":[],"owners":"true"}
//!    blobs/sha256-<hex>         bytes as they came or go out: configs, manifests, compressed layers
//!    layers/<key>/index         a layer's truth: every entry, all metadata, content digests  (see `index`)
//!                 diff/         its tree, in overlay form
//!    borrows/<diff id>          paths at which a layer that is not self-contained looked below
//!    encodings/<diff id>        which blobs encode the layer, made by which encoder
//!    images/<config digest>     config, layers, manifest once fixed
//!    refs/<sha256 of name>      name → image, or an index of several          (see `image_index`)
//!    referrers/<digest>         what refers to a manifest: its artifacts       (see `referrer`)
//!    history/<sha256 of name>   what the name has pointed to
//!    cache/records/<key>        what a build step depended on and made       (see `cache`)
//!         /slots/<hash>         what the same step depended on last time
//!    containers/<id>/           record, log, snapshot                        (see `container`)
//!    volumes/<name>/            record, lock, data                           (see `volume`)
//!    mounts/<sha256 of id>/     directories that builds keep                 (see `cache_mount`)
//!    leases/<id>                flocked while its process works              (see `lease`)
//!    ingest/<lease>/            staging of that work; each begins elsewhere on the disk (see `transaction`, `ground`)
//!    partial/<digest>           a blob of which some has come                (see `ingest`)
//!    trash/                     on its way out
//! ```
//!
//! A layer is kept once, whatever images have it and whatever is below it there. The blocks of a file that two layers have
//! are kept once after [`Store::deduplicate`], where the file system can share extents, and twice where it cannot
//! ([`Store::duplicates`] counts those).
//!
//! Roots of garbage collection: `images`, `refs` that name an index, `containers`, `cache/records`, held `leases`. Files
//! are the truth; there is no database. No lock is held while a store is merely open, so any number of processes share
//! one.
//!
//! ```
//! use layer_store::{Entry, Kind, Store, View};
//!
//! # let dir = tempfile::tempdir()?;
//! let store = Store::open(dir.path())?;
//! let work = store.begin()?;
//! let mut layer = work.compose(View::default())?;
//! let entry = Entry::new(Kind::Fifo, 0o644, 0, 0, (0, 0)); // the kind is set by what is called
//! layer.file(b"etc/motd", &mut "hello\n".as_bytes(), entry)?;
//! let layer = layer.finish(None)?;
//! work.commit()?; // durable from here on
//! assert_eq!(store.layer(layer.key())?.index().size(), 6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

mod additional;
mod archive;
mod arrival;
pub mod authority;
mod blob;
mod budget;
mod cache;
mod cache_mount;
mod check;
mod compose;
mod compress;
#[cfg(feature = "conformance")]
pub mod conformance;
mod container;
mod deduplicate;
mod derive;
mod disk;
mod duplicates;
mod encode;
mod error;
mod extents;
mod gc;
mod ground;
mod image;
mod image_index;
mod index;
mod ingest;
mod layer;
mod lease;
mod lower;
mod materialise;
mod merged;
mod pack;
mod parallel;
mod prune;
mod referrer;
mod repair;
mod snapshot;
mod squash;
mod store;
mod tar_reader;
mod transaction;
mod unpack;
mod usage;
mod view;
mod volume;

// The public interface is:
pub use archive::{Loaded, load, load_allowing, load_layout, load_layout_for, save};
pub use arrival::{Arrivals, Arriving};
pub use blob::{Encoding, StoredBlob};
pub use budget::Budget;
pub use cache::{CacheHit, CacheRecord, Component, Difference, Preimage};
pub use cache_mount::{CacheMount, CacheMountRecord, Sharing};
pub use check::{Checked, Damage, Finding, Object};
pub use compose::Composer;
pub use compress::{GZIP_ENCODER, GzipWriter, decoder, sniff, zstd_encoder};
pub use container::{ContainerRecord, ContainerStatus, NewContainer, StoredContainer};
pub use deduplicate::{DedupOptions, Deduplicated, FileSharing, Unshared};
pub use disk::{Disk, FaultPoint};
pub use duplicates::Duplicates;
pub use encode::Encoder;
pub use error::{Error, Result};
pub use gc::{Collected, CollectedObject, GcPolicy, Unneeded};
pub use image::{ImageLayer, ImageRecord, Keep, Past, Tag};
pub use image_index::{IndexRecord, IndexedImage};
pub use index::{Entry, Index, Kind, Summary};
pub use ingest::Ingest;
pub use layer::{Layer, LayerKey, chain_id};
pub use prune::{CachePolicy, ImagePolicy, PrunedImage, PrunedRecord, Reason};
pub use referrer::Referrer;
pub use repair::Repaired;
pub use snapshot::{
    Candidate, Changes, CopyDriver, Cost, Mount, OverlayDriver, Probe, Snapshot, Snapshotter, Upper, Verdict,
    Workspace,
};
pub use store::{Store, StoreOptions};
pub use tar_reader::list;
pub use transaction::{Transaction, UnpackedLayer};
pub use unpack::Degradation;
pub use usage::{CacheUsage, ContainerUsage, ImageUsage, Usage};
pub use view::View;
pub use volume::{StoredVolume, VolumeRecord};
