//! One step that makes a layer: known, or made now.

use std::sync::Arc;

use dockerfile::plan::{Op, Step};
use image_core::Timestamp;
use layer_store::Layer;

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
    let key = preimage.key();
    let alone = build.engine.alone(key);
    let _alone = alone.lock().await;
    if !ignore_cache
        && let Some(hit) = work.cached(&key)?
        && let Some(layer) = work.layer(&hit.layer)?
    {
        work.touch_slot(&slot, &key, &preimage)?;
        solver.done.add(&key, hit.step, layer.clone());
        layers.push(layer);
        return Ok(Outcome { made: Made::Layers(layers), cached: true, cause: None });
    }
    if !ignore_cache && let Some(layer) = solver.imported.fetch(solver, &key, &layers).await? {
        let record = key::record(solver, step, preimage, &layer);
        solver.done.add(&key, record.step.clone(), layer.clone());
        layers.push(layer);
        let work = work.clone();
        blocking(move || Ok(work.record_step(&slot, &record)?)).await?;
        return Ok(Outcome { made: Made::Layers(layers), cached: true, cause: None });
    }
    let cause =
        if ignore_cache { Cause::NoCache } else { key::explain(&solver.plan, step, work, &slot, &preimage)? };
    let layer = make(solver, number, step, &layers, time).await?;
    let record = key::record(solver, step, preimage, &layer);
    solver.done.add(&key, record.step.clone(), layer.clone());
    let work = work.clone();
    layers.push(layer);
    blocking(move || Ok(work.record_step(&slot, &record)?)).await?;
    Ok(Outcome { made: Made::Layers(layers), cached: false, cause: Some(cause) })
}

/// Makes the layer, when this build, and the governor of all builds, let it.
async fn make(
    solver: &Arc<Solver>,
    number: usize,
    step: &Step,
    below: &[Layer],
    time: (Timestamp, Timestamp),
) -> Result<Layer> {
    let (governor, store) = (solver.build.engine.governor(), solver.work.store().path());
    let permit = solver.jobs.clone().acquire_owned().await.map_err(|_| Error::Worker)?;
    match &step.op {
        Op::Exec(exec) => {
            let admitted = governor.admit(&step.name, solver.build.limits.memory).await?;
            let room = governor.room(&step.name, store, 0).await?;
            let layer = tokio::select! {
                layer = exec::perform(solver, number, step, exec, below, time) => layer,
                // What loses is dropped: the process ends, and what it wrote goes.
                error = governor.watch(&step.name, store) => Err(error),
            };
            drop((room, admitted, permit));
            layer
        }
        Op::Files(files) => {
            let admitted = governor.admit(&step.name, None).await?;
            let (files, trees, work, below) =
                (files.clone(), solver.trees.clone(), solver.work.clone(), below.to_vec());
            let bytes = match governor.bounds().keep_free {
                Some(_) => copy::size(&files, &trees)?,
                None => 0,
            };
            let room = governor.room(&step.name, store, bytes).await?;
            // A dropped task does not end its thread: what it has goes back when that is done.
            blocking(move || {
                let layer = copy::perform(&files, &trees, &work, &below, time.1);
                drop((room, admitted, permit));
                layer
            })
            .await
        }
        _ => Err(Error::unsupported("this kind of step")),
    }
}

/// Which build this is, for finding what a step depended on last time.
fn identity(build: &Build) -> String {
    match build.tags.first() {
        Some(tag) => tag.canonical(),
        None => build.context.identity(),
    }
}
