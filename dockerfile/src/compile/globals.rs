//! What holds before the first stage: global ARGs, platform arguments, and the FROM lines that use them.

use std::sync::Arc;

use image_core::{Platform, Reference};

use super::Work;
use super::arguments::Arguments;
use super::node::Node;
use crate::error::{Diagnostic, ErrorKind};
use crate::expand::{Found, Variables};
use crate::instruction::Kind;
use crate::lint;
use crate::plan::Epoch;
use crate::quote::quote;
use crate::suggest;
use crate::syntax::{Comments, Instruction, Stage};

impl<'a> Work<'a> {
    /// Values of the platform arguments and the global ARGs.
    pub(super) fn prepare_globals(&mut self) -> Result<(), Diagnostic> {
        let last = self.file.stages().last().and_then(|stage| stage.from.name.clone());
        let args = Arguments::new(Arc::clone(&self.options), last);
        if let Ok(defaults) = self.global_args(args.clone(), false) {
            self.lint_default_bases(&defaults);
        }
        self.globals = self.global_args(args, true)?;
        self.prepare_epoch()
    }

    fn global_args(&mut self, mut args: Arguments, with_build_args: bool) -> Result<Arguments, Diagnostic> {
        for instruction in self.file.globals() {
            let Kind::Arg(list) = &instruction.kind else { continue };
            for arg in list {
                let mut deps = Vec::new();
                let given = if with_build_args { self.options.build_args.get(&arg.name) } else { None };
                let value = match (given, &arg.default) {
                    (Some(given), _) => Some(given.clone()),
                    (None, None) => None,
                    (None, Some(default)) => {
                        let value =
                            self.expander.word_within(default, &args, &self.budget).map_err(|cause| {
                                let kind = ErrorKind::Expand { word: quote(default), cause: Box::new(cause) };
                                Diagnostic::new(kind, instruction.span, instruction.lines)
                            })?;
                        deps = value.matched;
                        Some(value.text.into_owned())
                    }
                };
                if with_build_args && let Some(capture) = &mut self.capture {
                    capture.global(arg, value.as_deref(), &deps, instruction.lines);
                }
                if let Some(value) = value {
                    self.spend(value.len()).map_err(|(kind, _)| at(kind, instruction))?;
                    args.set(&arg.name, value);
                }
                if with_build_args {
                    self.global_names.insert(arg.name.clone());
                }
            }
        }
        Ok(args)
    }

    /// Base names must make sense when no build argument is given.
    fn lint_default_bases(&mut self, defaults: &Arguments) {
        for stage in self.file.stages() {
            let Ok(name) = self.expander.word_within(&stage.from.base, defaults, &self.budget) else {
                return;
            };
            if let Ok(reference) = Reference::parse(&name.text) {
                self.default_bases.push(Some((name.text.into_owned(), reference)));
            } else {
                self.default_bases.push(None);
                self.linter.report(
                    &lint::INVALID_DEFAULT_ARG_IN_FROM,
                    stage.instruction.lines,
                    &Comments::NONE,
                    || {
                        format!(
                            "Default value for ARG {} results in empty or invalid base image name",
                            stage.from.base
                        )
                    },
                );
            }
        }
    }

    fn prepare_epoch(&mut self) -> Result<(), Diagnostic> {
        const NAME: &str = "SOURCE_DATE_EPOCH";
        let given = self.build_args.get(NAME).cloned();
        let Some(value) =
            given.or_else(|| self.globals.value(NAME).filter(|value| !value.is_empty()).map(str::to_owned))
        else {
            return Ok(());
        };
        let mut seconds = None;
        self.epoch = match value.parse::<i64>() {
            _ if value.is_empty() => None,
            Ok(number) => {
                seconds = Some(number.to_string());
                Some(Epoch::Seconds(number))
            }
            Err(_) if value == "context" => Some(Epoch::Context),
            Err(_) if self.options.contexts.contains_key(&value) => Some(Epoch::NamedContext(value.clone())),
            Err(_) => {
                let stage = self.file.stages().find(|stage| {
                    stage.from.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(&value))
                });
                let Some(stage) = stage else {
                    let text = format!("invalid {NAME}: {value}");
                    return Err(Diagnostic::request(ErrorKind::Value(text)));
                };
                check_epoch_stage(stage)?;
                Some(Epoch::Stage(stage.number))
            }
        };
        // Only a number is a value for the file's own use; what the others come to is known later.
        match seconds {
            Some(seconds) => {
                if self.build_args.contains_key(NAME) {
                    self.build_args.insert(NAME.to_owned(), seconds.clone());
                }
                if self.globals.value(NAME).is_some() {
                    self.globals.set(NAME, seconds);
                }
            }
            None => {
                self.build_args.remove(NAME);
                self.globals.remove(NAME);
            }
        }
        Ok(())
    }

    /// Makes a node of every stage.
    pub(super) fn add_stages(&mut self) {
        for stage in self.file.stages() {
            let node = self.stage_node(stage).unwrap_or_else(|error| {
                self.fail(error);
                // Keeps the numbers of the other stages right.
                let (span, lines) = (stage.instruction.span, stage.instruction.lines);
                Node { stage: Some(stage), span, lines, ..Node::default() }
            });
            let index = self.nodes.add(node);
            self.capture_stage(index);
        }
    }

    fn stage_node(&mut self, stage: Stage<'a>) -> Result<Node<'a>, Diagnostic> {
        let instruction = stage.instruction;
        let written = &stage.from.base;
        let base = self.expander.word_within(written, &self.globals, &self.budget).map_err(|cause| {
            at(ErrorKind::Expand { word: quote(written), cause: Box::new(cause) }, instruction)
        })?;
        self.lint_undeclared(&base, instruction);
        let mut used = base.matched.clone();
        if base.text.is_empty() {
            let hint = self.global_hint(&base).unwrap_or_else(|| "give the ARG a default value".to_owned());
            return Err(at(ErrorKind::BlankBase(written.clone()), instruction).hint(hint));
        }
        let platform = match &stage.from.platform {
            None => None,
            Some(written) => Some(self.stage_platform(stage, written, &mut used)?),
        };
        let base_name = base.text.into_owned();
        let mut node = Node {
            stage: Some(stage),
            title: stage.from.name.clone().unwrap_or_else(|| format!("stage-{}", stage.number)),
            span: instruction.span,
            lines: instruction.lines,
            platform,
            ..Node::default()
        };
        if let Some(name) = &stage.from.name
            && let Some((key, context)) = self.named_context(name, node.platform.as_ref())
        {
            node.context_name = key;
            node.context = Some(context);
        } else if self.capture.is_some() {
            node.used = used.into_iter().map(str::to_owned).collect();
        }
        let known = self.default_bases.get_mut(stage.number).and_then(Option::take);
        node.parsed = known.filter(|(name, _)| *name == base_name).map(|(_, reference)| reference);
        node.total = u32::from(base_name != "scratch" && self.nodes.find_exact(&base_name).is_none());
        let works = |one: &&Instruction| {
            matches!(one.kind, Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_))
        };
        node.total += u32::try_from(stage.body.iter().filter(works).count()).unwrap_or(u32::MAX - 1);
        node.base_name = base_name;
        node.ignore_cache = match &self.options.no_cache {
            super::NoCache::No => false,
            super::NoCache::All => true,
            super::NoCache::Stages(names) => {
                stage.from.name.as_ref().is_some_and(|name| names.contains(name))
            }
        };
        Ok(node)
    }

    fn stage_platform(
        &mut self,
        stage: Stage<'a>,
        written: &'a str,
        used: &mut Vec<&'a str>,
    ) -> Result<Platform, Diagnostic> {
        let instruction = stage.instruction;
        let found = self.expander.word_within(written, &self.globals, &self.budget).map_err(|cause| {
            at(ErrorKind::Expand { word: quote(written), cause: Box::new(cause) }, instruction)
        })?;
        self.lint_undeclared(&found, instruction);
        used.extend(&found.matched);
        let comments = &instruction.comments;
        if found.unmatched.is_empty()
            && found.matched.len() == 1
            && found.matched.first() == Some(&"TARGETPLATFORM")
            && self.globals.value("TARGETPLATFORM") == Some(&*found.text)
        {
            self.linter.report(&lint::REDUNDANT_TARGET_PLATFORM, instruction.lines, comments, || {
                format!("Setting platform to predefined {written} in FROM is redundant as this is the default behavior")
            });
        }
        if found.text.is_empty() {
            let hint = self.global_hint(&found);
            return Err(at(ErrorKind::BlankPlatform(written.to_owned()), instruction).hint(hint));
        }
        if let Some(wrong) = wrong_component(&found.text) {
            let text =
                format!("failed to parse platform {written}: {} cannot be a part of one", quote(wrong));
            return Err(at(ErrorKind::Value(text), instruction).hint(self.global_hint(&found)));
        }
        let platform = Platform::parse(&found.text).map_err(|cause| {
            at(ErrorKind::Platform { expression: written.to_owned(), cause: Box::new(cause) }, instruction)
                .hint(self.global_hint(&found))
        })?;
        let name = stage.from.name.as_deref().unwrap_or("");
        if found.matched.is_empty()
            && found.unmatched.is_empty()
            && !name.contains(&platform.os)
            && !name.contains(&platform.architecture)
        {
            self.linter.report(
                &lint::FROM_PLATFORM_FLAG_CONST_DISALLOWED,
                instruction.lines,
                comments,
                || format!("FROM --platform flag should not use constant value {}", quote(&found.text)),
            );
        }
        Ok(platform)
    }

    fn lint_undeclared(&mut self, found: &Found<'_>, instruction: &Instruction) {
        for name in &found.unmatched {
            if self.global_names.contains(*name) {
                continue;
            }
            let known = self.global_names.iter().map(String::as_str).chain(self.globals.suggestions());
            let hint = suggest::nearest(name, known);
            self.linter.report(
                &lint::UNDEFINED_ARG_IN_FROM,
                instruction.lines,
                &instruction.comments,
                || {
                    let mut text = format!("FROM argument '{name}' is not declared");
                    if let Some(hint) = hint {
                        text.push_str(&format!(" (did you mean {hint}?)"));
                    }
                    text
                },
            );
        }
    }

    fn global_hint(&self, found: &Found<'_>) -> Option<String> {
        found.unmatched.iter().find_map(|name| {
            suggest::nearest(name, self.globals.suggestions()).map(|hint| format!("did you mean {hint}?"))
        })
    }
}

fn at(kind: ErrorKind, instruction: &Instruction) -> Diagnostic {
    Diagnostic::new(kind, instruction.span, instruction.lines)
}

/// The part of a platform that cannot be one: a version in brackets only stands behind a system, and that has no dots.
fn wrong_component(text: &str) -> Option<&str> {
    let mut parts = text.split('/');
    let system = parts.next()?;
    let name = system.split_once('(').map_or(system, |(name, _)| name);
    if name.contains('.') && text.contains('/') {
        return Some(system);
    }
    parts.find(|part| part.contains(['(', ')']))
}

/// A stage that gives `SOURCE_DATE_EPOCH` holds one remote ADD and ARGs, on scratch.
fn check_epoch_stage(stage: Stage<'_>) -> Result<(), Diagnostic> {
    let refuse = |text: &str| Err(at(ErrorKind::Value(text.to_owned()), stage.instruction));
    if stage.from.base != "scratch" {
        return refuse("SOURCE_DATE_EPOCH stage must use FROM scratch");
    }
    let mut adds = 0;
    for instruction in stage.body {
        match &instruction.kind {
            Kind::Arg(_) => {}
            Kind::Add(_) => adds += 1,
            other => {
                let keyword = other.keyword();
                let text = format!(
                    "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {keyword} instruction"
                );
                return Err(at(ErrorKind::Value(text), instruction));
            }
        }
    }
    if adds == 1 { Ok(()) } else { refuse("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD") }
}
