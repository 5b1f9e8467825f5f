//! Findings that do not stop a build: BuildKit's rules, names and texts.
//!
//! Source: "Build checks" in the Dockerfile reference.

mod check;
mod config;
mod report;
mod rule;
mod whole;

use std::collections::BTreeSet;

use serde::Serialize;

pub use check::{Checked, check};
pub(crate) use config::Config;
pub use report::Report;
pub(crate) use rule::*;
pub use rule::{RULES, Rule};
pub(crate) use whole::findings;

use crate::instruction::Kind;
use crate::source::Lines;
use crate::syntax::{Comments, Finding, Instruction};

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

/// Collects findings as far as the options let them through.
#[derive(Debug, Default)]
pub(crate) struct Linter {
    config: Config,
    pub(crate) warnings: Vec<Warning>,
    seen: BTreeSet<Warning>,
}

impl Linter {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// Reports a finding; `comments` are those above the instruction, which may silence the rule.
    pub(crate) fn report(
        &mut self,
        rule: &Rule,
        lines: Lines,
        comments: &Comments,
        message: impl FnOnce() -> String,
    ) {
        if self.config.lets(rule, comments) {
            self.push(rule.warning(message(), lines));
        }
    }

    pub(crate) fn finding(&mut self, finding: &Finding, comments: &Comments) {
        if let Some(rule) = RULES.iter().find(|rule| rule.name == finding.warning.rule)
            && self.config.lets(rule, comments)
        {
            self.push(finding.warning.clone());
        }
    }

    fn push(&mut self, warning: Warning) {
        if self.seen.insert(warning.clone()) {
            self.warnings.push(warning);
        }
    }

    /// The rules that fired, when the options make that an error.
    pub(crate) fn violations(&self) -> Option<Vec<&'static str>> {
        let rules: BTreeSet<_> = self.warnings.iter().map(|warning| warning.rule).collect();
        (self.config.error && !rules.is_empty()).then(|| rules.into_iter().collect())
    }
}

/// The rules that look at one instruction alone.
pub(crate) fn syntax(instruction: &Instruction, index: usize, findings: &mut Vec<Finding>) {
    let lines = instruction.lines;
    let mut add = |rule: &Rule, message: String| {
        findings.push(Finding { warning: rule.warning(message, lines), instruction: Some(index) });
    };
    match &instruction.kind {
        Kind::Maintainer(_) => {
            add(
                &MAINTAINER_DEPRECATED,
                "Maintainer instruction is deprecated in favor of using label".to_owned(),
            );
        }
        Kind::From(from) => {
            let mut words = instruction.text.split_ascii_whitespace().rev();
            if let (Some(name), (Some(written), Some(with))) = (&from.name, (words.next(), words.next())) {
                if written != written.to_lowercase() {
                    add(&STAGE_NAME_CASING, format!("Stage name '{written}' should be lowercase"));
                }
                let keyword = &instruction.keyword;
                let fits = if *keyword == keyword.to_lowercase() {
                    with == with.to_lowercase()
                } else {
                    *keyword != keyword.to_uppercase() || with == with.to_uppercase()
                };
                if !fits {
                    add(&FROM_AS_CASING, format!("'{with}' and '{keyword}' keywords' casing do not match"));
                }
                described(&mut add, "FROM", &[name], &instruction.comments);
            }
        }
        Kind::Arg(args) => {
            let names: Vec<_> = args.iter().map(|arg| &arg.name).collect();
            described(&mut add, "ARG", &names, &instruction.comments);
        }
        _ => {}
    }
}

fn described(add: &mut impl FnMut(&Rule, String), keyword: &str, names: &[&String], comments: &Comments) {
    let (Some(comment), Some(first)) = (comments.last(), names.first()) else { return };
    let word = comment.split(' ').next().unwrap_or("");
    if !names.iter().any(|name| *name == word) {
        let example = if names.len() > 1 { "<arg_key>" } else { first };
        add(
            &INVALID_DEFINITION_DESCRIPTION,
            format!("Comment for {keyword} should follow the format: `# {example} <description>`"),
        );
    }
}
