//! The one place where blocking work crosses into async.

use crate::error::{Error, Result};

/// Runs `work` on a thread that may block.
///
/// The closure cannot be aborted: what it works on is a transaction or a guard that cleans up when it is dropped, so
/// a dropped future leaves nothing half-done.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Worker)?
}
