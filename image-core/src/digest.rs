//! Content digests: `sha256:9f86…`.
//!
//! Source: image-spec, `descriptor.md`, section *Digests*.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::error::DigestError;

/// A registered digest algorithm.
///
/// sha384 is read because references and old registries carry it; nothing here writes it by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256, 32 bytes: what every registry speaks.
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The name as it stands before the colon.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of a digest in bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Always `false`: every algorithm has a length. Present because `len` is.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }

    fn from_name(name: &str) -> Option<Self> {
        match name {
            "sha256" => Some(Self::Sha256),
            "sha384" => Some(Self::Sha384),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }
}

/// The longest digest in bytes.
const MAX: usize = 64;

/// A digest: an algorithm and its bytes, held inline.
///
/// Invariants, by construction:
/// - the algorithm is one that this crate can compute;
/// - the text form is lower-case hex of exactly the algorithm's length, so it is safe as a file name and in a URL.
///
/// ```
/// use image_core::Digest;
/// let digest = Digest::sha256(b"test");
/// assert_eq!(digest.to_string(), "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08");
/// assert_eq!(digest.to_string().parse::<Digest>()?, digest);
/// assert!("sha256:9F86".parse::<Digest>().is_err());
/// # Ok::<(), image_core::DigestError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// Bytes past `algorithm.len()` are zero, so that derived equality and order are right.
    bytes: [u8; MAX],
}

impl Digest {
    /// The SHA-256 of `data`.
    #[must_use]
    pub fn sha256(data: &[u8]) -> Self {
        let mut digester = Digester::new(Algorithm::Sha256);
        digester.update(data);
        digester.finish()
    }

    /// The digest of `data` by `algorithm`.
    #[must_use]
    pub fn of(algorithm: Algorithm, data: &[u8]) -> Self {
        let mut digester = Digester::new(algorithm);
        digester.update(data);
        digester.finish()
    }

    /// The digest whose raw bytes are `bytes`; `None` when they are not as many as `algorithm` makes.
    #[must_use]
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let mut held = [0; MAX];
        held.get_mut(..algorithm.len()).filter(|held| held.len() == bytes.len())?.copy_from_slice(bytes);
        Some(Self { algorithm, bytes: held })
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.algorithm.len()).unwrap_or_default()
    }

    /// The lower-case hex text, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(self.as_bytes())
    }

    /// The first twelve hex characters: what docker's tables show.
    #[must_use]
    pub fn short(&self) -> String {
        hex(self.bytes.get(..6).unwrap_or_default())
    }
}

/// Lower-case hex of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(DIGITS.get(usize::from(nibble)).copied().unwrap_or('0'));
        }
    }
    text
}

fn unhex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed { input: crate::error::excerpt(text) };
        let (name, hex) = text.split_once(':').ok_or_else(malformed)?;
        let Some(algorithm) = Algorithm::from_name(name) else {
            return Err(DigestError::UnknownAlgorithm { input: crate::error::excerpt(text) });
        };
        let hex = hex.as_bytes();
        if hex.len() != algorithm.len() * 2 {
            return Err(malformed());
        }
        let mut bytes = [0; MAX];
        for (out, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let [high, low] = pair else { return Err(malformed()) };
            let (Some(high), Some(low)) = (unhex(*high), unhex(*low)) else { return Err(malformed()) };
            *out = high << 4 | low;
        }
        Ok(Self { algorithm, bytes })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a digest piece by piece.
#[derive(Clone, Debug)]
pub struct Digester(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Digester {
    /// A digester that has seen nothing.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha384 => State::Sha384(Sha384::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match &self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha384(_) => Algorithm::Sha384,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds `data`.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(data),
            State::Sha384(state) => state.update(data),
            State::Sha512(state) => state.update(data),
        }
    }

    /// The digest of everything added.
    #[must_use]
    pub fn finish(self) -> Digest {
        fn inline(algorithm: Algorithm, result: &[u8]) -> Digest {
            let mut bytes = [0; MAX];
            for (out, byte) in bytes.iter_mut().zip(result) {
                *out = *byte;
            }
            Digest { algorithm, bytes }
        }
        match self.0 {
            State::Sha256(state) => inline(Algorithm::Sha256, &state.finalize()),
            State::Sha384(state) => inline(Algorithm::Sha384, &state.finalize()),
            State::Sha512(state) => inline(Algorithm::Sha512, &state.finalize()),
        }
    }
}

impl std::io::Write for Digester {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        assert_eq!(
            Digest::sha256(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert!(Digest::of(Algorithm::Sha512, b"abc").to_string().starts_with("sha512:ddaf35a193617aba"));
        assert!(Digest::of(Algorithm::Sha384, b"abc").to_string().starts_with("sha384:cb00753f45a35e8b"));
    }

    #[test]
    fn refuses_what_is_no_digest() {
        let hex = "a".repeat(64);
        for bad in ["", ":", "sha256", "sha256:", "md5:aa", "sha256:zz", &hex, &format!("sha256:{hex}a")] {
            assert!(bad.parse::<Digest>().is_err(), "{bad:?}");
        }
        assert!(format!("sha256:{}", "A".repeat(64)).parse::<Digest>().is_err(), "upper case");
        assert!(format!("sha256:../{}", "a".repeat(61)).parse::<Digest>().is_err(), "traversal");
    }
}
