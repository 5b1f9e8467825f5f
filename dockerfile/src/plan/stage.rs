//! A compiled stage: what an image made from it says about itself.

use std::sync::Arc;

use image_core::{ContainerConfig, ImageConfig, Platform, Reference};
use serde::Serialize;

use super::{Input, StepIndex};
use crate::source::{Lines, Span};

/// A stage that the target needs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PlanStage {
    /// Its number in the file, from 0.
    pub number: usize,
    /// The name after AS, in lower case.
    pub name: Option<String>,
    /// What it is built for.
    pub platform: Platform,
    /// What it starts from.
    pub base: Base,
    /// Its final root file system.
    pub root: Input,
    /// The execution parameters of an image made from it.
    pub config: ContainerConfig,
    /// MAINTAINER, or the base image's author.
    pub author: Option<String>,
    /// Its own history entries; [`Plan::history`](super::Plan::history) has those of its base stages too.
    pub history: Vec<HistoryEntry>,
    /// The config of the image at the bottom of its chain of stages; none when that is scratch.
    #[serde(skip)]
    pub base_image: Option<Arc<ImageConfig>>,
    /// The platform fields that the image's config gets.
    #[serde(skip)]
    pub image_platform: Platform,
    /// Where its FROM stands.
    pub span: Span,
    /// Lines of its FROM.
    pub lines: Lines,
}

/// What a stage starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An image.
    Image {
        /// Its normalised reference.
        reference: Reference,
        /// The step that provides its root file system; none when it has no layers.
        step: Option<StepIndex>,
    },
    /// Another stage: its index in [`Plan::stages`](super::Plan::stages).
    Stage(usize),
    /// A named context that is not an image.
    Context {
        /// The step that provides it.
        step: StepIndex,
    },
}

/// An entry that the stage adds to the image's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// What made it: `RUN /bin/sh -c make # buildkit`.
    pub created_by: String,
    /// The step whose changes are its layer; none when it has no layer.
    pub step: Option<StepIndex>,
    /// Where the instruction stands.
    pub lines: Lines,
}

impl HistoryEntry {
    /// The `comment` of every entry.
    pub const COMMENT: &str = "buildkit.dockerfile.v0";

    /// Whether the entry has no layer.
    pub const fn empty_layer(&self) -> bool {
        self.step.is_none()
    }
}

impl PlanStage {
    /// The config of an image made from this stage, as far as the plan knows it: everything but the new layers.
    ///
    /// `created` is empty; `rootfs` and `history` are the base image's. Members of the base image's
    /// config that this crate does not know are kept.
    pub fn image(&self) -> ImageConfig {
        let mut image = match &self.base_image {
            Some(base) => ImageConfig::clone(base),
            None => ImageConfig::empty(&self.image_platform),
        };
        image.created = None;
        image.author.clone_from(&self.author);
        image.config = self.config.clone();
        image.os.clone_from(&self.image_platform.os);
        image.architecture.clone_from(&self.image_platform.architecture);
        image.variant.clone_from(&self.image_platform.variant);
        image.os_version.clone_from(&self.image_platform.os_version);
        image.os_features.clone_from(&self.image_platform.os_features);
        image
    }
}
