//! What FROM and a stage's ARG see: global ARGs, and the platform arguments that are there without one.

use std::cell::OnceCell;
use std::sync::Arc;

use image_core::Platform;

use super::Options;
use crate::expand::Variables;
use crate::limits::MAX_SUGGESTIONS;
use crate::{Env, Origin};

/// The platform arguments, in the order in which the reference sets them.
const PLATFORM_ARGS: [&str; 11] = [
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

/// Arguments by name. Most files use few of those of the platform, so their values are found when they are asked for.
#[derive(Clone)]
pub(super) struct Arguments {
    options: Arc<Options>,
    /// The name of the stage that is built.
    stage: Option<String>,
    build_platform: OnceCell<String>,
    target_platform: OnceCell<String>,
    /// What was declared or set; it stands for the platform argument of the same name.
    declared: Env,
}

impl Arguments {
    /// Nothing is declared. `last` is the name of the file's last stage.
    pub(super) fn new(options: Arc<Options>, last: Option<String>) -> Self {
        let stage = options.target.clone().or(last).filter(|name| !name.is_empty());
        Self {
            options,
            stage,
            build_platform: OnceCell::new(),
            target_platform: OnceCell::new(),
            declared: Env::new(),
        }
    }

    pub(super) fn set(&mut self, name: &str, value: impl Into<Arc<str>>) {
        self.declared.set(name, value, Origin::Arg);
    }

    /// Takes away what was declared under a name.
    pub(super) fn remove(&mut self, name: &str) {
        let mut rest = Env::new();
        for other in self.declared.names_by_age() {
            if other != name {
                rest.set(other, self.declared.value(other).unwrap_or_default(), Origin::Arg);
            }
        }
        self.declared = rest;
    }

    /// Names in the order in which they were last set, for spelling suggestions: none when there are more than are
    /// looked at.
    pub(super) fn suggestions(&self) -> Vec<&str> {
        let platform = PLATFORM_ARGS.into_iter().filter(|name| self.declared.get(name).is_none());
        let mut names: Vec<&str> = platform.collect();
        if names.len() + self.declared.len() > MAX_SUGGESTIONS {
            return Vec::new();
        }
        names.extend(self.declared.names_by_age());
        names
    }

    fn of_platform(&self, name: &str) -> Option<&str> {
        let options = &*self.options;
        let name = PLATFORM_ARGS.into_iter().find(|known| *known == name)?;
        if let Some(given) = options.build_args.get(name) {
            return Some(given);
        }
        let build = &options.build_platform;
        let target = options.platform.as_ref().unwrap_or(build);
        Some(match name {
            "BUILDPLATFORM" => self.build_platform.get_or_init(|| without_version(build)),
            "BUILDOS" => &build.os,
            "BUILDOSVERSION" => build.os_version.as_deref().unwrap_or(""),
            "BUILDARCH" => &build.architecture,
            "BUILDVARIANT" => build.variant.as_deref().unwrap_or(""),
            "TARGETPLATFORM" => self.target_platform.get_or_init(|| target.to_string()),
            "TARGETOS" => &target.os,
            "TARGETOSVERSION" => target.os_version.as_deref().unwrap_or(""),
            "TARGETARCH" => &target.architecture,
            "TARGETVARIANT" => target.variant.as_deref().unwrap_or(""),
            _ => self.stage.as_deref().unwrap_or("default"),
        })
    }
}

impl Variables for Arguments {
    fn value(&self, name: &str) -> Option<&str> {
        self.declared.value(name).or_else(|| self.of_platform(name))
    }
}

/// Without the version of the operating system.
fn without_version(platform: &Platform) -> String {
    let mut short = platform.clone();
    short.os_version = None;
    short.to_string()
}
