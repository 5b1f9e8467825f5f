//! Walks a plan: finds each step's result or makes it, then makes the image.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dockerfile::plan::{Base, Files, HistoryEntry, Input, Op, Plan, Step};
use image_core::{Document, History, MediaType, Timestamp};
use layer_store::{CacheRecord, Component, ImageRecord, Layer, Preimage, Transaction, View};

use super::tree::Tree;
use super::{Build, Built, StepReport, Timestamps, copy, exec};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::task::blocking;

/// The epoch of images that start from nothing: 1980-01-01, the first time that a zip file can say.
const SCRATCH_EPOCH: Timestamp = Timestamp::from_seconds(315_532_800);

/// What a step has made.
#[derive(Clone, Debug)]
enum Made {
    Layers(Vec<Layer>),
    Context(Arc<Tree>),
}

/// The results so far, as trees to copy from. Each is made once, when the first step asks.
#[derive(Debug, Default)]
pub(super) struct Trees {
    made: BTreeMap<usize, Made>,
    trees: Mutex<BTreeMap<usize, Arc<Tree>>>,
}

impl Trees {
    pub(super) fn get(&self, input: Input) -> Result<Arc<Tree>> {
        let Some(index) = input.step() else { return Ok(Arc::new(Tree::new(BTreeMap::new(), false))) };
        if let Some(tree) = self.trees.lock().unwrap_or_else(PoisonError::into_inner).get(&index) {
            return Ok(tree.clone());
        }
        let tree = match self.made.get(&index) {
            Some(Made::Context(tree)) => tree.clone(),
            Some(Made::Layers(layers)) => Arc::new(Tree::of_view(&View::of(layers))),
            None => return Err(Error::unsupported("a step that reads what is not made")),
        };
        self.trees.lock().unwrap_or_else(PoisonError::into_inner).insert(index, tree.clone());
        Ok(tree)
    }

    fn layers(&self, input: Input) -> Result<Vec<Layer>> {
        match input.step().map(|index| self.made.get(&index)) {
            None => Ok(Vec::new()),
            Some(Some(Made::Layers(layers))) => Ok(layers.clone()),
            Some(_) => Err(Error::unsupported("a root file system that is no image")),
        }
    }
}

pub(super) async fn solve(build: &Build, plan: &Plan, dockerfile: &Path) -> Result<Built> {
    let work = build.engine.store().begin()?;
    let mut reports = Vec::new();
    let result = steps(build, plan, dockerfile, &work, &mut reports).await;
    // What was done stays, also when a later step failed: it is right, and the next build needs it.
    let committed = {
        let work = work.clone();
        blocking(move || Ok(work.commit()?)).await
    };
    let trees = result?;
    committed?;
    let image = finish(build, plan, &work, &trees).await?;
    Ok(Built { image, steps: reports })
}

async fn steps(
    build: &Build,
    plan: &Plan,
    dockerfile: &Path,
    work: &Transaction,
    reports: &mut Vec<StepReport>,
) -> Result<Arc<Trees>> {
    let mut trees = Arc::new(Trees::default());
    let times = times(build, plan);
    for (number, step) in plan.steps.iter().enumerate() {
        let number = number + 1;
        let began = Instant::now();
        (build.events)(&Event::StepStarted { number, name: step.name.clone() });
        let (made, cached, cause) = match &step.op {
            Op::Image(source) => {
                let tag = build.engine.store().find_tag(&source.reference)?;
                let tag =
                    tag.ok_or_else(|| Error::unsupported("an image that went away during the build"))?;
                let record = build.engine.store().image(&tag.image)?;
                let layers = record.layers.iter().map(|layer| {
                    let missing = || {
                        Error::Store(layer_store::Error::NotFound {
                            kind: "layer",
                            name: layer.key.to_string(),
                        })
                    };
                    work.layer(&layer.key)?.ok_or_else(missing)
                });
                (Made::Layers(layers.collect::<Result<_>>()?), true, None)
            }
            Op::Context(source) => {
                if source.name.is_some() {
                    return Err(Error::unsupported("named contexts"));
                }
                let (context, file) = (build.context.clone(), dockerfile.to_owned());
                (Made::Context(Arc::new(blocking(move || context.tree(&file)).await?)), false, None)
            }
            Op::Http(_) => return Err(Error::unsupported("ADD of a URL")),
            Op::Git(_) => return Err(Error::unsupported("ADD of a git repository")),
            Op::Exec(_) | Op::Files(_) => {
                let time = times.get(&step.index).copied().unwrap_or((SCRATCH_EPOCH, SCRATCH_EPOCH));
                let (layers, cached, cause) = layer(build, number, step, work, &trees, time).await?;
                reports.push(StepReport { name: step.name.clone(), cached, cause: cause.clone() });
                (Made::Layers(layers), cached, cause)
            }
            _ => return Err(Error::unsupported("this kind of step")),
        };
        (build.events)(&Event::StepDone { number, cached, cause, took: began.elapsed() });
        match Arc::get_mut(&mut trees) {
            Some(trees) => drop(trees.made.insert(step.index, made)),
            None => return Err(Error::Worker),
        }
    }
    Ok(trees)
}

/// When each step happens, and the epoch of its stage.
fn times(build: &Build, plan: &Plan) -> BTreeMap<usize, (Timestamp, Timestamp)> {
    let mut times = BTreeMap::new();
    for stage in 0..plan.stages.len() {
        let epoch = epoch(build, plan, stage);
        for (position, entry) in plan.history(stage).into_iter().enumerate() {
            if let Some(step) = entry.step {
                times.insert(step, (epoch, moment(build, epoch, position)));
            }
        }
    }
    times
}

/// The epoch of a stage: what the caller says, else the `created` of the image at the bottom.
fn epoch(build: &Build, plan: &Plan, stage: usize) -> Timestamp {
    if let Timestamps::Fixed(epoch) = build.timestamps {
        return epoch;
    }
    if let Some(dockerfile::plan::Epoch::Seconds(seconds)) = plan.epoch {
        return Timestamp::from_seconds(seconds);
    }
    let mut at = plan.stages.get(stage);
    while let Some(Base::Stage(below)) = at.map(|stage| &stage.base) {
        at = plan.stages.get(*below);
    }
    let created = at.and_then(|stage| stage.base_image.as_ref()).and_then(|image| image.created);
    // A base that says the year 1 or 1970 says nothing.
    let created = created.filter(|created| *created > SCRATCH_EPOCH).unwrap_or(SCRATCH_EPOCH);
    Timestamp::from_seconds(created.seconds())
}

/// The time of the history entry at `position`, from 0.
fn moment(build: &Build, epoch: Timestamp, position: usize) -> Timestamp {
    match build.timestamps {
        Timestamps::Fixed(fixed) => fixed,
        Timestamps::Derived => {
            epoch.plus_seconds(i64::try_from(position).unwrap_or(i64::MAX).saturating_add(1))
        }
    }
}

/// The layers of a step's result: its root's, and its own on top.
async fn layer(
    build: &Build,
    number: usize,
    step: &Step,
    work: &Transaction,
    trees: &Arc<Trees>,
    time: (Timestamp, Timestamp),
) -> Result<(Vec<Layer>, bool, Option<String>)> {
    let mut layers = trees.layers(step.root)?;
    let preimage = preimage(build, step, work, trees, &layers, time).await?;
    let slot = format!("{}\n{:?}\n{}", identity(build), step.stage, step.ordinal);
    if !build.no_cache
        && let Some(record) = work.cached(&preimage)?
        && let Some(layer) = work.layer(&record.layer)?
    {
        work.touch_slot(&slot, &preimage)?;
        layers.push(layer);
        return Ok((layers, true, None));
    }
    let cause = explain(build, work, &slot, &preimage)?;
    let layer = match &step.op {
        Op::Exec(exec) => exec::perform(build, number, step, exec, work, &layers, time).await?,
        Op::Files(files) => {
            let (files, trees, work, below) = (files.clone(), trees.clone(), work.clone(), layers.clone());
            blocking(move || copy::perform(&files, &trees, &work, &below, time.1)).await?
        }
        _ => return Err(Error::unsupported("this kind of step")),
    };
    let (step, key, made) = (step.name.clone(), layer.key().clone(), build.engine.now());
    let work = work.clone();
    layers.push(layer);
    blocking(move || Ok(work.record_step(&slot, &CacheRecord::new(preimage, key, step, Some(made)))?))
        .await?;
    Ok((layers, false, Some(cause)))
}

/// Which build this is, for finding what a step depended on last time.
fn identity(build: &Build) -> String {
    match build.tags.first() {
        Some(tag) => tag.canonical(),
        None => build.context.path().display().to_string(),
    }
}

async fn preimage(
    build: &Build,
    step: &Step,
    work: &Transaction,
    trees: &Arc<Trees>,
    below: &[Layer],
    (epoch, time): (Timestamp, Timestamp),
) -> Result<Preimage> {
    let mut parts: Vec<Component> = Vec::new();
    let below = layer_store::chain_id(below).map_or_else(|| "scratch".to_owned(), |chain| chain.to_string());
    parts.extend(step.definition().components.into_iter().map(|part| Component::new(part.name, part.value)));
    parts.push(Component::new("platform", build.engine.platform().to_string()));
    if let Op::Files(files) = &step.op {
        parts.extend(read(files.clone(), trees.clone(), work.clone()).await?);
    }
    if let Op::Exec(_) = &step.op {
        parts.push(Component::new("epoch", epoch.to_string()));
    }
    parts.push(Component::new("time", time.to_string()));
    parts.push(Component::new("parent", below));
    Ok(Preimage(parts))
}

async fn read(files: Files, trees: Arc<Trees>, work: Transaction) -> Result<Vec<Component>> {
    for input in copy::inputs(&files) {
        trees.get(input)?;
    }
    blocking(move || copy::content(&files, &trees, work.store())).await
}

/// Why a step is done again, in words: the first part that differs from the last time.
fn explain(build: &Build, work: &Transaction, slot: &str, preimage: &Preimage) -> Result<String> {
    if build.no_cache {
        return Ok("the cache was not to be used".to_owned());
    }
    let Some(before) = work.last_in_slot(slot)? else { return Ok("not built before".to_owned()) };
    let differences = preimage.differences(&before);
    let Some(first) = differences.first() else { return Ok("its earlier result was pruned".to_owned()) };
    let (kind, rest) = first.name.split_once('.').unwrap_or((first.name, ""));
    let path = rest.split_once('.').map_or(rest, |(_, path)| path);
    Ok(match (kind, first.before, first.after) {
        ("parent", ..) => "the step below changed".to_owned(),
        ("file", Some(_), Some(_)) => format!("file {path} changed"),
        ("file", None, _) => format!("file {path} is new"),
        ("file", _, None) => format!("file {path} is gone"),
        ("mode", ..) => format!("the mode of {path} changed"),
        ("owner", ..) => format!("the owner of {path} changed"),
        ("arg", Some(old), Some(new)) => format!("argument {rest} changed from {old:?} to {new:?}"),
        ("arg", ..) => format!("argument {rest} was added or removed"),
        ("env", Some(old), Some(new)) => format!("variable {rest} changed from {old:?} to {new:?}"),
        ("env", ..) => format!("variable {rest} was added or removed"),
        ("argv", ..) => "the command changed".to_owned(),
        ("time" | "epoch", ..) => "its place in the file or the base image's date changed".to_owned(),
        _ => format!("{} changed", first.name),
    })
}

async fn finish(build: &Build, plan: &Plan, work: &Transaction, trees: &Trees) -> Result<crate::Image> {
    let target = plan.target_stage().ok_or_else(|| Error::unsupported("a plan without a target"))?;
    let layers = trees.layers(target.root)?;
    let entries: Vec<HistoryEntry> = plan.history(plan.target).into_iter().cloned().collect();
    let mut config = target.image();
    let epoch = epoch(build, plan, plan.target);
    config.created = Some(if entries.is_empty() { epoch } else { moment(build, epoch, entries.len() - 1) });
    config.rootfs.diff_ids = layers.iter().map(Layer::diff_id).collect();
    for (position, entry) in entries.iter().enumerate() {
        let mut history = History::default();
        history.created = Some(moment(build, epoch, position));
        history.created_by.clone_from(&entry.created_by);
        history.comment = HistoryEntry::COMMENT.to_owned();
        history.empty_layer = entry.empty_layer();
        config.history.push(history);
    }
    let document = Document::from_value(config);
    let document =
        document.map_err(|source| Error::Document { what: "the new config".to_owned(), source })?;
    let steps = entries.len();
    let (work, tags, now) = (work.clone(), build.tags.clone(), build.engine.now());
    let record = blocking(move || {
        let config = work.put_blob(MediaType::OciConfig, document.bytes())?;
        work.commit()?;
        let store = work.store();
        let mut record = ImageRecord::new(config, &layers);
        // The same image again: what is known of it stays, such as its manifest.
        if let Ok(known) = store.image(&record.id()) {
            record.manifest = known.manifest;
            record.blobs = known.blobs;
        }
        record.built = Some(now);
        record.steps = steps;
        store.put_image(&record)?;
        for tag in &tags {
            store.tag(tag, &record.id(), Some(now))?;
        }
        Ok(record)
    })
    .await?;
    build.engine.load(record)
}
