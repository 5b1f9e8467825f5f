//! What is below a layer that is being unpacked: known, or still on its way.

use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use crate::error::{Error, Result};
use crate::layer::Layer;
use crate::view::View;

/// What a layer is unpacked over.
pub(crate) enum Lower<'a> {
    /// All of it.
    Known(&'a View),
    /// The first `count` layers of a stack that is being unpacked.
    Coming(&'a Coming, usize, OnceLock<View>),
}

impl Lower<'_> {
    pub(crate) const fn coming(stack: &Coming, count: usize) -> Lower<'_> {
        Lower::Coming(stack, count, OnceLock::new())
    }

    /// The view; waits for the layers below when they are not there yet. Only a layer that borrows asks.
    pub(crate) fn view(&self) -> Result<&View> {
        match self {
            Self::Known(view) => Ok(view),
            Self::Coming(stack, count, view) => {
                if let Some(view) = view.get() {
                    return Ok(view);
                }
                let layers = stack.wait(*count)?;
                Ok(view.get_or_init(|| View::of(&layers)))
            }
        }
    }
}

/// The layers of one image while several threads unpack them.
#[derive(Debug)]
pub(crate) struct Coming {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    layers: Vec<Option<Layer>>,
    failed: bool,
}

impl Coming {
    pub(crate) fn new(count: usize) -> Self {
        let state = State { layers: vec![None; count], failed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, at: usize, layer: Layer) {
        if let Some(place) = self.state().layers.get_mut(at) {
            *place = Some(layer);
        }
        self.changed.notify_all();
    }

    pub(crate) fn fail(&self) {
        self.state().failed = true;
        self.changed.notify_all();
    }

    pub(crate) fn failed(&self) -> bool {
        self.state().failed
    }

    /// The first `count` layers, when they are there.
    fn wait(&self, count: usize) -> Result<Vec<Layer>> {
        let mut state = self.state();
        loop {
            if state.failed {
                return Err(Error::Unsupported {
                    what: "a layer over one that could not be unpacked".to_owned(),
                });
            }
            let ready: Option<Vec<Layer>> = state.layers.iter().take(count).cloned().collect();
            if let Some(layers) = ready {
                return Ok(layers);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
