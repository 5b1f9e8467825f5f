//! Checking a file without building it.

use std::sync::Arc;

use super::Report;
use crate::compile::{Compiler, ImageRequest, Images, Options, Outcome, rest_of};
use crate::parse::{self, Partial};

/// What one call of [`check`] comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checked {
    /// The configs of these images are needed; none of them is known yet.
    NeedImages(Vec<ImageRequest>),
    /// What was found.
    Report(Report),
}

/// Everything that the rules and the compiler have to say about a file, also about one that cannot be built.
///
/// With no target asked for, all stages are looked at, also those that a build would leave out. A file that the parser
/// refuses is looked at without images: findings that depend on them are left out then, and so is all that may come from
/// what could not be read.
///
/// ```
/// use dockerfile::lint::{self, Checked};
/// use dockerfile::{Images, Options};
/// use image_core::Platform;
///
/// let options = Options::new(Platform::new("linux", "amd64"));
/// let Checked::Report(report) = lint::check(b"FROM scratch AS A\nRUM x\nWORKDIR y\n", &options, &Images::new()) else {
///     unreachable!("nothing is built from an image")
/// };
/// assert_eq!(report.errors.len(), 1);
/// let rules: Vec<_> = report.warnings.iter().map(|warning| warning.rule).collect();
/// assert_eq!(rules, ["StageNameCasing", "WorkdirRelativePath"]);
/// ```
pub fn check(bytes: &[u8], options: &Options, images: &Images) -> Checked {
    let mut options = options.clone();
    options.all_stages |= options.target.is_none();
    let Partial { file, mut errors, lost_stage } = match parse::partial(bytes) {
        Ok(partial) => partial,
        Err(error) => return Checked::Report(error.into()),
    };
    if errors.is_empty() {
        return match Compiler::new(&file, options).compile(images) {
            Ok(Outcome::NeedImages(missing)) => Checked::NeedImages(missing),
            Ok(Outcome::Plan(plan)) => {
                Checked::Report(Report { warnings: plan.warnings, ..Report::default() })
            }
            Err(error) => Checked::Report(error.into()),
        };
    }
    let rest = if lost_stage { None } else { rest_of(&file, Arc::new(options)).ok() };
    let warnings = match rest {
        Some((more, warnings)) => {
            errors.extend(more);
            warnings
        }
        None => super::findings(&file),
    };
    Checked::Report(Report { warnings, errors })
}
