//! Platforms: `linux/arm64/v8`.
//!
//! Source: image-spec `image-index.md` for the fields; containerd's `platforms` for aliases and variants, since that
//! is what docker and BuildKit print.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{PlatformError, excerpt};
use crate::json::{Unknown, null_as_default};

/// What an image runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Platform {
    /// The processor, in Go's words: `amd64`, `arm64`.
    pub architecture: String,
    /// The operating system, in Go's words: `linux`.
    pub os: String,
    /// The version of the operating system; Windows uses it.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features that the operating system must have.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// The variant of the processor: `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Members that this crate does not know.
    #[serde(flatten)]
    pub unknown: Unknown,
}

impl Platform {
    /// What it is ordered by first.
    fn order(&self) -> (&str, &str, Option<&str>, Option<&str>, &[String]) {
        let (variant, version) = (self.variant.as_deref(), self.os_version.as_deref());
        (&self.os, &self.architecture, variant, version, &self.os_features)
    }

    /// What it is ordered by then, as text.
    fn unknown_text(&self) -> String {
        // No value in a map with text for keys fails to be written.
        serde_json::to_string(&self.unknown).unwrap_or_default()
    }
}

impl Ord for Platform {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order()).then_with(|| {
            if self.unknown == other.unknown {
                return Ordering::Equal;
            }
            self.unknown_text().cmp(&other.unknown_text())
        })
    }
}

impl PartialOrd for Platform {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Platform {
    /// `os/architecture`, as given.
    #[must_use]
    pub fn new(os: impl Into<String>, architecture: impl Into<String>) -> Self {
        Self { os: os.into(), architecture: architecture.into(), ..Self::default() }
    }

    /// The platform that this program was compiled for.
    #[must_use]
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH).normalised()
    }

    /// Parses `os[/arch[/variant]]` or a single word that names one of the two, and normalises it.
    ///
    /// # Errors
    /// [`PlatformError`] for anything else.
    pub fn parse(input: &str) -> Result<Self, PlatformError> {
        let bad = || PlatformError { input: excerpt(input) };
        let parts: Vec<&str> = input.split('/').collect();
        let is_word = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'(' | b')'))
        };
        if !parts.iter().all(|part| is_word(part)) {
            return Err(bad());
        }
        let (os, version) = match parts.first().and_then(|os| os.split_once('(')) {
            Some((os, version)) => (os, Some(version.trim_end_matches(')').to_owned())),
            None => (parts.first().copied().unwrap_or_default(), None),
        };
        let mut platform = match parts.as_slice() {
            [_] if is_os(os) => Self::new(os, Self::host().architecture),
            [one] if is_architecture(one) => Self::new(Self::host().os, *one),
            [_, architecture] => Self::new(os, *architecture),
            [_, architecture, variant] => {
                Self { variant: Some((*variant).to_owned()), ..Self::new(os, *architecture) }
            }
            _ => return Err(bad()),
        };
        platform.os_version = version;
        Ok(platform.normalised())
    }

    /// The same platform in the usual words: `x86_64` becomes `amd64`, `arm64/v8` becomes `arm64`, `arm` gets `v7`.
    #[must_use]
    pub fn normalised(mut self) -> Self {
        self.os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let architecture = self.architecture.to_ascii_lowercase();
        let variant = self.variant.map(|variant| variant.to_ascii_lowercase()).filter(|v| !v.is_empty());
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("i386", _) => ("386", None),
            ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64", None),
            ("x86_64" | "x86-64" | "amd64", Some(v)) => ("amd64", Some(v)),
            ("aarch64" | "arm64", Some("8" | "v8") | None) => ("arm64", None),
            ("aarch64" | "arm64", Some(v)) => ("arm64", Some(v)),
            ("armhf", _) => ("arm", Some("v7")),
            ("armel", _) => ("arm", Some("v6")),
            ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("8")) => ("arm", Some("v8")),
            (other, variant) => (other, variant),
        };
        let (architecture, variant) = (architecture.to_owned(), variant.map(str::to_owned));
        self.architecture = architecture;
        self.variant = variant;
        self
    }

    /// How well something made for `other` runs here: lower is better, `None` is not at all.
    ///
    /// The same variant is best; then, for arm, the older variants in descending order; an image without a variant
    /// counts as the architecture's usual one.
    #[must_use]
    pub fn rank(&self, other: &Self) -> Option<u32> {
        let (wanted, offered) = (self.clone().normalised(), other.clone().normalised());
        if wanted.os != offered.os || wanted.architecture != offered.architecture {
            // 64-bit processors also run 32-bit programs, less well.
            let runs = match (wanted.architecture.as_str(), offered.architecture.as_str()) {
                ("arm64", "arm") => Some(100 + 8_u32.saturating_sub(level(&offered))),
                ("amd64", "386") => Some(100),
                _ => None,
            };
            return runs.filter(|_| wanted.os == offered.os);
        }
        let (have, need) = (level(&wanted), level(&offered));
        if need > have {
            return None;
        }
        let version = match (&wanted.os_version, &offered.os_version) {
            (Some(a), Some(b)) if a != b => 1_000,
            _ => 0,
        };
        Some(have - need + version)
    }
}

/// The variant as a number; the default variant of the architecture where there is none.
fn level(platform: &Platform) -> u32 {
    let shown = platform
        .variant
        .as_deref()
        .and_then(|variant| variant.trim_start_matches('v').split('.').next()?.parse().ok());
    shown.unwrap_or(match platform.architecture.as_str() {
        "arm64" => 8,
        "arm" => 7,
        "amd64" => 1,
        _ => 0,
    })
}

fn is_os(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "aix"
            | "android"
            | "darwin"
            | "macos"
            | "dragonfly"
            | "freebsd"
            | "illumos"
            | "ios"
            | "js"
            | "linux"
            | "netbsd"
            | "openbsd"
            | "plan9"
            | "solaris"
            | "windows"
            | "wasip1"
    )
}

fn is_architecture(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "386"
            | "i386"
            | "amd64"
            | "x86_64"
            | "x86-64"
            | "arm"
            | "armhf"
            | "armel"
            | "arm64"
            | "aarch64"
            | "loong64"
            | "mips"
            | "mipsle"
            | "mips64"
            | "mips64le"
            | "ppc64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "wasm"
    )
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        Self::parse(text)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.os)?;
        if let Some(version) = &self.os_version {
            write!(f, "({version})")?;
        }
        write!(f, "/{}", self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_variants() {
        for (input, shown) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux/arm/6", "linux/arm/v6"),
        ] {
            assert_eq!(Platform::parse(input).unwrap().to_string(), shown, "{input}");
        }
        for bad in ["", "/", "linux/", "linux/amd64/v1/x", "li nux/amd64", "nosuch"] {
            assert!(Platform::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn older_variants_run_and_newer_do_not() {
        let [v6, v7, v8] =
            ["linux/arm/v6", "linux/arm/v7", "linux/arm/v8"].map(|p| Platform::parse(p).unwrap());
        assert_eq!(v7.rank(&v7), Some(0));
        assert_eq!(v7.rank(&v6), Some(1));
        assert_eq!(v7.rank(&v8), None);
        assert_eq!(v7.rank(&Platform::new("linux", "amd64")), None);
        let amd64 = Platform::parse("linux/amd64/v2").unwrap();
        let ranks = ["linux/amd64/v2", "linux/amd64", "linux/386", "linux/amd64/v3", "windows/386"]
            .map(|other| amd64.rank(&Platform::parse(other).unwrap()));
        assert_eq!(ranks, [Some(0), Some(1), Some(100), None, None]);
    }
}
