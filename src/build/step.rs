//! One step that makes a layer: known, or made now.

use std::sync::Arc;

use dockerfile::plan::{Op, Step};

use super::key::{self, Cause};
use super::solve::{Made, Outcome, Solver};
use super::{Build, copy, exec};
use crate::error::{Error, Result};
use crate::task::blocking;

/// The layers of a step's result: its root's, and its own on top.
pub(super) async fn layer(solver: &Arc<Solver>, number: usize, step: &Step) -> Result<Outcome> {
    let (build, work) = (&solver.build, &solver.work);
    let time = solver.time(step);
    let mut layers = solver.trees.layers(step.root)?;
    let preimage = key::preimage(solver, step, &layers, time).await?;
    let slot = format!("{}\n{:?}\n{}", identity(build), step.stage, step.ordinal);
    let ignore_cache = build.no_cache
        || match &step.op {
            Op::Exec(exec) => exec.ignore_cache,
            Op::Files(files) => files.ignore_cache,
            _ => false,
        };
    // The same step of another build in this process is waited for, not done twice.
    let alone = build.engine.alone(preimage.key());
    let _alone = alone.lock().await;
    if !ignore_cache
        && let Some(record) = work.cached(&preimage)?
        && let Some(layer) = work.layer(&record.layer)?
    {
        work.touch_slot(&slot, &preimage)?;
        solver.done.add(record, layer.clone());
        layers.push(layer);
        return Ok(Outcome { made: Made::Layers(layers), cached: true, cause: None });
    }
    if !ignore_cache && let Some(layer) = solver.imported.fetch(solver, &preimage.key(), &layers).await? {
        let record = key::record(solver, step, preimage, &layer);
        solver.done.add(record.clone(), layer.clone());
        layers.push(layer);
        let work = work.clone();
        blocking(move || Ok(work.record_step(&slot, &record)?)).await?;
        return Ok(Outcome { made: Made::Layers(layers), cached: true, cause: None });
    }
    let cause =
        if ignore_cache { Cause::NoCache } else { key::explain(&solver.plan, step, work, &slot, &preimage)? };
    let permit = solver.jobs.acquire().await.map_err(|_| Error::Worker)?;
    let layer = match &step.op {
        Op::Exec(exec) => exec::perform(solver, number, step, exec, &layers, time).await?,
        Op::Files(files) => {
            let (files, trees, work, below) =
                (files.clone(), solver.trees.clone(), work.clone(), layers.clone());
            blocking(move || copy::perform(&files, &trees, &work, &below, time.1)).await?
        }
        _ => return Err(Error::unsupported("this kind of step")),
    };
    drop(permit);
    let record = key::record(solver, step, preimage, &layer);
    solver.done.add(record.clone(), layer.clone());
    let work = work.clone();
    layers.push(layer);
    blocking(move || Ok(work.record_step(&slot, &record)?)).await?;
    Ok(Outcome { made: Made::Layers(layers), cached: false, cause: Some(cause) })
}

/// Which build this is, for finding what a step depended on last time.
fn identity(build: &Build) -> String {
    match build.tags.first() {
        Some(tag) => tag.canonical(),
        None => build.context.identity(),
    }
}
