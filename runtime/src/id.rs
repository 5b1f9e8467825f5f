//! Container ids.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The name of a container within one state directory.
///
/// - 1 to 128 bytes long,
/// - made of ASCII letters, digits, `_`, `.`, `+` and `-`,
/// - begins with a letter, a digit or `_`, so it is never `.`, `..` or an option.
///
/// ```
/// # use runtime::ContainerId;
/// assert!("web-1".parse::<ContainerId>().is_ok());
/// assert!("../etc".parse::<ContainerId>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

/// The longest container id, in bytes.
const MAX_ID: usize = 128;

impl ContainerId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |problem| Error::InvalidId { id: text.chars().take(MAX_ID).collect(), problem };
        let first = text.bytes().next().ok_or_else(|| invalid("it is empty"))?;
        if text.len() > MAX_ID {
            return Err(invalid("it is longer than 128 bytes"));
        }
        if !(first.is_ascii_alphanumeric() || first == b'_') {
            return Err(invalid("it does not begin with a letter, a digit or an underscore"));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.+-".contains(&b)) {
            return Err(invalid("it has a character other than letters, digits, '_', '.', '+' and '-'"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        for good in ["a", "0", "_x", "a.b", "a+b", "a-b", &"x".repeat(128)] {
            assert_eq!(good.parse::<ContainerId>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "ä", "a\0", &"x".repeat(129)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
    }
}
