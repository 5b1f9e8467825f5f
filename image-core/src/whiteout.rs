//! How a layer says that something below it is gone.
//!
//! Source: image-spec `layer.md`, *Whiteouts*.

/// Before the name of what is gone: `.wh.NAME`.
pub const PREFIX: &[u8] = b".wh.";
/// The name that empties a directory of everything below.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
/// Before names that are aufs's own affair and no part of a layer.
pub const META_PREFIX: &[u8] = b".wh..wh.";

/// What the last component of a path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Name<'a> {
    /// An ordinary entry.
    Plain,
    /// The entry of this name in the same directory is gone.
    Whiteout(&'a [u8]),
    /// Everything in the directory from layers below is gone.
    Opaque,
    /// A name that no layer may have: a bare `.wh.`, `.wh..`, `.wh...` or aufs's own.
    Invalid,
}

/// Reads the last component of a path.
///
/// ```
/// use image_core::whiteout::{Name, read};
/// assert_eq!(read(b".wh.passwd"), Name::Whiteout(b"passwd"));
/// assert_eq!(read(b".wh..wh..opq"), Name::Opaque);
/// assert_eq!(read(b".wh."), Name::Invalid);
/// ```
#[must_use]
pub fn read(name: &[u8]) -> Name<'_> {
    match name.strip_prefix(PREFIX) {
        None => Name::Plain,
        Some(_) if name == OPAQUE => Name::Opaque,
        Some(b"" | b"." | b"..") => Name::Invalid,
        Some(_) if name.starts_with(META_PREFIX) => Name::Invalid,
        Some(hidden) => Name::Whiteout(hidden),
    }
}
