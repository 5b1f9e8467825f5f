//! A step that was just pushed: where its result goes, and where the plan goes on.

use super::super::wire;
use super::{Assembler, Label, Reg, number};

/// The step pushed last, to say more about it.
#[derive(Debug)]
pub(in crate::plan) struct Pending<'a> {
    assembler: &'a mut Assembler,
}

impl<'a> Pending<'a> {
    pub(super) const fn of(assembler: &'a mut Assembler) -> Self {
        Self { assembler }
    }

    /// Keeps the result in a new register.
    pub(in crate::plan) fn out(self) -> Reg {
        let reg = self.assembler.register();
        self.into(reg);
        reg
    }

    /// Keeps the result in this register.
    pub(in crate::plan) fn into(self, reg: Reg) {
        if let Some(step) = self.assembler.steps.last_mut() {
            step.out = reg.0;
        }
    }

    /// Jumps when it succeeds.
    pub(in crate::plan) fn then(self, label: Label) -> Self {
        if let Some(step) = self.assembler.steps.last_mut() {
            step.on_ok = Some(label);
        }
        self
    }

    /// Jumps when it fails with this error number; two may be given.
    pub(in crate::plan) fn on(self, errno: i32, label: Label) -> Self {
        self.handle(u32::try_from(errno).unwrap_or(0), label)
    }

    /// Jumps when it fails with any (other) error number.
    pub(in crate::plan) fn otherwise(self, label: Label) -> Self {
        self.handle(wire::ANY, label)
    }

    /// Goes on when it fails.
    pub(in crate::plan) fn ignore(self) {
        let label = self.assembler.label();
        let next = number(self.assembler.steps.len());
        if let Some(slot) = self.assembler.labels.get_mut(label.0) {
            *slot = Some(next);
        }
        self.otherwise(label);
    }

    fn handle(self, errno: u32, label: Label) -> Self {
        if let Some(step) = self.assembler.steps.last_mut()
            && let Some(slot) = step.on_error.iter_mut().find(|slot| slot.is_none())
        {
            *slot = Some((errno, label));
        }
        self
    }
}
