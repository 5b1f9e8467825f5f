//! Puts a plan together: steps, strings and structures, in the format of `wire`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::wire::{self, HEADER, MAGIC, NONE, REGISTERS, STEP, VERSION, arg, op};
use super::{Note, Plan};
use crate::{Error, Phase, Warning};

mod pending;

pub(super) use pending::Pending;

/// A register of the helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reg(u32);

/// A place in the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At(u32);

/// A place among the steps, which may not be known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// An argument of a step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg {
    Value(u64),
    At(At),
    Reg(Reg),
}

impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        // Sign-extended, as a C caller would pass a negative descriptor.
        Self::Value(i64::from(value).cast_unsigned())
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Value(u64::from(value))
    }
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self::Value(value)
    }
}

impl From<At> for Arg {
    fn from(at: At) -> Self {
        Self::At(at)
    }
}

impl From<Reg> for Arg {
    fn from(reg: Reg) -> Self {
        Self::Reg(reg)
    }
}

/// A pause can never be taken for one of the kernel's error numbers.
const _: () = assert!(wire::PAUSE > 4095);
/// Registers below this one are for descriptors that the host hands over.
const FIRST_FREE: u32 = 512;

#[derive(Debug)]
struct Step {
    op: u32,
    nr: u32,
    args: [Arg; 6],
    out: u32,
    on_ok: Option<Label>,
    on_error: [Option<(u32, Label)>; 2],
}

/// Collects the steps of a plan.
#[derive(Debug)]
pub(super) struct Assembler {
    phase: Phase,
    steps: Vec<Step>,
    notes: Vec<Note>,
    labels: Vec<Option<u32>>,
    blob: Vec<u8>,
    strings: BTreeMap<Vec<u8>, At>,
    relocations: Vec<u32>,
    fds: Vec<OwnedFd>,
    next: u32,
    free: Vec<Reg>,
    inject: Option<(u32, i32)>,
    /// The first step of the new process.
    born: u32,
    /// A text with a zero byte, which the kernel would cut short.
    cut: Option<String>,
    warnings: Vec<Warning>,
}

impl Assembler {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Launch,
            steps: Vec::new(),
            notes: Vec::new(),
            labels: Vec::new(),
            blob: Vec::new(),
            strings: BTreeMap::new(),
            relocations: Vec::new(),
            fds: Vec::new(),
            next: FIRST_FREE,
            free: Vec::new(),
            inject: None,
            born: 0,
            cut: None,
            warnings: Vec::new(),
        }
    }

    /// All further steps belong to this phase.
    pub(super) fn phase(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Says what is left out.
    pub(super) fn warn(&mut self, warning: Warning) {
        self.warnings.push(warning);
    }

    /// Makes the step of this index fail, for tests.
    pub(super) fn inject(&mut self, failure: Option<(u32, i32)>) {
        self.inject = failure;
    }

    /// Hands a descriptor over to the helper.
    pub(super) fn fd(&mut self, fd: OwnedFd) -> Reg {
        self.fds.push(fd);
        Reg(number(self.fds.len() - 1))
    }

    /// A register nobody uses.
    pub(super) fn register(&mut self) -> Reg {
        if let Some(reg) = self.free.pop() {
            return reg;
        }
        self.next += 1;
        Reg(self.next - 1)
    }

    /// A place that `here` will fix.
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Fixes a label: it is the next step.
    pub(super) fn here(&mut self, label: Label) {
        let at = number(self.steps.len());
        if let Some(slot) = self.labels.get_mut(label.0) {
            *slot = Some(at);
        }
    }

    /// A zero-terminated string, kept once.
    pub(super) fn text(&mut self, text: impl AsRef<[u8]>) -> At {
        let text = text.as_ref();
        if let Some(at) = self.strings.get(text) {
            return *at;
        }
        if text.contains(&0) {
            self.cut = Some(String::from_utf8_lossy(text).into_owned());
        }
        let mut bytes = text.to_vec();
        bytes.push(0);
        let at = self.bytes(&bytes);
        self.strings.insert(text.to_vec(), at);
        at
    }

    /// Bytes of their own, aligned for any structure.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> At {
        while !self.blob.len().is_multiple_of(8) {
            self.blob.push(0);
        }
        let at = At(number(self.blob.len()));
        self.blob.extend_from_slice(bytes);
        at
    }

    /// A structure of 64-bit words, some of which are addresses.
    pub(super) fn words(&mut self, words: &[Arg]) -> At {
        let raw: Vec<u8> = words
            .iter()
            .flat_map(|word| match word {
                Arg::Value(value) => value.to_ne_bytes(),
                Arg::At(at) => u64::from(at.0).to_ne_bytes(),
                Arg::Reg(_) => 0u64.to_ne_bytes(),
            })
            .collect();
        let at = self.bytes(&raw);
        for (index, word) in words.iter().enumerate() {
            if matches!(word, Arg::At(_)) {
                self.relocations.push(at.0 + number(index * 8));
            }
        }
        at
    }

    /// A null-terminated vector of strings, as `execve(2)` takes it.
    pub(super) fn vector<T: AsRef<[u8]>>(&mut self, texts: &[T]) -> At {
        let mut words: Vec<Arg> = texts.iter().map(|text| Arg::At(self.text(text))).collect();
        words.push(Arg::Value(0));
        self.words(&words)
    }

    /// A step that is a system call.
    pub(super) fn call(
        &mut self,
        name: &'static str,
        nr: libc::c_long,
        args: &[Arg],
        target: impl Into<String>,
    ) -> Pending<'_> {
        self.push(op::CALL, u32::try_from(nr).unwrap_or(u32::MAX), args, name, target.into())
    }

    /// Reads a number out of the blob.
    pub(super) fn load(&mut self, at: At, offset: u32, size: u32, what: &str) -> Reg {
        self.push(op::LOAD, 0, &[At(at.0 + offset).into(), size.into()], "(load)", what.to_owned()).out()
    }

    /// Writes a number into the blob.
    pub(super) fn store(&mut self, at: At, offset: u32, size: u32, value: impl Into<Arg>, what: &str) {
        let args = [At(at.0 + offset).into(), size.into(), value.into()];
        self.push(op::STORE, 0, &args, "(store)", what.to_owned());
    }

    /// Writes the permissions in a mode as a text of four octal digits.
    pub(super) fn octal(&mut self, mode: Reg, what: &str) -> At {
        let at = self.bytes(b"0000\0");
        self.push(op::OCTAL, 0, &[at.into(), mode.into()], "(mode)", what.to_owned());
        at
    }

    /// Jumps when the value has these bits.
    pub(super) fn jump_if(&mut self, value: impl Into<Arg>, mask: u64, bits: u64, label: Label, what: &str) {
        self.push(op::JUMP_IF, 0, &[value.into(), mask.into(), bits.into()], "(if)", what.to_owned())
            .then(label);
    }

    /// Jumps.
    pub(super) fn jump(&mut self, label: Label) {
        self.push(op::JUMP_IF, 0, &[0.into(), 0.into(), 0.into()], "(go on)", String::new()).then(label);
    }

    /// Fails with this error number unless the value has these bits.
    pub(super) fn check(&mut self, value: impl Into<Arg>, mask: u64, bits: u64, errno: i32, what: String) {
        let args = [value.into(), mask.into(), bits.into(), errno.into()];
        self.push(op::CHECK, 0, &args, "(check)", what);
    }

    /// The next step is the first one of the new process.
    pub(super) fn is_born(&mut self) {
        self.born = self.len();
    }

    /// How many steps there are so far.
    pub(super) fn len(&self) -> u32 {
        number(self.steps.len())
    }

    /// A register with this value.
    pub(super) fn value(&mut self, value: impl Into<Arg>, what: &str) -> Reg {
        self.push(op::SET, 0, &[value.into()], "(set)", what.to_owned()).out()
    }

    /// Changes the value in a register.
    pub(super) fn set(&mut self, reg: Reg, value: impl Into<Arg>, what: &str) {
        self.push(op::SET, 0, &[value.into()], "(set)", what.to_owned()).into(reg);
    }

    /// Reports over another descriptor from now on.
    pub(super) fn report_to(&mut self, fd: Reg) {
        self.push(op::REPORT_TO, 0, &[fd.into()], "(report)", "over another descriptor".to_owned());
    }

    /// Ends the process.
    pub(super) fn exit(&mut self, code: i32) {
        self.push(op::EXIT, 0, &[code.into()], "exit_group", format!("code {code}"));
    }

    /// Serves calls until the host is gone.
    pub(super) fn serve(&mut self) {
        self.push(op::SERVE, 0, &[], "recvmsg", "calls of the host".to_owned());
    }

    /// Closes a descriptor and frees its register.
    pub(super) fn close(&mut self, fd: Reg) {
        self.call("close", libc::SYS_close, &[fd.into()], "a descriptor that has served").ignore();
        self.free.push(fd);
    }

    /// Closes every descriptor but the standard streams, the reporting one and those kept.
    pub(super) fn close_others(&mut self, keep: &[Reg]) {
        let list: Vec<u8> = keep.iter().flat_map(|reg| reg.0.to_ne_bytes()).collect();
        let at = self.bytes(&list);
        let args = [at.into(), number(keep.len()).into()];
        self.push(op::CLOSE_OTHERS, 0, &args, "close_range", "all descriptors that are not kept".to_owned());
    }

    /// Copies all that is in one directory into another.
    pub(super) fn copy_tree(&mut self, from: Reg, to: Reg, what: String) {
        self.push(op::COPY_TREE, 0, &[from.into(), to.into()], "(copy)", what);
    }

    /// Opens a path beneath a directory, and makes what is missing of it, behind links too.
    pub(super) fn make_behind(&mut self, root: Reg, path: &[u8], file: bool, what: String) -> Pending<'_> {
        let path = self.text(path);
        self.push(op::MAKE, 0, &[root.into(), path.into(), u32::from(file).into()], "(make)", what)
    }

    /// Lets signals end the process that would otherwise pass it by.
    pub(super) fn be_mortal(&mut self) {
        self.push(op::BE_MORTAL, 0, &[], "rt_sigaction", "what asks it to end".to_owned());
    }

    /// Fails as `exec` would when there is nothing to execute.
    pub(super) fn find<T: AsRef<[u8]>>(&mut self, programs: &[T], target: String) {
        let list = self.vector(programs);
        let args = [list.into(), 0.into(), 0.into(), number(programs.len()).into()];
        self.push(op::FIND, 0, &args, "execve", target);
    }

    /// Executes the first program that exists.
    pub(super) fn exec<T: AsRef<[u8]>>(&mut self, programs: &[T], args: At, env: At, target: String) {
        let list = self.vector(programs);
        let args = [list.into(), args.into(), env.into(), number(programs.len()).into()];
        self.push(op::EXEC, 0, &args, "execve", target);
    }

    fn push(&mut self, op: u32, nr: u32, args: &[Arg], syscall: &'static str, target: String) -> Pending<'_> {
        let mut all = [Arg::Value(0); 6];
        for (slot, arg) in all.iter_mut().zip(args) {
            *slot = *arg;
        }
        self.steps.push(Step { op, nr, args: all, out: NONE, on_ok: None, on_error: [None, None] });
        self.notes.push(Note { phase: self.phase, syscall: Cow::Borrowed(syscall), target });
        Pending::of(self)
    }

    fn resolve(&self, label: Label) -> u32 {
        // A label that nobody fixed leads to the end, where the helper exits: it cannot run on by accident.
        self.labels.get(label.0).copied().flatten().unwrap_or(number(self.steps.len()))
    }

    /// The finished plan.
    pub(super) fn finish(self) -> Result<Plan, Error> {
        if let Some(text) = self.cut {
            return Err(Error::spec("a text", format!("{text:?} has a zero byte in it")));
        }
        let steps_len = self.steps.len() * STEP;
        let relocations_at = HEADER + steps_len;
        let blob_at = (relocations_at + self.relocations.len() * 4).next_multiple_of(8);
        let total = blob_at + self.blob.len();
        if self.next as usize > REGISTERS
            || self.fds.len() > FIRST_FREE as usize
            || u32::try_from(total).is_err()
        {
            return Err(Error::unsupported(
                "a spec of this size: the plan has too many steps or descriptors",
            ));
        }
        let base = number(blob_at);
        let mut bytes = Vec::with_capacity(total);
        let (step, errno) =
            self.inject.map_or((NONE, 0), |(step, errno)| (step, u32::try_from(errno).unwrap_or(0)));
        let header = [
            MAGIC,
            VERSION,
            number(total),
            number(HEADER),
            number(self.steps.len()),
            number(relocations_at),
            number(self.relocations.len()),
            number(self.fds.len()),
            step,
            errno,
        ];
        bytes.extend(header.iter().flat_map(|word| word.to_ne_bytes()));
        for step in &self.steps {
            bytes.extend(step.op.to_ne_bytes());
            bytes.extend(step.nr.to_ne_bytes());
            bytes.extend(step.args.iter().map(|arg| match arg {
                Arg::Value(_) => arg::VALUE,
                Arg::At(_) => arg::ADDRESS,
                Arg::Reg(_) => arg::REGISTER,
            }));
            bytes.extend([0; 2]);
            for arg in &step.args {
                let raw = match arg {
                    Arg::Value(value) => *value,
                    Arg::At(at) => u64::from(base + at.0),
                    Arg::Reg(reg) => u64::from(reg.0),
                };
                bytes.extend(raw.to_ne_bytes());
            }
            bytes.extend(step.out.to_ne_bytes());
            bytes.extend(step.on_ok.map_or(NONE, |label| self.resolve(label)).to_ne_bytes());
            for slot in step.on_error {
                let (errno, target) = slot.map_or((0, NONE), |(errno, label)| (errno, self.resolve(label)));
                bytes.extend(errno.to_ne_bytes());
                bytes.extend(target.to_ne_bytes());
            }
        }
        let mut blob = self.blob;
        for place in &self.relocations {
            bytes.extend((base + place).to_ne_bytes());
            let at = *place as usize;
            if let Some(slot) = blob.get_mut(at..at + 8) {
                let mut word = [0; 8];
                word.copy_from_slice(slot);
                slot.copy_from_slice(&(u64::from_ne_bytes(word) + u64::from(base)).to_ne_bytes());
            }
        }
        bytes.resize(blob_at, 0);
        bytes.extend(blob);
        Ok(Plan {
            bytes,
            notes: self.notes,
            fds: self.fds,
            maps: None,
            namespaces: 0,
            programs: Vec::new(),
            gate: 0,
            born: self.born,
            warnings: self.warnings,
        })
    }
}

/// Sizes fit: `finish` refuses plans of 4 GiB and more.
fn number(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
