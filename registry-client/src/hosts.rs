//! Hosts: which servers stand in for the one that a reference names.
//!
//! ```text
//!   docker.io/library/x ──▶ rule "docker.io" ──▶ mirror 1 ─┐ first that has it
//!                                            ──▶ mirror 2 ─┤
//!                                            ──▶ docker.io ┘ unless the mirrors replace it
//! ```
//!
//! Mirrors are asked for manifests and blobs on their way here, and for nothing else: pushes, deletions, lists and
//! referrers are the origin's, whose word they are. What a mirror sends is verified as if the origin had sent it, its
//! credentials are looked up by its own name, and the origin's never go to it.
//!
//! Rules are written in the program, or read from the files that other tools have: [`RegistriesConf`] (podman, skopeo,
//! buildah) and [`HostsToml`] (containerd). Nothing here looks for files by itself.

mod error;
mod hosts_toml;
mod mirror;
mod registries_conf;
mod rule;
mod short_name;

pub use error::HostsError;
pub use hosts_toml::HostsToml;
pub use mirror::{Mirror, MirrorUse};
pub use registries_conf::RegistriesConf;
pub use rule::{HostRule, HostRules};
pub use short_name::ShortName;

pub(crate) use mirror::{Asked, Scheme};
