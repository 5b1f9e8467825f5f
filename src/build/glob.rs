//! Wildcards in COPY sources: Go's `filepath.Match`, component by component.

use super::tree::{Tree, components};

/// `pattern` holds a wildcard.
pub(super) fn is_pattern(pattern: &[u8]) -> bool {
    pattern.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

/// The paths of `tree` that match `pattern`, sorted. A `*` does not cross a slash. Links are followed in the part
/// before the first wildcard, not in what matches.
pub(super) fn expand(tree: &Tree, pattern: &[u8]) -> Vec<Vec<u8>> {
    let all: Vec<&[u8]> = components(pattern).collect();
    let plain = all.iter().take_while(|name| !is_pattern(name)).count();
    let (plain, wanted) = all.split_at(plain);
    let Some(base) = tree.resolve(&plain.join(&b'/')) else { return Vec::new() };
    let prefix = plain.join(&b'/');
    let is_match = |path: &&Vec<u8>| {
        let names: Vec<&[u8]> = components(path).collect();
        names.len() == wanted.len() && wanted.iter().zip(&names).all(|(pattern, name)| matches(pattern, name))
    };
    let below: Vec<Vec<u8>> = tree.below(&base).into_iter().map(|(path, _)| path).collect();
    let join = |path: &Vec<u8>| {
        if prefix.is_empty() { path.clone() } else { [&prefix, path.as_slice()].join(&b'/') }
    };
    below.iter().filter(is_match).map(join).collect()
}

/// Whether `name` matches `pattern`. Linear in the name for each star: no exponential case.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() || p < pattern.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(_) => one(pattern, p, name.get(n).copied()),
            None => None,
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                n += 1;
            }
            // Let the last star take one byte more.
            (None, Some((at, from))) if from < name.len() => {
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
            _ => return false,
        }
    }
    true
}

/// Matches the pattern's element at `p` with `byte`; where the next one begins.
fn one(pattern: &[u8], p: usize, byte: Option<u8>) -> Option<usize> {
    let byte = byte?;
    match pattern.get(p)? {
        b'?' => Some(p + 1),
        b'\\' => (pattern.get(p + 1) == Some(&byte)).then_some(p + 2),
        b'[' => {
            let mut at = p + 1;
            let negated = pattern.get(at) == Some(&b'^');
            at += usize::from(negated);
            let mut found = false;
            let first = at;
            while pattern.get(at) != Some(&b']') || at == first {
                let low = *pattern.get(at)?;
                let (high, next) = match (pattern.get(at + 1), pattern.get(at + 2)) {
                    (Some(b'-'), Some(high)) if *high != b']' => (*high, at + 3),
                    _ => (low, at + 1),
                };
                found |= (low..=high).contains(&byte);
                at = next;
            }
            (found != negated).then_some(at + 1)
        }
        literal => (*literal == byte).then_some(p + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "abc", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.md", false),
            ("a*b*c", "aXbYbZc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("", "", true),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
