//! Children of this process whose handles may be gone, and which somebody has to reap.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::epoll;

use crate::child::Child;
use crate::{Error, Phase};

/// Children that are reaped by whoever waits next. A handle that still exists keeps the exit.
#[derive(Clone, Debug)]
pub(crate) struct Orphans {
    children: Arc<Mutex<Vec<Arc<Child>>>>,
    /// Polls readable while one has ended and was not reaped.
    epoll: Arc<OwnedFd>,
}

impl Orphans {
    pub(crate) fn new() -> Result<Self, Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| Error::host_call(Phase::Launch, "epoll_create1", "ended processes", errno))?;
        Ok(Self { children: Arc::default(), epoll: Arc::new(epoll) })
    }

    pub(crate) fn adopt(&self, child: Arc<Child>) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        // Best effort: without it the child is reaped later, when somebody waits for another reason.
        let watched =
            epoll::add(&self.epoll, child.pidfd(), epoll::EventData::new_u64(0), epoll::EventFlags::IN);
        if let Err(errno) = watched {
            tracing::debug!(pid = child.pid(), %errno, "cannot watch a process");
        }
        children.push(child);
    }

    /// [`Orphans::adopt`], if there is one.
    pub(crate) fn adopt_child(&self, child: Option<&Arc<Child>>) {
        if let Some(child) = child {
            self.adopt(Arc::clone(child));
        }
    }

    pub(crate) fn reap(&self) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|child| {
            let running = matches!(child.try_wait(), Ok(None));
            if !running {
                // It may never have been added.
                let _ = epoll::delete(&self.epoll, child.pidfd());
            }
            running
        });
    }

    /// A descriptor that polls readable while there is something to reap.
    pub(crate) fn ended(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
