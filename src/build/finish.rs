//! The image at the end of a build: config, history, layers, names.

use dockerfile::plan::{Exec, HistoryEntry, Plan, Step};
use image_core::{Document, History, MediaType};
use layer_store::{ImageRecord, Layer, Tag};

use super::solve::{Solver, epoch, moment};
use crate::engine::Image;
use crate::error::{Error, Result};
use crate::task::blocking;

/// Makes an image of what a failed step left, with the environment that it had.
pub(super) async fn failed(solver: &Solver, step: &Step, exec: &Exec, layers: Vec<Layer>) -> Result<Image> {
    let stage = step.stage.and_then(|stage| solver.plan.stages.get(stage));
    let stage = stage.ok_or_else(|| Error::unsupported("a step of no stage"))?;
    let mut config = stage.image();
    config.config.env = exec.env.to_strings();
    config.config.working_dir.clone_from(&exec.cwd);
    config.config.user.clone_from(&exec.user);
    config.config.entrypoint = None;
    config.config.cmd = Some(exec.args.clone());
    config.rootfs.diff_ids = layers.iter().map(Layer::diff_id).collect();
    config.history.clear();
    let document = Document::from_value(config)
        .map_err(|source| Error::Document { what: "the config of a failed step".to_owned(), source })?;
    let (work, now) = (solver.work.clone(), solver.build.engine.now());
    let record = blocking(move || {
        let config = work.put_blob(MediaType::OciConfig, document.bytes())?;
        work.commit()?;
        let mut record = ImageRecord::new(config, &layers);
        record.built = Some(now);
        work.store().put_image(&record)?;
        Ok(record)
    })
    .await?;
    solver.build.engine.load(record)
}

/// Makes the image of the plan's target and gives it its names.
pub(super) async fn image(solver: &Solver) -> Result<Image> {
    let (build, plan): (_, &Plan) = (&solver.build, &solver.plan);
    let target = plan.target_stage().ok_or_else(|| Error::unsupported("a plan without a target"))?;
    let layers = solver.trees.layers(target.root)?;
    let entries: Vec<HistoryEntry> = plan.history(plan.target).into_iter().cloned().collect();
    let mut config = target.image();
    let epoch = epoch(build, plan, plan.target);
    config.rootfs.diff_ids = layers.iter().map(Layer::diff_id).collect();
    let mut place = 0;
    config.created = Some(epoch);
    for entry in &entries {
        place += usize::from(entry.step.is_some());
        let at = moment(build, epoch, place);
        let mut history = History::default();
        history.created = Some(at);
        history.created_by.clone_from(&entry.created_by);
        history.comment = HistoryEntry::COMMENT.to_owned();
        history.empty_layer = entry.empty_layer();
        config.history.push(history);
        config.created = Some(at);
    }
    if build.keeps_inline_cache() {
        config.unknown.insert(super::share::INLINE.to_owned(), super::share::inline(solver, &layers)?);
    }
    let document = Document::from_value(config);
    let document =
        document.map_err(|source| Error::Document { what: "the new config".to_owned(), source })?;
    let steps = entries.len();
    let tags = if build.part { Vec::new() } else { build.tags.clone() };
    let (work, now) = (solver.work.clone(), build.engine.now());
    let record = blocking(move || {
        let config = work.put_blob(MediaType::OciConfig, document.bytes())?;
        work.commit()?;
        let store = work.store();
        let mut record = ImageRecord::new(config, &layers);
        // The same image again: what is known of it stays, such as its manifest.
        let known = store.image(&record.id()).ok();
        if let Some(known) = &known {
            record.manifest.clone_from(&known.manifest);
            record.blobs.clone_from(&known.blobs);
            record.built = known.built;
        }
        record.built = record.built.or(Some(now));
        record.steps = steps;
        if known.as_ref() != Some(&record) {
            store.put_image(&record)?;
        }
        for tag in &tags {
            let is_it = |known: &Tag| known.image == record.id() && known.index.is_none();
            if !store.find_tag(tag)?.is_some_and(|known| is_it(&known)) {
                store.tag(tag, &record.id(), Some(now))?;
            }
        }
        Ok(record)
    })
    .await?;
    build.engine.load(record)
}
