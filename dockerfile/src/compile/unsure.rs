//! The rest of a file in which something is wrong: what can be said of it without images, and without what is wrong.

use std::sync::Arc;

use super::resolve::empty_image;
use super::{Options, Work};
use crate::error::{Diagnostic, Diagnostics};
use crate::instruction::Kind;
use crate::lint::Warning;
use crate::syntax::Dockerfile;

/// Errors and findings of a file of which instructions are missing.
///
/// # Errors
///
/// When the request itself cannot be.
pub(crate) fn rest(
    file: &Dockerfile,
    options: Arc<Options>,
) -> Result<(Vec<Diagnostic>, Vec<Warning>), Diagnostics> {
    let mut work = Work::new(file, options)?;
    work.partial = true;
    work.prepare();
    Ok(work.rest())
}

impl Work<'_> {
    /// What is wrong, and what else there is to say.
    pub(super) fn give_up(self) -> Diagnostics {
        let (errors, warnings) = self.rest();
        Diagnostics::new(errors, warnings)
    }

    fn rest(mut self) -> (Vec<Diagnostic>, Vec<Warning>) {
        if !self.lost {
            let needed = self.nodes.reachable(self.target);
            self.assume_bases();
            self.dispatch_all(&needed);
        }
        (self.errors, self.linter.warnings)
    }

    /// Stages of whose base nothing is known begin with nothing.
    fn assume_bases(&mut self) {
        let platform = self.target_platform().clone();
        for index in 0..self.nodes.all.len() {
            let mut node = self.nodes.take(index);
            let triggers = node.base.and_then(|base| self.nodes.get(base)).is_some_and(|base| {
                base.tasks.iter().any(|task| matches!(task.instruction.kind, Kind::Onbuild(_)))
            });
            node.unsure |= self.partial || (triggers && !node.triggered) || !node.config.on_build.is_empty();
            if node.base.is_none() && !node.resolved {
                node.resolved = true;
                if node.base_name == "scratch" && node.context.is_none() {
                    empty_image(&mut node, &platform);
                } else {
                    node.unsure = true;
                }
                // A context stands for the whole stage; images are there.
                node.dispatched |= node.stage.is_none() || node.context.is_some();
            }
            self.nodes.put(index, node);
        }
    }
}
