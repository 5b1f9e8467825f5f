//! Heredocs: `<<EOF`, `<<-EOF`, `3<<"EOF"`.

use crate::expand::{ExpandError, Expander};

/// A here-document attached to an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Heredoc {
    /// The word that ends it, and the name of the file that COPY makes of it.
    pub name: String,
    /// The number before `<<`; 0 without one.
    pub descriptor: u32,
    /// Whether variables in its body are expanded: not when the word is quoted.
    pub expand: bool,
    /// Whether leading tabs are cut (`<<-`).
    pub chomp: bool,
    /// The body, lines with their ends.
    pub content: String,
}

/// Reads a word as the head of a heredoc; nothing when it is something else.
///
/// # Errors
///
/// When quotes in the word are not closed.
pub(crate) fn head(word: &str) -> Result<Option<Heredoc>, ExpandError> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let Some(tail) = word.get(digits..).and_then(|tail| tail.strip_prefix("<<")) else { return Ok(None) };
    let (chomp, tail) = match tail.strip_prefix('-') {
        Some(tail) => (true, tail),
        None => (false, tail),
    };
    let rest = tail.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let mut rules = Expander { keep_unset: true, ..Expander::new('\\') };
    let words = rules.words(rest, &())?;
    let [name] = words.as_slice() else { return Ok(None) };
    rules.raw_quotes = true;
    let raw = rules.words(rest, &())?;
    let [raw] = raw.as_slice() else { return Ok(None) };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(Heredoc {
        expand: quotes(name) == quotes(raw),
        name: name.clone(),
        descriptor: word.get(..digits).and_then(|text| text.parse().ok()).unwrap_or(0),
        chomp,
        content: String::new(),
    }))
}

/// All heads of heredocs in an instruction.
///
/// # Errors
///
/// As [`head`]; a line whose quotes are not closed has none.
pub(crate) fn heads(line: &str) -> Result<Vec<Heredoc>, ExpandError> {
    let rules = Expander { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Expander::new('\\') };
    let mut found = Vec::new();
    for word in rules.words(line, &()).unwrap_or_default() {
        found.extend(head(&word)?);
    }
    Ok(found)
}

/// The body without the tabs at the start of its lines.
pub(crate) fn chomp(content: &str) -> String {
    content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_heredocs() {
        let doc = head("3<<-\"EOF\"").unwrap().unwrap();
        assert_eq!((doc.name.as_str(), doc.descriptor, doc.expand, doc.chomp), ("EOF", 3, false, true));
        assert!(head("<<EOF").unwrap().unwrap().expand);
        for word in ["<<", "<<-", "a<<EOF", "<<<EOF", "<<a b"] {
            assert_eq!(head(word).unwrap(), None, "{word}");
        }
        assert_eq!(heads("cat <<A > x && y << 'B' '<<C'").unwrap().len(), 2);
        assert_eq!(chomp("\ta\n\t\tb\nc"), "a\nb\nc");
    }
}
