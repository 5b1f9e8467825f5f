//! Splitting an instruction's line into keyword, flags and words.

/// The blanks that separate words of an instruction.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// Keyword, flags as written (`--name=value`), and the rest of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command<'a> {
    pub(crate) keyword: &'a str,
    pub(crate) flags: Vec<String>,
    pub(crate) rest: &'a str,
}

/// Splits a logical line.
pub(crate) fn command(line: &str, escape: char) -> Command<'_> {
    let line = line.trim();
    let Some(end) = line.find(BLANKS) else { return Command { keyword: line, flags: Vec::new(), rest: "" } };
    let (keyword, tail) = line.split_at_checked(end).unwrap_or((line, ""));
    let (flags, rest) = flags(tail.trim_start_matches(BLANKS), escape);
    Command { keyword, flags, rest: rest.trim() }
}

/// Takes the words that begin with `--` off a line.
///
/// The reference goes by bytes here: a byte of a longer character becomes a character of its own in
/// a flag, and 0x85 and 0xA0 separate words.
fn flags(line: &str, escape: char) -> (Vec<String>, &str) {
    enum At {
        Blank,
        Word,
        Quote(u8),
    }
    let bytes = line.as_bytes();
    let is_escape = |byte: u8| u32::from(byte) == escape as u32;
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    let mut at = At::Blank;
    let mut pos = 0;
    while let Some(&byte) = bytes.get(pos) {
        match at {
            At::Blank => {
                if is_blank(byte) {
                    pos += 1;
                    continue;
                }
                if byte != b'-' || bytes.get(pos + 1) != Some(&b'-') {
                    return (words, tail(line, pos));
                }
                at = At::Word;
                word.reserve(32);
                continue;
            }
            At::Word => match byte {
                _ if is_blank(byte) => {
                    if word == "--" {
                        return (words, tail(line, pos));
                    }
                    if quoted || !word.is_empty() {
                        words.push(std::mem::take(&mut word));
                    }
                    quoted = false;
                    at = At::Blank;
                }
                b'\'' | b'"' => {
                    quoted = true;
                    at = At::Quote(byte);
                }
                _ if is_escape(byte) => {
                    pos += 1;
                    word.extend(bytes.get(pos).map(|byte| char::from(*byte)));
                }
                _ => word.push(char::from(byte)),
            },
            At::Quote(quote) => match byte {
                _ if byte == quote => at = At::Word,
                _ if is_escape(byte) => {
                    pos += 1;
                    word.extend(bytes.get(pos).map(|byte| char::from(*byte)));
                }
                _ => word.push(char::from(byte)),
            },
        }
        pos += 1;
    }
    if !matches!(at, At::Blank) && word != "--" && (quoted || !word.is_empty()) {
        words.push(word);
    }
    (words, "")
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0x85 | 0xa0)
}

/// The rest of a line from a byte offset, or from the next character when that is inside one.
fn tail(line: &str, mut pos: usize) -> &str {
    while !line.is_char_boundary(pos) {
        pos += 1;
    }
    line.get(pos..).unwrap_or("")
}

/// Words separated by blanks; quotes mean nothing.
pub(crate) fn plain(rest: &str) -> Vec<String> {
    if rest.is_empty() {
        return Vec::new();
    }
    let mut words = Vec::new();
    let mut left = rest;
    loop {
        match left.split_once(BLANKS) {
            None => {
                words.push(left.to_owned());
                return words;
            }
            Some((word, tail)) => {
                words.push(word.to_owned());
                left = tail.trim_start_matches(BLANKS);
            }
        }
    }
}

/// The first word and the rest of the line, when there is a rest (`ENV key the rest`).
pub(crate) fn first_and_rest(rest: &str) -> Option<(&str, &str)> {
    rest.split_once(BLANKS).map(|(word, tail)| (word, tail.trim_start_matches(BLANKS)))
}

/// Words separated by blanks outside quotes; quotes and escapes stay in the words. An escape character at the end of the
/// line escapes nothing and is left out.
pub(crate) fn quoted(rest: &str, escape: char) -> Vec<&str> {
    let mut words = Vec::new();
    // Where the word at hand begins.
    let mut begin = None;
    let mut quote: Option<char> = None;
    let mut chars = rest.char_indices();
    let mut end = rest.len();
    while let Some((at, ch)) = chars.next() {
        match quote {
            None if ch.is_whitespace() => {
                if let Some(word) = begin.take().and_then(|begin| rest.get(begin..at)) {
                    words.push(word);
                }
                continue;
            }
            None => {
                begin.get_or_insert(at);
                if ch == '\'' || ch == '"' {
                    quote = Some(ch);
                }
            }
            Some(open) if ch == open => quote = None,
            Some(_) => {}
        }
        // Between single quotes nothing is escaped.
        if ch == escape && quote != Some('\'') && chars.next().is_none() {
            end = at;
        }
    }
    if let Some(word) = begin.and_then(|begin| rest.get(begin..end)).filter(|word| !word.is_empty()) {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let got = command("COPY  --chown='a b' --x=\\\"y -- --z a", '\\');
        assert_eq!((got.keyword, got.rest), ("COPY", "--z a"));
        assert_eq!(got.flags, ["--chown=a b", "--x=\"y"]);
        assert_eq!(command("RUN", '\\').keyword, "RUN");
        assert_eq!(command("run --é=à b", '\\').flags, ["--Ã©=Ã"]);
    }

    #[test]
    fn words() {
        assert_eq!(plain("a  b\tc"), ["a", "b", "c"]);
        assert_eq!(
            quoted("a='b c' d=\"e\\\" f\" g\\ h ''", '\\'),
            ["a='b c'", "d=\"e\\\" f\"", "g\\ h", "''"]
        );
        assert_eq!(first_and_rest("a  b c"), Some(("a", "b c")));
        assert_eq!(first_and_rest("a"), None);
    }
}
