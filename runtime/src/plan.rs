//! The plan: a container as a flat list of system calls.

use std::fmt;

/// What will be done to make a container, step by step.
#[derive(Debug)]
pub struct Plan {}

impl Plan {
    /// The steps as text, one per line: index, phase, system call, target.
    #[must_use]
    pub fn explain(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
