//! Running a container to its end, as something that can be replaced.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use oci_spec::runtime::Spec;

use crate::{ContainerId, CreateOptions, Error, Exit, ExitStatus, Io, Rootfs, Runtime};

/// Runs containers: [`Runtime`] for real, [`FakeExecutor`] in tests of what is built on it. Object safe.
#[async_trait]
pub trait Executor: Debug + Send + Sync {
    /// Runs a container to its end and removes it.
    ///
    /// # Errors
    ///
    /// Those of [`Runtime::create`], [`Created::start`](crate::Created::start) and
    /// [`Container::wait`](crate::Container::wait).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the container and removes it.
    async fn run(&self, id: &ContainerId, spec: &Spec, rootfs: Rootfs, io: Io) -> Result<Exit, Error>;
}

#[async_trait]
impl Executor for Runtime {
    async fn run(&self, id: &ContainerId, spec: &Spec, rootfs: Rootfs, io: Io) -> Result<Exit, Error> {
        let (runtime, id, spec) = (self.clone(), id.clone(), spec.clone());
        let options = CreateOptions::default().kill_on_drop(true);
        let start = move || runtime.create_with(&id, &spec, rootfs, io, &options)?.start();
        let running = blocking(start).await?;
        let exit = running.wait_async().await?;
        blocking(move || running.delete()).await?;
        Ok(exit)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Error::Protocol { what: "the thread that made a container ended".to_owned() }),
    }
}

/// An executor that runs nothing: it keeps what it was asked for and answers with exit codes that were given to it, in
/// their order, and with 0 when there are none left.
#[derive(Debug, Default)]
pub struct FakeExecutor {
    codes: Mutex<VecDeque<i32>>,
    asked: Mutex<Vec<(ContainerId, Spec)>>,
}

impl FakeExecutor {
    /// Answers with these exit codes.
    #[must_use]
    pub fn with_codes(codes: impl IntoIterator<Item = i32>) -> Self {
        Self { codes: Mutex::new(codes.into_iter().collect()), asked: Mutex::default() }
    }

    /// What it was asked to run so far.
    #[must_use]
    pub fn asked(&self) -> Vec<(ContainerId, Spec)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Executor for FakeExecutor {
    async fn run(&self, id: &ContainerId, spec: &Spec, _: Rootfs, _: Io) -> Result<Exit, Error> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push((id.clone(), spec.clone()));
        let code = self.codes.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or(0);
        Ok(Exit { status: ExitStatus::Code(code), usage: None, oom_killed: false })
    }
}
