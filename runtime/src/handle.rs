//! Handles of the process that made a container.

use std::ops::Deref;
use std::os::fd::OwnedFd;

use crate::launch::Launched;
use crate::{Container, Error, Warning};

/// A container that is prepared and waits to be started. Everything [`Container`] can do is there too.
///
/// Dropping it removes the container.
#[derive(Debug)]
pub struct Created {
    container: Container,
    launched: Launched,
    kill_on_drop: bool,
    detachable: bool,
    armed: bool,
    warnings: Vec<Warning>,
}

impl Created {
    pub(crate) fn new(
        container: Container,
        launched: Launched,
        kill_on_drop: bool,
        detachable: bool,
        warnings: Vec<Warning>,
    ) -> Self {
        Self { container, launched, kill_on_drop, detachable, armed: true, warnings }
    }

    /// What was left out of the Spec.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Executes the program. Returns when `execve` has succeeded.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] in phase `exec`: see [`Error::is_not_found`] and [`Error::is_not_executable`];
    /// [`Error::Hook`]. The container is then removed.
    pub fn start(mut self) -> Result<Running, Error> {
        // `drop` removes the container on the way out.
        if self.detachable {
            self.launched.release()?;
            self.container.start()?;
        } else {
            self.container.start_with(&self.launched)?;
        }
        self.armed = false;
        Ok(Running { container: self.container.clone(), kill_on_drop: self.kill_on_drop, armed: true })
    }

    /// The controlling side of the terminal that the Spec asks for (`process.terminal`); once.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.launched.terminal.take()
    }

    /// Removes the container.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] with what could not be removed.
    pub fn delete(mut self) -> Result<(), Error> {
        self.armed = false;
        self.container.remove()
    }

    /// Leaves it in the state directory, to be started by [`Container::start`] in this process or another.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] unless it was made with [`CreateOptions::detachable`](crate::CreateOptions::detachable).
    pub fn detach(mut self) -> Result<Container, Error> {
        if !self.detachable {
            return Err(Error::unsupported("detaching a container that was not made detachable"));
        }
        self.launched.release()?;
        self.armed = false;
        self.container.inner.orphans.adopt_child(self.container.inner.child.as_ref());
        Ok(self.container.clone())
    }
}

impl Deref for Created {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if self.armed {
            // Best effort: `delete` is there for those who want to know.
            drop(self.container.remove());
        }
    }
}

/// A container whose program has been started. Everything [`Container`] can do is there too.
///
/// Dropping it leaves the container running unless
/// [`CreateOptions::kill_on_drop`](crate::CreateOptions::kill_on_drop) was chosen.
#[derive(Debug)]
pub struct Running {
    container: Container,
    kill_on_drop: bool,
    armed: bool,
}

impl Running {
    /// Ends every process of the container, waits for it, and removes its state.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] with what could not be removed.
    pub fn delete(mut self) -> Result<(), Error> {
        self.armed = false;
        self.container.remove()
    }
}

impl Deref for Running {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if self.kill_on_drop {
            // Best effort: `delete` is there for those who want to know.
            drop(self.container.remove());
        } else {
            self.container.inner.orphans.adopt_child(self.container.inner.child.as_ref());
        }
    }
}
