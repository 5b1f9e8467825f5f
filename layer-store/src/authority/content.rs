//! The bytes of a file that is to be made.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// The bytes of a file that [`Op::Put`](super::Op::Put) makes: its own, or a part of a buffer that several files share,
/// so that a file of a stream is written from where the stream was read to. Reads as a slice of bytes.
///
/// ```
/// use layer_store::authority::Content;
/// let content = Content::from(b"text".to_vec());
/// assert_eq!(&content[1..], b"ext");
/// assert_eq!(content, Content::from(b"text".to_vec()));
/// ```
#[derive(Clone)]
pub struct Content(Held);

#[derive(Clone)]
enum Held {
    Own(Vec<u8>),
    Part(Arc<dyn AsRef<[u8]> + Send + Sync>, Range<usize>),
}

impl Content {
    /// Some bytes of `buffer`, which stays as it is for as long as the content lives; none when `range` is outside.
    pub(crate) fn part(buffer: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Self {
        Self(Held::Part(buffer, range))
    }
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Own(bytes) => bytes,
            Held::Part(buffer, range) => (**buffer).as_ref().get(range.clone()).unwrap_or_default(),
        }
    }
}

impl AsRef<[u8]> for Content {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Held::Own(bytes))
    }
}

impl Default for Content {
    /// That of an empty file.
    fn default() -> Self {
        Self(Held::Own(Vec::new()))
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Content {}

impl fmt::Debug for Content {
    /// How much it is: files can be large.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_its_bytes() {
        let buffer: Arc<Vec<u8>> = Arc::new((0..100).collect());
        let part = Content::part(buffer.clone(), 10..13);
        assert_eq!(part, Content::from(vec![10, 11, 12]));
        assert_eq!(format!("{part:?}"), "3 bytes");
        let outside = Content::part(buffer, 90..101);
        assert_eq!(outside, Content::default(), "a range outside has no bytes, and does not panic");
    }
}
