//! Looking for bytes of a kind, sixteen at a time.

/// Where the first byte is for which `is` holds.
///
/// `is` is asked for all bytes of a block, also behind the first: it must be free of branches.
#[inline]
pub(crate) fn position(bytes: &[u8], is: impl Fn(u8) -> bool) -> Option<usize> {
    let (blocks, rest) = bytes.as_chunks::<16>();
    for (number, block) in blocks.iter().enumerate() {
        if let Some(at) = in_block(block, &is) {
            return Some(16 * number + at);
        }
    }
    match bytes.last_chunk::<16>() {
        // Its first bytes were looked at, and are none.
        Some(block) if !rest.is_empty() => in_block(block, &is).map(|at| bytes.len() - 16 + at),
        Some(_) => None,
        None => rest.iter().position(|byte| is(*byte)),
    }
}

/// In this form the compiler compares all sixteen with one instruction.
#[inline]
fn in_block(block: &[u8; 16], is: impl Fn(u8) -> bool) -> Option<usize> {
    let mut found = [0; 16];
    for (found, byte) in found.iter_mut().zip(block) {
        *found = if is(*byte) { 0xff } else { 0 };
    }
    let found = u128::from_le_bytes(found);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// Whether there is a byte for which `is` holds.
pub(crate) fn any(bytes: &[u8], is: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(false, |seen, byte| seen | is(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_of_a_kind() {
        for len in 0..50 {
            let mut text = vec![b'x'; len];
            assert_eq!(position(&text, |byte| byte == b'$'), None);
            for at in (0..len).rev() {
                text[at] = b'$';
                assert_eq!(position(&text, |byte| byte == b'$'), Some(at));
            }
        }
    }
}
