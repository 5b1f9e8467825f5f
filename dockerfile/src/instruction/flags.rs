//! `--name`, `--name=value`.

use crate::error::ErrorKind;
use crate::suggest;

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing, `true` or `false`.
    Bool,
    /// One value.
    Text,
    /// A value each time it is given.
    List,
}

/// A refusal, with a hint.
pub(super) type Refusal = (ErrorKind, Option<String>);

/// The flags of one instruction.
pub(super) struct Flags<'a> {
    known: &'a [(&'static str, Takes)],
    given: Vec<(&'static str, &'a str)>,
}

impl<'a> Flags<'a> {
    /// Reads flags against those that the instruction has.
    pub(super) fn read(flags: &'a [String], known: &'a [(&'static str, Takes)]) -> Result<Self, Refusal> {
        let refuse = |text: String| (ErrorKind::Flag(text), None);
        let mut given: Vec<(&'static str, &'a str)> = Vec::new();
        for flag in flags {
            let (written, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag.as_str(), None),
            };
            let name = written.strip_prefix("--").unwrap_or(written);
            let Some((name, takes)) = known.iter().find(|(known, _)| *known == name) else {
                let hint = suggest::nearest(name, known.iter().map(|(known, _)| *known));
                let hint = hint.map(|hint| format!("did you mean --{hint}?"));
                return Err((ErrorKind::Flag(format!("unknown flag: {written}")), hint));
            };
            if *takes != Takes::List && given.iter().any(|(given, _)| given == name) {
                return Err(refuse(format!("duplicate flag specified: {written}")));
            }
            let value = match (takes, value) {
                (Takes::Bool, Some("")) | (Takes::Text | Takes::List, None) => {
                    return Err(refuse(format!("missing a value on flag: {written}")));
                }
                (Takes::Bool, None) => "true",
                (Takes::Bool, Some(value)) if value.eq_ignore_ascii_case("true") => "true",
                (Takes::Bool, Some(value)) if value.eq_ignore_ascii_case("false") => "false",
                (Takes::Bool, Some(value)) => {
                    return Err(refuse(format!("expecting boolean value for flag {written}, not: {value}")));
                }
                (_, Some(value)) => value,
            };
            given.push((name, value));
        }
        Ok(Self { known, given })
    }

    /// The value of a flag, or nothing when it was not given.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        debug_assert!(self.known.iter().any(|(known, _)| *known == name));
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| *value)
    }

    /// All values of a flag.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.given.iter().filter(|(given, _)| *given == name).map(|(_, value)| (*value).to_owned()).collect()
    }

    /// A bool flag, or nothing when it was not given.
    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.text(name).map(|value| value == "true")
    }
}
