//! Client for OCI and Docker registries, and an in-process registry.
//!
//! It moves manifests and blobs between a registry and [`BlobSource`]s and [`BlobSink`]s of `image_core`, and takes
//! care of everything between: names, TLS, credentials, tokens, redirects, cuts, retries, limits, and the proof that
//! what came is what was asked for. It is not a store: it keeps nothing on disk but what a login asks it to keep.
//!
//! ```text
//!   Client ── manifest · blob · tag · login           what can be asked
//!     │
//!   Engine ── auth (401 → token) · retry · events     one way for every request
//!     │
//!   transport ── redirects · TLS · address rules      the only place that knows an HTTP library
//! ```
//!
//! Three rules hold everywhere: a credential is bound to the origin it is for and goes nowhere else; every body that
//! is kept in memory has a limit; bytes count only once their digest and size are those of the descriptor.
//!
//! # Example
//!
//! ```no_run
//! use image_core::Reference;
//! use registry_client::Client;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder().build()?;
//! let busybox = Reference::parse("busybox:1.36")?;
//! let fetched = client.manifest(&busybox).await?;
//! println!("{} {}", fetched.media_type, fetched.descriptor.digest);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | adds |
//! | --- | --- |
//! | `server` | [`server`]: an OCI registry in this process, in memory or over a directory |
//! | `testing` | faults for that registry: cuts, delays, refusals, lies |
//!
//! [`BlobSource`]: image_core::BlobSource
//! [`BlobSink`]: image_core::BlobSink

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod auth;
mod blob;
mod client;
mod copy;
pub mod credential;
mod download;
mod endpoint;
mod engine;
mod error;
mod event;
pub mod hosts;
mod image;
mod login;
mod manifest;
mod origin;
mod pace;
mod referrers;
mod retry;
mod settings;
mod source;
mod tag;
mod task;
mod transport;

#[cfg(feature = "server")]
pub mod server;

pub use blob::{BlobPush, BlobStream, PushOptions};
pub use client::{Client, ClientBuilder};
pub use copy::{CopyOptions, CopyReport};
pub use download::Download;
pub use error::{Answer, Error, RegistryError, RequestLine, Result, TransportFailure};
pub use event::{Direction, Event, EventSink};
pub use image::PushReport;
pub use manifest::FetchedManifest;
pub use retry::RetryPolicy;
pub use transport::{ClientIdentity, Http2, TlsRoots, TlsSettings};
