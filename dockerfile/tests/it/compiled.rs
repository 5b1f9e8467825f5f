//! Compiles a text, with the same plain config for every image.

use dockerfile::{Compiler, Diagnostics, Dockerfile, Images, Options, Outcome, Plan};
use image_core::{ImageConfig, Platform};

const BASE: &str = r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:777b2c648970480f50f5b4d0af8f9a8ea798eea43dbcf40ce4a8c7118736bdcf"]},"history":[]}"#;

/// A request for linux/amd64.
pub(crate) fn options() -> Options {
    Options::new(Platform::new("linux", "amd64"))
}

/// An image's config with these triggers.
pub(crate) fn base(triggers: &[&str]) -> ImageConfig {
    let mut config: ImageConfig = serde_json::from_str(BASE).unwrap();
    config.config.on_build = triggers.iter().map(|text| (*text).to_owned()).collect();
    config
}

/// The plan of a text, every image having these triggers.
pub(crate) fn with(text: &str, options: Options, triggers: &[&str]) -> Result<Plan, Diagnostics> {
    let file: Dockerfile = text.parse()?;
    let compiler = Compiler::new(&file, options);
    let mut images = Images::new();
    loop {
        match compiler.compile(&images)? {
            Outcome::Plan(plan) => return Ok(*plan),
            Outcome::NeedImages(requests) => {
                for request in requests {
                    images.insert(request, base(triggers), None);
                }
            }
            _ => unreachable!(),
        }
    }
}

/// The plan of a text.
pub(crate) fn plan(text: &str) -> Plan {
    with(text, options(), &[]).unwrap()
}
