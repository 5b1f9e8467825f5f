//! Steps as they are made, and what is left of them when the target is known.

use std::collections::BTreeMap;
use std::sync::Arc;

use image_core::{Platform, Reference};

use super::Work;
use crate::plan::{Base, ContextSource, Input, Op, Plan, PlanStage, Step, StepIndex};
use crate::source::{Lines, Span};

/// All steps of a compilation, also those that the target turns out not to need.
#[derive(Default)]
pub(super) struct Steps {
    all: Vec<Step>,
    sources: BTreeMap<SourceKey, StepIndex>,
}

/// What makes two sources one.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum SourceKey {
    Image(Box<(Reference, Platform)>),
    Layout(Box<(String, Reference, Platform)>),
    Context(Option<String>),
    Other(String),
}

impl Steps {
    pub(super) fn add(&mut self, op: Op, root: Input, span: Span, lines: Lines) -> StepIndex {
        let index = self.all.len();
        let (name, onbuild) = (String::new(), false);
        self.all.push(Step {
            index,
            stage: None,
            ordinal: 0,
            total: 0,
            name,
            span,
            lines,
            onbuild,
            root,
            op,
        });
        index
    }

    /// A source, once for all who read it.
    pub(super) fn source(&mut self, op: Op, span: Span, lines: Lines) -> StepIndex {
        let key = match &op {
            Op::Image(image) => SourceKey::Image(Box::new((image.reference.clone(), image.platform.clone()))),
            Op::Layout(layout) => SourceKey::Layout(Box::new((
                layout.store.clone(),
                layout.reference.clone(),
                layout.platform.clone(),
            ))),
            Op::Http(http) => SourceKey::Other(format!("{http:?}")),
            Op::Git(git) => SourceKey::Other(format!("{git:?}")),
            Op::Context(context) => SourceKey::Context(context.name.clone()),
            _ => SourceKey::Context(None),
        };
        if let Some(known) = self.sources.get(&key) {
            return *known;
        }
        let name = match &op {
            Op::Image(image) => image.reference.canonical(),
            Op::Layout(layout) => layout.reference.canonical(),
            Op::Http(http) => http.url.clone(),
            Op::Git(git) => git.remote.clone(),
            _ => "load build context".to_owned(),
        };
        let index = self.add(op, Input::Empty, span, lines);
        self.sources.insert(key, index);
        self.name(Input::Step(index), "[internal] ".to_owned() + &name, 0, 0);
        index
    }

    pub(super) fn context(&mut self, span: Span, lines: Lines) -> StepIndex {
        if let Some(known) = self.sources.get(&SourceKey::Context(None)) {
            return *known;
        }
        self.source(Op::Context(ContextSource { name: None, paths: Vec::new() }), span, lines)
    }

    pub(super) fn name(&mut self, step: Input, name: String, ordinal: u32, total: u32) {
        if let Some(step) = step.step().and_then(|step| self.all.get_mut(step)) {
            (step.name, step.ordinal, step.total) = (name, ordinal, total);
        }
    }

    pub(super) fn describe(&mut self, step: StepIndex, stage: Option<usize>, onbuild: bool) {
        if let Some(step) = self.all.get_mut(step) {
            (step.stage, step.onbuild) = (stage, onbuild);
        }
    }
}

impl Work<'_> {
    /// The plan: what the target needs of all that was compiled.
    pub(super) fn plan(mut self, needed: &[bool]) -> Plan {
        let outline = self.outline();
        let target = self.target;
        let mut steps = std::mem::take(&mut self.steps.all);
        let mut keep = vec![false; steps.len()];
        let mut open: Vec<StepIndex> =
            self.nodes.get(target).and_then(|node| node.root.step()).into_iter().collect();
        while let Some(index) = open.pop() {
            if let (Some(slot), Some(step)) = (keep.get_mut(index), steps.get(index))
                && !std::mem::replace(slot, true)
            {
                open.extend(step.inputs());
            }
        }
        let mut place = Vec::with_capacity(keep.len());
        let mut count = 0;
        for kept in &keep {
            place.push(kept.then_some(count));
            count += usize::from(*kept);
        }
        let moved = |step: StepIndex| place.get(step).copied().flatten();
        let input = |old: Input| match old {
            Input::Empty => Input::Empty,
            Input::Step(step) => moved(step).map_or(Input::Empty, Input::Step),
        };
        // Stages whose files nobody reads have no place in the plan, unless the target is built from them.
        let mut chain = vec![false; self.nodes.all.len()];
        let mut next = Some(target);
        while let Some(slot) = next.and_then(|index| chain.get_mut(index)) {
            *slot = true;
            next = next.and_then(|index| self.nodes.get(index)).and_then(|node| node.base);
        }
        let mut stage_place = vec![None; self.nodes.all.len()];
        let mut number_place = BTreeMap::new();
        for (index, node) in self.nodes.all.iter().enumerate() {
            let Some(node) = node else { continue };
            let read = node.root.step().is_some_and(|step| moved(step).is_some());
            if let (Some(stage), Some(slot)) = (node.stage, stage_place.get_mut(index))
                && (chain.get(index) == Some(&true) || (needed.get(index) == Some(&true) && read))
            {
                *slot = Some(number_place.len());
                number_place.insert(stage.number, number_place.len());
            }
        }
        let stage_at = |index: usize| stage_place.get(index).copied().flatten();
        steps.retain_mut(|step| {
            let Some(index) = moved(step.index) else { return false };
            step.index = index;
            step.stage = step.stage.and_then(|number| number_place.get(&number).copied());
            step.root = input(step.root);
            step.op.each_input(|from| *from = input(*from));
            true
        });
        let mut stages = Vec::with_capacity(number_place.len());
        for (index, node) in std::mem::take(&mut self.nodes.all).into_iter().enumerate() {
            let Some(mut node) = node else { continue };
            let (Some(_), Some(stage)) = (stage_at(index), node.stage) else { continue };
            for entry in &mut node.history {
                entry.step = entry.step.and_then(moved);
            }
            let base = match (node.base.and_then(stage_at), node.plan_base) {
                (Some(place), _) => Base::Stage(place),
                (None, Some(Base::Image { reference, step })) => {
                    Base::Image { reference, step: step.and_then(moved) }
                }
                (None, Some(Base::Context { step })) => {
                    moved(step).map_or(Base::Scratch, |step| Base::Context { step })
                }
                _ => Base::Scratch,
            };
            let mut config = Arc::unwrap_or_clone(node.config);
            let mut image_platform = node.image_platform;
            if index == target {
                config.labels.extend(self.options.labels.clone());
                if let Some(asked) = &self.options.platform {
                    let same =
                        asked.os == image_platform.os && asked.architecture == image_platform.architecture;
                    let old = std::mem::replace(&mut image_platform, asked.clone());
                    if same {
                        image_platform.variant = image_platform.variant.or(old.variant);
                        image_platform.os_version = image_platform.os_version.or(old.os_version);
                    }
                    if image_platform.os_features.is_empty() {
                        image_platform.os_features = old.os_features;
                    }
                }
                image_platform = image_platform.normalised();
            }
            stages.push(PlanStage {
                number: stage.number,
                name: stage.from.name.clone(),
                platform: node.platform.unwrap_or_else(|| self.options.build_platform.clone()),
                base,
                root: input(node.root),
                config,
                author: node.author,
                history: node.history,
                base_image: node.base_image,
                image_platform,
                span: node.span,
                lines: node.lines,
            });
        }
        Plan {
            platform: self.options.platform.clone().unwrap_or_else(|| self.options.build_platform.clone()),
            steps,
            stages,
            target: stage_at(target).unwrap_or(0),
            warnings: std::mem::take(&mut self.linter.warnings),
            epoch: self.epoch.take(),
            outline,
        }
    }
}
