//! What checking a file finds, and the JSON in which BuildKit says it.

use serde::Serialize;

use super::Warning;
use crate::error::{Diagnostic, Diagnostics};
use crate::query::{Location, SourceInfo, pretty};
use crate::source::{Lines, Source};

/// Findings of the rules and errors of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Findings, in the order in which they came up.
    pub warnings: Vec<Warning>,
    /// Errors, that which stops a build first.
    pub errors: Vec<Diagnostic>,
}

/// `lint.LintResults`.
#[derive(Serialize)]
struct Results<'a> {
    warnings: Option<Vec<Finding>>,
    sources: [SourceInfo<'a>; 1],
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    error: Option<BuildError>,
    /// Ours: the other errors.
    #[serde(rename = "buildErrors", skip_serializing_if = "Vec::is_empty")]
    more: Vec<BuildError>,
}

/// `lint.Warning`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    rule_name: &'static str,
    description: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'static str,
    detail: String,
    location: Location,
}

/// `lint.BuildError`.
#[derive(Serialize)]
struct BuildError {
    message: String,
    location: Location,
}

impl From<Diagnostics> for Report {
    fn from(found: Diagnostics) -> Self {
        let (errors, warnings) = found.into_parts();
        Self { warnings, errors }
    }
}

impl Report {
    /// Whether there is nothing to say: what a check exits with 0 for.
    pub fn is_clean(&self) -> bool {
        self.warnings.is_empty() && self.errors.is_empty()
    }

    /// The report in the form of BuildKit's `frontend.lint`, which `docker build --check` prints with `format=json`:
    /// `warnings` (`ruleName`, `description`, `url`, `detail`, `location`), `sources` with the text in base64, and
    /// `buildError` for the first error. Errors behind the first, which BuildKit does not look for, are in `buildErrors`.
    pub fn to_json(&self, name: &str, source: &Source) -> String {
        let finding = |warning: &Warning| Finding {
            rule_name: warning.rule,
            description: warning.description,
            url: warning.url,
            detail: warning.message.clone(),
            location: Location::of(warning.lines),
        };
        let mut errors = self.errors.iter().map(|error| BuildError {
            message: error.kind.with_cause(),
            location: Location::of(error.lines),
        });
        let (error, more) = (errors.next(), errors.collect());
        let warnings: Vec<_> = self.warnings.iter().map(finding).collect();
        let warnings = (!warnings.is_empty()).then_some(warnings);
        pretty(&Results { warnings, sources: [SourceInfo::new(name, source)], error, more })
    }

    /// The report for a terminal: every finding and every error with the lines that it is about.
    pub fn render(&self, name: &str, source: &Source, color: bool) -> String {
        let place = |lines: Lines| lines.first;
        let mut all: Vec<(u32, String)> = Vec::with_capacity(self.warnings.len() + self.errors.len());
        all.extend(self.warnings.iter().map(|one| (place(one.lines), one.render(name, source, color))));
        all.extend(self.errors.iter().map(|one| (place(one.lines), one.render(name, source, color))));
        all.sort_by_key(|(line, _)| *line);
        let texts: Vec<String> = all.into_iter().map(|(_, text)| text).collect();
        texts.join("\n")
    }
}
