//! A process that the helper made: watched through its pidfd, reaped once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags};

use crate::orphan::Orphans;
use crate::sys::{self, Reaped};
use crate::{Errno, Error, Exit, ExitStatus, Phase, Signal};

/// A process by its pidfd, so that a pid that is used again can never be mistaken for it.
#[derive(Debug)]
pub(crate) struct Child {
    pid: u32,
    pidfd: OwnedFd,
    exit: Mutex<Option<Exit>>,
}

impl Child {
    pub(crate) fn new(pid: u32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, exit: Mutex::new(None) }
    }

    /// A process by its pid; none if there is no such process. The caller checks that it is the one it means, after
    /// this: the descriptor stays with it.
    pub(crate) fn open(pid: u32) -> Option<Self> {
        let raw = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)?;
        let pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).ok()?;
        Some(Self::new(pid, pidfd))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&self) -> Result<Exit, Error> {
        loop {
            if let Some(exit) = self.try_wait()? {
                return Ok(exit);
            }
            self.poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)])?;
        }
    }

    /// Waits until it has ended or that moment has come; then none.
    pub(crate) fn wait_until(&self, deadline: Option<std::time::Instant>) -> Result<Option<Exit>, Error> {
        let Some(deadline) = deadline else { return self.wait().map(Some) };
        loop {
            if let Some(exit) = self.try_wait()? {
                return Ok(Some(exit));
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let time = rustix::event::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match rustix::event::poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], Some(&time)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.failed("poll", errno)),
            }
        }
    }

    /// Waits until it has ended, and reaps the others meanwhile: the first process of a pid namespace does not end
    /// before every other process of it was reaped, and some of those are children of this process.
    pub(crate) fn wait_among(&self, others: &Orphans) -> Result<Exit, Error> {
        loop {
            others.reap();
            if let Some(exit) = self.try_wait()? {
                return Ok(exit);
            }
            let ended = others.ended();
            self.poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)])?;
        }
    }

    fn poll(&self, fds: &mut [PollFd<'_>]) -> Result<(), Error> {
        match rustix::event::poll(fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(self.failed("poll", errno)),
        }
    }

    /// The exit, if it has ended.
    pub(crate) fn try_wait(&self) -> Result<Option<Exit>, Error> {
        let mut kept = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_some() {
            return Ok(kept.clone());
        }
        let reaped = sys::reap(self.pidfd()).map_err(|error| self.failed("waitid", Errno::of(&error)))?;
        *kept = match reaped {
            Reaped::Exited(exit) => Some(exit),
            Reaped::Running => None,
            Reaped::NotOurs if self.has_ended()? => {
                let status = sys::exit_info(self.pidfd()).unwrap_or(ExitStatus::Unknown);
                Some(Exit { status, usage: None, oom_killed: false })
            }
            Reaped::NotOurs => None,
        };
        Ok(kept.clone())
    }

    /// [`Child::wait_among`] without a thread. Dropping the future changes nothing.
    #[cfg(feature = "tokio")]
    pub(crate) async fn wait_async(&self, others: &Orphans) -> Result<Exit, Error> {
        use std::task::Poll;
        others.reap();
        if let Some(exit) = self.try_wait()? {
            return Ok(exit);
        }
        let failed = |error: std::io::Error| self.failed("epoll_ctl", Errno::of(&error));
        let watch = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().and_then(sys::watch).map_err(failed);
        let (own, ended) = (watch(self.pidfd())?, watch(others.ended())?);
        loop {
            std::future::poll_fn(|context| {
                let mut ready = false;
                for watched in [&own, &ended] {
                    // Cleared before the kernel is asked, so that what happens in between is seen the next time.
                    if let Poll::Ready(guard) = watched.poll_read_ready(context) {
                        guard.map_err(failed)?.clear_ready();
                        ready = true;
                    }
                }
                if ready { Poll::Ready(Ok::<(), Error>(())) } else { Poll::Pending }
            })
            .await?;
            others.reap();
            if let Some(exit) = self.try_wait()? {
                return Ok(exit);
            }
        }
    }

    /// Whether it has ended, reaped or not.
    pub(crate) fn has_ended(&self) -> Result<bool, Error> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match rustix::event::poll(&mut fds, Some(&now)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(self.failed("poll", errno)),
        }
    }

    /// Sends a signal; one that has ended already is not an error.
    pub(crate) fn kill(&self, signal: Signal) -> Result<(), Error> {
        match sys::send_signal(self.pidfd(), signal.raw()) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            Err(error) => Err(self.failed("pidfd_send_signal", Errno::of(&error))),
        }
    }

    fn failed(&self, syscall: &'static str, errno: impl Into<Errno>) -> Error {
        Error::host_call(Phase::Lifecycle, syscall, format!("process {}", self.pid), errno)
    }
}
