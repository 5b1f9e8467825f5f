//! Bases: images, named contexts, and the triggers that images bring.

use std::sync::Arc;

use image_core::{ContainerConfig, Digest, ImageConfig, Platform, Reference};

use super::context::NamedContext;
use super::node::{Given, Node};
use super::request::{ImageRequest, Images};
use super::{Refusal, Resolved, Work};
use crate::Origin;
use crate::error::{Diagnostic, ErrorKind};
use crate::instruction::Kind;
use crate::limits::MAX_ONBUILD_ROUNDS;
use crate::lint;
use crate::parse;
use crate::plan::{Base, ContextSource, HttpSource, ImageSource, Input, LayoutSource, Op};
use crate::quote::quote;
use crate::source::{Lines, Span};
use crate::suggest;
use crate::syntax::Comments;

/// `PATH` when the image has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl<'a> Work<'a> {
    /// The platform that is built for.
    pub(super) fn target_platform(&self) -> &Platform {
        self.options.platform.as_ref().unwrap_or(&self.options.build_platform)
    }

    /// Resolves the bases of all nodes: which are needed, or the images that must be known first.
    pub(super) fn resolve(&mut self, images: &Images) -> Resolved {
        for _ in 0..MAX_ONBUILD_ROUNDS {
            let needed = self.nodes.reachable(self.target);
            let mut missing: Vec<ImageRequest> = Vec::new();
            for index in 0..self.nodes.all.len() {
                let needed = self.options.all_stages || needed.get(index) == Some(&true);
                let mut node = self.nodes.take(index);
                if node.base.is_none() && !node.dispatched && !node.resolved {
                    node.resolved = needed;
                    match self.resolve_base(&mut node, needed, images) {
                        Ok(None) => {}
                        Ok(Some(request)) => {
                            // It is asked for again.
                            (node.resolved, node.dispatched) = (false, false);
                            if !missing.contains(&request) {
                                missing.push(request);
                            }
                        }
                        Err((kind, hint)) => {
                            node.resolved = false;
                            self.fail(Diagnostic::new(kind, node.span, node.lines).hint(hint));
                        }
                    }
                    // One that only a trigger will need is resolved in a later round.
                    if node.stage.is_none() && node.resolved {
                        node.dispatched = true;
                    }
                }
                self.nodes.put(index, node);
            }
            if !self.errors.is_empty() {
                return Resolved::Failed;
            }
            if !missing.is_empty() {
                return Resolved::Missing(missing);
            }
            match self.add_triggers(&needed) {
                Ok(true) => {}
                Ok(false) => return Resolved::Needed(needed),
                Err(error) => {
                    self.fail(error);
                    return Resolved::Failed;
                }
            }
        }
        let kind = ErrorKind::Limit { what: "the rounds of ONBUILD", limit: MAX_ONBUILD_ROUNDS };
        self.fail(Diagnostic::request(kind));
        Resolved::Failed
    }

    fn resolve_base(
        &mut self,
        node: &mut Node<'a>,
        needed: bool,
        images: &Images,
    ) -> Result<Option<ImageRequest>, Refusal> {
        if let Some(context) = node.context.clone() {
            if !needed {
                return Ok(None);
            }
            node.dispatched = true;
            let name = node.context_name.clone();
            return self.use_context(node, &name, &context, images);
        }
        if node.base_name == "scratch" {
            let platform = self.target_platform().clone();
            empty_image(node, &platform);
            node.platform = Some(platform);
            node.plan_base = Some(Base::Scratch);
            return Ok(None);
        }
        if needed && let Some((name, context)) = self.named_context(&node.base_name, node.platform.as_ref()) {
            return self.use_context(node, &name, &context, images);
        }
        if let Some(reference) = node.reference.clone() {
            return self.use_image(node, reference, None, needed, images);
        }
        let parsed = match node.parsed.take() {
            Some(parsed) => Ok(parsed),
            None => Reference::parse(&node.base_name),
        };
        let reference = parsed
            .map_err(|cause| {
                let lower = node.base_name.to_lowercase();
                let hint = (self.nodes.find(&lower).is_some())
                    .then(|| format!("stage names are in lower case here: did you mean {lower}?"));
                (ErrorKind::BaseName { name: quote(&node.base_name), cause: Box::new(cause) }, hint)
            })?
            .with_default_tag();
        self.use_image(node, reference, None, needed, images)
    }

    fn use_image(
        &mut self,
        node: &mut Node<'a>,
        reference: Reference,
        layout: Option<&str>,
        needed: bool,
        images: &Images,
    ) -> Result<Option<ImageRequest>, Refusal> {
        let platform = node.platform.clone().unwrap_or_else(|| self.target_platform().clone());
        node.reference = Some(reference.clone());
        if !needed {
            node.platform = Some(platform);
            return Ok(None);
        }
        let request = ImageRequest { reference, platform, layout: layout.map(str::to_owned) };
        let Some(known) = images.image(&request) else { return Ok(Some(request)) };
        let ImageRequest { reference, platform, .. } = request;
        self.saw_image = true;
        let image = &known.config;
        let platform = if node.platform.is_none() && self.options.platform.is_none() {
            self.detect_platform(image, platform)
        } else {
            platform
        };
        let has_layers =
            !image.rootfs.diff_ids.is_empty() || image.history.iter().any(|entry| !entry.empty_layer);
        let step = if has_layers {
            let op = source(layout, reference.clone(), platform.clone(), known.digest);
            let step = self.steps.source(op, node.span, node.lines);
            self.lint_base_platform(node, &platform, image);
            Some(step)
        } else {
            None
        };
        node.root = step.map_or(Input::Empty, Input::Step);
        node.plan_base = Some(Base::Image { reference, step });
        node.config = Arc::new(image.config.clone());
        node.author.clone_from(&image.author);
        node.image_platform = image.platform();
        node.base_image = Some(Arc::clone(image));
        node.platform = Some(platform);
        Ok(None)
    }

    /// With no target platform asked for, an image of another platform decides.
    fn detect_platform(&self, image: &ImageConfig, target: Platform) -> Platform {
        let same =
            |platform: &Platform| platform.os == image.os && platform.architecture == image.architecture;
        if !same(&target) && same(&self.options.build_platform) {
            return self.options.build_platform.clone();
        }
        target
    }

    fn lint_base_platform(&mut self, node: &Node<'_>, expected: &Platform, image: &ImageConfig) {
        if expected.os != image.os || expected.architecture != image.architecture {
            let actual = image.platform().normalised();
            let expected = expected.clone().normalised();
            self.linter.report(&lint::INVALID_BASE_IMAGE_PLATFORM, node.lines, &Comments::NONE, || {
                format!(
                    "Base image {} was pulled with platform {}, expected {} for current build",
                    node.base_name,
                    quote(&actual.to_string()),
                    quote(&expected.to_string())
                )
            });
        }
    }

    /// The named context that stands for a name, with the key under which it was given.
    pub(super) fn named_context(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Option<(String, NamedContext)> {
        if self.options.contexts.is_empty() {
            return None;
        }
        let lower = name.to_lowercase();
        if matches!(lower.as_str(), "scratch" | "context") {
            return None;
        }
        let name = match Reference::parse(name) {
            Ok(reference) => {
                let familiar = reference.familiar();
                familiar.strip_suffix(":latest").map(str::to_owned).unwrap_or(familiar)
            }
            Err(_) => lower,
        };
        let platform = platform.unwrap_or_else(|| self.target_platform());
        let exact = format!("{name}::{platform}");
        [exact, name]
            .into_iter()
            .find_map(|key| self.options.contexts.get(&key).map(|context| (key.clone(), context.clone())))
    }

    fn use_context(
        &mut self,
        node: &mut Node<'a>,
        name: &str,
        context: &NamedContext,
        images: &Images,
    ) -> Result<Option<ImageRequest>, Refusal> {
        let op = match context {
            NamedContext::Image(reference) => {
                return self.use_image(node, reference.with_default_tag(), None, true, images);
            }
            NamedContext::OciLayout { store, digest } => {
                let named = |cause| {
                    (ErrorKind::BaseName { name: quote(&node.base_name), cause: Box::new(cause) }, None)
                };
                let bare = name.split("::").next().unwrap_or(name);
                let reference = Reference::parse(&format!("{bare}@{digest}")).map_err(named)?;
                return self.use_image(node, reference, Some(store), true, images);
            }
            NamedContext::Scratch => {
                let platform = node.platform.clone().unwrap_or_else(|| self.target_platform().clone());
                empty_image(node, &platform);
                node.platform = Some(platform);
                node.plan_base = Some(Base::Scratch);
                return Ok(None);
            }
            NamedContext::Http(url) => {
                let (url, filename) = (url.clone(), "context".to_owned());
                Op::Http(HttpSource { url, filename, checksum: None })
            }
            NamedContext::Directory => {
                Op::Context(ContextSource { name: Some(name.to_owned()), paths: Vec::new() })
            }
            NamedContext::Git(url) => match crate::git::parse(url) {
                Ok(Some(git)) => Op::Git(git.source(None, "")),
                Ok(None) => {
                    return Err((ErrorKind::Value(format!("{} is not a git repository", quote(url))), None));
                }
                Err(text) => return Err((ErrorKind::Value(text), None)),
            },
        };
        let platform = node.platform.clone().unwrap_or_else(|| self.target_platform().clone());
        let step = self.steps.source(op, node.span, node.lines);
        empty_image(node, &platform);
        node.platform = Some(platform);
        node.root = Input::Step(step);
        node.plan_base = Some(Base::Context { step });
        Ok(None)
    }

    /// Puts the triggers of bases in front of the stages that use them; whether there are new dependencies.
    fn add_triggers(&mut self, needed: &[bool]) -> Result<bool, Diagnostic> {
        let mut new = false;
        for index in 0..needed.len() {
            if needed.get(index) != Some(&true) && !self.options.all_stages {
                continue;
            }
            let mut node = self.nodes.take(index);
            let mut triggers = if node.config.on_build.is_empty() {
                Vec::new()
            } else {
                std::mem::take(&mut Arc::make_mut(&mut node.config).on_build)
            };
            if node.base.is_some() && !node.triggered {
                node.triggered = true;
                let base = node.base.and_then(|base| self.nodes.get(base));
                triggers.extend(base.iter().flat_map(|base| &base.tasks).filter_map(|task| {
                    match &task.instruction.kind {
                        Kind::Onbuild(trigger) => Some(trigger.clone()),
                        _ => None,
                    }
                }));
            }
            if triggers.is_empty() {
                self.nodes.put(index, node);
                continue;
            }
            let old = std::mem::take(&mut node.tasks);
            let (span, lines) = (node.span, node.lines);
            self.nodes.put(index, node);
            let added = self.add_trigger_tasks(index, &triggers, span, lines);
            if let Some(node) = self.nodes.get_mut(index) {
                node.total += u32::try_from(triggers.len()).unwrap_or(0);
                node.tasks.extend(old);
            }
            new |= added?;
        }
        Ok(new)
    }

    fn add_trigger_tasks(
        &mut self,
        index: usize,
        triggers: &[String],
        span: Span,
        lines: Lines,
    ) -> Result<bool, Diagnostic> {
        let mut new = false;
        let wrong = |kind, hint: Option<String>| Diagnostic::new(kind, span, lines).hint(hint);
        for trigger in triggers {
            let mut parsed = parse::trigger(trigger).map_err(|error| wrong(error.kind, error.hint))?;
            let (Some(mut instruction), None) = (parsed.pop(), parsed.pop()) else {
                let text = "onbuild trigger should be a single expression";
                return Err(wrong(ErrorKind::Value(text.to_owned()), None));
            };
            if let Kind::From(_) = instruction.kind {
                return Err(wrong(ErrorKind::Value("a trigger cannot be a FROM".to_owned()), None));
            }
            instruction.span = span;
            instruction.lines = lines;
            let task = self
                .task(Given::Trigger(Box::new(instruction)), true)
                .map_err(|(kind, hint)| wrong(kind, hint))?;
            new |= !task.sources.is_empty();
            self.add_task(index, task);
        }
        Ok(new)
    }

    /// What an unknown stage or image may have been meant to be.
    pub(super) fn stage_hint(&self, name: &str) -> Option<String> {
        suggest::nearest(name, self.nodes.titles()).map(|hint| format!("did you mean {hint}?"))
    }
}

/// The step of an image, from a registry or from a layout.
fn source(layout: Option<&str>, reference: Reference, platform: Platform, digest: Option<Digest>) -> Op {
    match layout {
        None => Op::Image(ImageSource { reference, platform, digest }),
        Some(store) => Op::Layout(LayoutSource { store: store.to_owned(), reference, platform, digest }),
    }
}

/// What scratch says about itself.
pub(super) fn empty_image(node: &mut Node<'_>, platform: &Platform) {
    let mut config = ContainerConfig::default();
    "/".clone_into(&mut config.working_dir);
    if platform.os != "windows" {
        config.env.push(["PATH=", DEFAULT_PATH].concat());
    }
    node.config = Arc::new(config);
    node.image_platform = platform.clone();
    node.root = Input::Empty;
}

impl Node<'_> {
    /// Sets what instructions see from what the base's config says.
    pub(super) fn begin(&mut self) {
        let has_path = self.config.env.iter().any(|text| text == "PATH" || text.starts_with("PATH="));
        if !has_path && self.os() != "windows" {
            Arc::make_mut(&mut self.config).env.push(["PATH=", DEFAULT_PATH].concat());
        }
        for text in &self.config.env {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            if self.env.get(name).is_none_or(|known| &*known.value != value || known.origin == Origin::Arg) {
                let origin = if self.base.is_some() { Origin::Env } else { Origin::Image };
                self.env.set(name, value, origin);
            }
        }
    }
}
