//! The rules that look at a file as a whole.

use std::collections::BTreeSet;

use super::{
    CONSISTENT_INSTRUCTION_CASING, Config, DUPLICATE_STAGE_NAME, Linter, RESERVED_STAGE_NAME, Warning,
};
use crate::directive;
use crate::quote::quote;
use crate::syntax::{Comments, Dockerfile};

/// What the rules find that need nothing but the text.
pub(crate) fn findings(file: &Dockerfile) -> Vec<Warning> {
    let check = directive::find(file.source().text(), "check").unwrap_or_default();
    let Ok(config) = Config::parse(&check) else { return Vec::new() };
    let mut linter = Linter::new(config);
    linter.file(file);
    linter.warnings
}

impl Linter {
    /// The rules that look at the file as a whole.
    pub(crate) fn file(&mut self, file: &Dockerfile) {
        for finding in &file.findings {
            let instruction = finding.instruction.and_then(|index| file.instructions.get(index));
            self.finding(finding, instruction.map_or(&Comments::NONE, |one| &one.comments));
        }
        let mut names = BTreeSet::new();
        for stage in file.stages() {
            let Some(name) = &stage.from.name else { continue };
            if matches!(name.as_str(), "scratch" | "context") {
                self.report(&RESERVED_STAGE_NAME, stage.instruction.lines, &Comments::NONE, || {
                    format!("Stage name should not use the same name as reserved stage {}", quote(name))
                });
            }
            if !names.insert(name) {
                self.report(&DUPLICATE_STAGE_NAME, stage.instruction.lines, &Comments::NONE, || {
                    format!("Duplicate stage name {}, stage names should be unique", quote(name))
                });
            }
        }
        self.casing(file);
    }

    fn casing(&mut self, file: &Dockerfile) {
        let is_lower = |word: &str| !word.bytes().any(|byte| byte.is_ascii_uppercase());
        let is_upper = |word: &str| !word.bytes().any(|byte| byte.is_ascii_lowercase());
        let skip = file.globals().len();
        let instructions = file.instructions.get(skip..).unwrap_or(&[]);
        let (mut lower, mut upper) = (0, 0);
        for instruction in instructions {
            lower += usize::from(is_lower(&instruction.keyword));
            upper += usize::from(is_upper(&instruction.keyword) && !is_lower(&instruction.keyword));
        }
        for instruction in instructions {
            let word = &instruction.keyword;
            let (fits, want) =
                if lower > upper { (is_lower(word), "lowercase") } else { (is_upper(word), "uppercase") };
            if !fits {
                self.report(&CONSISTENT_INSTRUCTION_CASING, instruction.lines, &Comments::NONE, || {
                    format!("Command '{word}' should match the case of the command majority ({want})")
                });
            }
        }
    }
}
