//! Walks a plan: finds each step's result or makes it, as many at once as may be, then makes the image.
//!
//! A step waits for the steps that it reads, for nothing else. What is made does not depend on the order: times come
//! from a step's place in the file, keys from content.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use dockerfile::plan::{Base, ContextSource, CopySource, FileAction, Input, MountKind, Op, Plan, Step};
use image_core::{Platform, Timestamp};
use layer_store::{Layer, Transaction, View};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::context::{Ready, Wanted};
use super::hashes::Hashes;
use super::key::Cause;
use super::share::{Done, Imported};
use super::tree::Tree;
use super::{Build, Built, StepReport, Timestamps, finish, share, source, step};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::task::blocking;

/// The epoch of images that start from nothing: 1980-01-01, the first time that a zip file can say.
const SCRATCH_EPOCH: Timestamp = Timestamp::from_seconds(315_532_800);

/// What a step has made.
#[derive(Clone, Debug)]
pub(super) enum Made {
    Layers(Vec<Layer>),
    Tree(Arc<Tree>),
}

/// The results so far, as trees to copy from. Each is made once, when the first step asks.
#[derive(Debug)]
pub(super) struct Trees {
    made: Vec<OnceLock<Made>>,
    trees: Mutex<BTreeMap<usize, Arc<Tree>>>,
}

impl Trees {
    fn new(steps: usize) -> Self {
        Self { made: (0..steps).map(|_| OnceLock::new()).collect(), trees: Mutex::default() }
    }

    pub(super) fn made(&self, input: Input) -> Option<&Made> {
        self.made.get(input.step()?)?.get()
    }

    pub(super) fn get(&self, input: Input) -> Result<Arc<Tree>> {
        let Some(index) = input.step() else { return Ok(Arc::new(Tree::new(BTreeMap::new(), false))) };
        if let Some(tree) = self.trees.lock().unwrap_or_else(PoisonError::into_inner).get(&index) {
            return Ok(tree.clone());
        }
        let tree = match self.made(input) {
            Some(Made::Tree(tree)) => tree.clone(),
            Some(Made::Layers(layers)) => Arc::new(Tree::of_view(&View::of(layers))),
            None => return Err(Error::unsupported("a step that reads what is not made")),
        };
        self.trees.lock().unwrap_or_else(PoisonError::into_inner).insert(index, tree.clone());
        Ok(tree)
    }

    pub(super) fn layers(&self, input: Input) -> Result<Vec<Layer>> {
        match (input, self.made(input)) {
            (Input::Empty, _) => Ok(Vec::new()),
            (_, Some(Made::Layers(layers))) => Ok(layers.clone()),
            _ => Err(Error::unsupported("a root file system that is no image")),
        }
    }
}

/// One build at work.
pub(super) struct Solver {
    pub(super) build: Build,
    pub(super) plan: Plan,
    pub(super) work: Arc<Transaction>,
    pub(super) trees: Arc<Trees>,
    pub(super) hashes: Arc<Hashes>,
    pub(super) context: Ready,
    pub(super) dockerfile: Option<PathBuf>,
    pub(super) imported: Imported,
    pub(super) done: Done,
    times: BTreeMap<usize, (Timestamp, Timestamp)>,
    /// How many steps work at once.
    pub(super) jobs: Arc<Semaphore>,
}

/// How a step ended.
pub(super) struct Outcome {
    pub(super) made: Made,
    pub(super) cached: bool,
    pub(super) cause: Option<Cause>,
}

impl Solver {
    pub(super) fn platform(&self) -> &Platform {
        &self.plan.platform
    }

    /// When the step happens: the epoch of its stage, and its own time.
    pub(super) fn time(&self, step: &Step) -> (Timestamp, Timestamp) {
        self.times.get(&step.index).copied().unwrap_or((SCRATCH_EPOCH, SCRATCH_EPOCH))
    }

    /// The part of a context that the plan reads.
    pub(super) fn wanted(&self, context: usize) -> Wanted {
        let mut wanted = Wanted::default();
        let reads = |input: Input| input.step() == Some(context);
        for step in &self.plan.steps {
            if step.root.step() == Some(context) {
                wanted.add("/", false);
            }
            match &step.op {
                Op::Files(files) => {
                    for action in &files.actions {
                        if let FileAction::Copy(copy) = action
                            && matches!(copy.from, CopySource::Tree(input) if reads(input))
                        {
                            wanted.add(&copy.source, copy.wildcard);
                        }
                    }
                }
                Op::Exec(exec) => {
                    for mount in &exec.mounts {
                        if let MountKind::Bind { from, source } | MountKind::Cache { from, source, .. } =
                            &mount.kind
                            && reads(*from)
                        {
                            wanted.add(source, false);
                        }
                    }
                }
                _ => {}
            }
        }
        wanted
    }
}

pub(super) async fn solve(
    build: &Build,
    plan: Plan,
    context: Ready,
    hashes: Arc<Hashes>,
    dockerfile: Option<PathBuf>,
    reports: &Reports,
) -> Result<Built> {
    let work = build.engine.transaction()?;
    let imported = Imported::read(build).await?;
    let solver = Arc::new(Solver {
        imported,
        done: Done::default(),
        times: times(build, &plan),
        trees: Arc::new(Trees::new(plan.steps.len())),
        jobs: Arc::new(Semaphore::new(build.jobs())),
        build: build.clone(),
        plan,
        work,
        hashes,
        context,
        dockerfile,
    });
    let result = steps(&solver, reports).await;
    // What was done stays, also when a later step failed: it is right, and the next build needs it.
    let committed = {
        let solver = solver.clone();
        blocking(move || {
            solver.hashes.save();
            Ok(solver.work.commit()?)
        })
        .await
    };
    result?;
    committed?;
    let image = finish::image(&solver).await?;
    share::export(&solver).await?;
    Ok(Built { image, steps: reports.all(), bases: solver.build.bases.all() })
}

/// How the steps that make layers went, in the order of the plan.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<BTreeMap<usize, StepReport>>);

impl Reports {
    fn insert(&self, index: usize, report: StepReport) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(index, report);
    }

    fn all(&self) -> Vec<StepReport> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn take(&self) -> Vec<StepReport> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_values().collect()
    }
}

/// Does all steps.
async fn steps(solver: &Arc<Solver>, reports: &Reports) -> Result<()> {
    let plan = &solver.plan;
    let mut missing: Vec<usize> = plan.steps.iter().map(|step| step.inputs().len()).collect();
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); plan.steps.len()];
    for step in &plan.steps {
        for input in step.inputs() {
            if let Some(list) = readers.get_mut(input) {
                list.push(step.index);
            }
        }
    }
    // Dropping the set, on an error or a cancellation, drops the steps that run, which kill their processes.
    let mut running = JoinSet::new();
    let start = |running: &mut JoinSet<_>, index: usize| {
        let solver = solver.clone();
        running.spawn(async move { (index, one(&solver, index).await) });
    };
    for (index, _) in missing.iter().enumerate().filter(|(_, count)| **count == 0) {
        start(&mut running, index);
    }
    while let Some(done) = running.join_next().await {
        let (index, outcome) = done.map_err(|_| Error::Worker)?;
        let outcome = outcome?;
        if let Some(step) = plan.steps.get(index).filter(|step| step.makes_layer()) {
            let layer = match &outcome.made {
                Made::Layers(layers) => layers.last().map(|layer| layer.key().clone()),
                Made::Tree(_) => None,
            };
            let report =
                StepReport { name: step.name.clone(), cached: outcome.cached, cause: outcome.cause, layer };
            reports.insert(index, report);
        }
        if let Some(slot) = solver.trees.made.get(index) {
            // Each step is done once, so nobody was here before.
            drop(slot.set(outcome.made));
        }
        for reader in readers.get(index).into_iter().flatten() {
            if let Some(count) = missing.get_mut(*reader) {
                *count -= 1;
                if *count == 0 {
                    start(&mut running, *reader);
                }
            }
        }
    }
    Ok(())
}

async fn one(solver: &Arc<Solver>, index: usize) -> Result<Outcome> {
    let Some(step) = solver.plan.steps.get(index) else { return Err(Error::Worker) };
    let number = index + 1;
    let events = &solver.build.events;
    let began = Instant::now();
    events(&Event::StepStarted { number, name: step.name.clone() });
    let source = |made| Outcome { made, cached: false, cause: None };
    let outcome = match &step.op {
        Op::Image(image) => Outcome { cached: true, ..source(source::image(solver, image)?) },
        Op::Layout(layout) => Outcome { cached: true, ..source(source::layout(solver, layout)?) },
        Op::Context(ContextSource { name, .. }) => {
            source(source::context(solver, index, name.as_deref()).await?)
        }
        Op::Http(http) => source(source::http(solver, http).await?),
        Op::Git(git) => source(source::git(solver, git).await?),
        Op::Exec(_) | Op::Files(_) => step::layer(solver, number, step).await?,
        _ => return Err(Error::unsupported("this kind of step")),
    };
    events(&Event::StepDone {
        number,
        cached: outcome.cached,
        cause: outcome.cause.clone(),
        took: began.elapsed(),
    });
    Ok(outcome)
}

/// When each step that makes a layer happens: the epoch of its stage, and its own time.
fn times(build: &Build, plan: &Plan) -> BTreeMap<usize, (Timestamp, Timestamp)> {
    let mut times = BTreeMap::new();
    for stage in 0..plan.stages.len() {
        let epoch = epoch(build, plan, stage);
        let mut place = 0;
        for entry in plan.history(stage) {
            if let Some(step) = entry.step {
                place += 1;
                times.insert(step, (epoch, moment(build, epoch, place)));
            }
        }
    }
    times
}

/// The epoch of a stage: what the caller says, else the `created` of the image at the bottom.
pub(super) fn epoch(build: &Build, plan: &Plan, stage: usize) -> Timestamp {
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

/// The time of the step that makes the layer at `place`, from 1. What makes no layer has the time of the last that did:
/// so a new LABEL moves nothing.
pub(super) fn moment(build: &Build, epoch: Timestamp, place: usize) -> Timestamp {
    match build.timestamps {
        Timestamps::Fixed(fixed) => fixed,
        _ => epoch.plus_seconds(i64::try_from(place).unwrap_or(i64::MAX)),
    }
}
