//! "did you mean": the nearest of some names.

use crate::limits::MAX_SUGGESTIONS;

/// Names farther away than this are not suggested.
const MAX_DISTANCE: usize = 2;

/// The first of `options` with the smallest edit distance to `word`, if that is at most two edits.
///
/// None when `word` is one of the options: then spelling is not what is wrong.
pub(crate) fn nearest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 256 {
        return None;
    }
    let mut best: Option<(&str, usize)> = None;
    let len = word.chars().count();
    for (seen, option) in options.into_iter().enumerate() {
        if option == word || seen > MAX_SUGGESTIONS {
            return None;
        }
        // Each edit changes the length by at most one.
        if option.len() > 300 || option.chars().count().abs_diff(len) > MAX_DISTANCE {
            continue;
        }
        let distance = distance(word, option);
        if distance <= MAX_DISTANCE && best.is_none_or(|(_, least)| distance < least) {
            best = Some((option, distance));
        }
    }
    best.map(|(option, _)| option)
}

/// As [`nearest`], blind to case: `options` are in upper case, and so is the answer when `word` is.
pub(crate) fn nearest_ignoring_case<'a>(
    word: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let upper = word.to_uppercase();
    let found = nearest(&upper, options)?;
    Some(if word == upper { found.to_owned() } else { found.to_lowercase() })
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut cells = row.iter_mut();
        if let Some(first) = cells.next() {
            *first = left;
        }
        for (cell, cb) in cells.zip(&b) {
            let above = *cell;
            left = (above + 1).min(left + 1).min(diagonal + usize::from(ca != *cb));
            diagonal = above;
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("FRO", "FROM"), 1);
    }

    #[test]
    fn nearest_wins() {
        assert_eq!(nearest("PATHS", ["HOME", "PATH"]), Some("PATH"));
        assert_eq!(nearest("PATH", ["PATH"]), None);
        assert_eq!(nearest_ignoring_case("FORM", ["FROM", "RUN"]).as_deref(), Some("FROM"));
    }
}
