//! From a parsed file to a [`Plan`](crate::Plan).
//!
//! The compiler does no IO: it says which images' configs it needs and is asked again with them.

mod request;

pub use request::{ImageRequest, Images, KnownImage, NamedContext, NoCache, Options};

use crate::plan::Plan;

/// What one call of the compiler comes to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The configs of these images are needed; none of them is known yet.
    NeedImages(Vec<ImageRequest>),
    /// The plan.
    Plan(Box<Plan>),
}
