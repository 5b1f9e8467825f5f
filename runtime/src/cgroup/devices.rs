//! Which devices a container may use.

use std::fmt;

use oci_spec::runtime::{LinuxDeviceType, LinuxResources};

use crate::Error;

/// One rule; none for any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    /// `a`, `b` or `c`.
    pub(super) kind: char,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    /// Bits: 1 mknod, 2 read, 4 write, as `BPF_DEVCG_ACC_*`.
    pub(super) access: u32,
}

pub(super) const MKNOD: u32 = 1;
pub(super) const READ: u32 = 2;
pub(super) const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;

/// What every container may use, as in runc: making any node, and the devices of runtime-spec's `config-linux.md` with
/// the terminals.
const DEFAULT: [(char, Option<u32>, Option<u32>, u32); 11] = [
    ('c', None, None, MKNOD),
    ('b', None, None, MKNOD),
    ('c', Some(1), Some(3), ALL),
    ('c', Some(1), Some(8), ALL),
    ('c', Some(1), Some(7), ALL),
    ('c', Some(5), Some(0), ALL),
    ('c', Some(1), Some(5), ALL),
    ('c', Some(1), Some(9), ALL),
    ('c', Some(5), Some(1), ALL),
    ('c', Some(136), None, ALL),
    ('c', Some(5), Some(2), ALL),
];

/// The rules of a container in their order: nothing, then what the Spec says, then what every container may use.
pub(super) fn rules(resources: &LinuxResources) -> Result<Vec<Rule>, Error> {
    let mut rules = vec![Rule { allow: false, kind: 'a', major: None, minor: None, access: ALL }];
    for (index, rule) in resources.devices().iter().flatten().enumerate() {
        let field = format!("linux.resources.devices[{index}]");
        let number = |value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => u32::try_from(value)
                .map(Some)
                .map_err(|_| Error::spec(field.as_str(), format!("{value} is not a device number"))),
        };
        let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A => 'a',
            LinuxDeviceType::B => 'b',
            LinuxDeviceType::C | LinuxDeviceType::U => 'c',
            LinuxDeviceType::P => return Err(Error::spec(field, "a pipe is no device")),
        };
        let text = rule.access().as_deref().filter(|text| !text.is_empty()).unwrap_or("rwm");
        let mut access = 0;
        for letter in text.chars() {
            access |= match letter {
                'm' => MKNOD,
                'r' => READ,
                'w' => WRITE,
                // The word for all of them in the kernel's own list.
                'a' => MKNOD | READ | WRITE,
                other => return Err(Error::spec(field, format!("access {other:?} is none of r, w and m"))),
            };
        }
        let (major, minor) = (number(rule.major())?, number(rule.minor())?);
        rules.push(Rule { allow: rule.allow(), kind, major, minor, access });
    }
    // After "all" there is nothing to add; the kernel of version 1 would refuse it.
    let all = rules.last().is_some_and(|last| last.allow && last.kind == 'a');
    if !all {
        let default = |(kind, major, minor, access)| Rule { allow: true, kind, major, minor, access };
        rules.extend(DEFAULT.into_iter().map(default));
    }
    Ok(rules)
}

/// The form of the files of version 1.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == 'a' {
            return f.write_str("a");
        }
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        write!(f, "{} {}:{} ", self.kind, number(self.major), number(self.minor))?;
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MKNOD, "m")] {
            if self.access & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_denied_first() {
        let rules = rules(&LinuxResources::default()).unwrap();
        let text: Vec<String> = rules.iter().map(ToString::to_string).collect();
        assert_eq!((&text[0][..], &text[1][..], &text[3][..]), ("a", "c *:* m", "c 1:3 rwm"));
        assert!(!rules[0].allow && rules[1].allow);
    }
}
