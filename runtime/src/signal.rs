//! Signals by number and by name.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A signal's number, 1 to 64.
///
/// ```
/// # use runtime::Signal;
/// assert_eq!("SIGTERM".parse::<Signal>()?, Signal::TERM);
/// assert_eq!("kill".parse::<Signal>()?, Signal::KILL);
/// assert_eq!("15".parse::<Signal>()?, Signal::TERM);
/// # Ok::<(), runtime::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(i32);

/// The largest signal number of Linux.
const MAX_SIGNAL: i32 = 64;

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self(libc::SIGHUP);
    /// SIGINT.
    pub const INT: Self = Self(libc::SIGINT);
    /// SIGKILL.
    pub const KILL: Self = Self(libc::SIGKILL);
    /// SIGTERM.
    pub const TERM: Self = Self(libc::SIGTERM);

    /// A signal by its number; none outside 1 to 64.
    #[must_use]
    pub fn from_raw(raw: i32) -> Option<Self> {
        (1..=MAX_SIGNAL).contains(&raw).then_some(Self(raw))
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = Error;

    /// Takes a number or a name, with or without `SIG`, in any case; `RTMIN+n` and `RTMAX-n` too.
    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::UnknownSignal { name: text.chars().take(32).collect() };
        if let Ok(raw) = text.parse::<i32>() {
            return Self::from_raw(raw).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let offset = |text: &str| text.parse::<u8>().ok().map(i32::from);
        let realtime = if name == "RTMIN" {
            Some(REALTIME_MIN)
        } else if name == "RTMAX" {
            Some(MAX_SIGNAL)
        } else if let Some(plus) = name.strip_prefix("RTMIN+") {
            offset(plus).map(|n| REALTIME_MIN + n)
        } else if let Some(minus) = name.strip_prefix("RTMAX-") {
            offset(minus).map(|n| MAX_SIGNAL - n)
        } else {
            None
        };
        if let Some(raw) = realtime {
            return if raw >= REALTIME_MIN { Self::from_raw(raw) } else { None }.ok_or_else(unknown);
        }
        let full = format!("SIG{}", if name == "POLL" { "IO" } else { name });
        full.parse::<nix::sys::signal::Signal>().map(|signal| Self(signal as i32)).map_err(|_| unknown())
    }
}

/// The first real-time signal that programs may use: the C libraries keep 32 and 33.
const REALTIME_MIN: i32 = 34;

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(signal) => f.write_str(signal.as_str()),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, raw) in
            [("9", 9), ("KILL", 9), ("sigkill", 9), ("SIGRTMIN", 34), ("RTMIN+3", 37), ("RTMAX", 64)]
        {
            assert_eq!(text.parse::<Signal>().unwrap().raw(), raw, "{text}");
        }
        for text in ["", "0", "65", "SIG", "FOO", "RTMIN+40", "RTMAX-60", "-9"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
        assert_eq!(Signal::TERM.to_string(), "SIGTERM");
    }
}
