//! The one place where blocking work leaves the async threads.

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
