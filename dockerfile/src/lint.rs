//! Findings that do not stop a build.

use serde::Serialize;

use crate::source::Lines;

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct Warning {
    /// The rule's name: `StageNameCasing`.
    pub rule: &'static str,
    /// What was found.
    pub message: String,
    /// What the rule is about.
    pub description: &'static str,
    /// Where to read about the rule; empty when there is no page.
    pub url: &'static str,
    /// Where it was found.
    pub lines: Lines,
}
