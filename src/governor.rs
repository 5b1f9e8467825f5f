//! What all builds of an engine may take of the host together.
//!
//! ```text
//!  step that has to be made ─▶ its build's own bound ─▶ memory of its RUN ─▶ slot ─▶ room on the disk ─▶ work
//! ```
//!
//! Everything is asked for in that order, so that no two steps wait for one another, and in turn, so that none waits for
//! ever. What a step has goes back when it ends, fails or is dropped.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};
use crate::task::blocking;

/// Memory is counted in these many bytes: a limit counts as the next multiple.
const UNIT: u64 = 1 << 20;
/// How often the disk is looked at while a RUN works, of which nobody knows what it will write.
const AGAIN: Duration = Duration::from_millis(100);

/// What a [`Governor`] allows. What is not said is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bounds {
    /// Steps that make a layer at the same time, RUN or COPY; at least one. What is found in a cache is not counted.
    pub steps: Option<usize>,
    /// Bytes of memory that the limits of the RUNs at work add up to, in steps of 1 MiB: see
    /// [`Limits::memory`](crate::Limits::memory). A RUN without a limit counts nothing.
    pub memory: Option<u64>,
    /// Bytes that stay free on the file system of the store. A step that writes more than there is above it is refused
    /// before it writes; a RUN, of which nobody knows what it writes, is ended when the free space goes below.
    pub keep_free: Option<u64>,
}

impl Bounds {
    /// At most so many steps at the same time.
    #[must_use]
    pub const fn steps(mut self, steps: usize) -> Self {
        self.steps = Some(steps);
        self
    }

    /// At most so many bytes of memory for the RUNs that have a limit.
    #[must_use]
    pub const fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// So many bytes of the disk stay free.
    #[must_use]
    pub const fn keep_free(mut self, bytes: u64) -> Self {
        self.keep_free = Some(bytes);
        self
    }
}

/// What builds have of a [`Governor`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Governed {
    /// Steps at work.
    pub steps: usize,
    /// Steps that wait for memory, a slot or room on the disk.
    pub waiting: usize,
    /// The most steps that were at work at the same time.
    pub most_steps: usize,
    /// Bytes of memory that RUNs at work may use, as they are counted.
    pub memory: u64,
    /// The most that this was.
    pub most_memory: u64,
    /// Bytes that steps at work were let to write.
    pub disk: u64,
}

/// Bounds that hold for all builds together which are under it: those of one engine, or of several that share it.
#[derive(Clone)]
pub struct Governor(Arc<Inner>);

struct Inner {
    bounds: Bounds,
    steps: Option<Arc<Semaphore>>,
    memory: Option<Arc<Semaphore>>,
    governed: Mutex<Governed>,
    /// Somebody gave back room on the disk.
    room: Notify,
}

impl fmt::Debug for Governor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Governor")
            .field("bounds", &self.0.bounds)
            .field("governed", &self.governed())
            .finish()
    }
}

impl Default for Governor {
    fn default() -> Self {
        Self::new(Bounds::default())
    }
}

impl Governor {
    /// A governor with `bounds`.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        let slots = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Inner {
            bounds,
            steps: bounds.steps.map(|steps| slots(steps.max(1))),
            memory: bounds.memory.map(|bytes| slots(units(bytes / UNIT) as usize)),
            governed: Mutex::default(),
            room: Notify::new(),
        }))
    }

    /// What it allows.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.0.bounds
    }

    /// What builds have of it now, and had at most.
    #[must_use]
    pub fn governed(&self) -> Governed {
        *self.0.lock()
    }

    /// Lets a step work whose RUN may use `memory` bytes. It works until what is given is dropped.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue and nothing else.
    pub(crate) async fn admit(&self, step: &str, memory: Option<u64>) -> Result<Admitted> {
        let waiting = Waiting::new(&self.0);
        let (mut counted, mut held) = (0, None);
        if let (Some(slots), Some(limit), Some(budget)) = (&self.0.memory, memory, self.0.bounds.memory) {
            let wanted = units(limit.div_ceil(UNIT));
            if u64::from(wanted) > budget / UNIT {
                return Err(Error::MemoryBudget { step: step.to_owned(), limit, budget });
            }
            held = Some(slots.clone().acquire_many_owned(wanted).await.map_err(|_| Error::Worker)?);
            counted = u64::from(wanted) * UNIT;
        }
        let slot = match &self.0.steps {
            Some(slots) => Some(slots.clone().acquire_owned().await.map_err(|_| Error::Worker)?),
            None => None,
        };
        drop(waiting);
        let mut governed = self.0.lock();
        governed.steps += 1;
        governed.most_steps = governed.most_steps.max(governed.steps);
        governed.memory += counted;
        governed.most_memory = governed.most_memory.max(governed.memory);
        Ok(Admitted { inner: self.0.clone(), counted, _permits: [slot, held] })
    }

    /// Promises room for `bytes` bytes on the file system of `path` to `what`, which writes them until what is given is
    /// dropped. Waits for others when there is room, but promised to them.
    pub(crate) async fn room(&self, what: &str, path: &Path, bytes: u64) -> Result<Room> {
        let Some(reserve) = self.0.bounds.keep_free else { return Ok(Room(None)) };
        let waiting = Waiting::new(&self.0);
        loop {
            let freed = self.0.room.notified();
            tokio::pin!(freed);
            // From here on nothing that is given back is missed.
            freed.as_mut().enable();
            let (inner, at) = (self.0.clone(), path.to_owned());
            let (free, verdict) = blocking(move || {
                // Under the lock: what was promised then is either not written yet or gone from the free space.
                let mut governed = inner.lock();
                let free = free(&at)?;
                let verdict = weigh(free, governed.disk, reserve, bytes);
                if verdict == Verdict::Enough {
                    governed.disk += bytes;
                    drop(governed);
                    return Ok((free, Ok(Room(Some((inner, bytes))))));
                }
                Ok((free, Err(verdict)))
            })
            .await?;
            match verdict {
                Ok(room) => {
                    drop(waiting);
                    return Ok(room);
                }
                Err(Verdict::Never) => return Err(full(what, path, bytes, free, reserve)),
                Err(_) => freed.await,
            }
        }
    }

    /// Ends, with an error, when the file system of `path` has less free than is to be kept.
    pub(crate) async fn watch(&self, what: &str, path: &Path) -> Error {
        let Some(reserve) = self.0.bounds.keep_free else { return std::future::pending().await };
        loop {
            tokio::time::sleep(AGAIN).await;
            let at: PathBuf = path.to_owned();
            match blocking(move || free(&at)).await {
                Ok(free) if free < reserve => return full(what, path, 0, free, reserve),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Governed> {
        self.governed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn full(what: &str, path: &Path, needed: u64, free: u64, reserve: u64) -> Error {
    Error::DiskReserve { what: what.to_owned(), path: path.to_owned(), needed, free, reserve }
}

/// `count` as a semaphore takes it; more units than that are as good as all there is.
fn units(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Bytes that are free on the file system of `path`, for this user.
fn free(path: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(path)
        .map_err(|errno| Error::Io { path: path.to_owned(), source: errno.into() })?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Enough,
    /// When others do not use what they were promised, or have given it back.
    Perhaps,
    Never,
}

fn weigh(free: u64, promised: u64, reserve: u64, bytes: u64) -> Verdict {
    let needed = bytes.saturating_add(reserve);
    if free < needed {
        Verdict::Never
    } else if free.saturating_sub(promised) < needed {
        Verdict::Perhaps
    } else {
        Verdict::Enough
    }
}

/// A step that waits.
struct Waiting<'a>(&'a Inner);

impl<'a> Waiting<'a> {
    fn new(inner: &'a Inner) -> Self {
        inner.lock().waiting += 1;
        Self(inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

/// A step at work.
pub(crate) struct Admitted {
    inner: Arc<Inner>,
    counted: u64,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut governed = self.inner.lock();
        governed.steps -= 1;
        governed.memory -= self.counted;
    }
}

/// Room on the disk.
#[must_use]
pub(crate) struct Room(Option<(Arc<Inner>, u64)>);

impl Drop for Room {
    fn drop(&mut self) {
        if let Some((inner, bytes)) = &self.0 {
            inner.lock().disk -= bytes;
            inner.room.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_were_promised_is_waited_for() {
        assert_eq!(weigh(100, 0, 40, 60), Verdict::Enough);
        assert_eq!(weigh(100, 1, 40, 60), Verdict::Perhaps);
        assert_eq!(weigh(100, 0, 40, 61), Verdict::Never);
        assert_eq!(weigh(100, 0, u64::MAX, 1), Verdict::Never);
        assert_eq!(weigh(100, 200, 0, 0), Verdict::Enough);
    }

    #[test]
    fn memory_is_counted_in_whole_units() {
        assert_eq!(units(u64::MAX / UNIT), u32::MAX);
        assert_eq!(units((UNIT + 1).div_ceil(UNIT)), 2);
    }

    #[tokio::test]
    async fn what_is_dropped_goes_back() {
        let governor = Governor::new(Bounds::default().steps(1).memory(3 * UNIT));
        let one = governor.admit("one", Some(2 * UNIT + 1)).await.unwrap();
        assert_eq!(governor.governed().memory, 3 * UNIT);
        // It has a place in the queue, and gives it up.
        let mut two = Box::pin(governor.admit("two", Some(UNIT)));
        assert!(futures_now(two.as_mut()).is_none());
        assert_eq!(governor.governed().waiting, 1);
        drop(two);
        assert_eq!(governor.governed().waiting, 0);
        drop(one);
        drop(governor.admit("three", Some(3 * UNIT)).await.unwrap());
        let error = governor.admit("four", Some(3 * UNIT + 1)).await.err().unwrap();
        assert!(matches!(error, Error::MemoryBudget { limit, .. } if limit == 3 * UNIT + 1), "{error}");
        let governed = governor.governed();
        assert_eq!((governed.steps, governed.memory, governed.most_steps), (0, 0, 1));
    }

    /// What the future gives without waiting.
    fn futures_now<T>(future: std::pin::Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Option<T> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
