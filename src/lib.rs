#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod build;
mod container;
pub mod docker;
mod engine;
mod error;
mod event;
mod export;
mod governor;
mod process;
mod pull;
mod push;
mod subordinate;
mod task;
mod user;

// The public interface is:
pub use build::{
    Attestation, BaseImage, Build, BuildRecord, Built, BuiltIndex, CacheLocation, Cause, Context, Decision,
    FileChange, Irreproducible, LayoutImage, Lock, LockError, NamedContext, Package, PackageKind,
    Reproducibility, Secret, Source, SourcePolicy, StepReport, Timestamps,
};
pub use container::{Container, Ended};
pub use engine::{Clock, Engine, EngineOptions, Image, Pruned};
pub use error::{Error, Result};
pub use event::{Event, EventSink, Stream};
pub use export::Output;
pub use governor::{Bounds, Governed, Governor};
pub use process::Limits;
pub use pull::{Candidate, ImageVerifier, Pull, VerifierCause, VerifyError};

pub use dockerfile;
pub use image_core as image;
pub use layer_store as store;
pub use registry_client as registry;
pub use runtime;
