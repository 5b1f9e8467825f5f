//! Work beside that of the caller: what blocks, away from the async threads, and tasks that end with their owner.

use std::future::Future;

use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Runs `work` on a thread that may block. It runs to its end even if nobody waits any more, so what it reads from
/// or writes to must end when the other side is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted { what })
}

/// Starts `work` without waiting for it.
pub(crate) fn spawn_blocking(work: impl FnOnce() + Send + 'static) {
    drop(tokio::task::spawn_blocking(work));
}

/// Work beside that of whoever waits for it; it ends when nobody does any more.
pub(crate) struct Owned<T> {
    what: &'static str,
    handle: JoinHandle<T>,
}

impl<T: Send + 'static> Owned<T> {
    pub(crate) fn spawn(what: &'static str, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self { what, handle: tokio::spawn(work) }
    }

    pub(crate) async fn finished(mut self) -> Result<T> {
        (&mut self.handle).await.map_err(|_| Error::Interrupted { what: self.what })
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}
