//! RUN: a process over a snapshot.

use std::sync::{Arc, Mutex};

use dockerfile::plan::{Exec, Security, Step};
use image_core::{Platform, Timestamp};
use layer_store::{Layer, View};

use super::cache_mount::Caches;
use super::solve::Solver;
use super::{binfmt, finish, mount};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::process::{self, Request};
use crate::task::blocking;
use crate::user;

/// How much of a failed step's output the error holds, in bytes: the last of it.
const LOG_LIMIT: usize = 1 << 20;
/// BuildKit's name for the host of every RUN.
const HOSTNAME: &str = "buildkitsandbox";

pub(super) async fn perform(
    solver: &Arc<Solver>,
    number: usize,
    step: &Step,
    exec: &Exec,
    below: &[Layer],
    (epoch, time): (Timestamp, Timestamp),
) -> Result<Layer> {
    let (build, work) = (&solver.build, &solver.work);
    check(solver, step, exec)?;
    let view = View::of(below);
    let user = user::resolve(&exec.user, &view, work.store().authority())?;
    let mut mounts = {
        let caches = Caches::take(solver, exec).await?;
        let (solver, exec) = (solver.clone(), exec.clone());
        blocking(move || mount::prepare(&solver, &exec, caches)).await?
    };
    let mut env = exec.env.to_strings();
    env.extend(exec.proxy.iter().map(|(name, value)| format!("{name}={value}")));
    env.append(&mut mounts.env);
    if exec.env.get("SOURCE_DATE_EPOCH").is_none() {
        env.push(format!("SOURCE_DATE_EPOCH={}", epoch.seconds()));
    }
    let request = Request {
        argv: exec.args.clone(),
        env,
        cwd: exec.cwd.clone(),
        user,
        hostname: exec.hostname.clone().unwrap_or_else(|| HOSTNAME.to_owned()),
        hosts: exec.extra_hosts.clone(),
        network: match exec.network {
            dockerfile::plan::Network::None => runtime::Network::None,
            _ => runtime::Network::Host,
        },
        limits: build.limits,
        places: std::mem::take(&mut mounts.places),
        shm_size: exec.shm_size,
        rlimits: build.rlimits.clone(),
        privileged: exec.security == Security::Insecure,
    };
    let snapshot = work.snapshot(below)?;
    let id = process::fresh_id("step", snapshot.upper()?);
    let log = Mutex::new(Vec::new());
    let sink = |stream, bytes: &[u8]| {
        let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        log.extend_from_slice(bytes);
        let over = log.len().saturating_sub(LOG_LIMIT);
        log.drain(..over);
        drop(log);
        (build.events)(&Event::Output { number, stream, bytes: bytes.to_vec() });
    };
    let code = process::run(&build.engine, &id, snapshot.upper()?, request, false, &sink).await?;
    drop(mounts);
    if code != 0 {
        let log = log.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let image = if build.keep_failed {
            let below = below.to_vec();
            let layer = blocking(move || Ok(snapshot.commit(Some(time))?)).await?;
            Some(Box::new(finish::failed(solver, step, exec, [below, vec![layer]].concat()).await?))
        } else {
            None
        };
        return Err(Error::StepFailed {
            image,
            step: step.name.clone(),
            command: exec.args.join(" "),
            exit_code: code,
            log: String::from_utf8_lossy(&log).into_owned(),
            line: step.lines.first,
        });
    }
    blocking(move || Ok(snapshot.commit(Some(time))?)).await
}

/// What cannot be done yet is refused by name, never left out.
fn check(solver: &Solver, step: &Step, exec: &Exec) -> Result<()> {
    if exec.security == Security::Insecure && !solver.build.insecure {
        // BuildKit's word for it.
        let reason = "security.insecure is not allowed".to_owned();
        return Err(Error::Step { step: step.name.clone(), reason });
    }
    if !exec.devices.is_empty() {
        return Err(Error::unsupported(format!("RUN --device (line {})", step.lines.first)));
    }
    let stage = step.stage.and_then(|stage| solver.plan.stages.get(stage));
    let platform = stage.map_or(&solver.plan.platform, |stage| &stage.platform);
    if Platform::host().rank(platform).is_none() && !binfmt::emulates(platform) {
        return Err(Error::ForeignPlatform { step: step.name.clone(), platform: platform.to_string() });
    }
    Ok(())
}
