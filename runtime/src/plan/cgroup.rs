//! Joining cgroups.

use super::assemble::{Assembler, Reg};
use crate::Phase;
use crate::cgroup::Joining;

/// The groups to join, handed over.
#[derive(Debug)]
pub(super) struct Joined {
    tasks: Vec<(Reg, String)>,
    pub(super) unified: Option<Reg>,
}

impl Joined {
    pub(super) fn hand_over(asm: &mut Assembler, joining: Joining) -> Self {
        Self {
            tasks: joining.tasks.into_iter().map(|(fd, path)| (asm.fd(fd), path)).collect(),
            unified: joining.unified.map(|(fd, _)| asm.fd(fd)),
        }
    }

    /// Moves this process into the groups of version 1. It has one thread, and a thread that moves itself through
    /// `tasks` waits for no grace period. Into the group of version 2 it was born.
    pub(super) fn join(self, asm: &mut Assembler) {
        asm.phase(Phase::Cgroup);
        let zero = asm.text("0");
        for (fd, path) in self.tasks {
            asm.call("write", libc::SYS_write, &[fd.into(), zero.into(), 1.into()], format!("0 to {path}"));
            asm.close(fd);
        }
        if let Some(unified) = self.unified {
            asm.close(unified);
        }
    }
}
