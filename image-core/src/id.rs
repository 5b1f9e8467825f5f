//! The identities that must never be mixed up: a layer's content, a stack of layers, an image.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::DigestError;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// Declares that `digest` is one. Only the place that computed or verified it should say so.
            #[must_use]
            pub const fn new(digest: Digest) -> Self {
                Self(digest)
            }

            /// The digest itself.
            #[must_use]
            pub const fn digest(&self) -> &Digest {
                &self.0
            }

            /// The first twelve hex characters.
            #[must_use]
            pub fn short(&self) -> String {
                self.0.short()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
    };
}

identity! {
    /// The digest of a layer's *uncompressed* tar stream (image-spec `config.md`, *Layer DiffID*).
    DiffId
}

identity! {
    /// The identity of an ordered stack of layers (image-spec `config.md`, *Layer ChainID*).
    ChainId
}

identity! {
    /// The digest of an image's config document: what docker calls the image ID.
    ImageId
}

impl ChainId {
    /// The chain ID of `layers`, lowest first; `None` for no layer at all.
    ///
    /// ```
    /// use image_core::{ChainId, DiffId, Digest};
    /// let base = DiffId::new(Digest::sha256(b"base"));
    /// assert_eq!(ChainId::of([base]).map(|chain| *chain.digest()), Some(*base.digest()));
    /// ```
    pub fn of(layers: impl IntoIterator<Item = DiffId>) -> Option<Self> {
        layers.into_iter().fold(None, |chain, layer| Some(Self::append(chain, layer)))
    }

    /// The chain ID of `parent` with `layer` on top.
    #[must_use]
    pub fn append(parent: Option<Self>, layer: DiffId) -> Self {
        match parent {
            None => Self(layer.0),
            Some(parent) => Self(Digest::sha256(format!("{parent} {layer}").as_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_depends_on_the_order() {
        let [a, b] = [b"a", b"b"].map(|data| DiffId::new(Digest::sha256(data)));
        assert_ne!(ChainId::of([a, b]), ChainId::of([b, a]));
        assert_eq!(ChainId::of([]), None);
        let text = format!("{a} {b}");
        assert_eq!(ChainId::of([a, b]), Some(ChainId(Digest::sha256(text.as_bytes()))));
    }
}
