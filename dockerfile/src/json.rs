//! Exec form: a JSON array of strings, as Go's `encoding/json` reads it.

use crate::limits::MAX_JSON_DEPTH;

/// What text that may be exec form turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ExecForm {
    /// An array of strings.
    Words(Vec<String>),
    /// A valid array that holds something else: an error.
    NotStrings,
    /// Not a JSON array: shell form.
    Shell,
}

/// Reads exec form.
pub(crate) fn exec_form(text: &str) -> ExecForm {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return ExecForm::Shell;
    }
    let mut reader = Reader { rest: text };
    match reader.array() {
        Some(words) if reader.at_end() => words.map_or(ExecForm::NotStrings, ExecForm::Words),
        _ => ExecForm::Shell,
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn at_end(&mut self) -> bool {
        self.blanks();
        self.rest.is_empty()
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
    }

    fn eat(&mut self, ch: char) -> bool {
        self.blanks();
        match self.rest.strip_prefix(ch) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// The outer array: `None` when it is not JSON, `Some(None)` when it holds more than strings.
    fn array(&mut self) -> Option<Option<Vec<String>>> {
        let mut words = Some(Vec::new());
        if !self.eat('[') {
            return None;
        }
        if self.eat(']') {
            return Some(words);
        }
        loop {
            self.blanks();
            if self.rest.starts_with('"') {
                let word = self.string()?;
                if let Some(words) = &mut words {
                    words.push(word);
                }
            } else {
                self.other()?;
                words = None;
            }
            if self.eat(']') {
                return Some(words);
            }
            if !self.eat(',') {
                return None;
            }
        }
    }

    /// Any value that is not a string, with what it holds. Not recursive: nesting is the file's choice.
    fn other(&mut self) -> Option<()> {
        let mut open: Vec<char> = Vec::new();
        loop {
            self.blanks();
            if self.eat('[') {
                open.push(']');
                if !self.eat(']') {
                    continue;
                }
                open.pop();
            } else if self.eat('{') {
                open.push('}');
                if !self.eat('}') {
                    self.key()?;
                    continue;
                }
                open.pop();
            } else if self.rest.starts_with('"') {
                self.string()?;
            } else {
                self.scalar()?;
            }
            if open.len() > MAX_JSON_DEPTH {
                return None;
            }
            // What follows a value: the ends of what holds it, or a comma.
            loop {
                let Some(close) = open.last().copied() else { return Some(()) };
                if self.eat(close) {
                    open.pop();
                } else if self.eat(',') {
                    if close == '}' {
                        self.key()?;
                    }
                    break;
                } else {
                    return None;
                }
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.blanks();
        self.string()?;
        self.eat(':').then_some(())
    }

    fn scalar(&mut self) -> Option<()> {
        for word in ["true", "false", "null"] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Some(());
            }
        }
        let len = self.rest.find(|ch: char| !matches!(ch, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
        let (number, rest) = self.rest.split_at_checked(len.unwrap_or(self.rest.len()))?;
        self.rest = rest;
        // Go keeps numbers as 64-bit floats and refuses what is too large for them.
        (is_number(number) && number.parse::<f64>().is_ok_and(f64::is_finite)).then_some(())
    }

    fn string(&mut self) -> Option<String> {
        let mut out = String::new();
        self.rest = self.rest.strip_prefix('"')?;
        loop {
            let len = self.rest.find(|ch: char| ch == '"' || ch == '\\' || ch < ' ')?;
            let (text, rest) = self.rest.split_at_checked(len)?;
            out.push_str(text);
            self.rest = rest;
            if let Some(rest) = self.rest.strip_prefix('"') {
                self.rest = rest;
                return Some(out);
            }
            self.rest = self.rest.strip_prefix('\\')?;
            let escape = self.rest.chars().next()?;
            self.rest = self.rest.get(escape.len_utf8()..)?;
            out.push(match escape {
                '"' | '\\' | '/' => escape,
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => self.unicode()?,
                _ => return None,
            });
        }
    }

    /// Four digits behind `\u`, with the second half of a pair; half a pair is U+FFFD.
    fn unicode(&mut self) -> Option<char> {
        let high = self.hex()?;
        if !(0xd800..0xe000).contains(&high) {
            return char::from_u32(high);
        }
        if high < 0xdc00
            && let Some(rest) = self.rest.strip_prefix("\\u")
        {
            let mut ahead = Reader { rest };
            if let Some(low @ 0xdc00..0xe000) = ahead.hex() {
                self.rest = ahead.rest;
                return char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00));
            }
        }
        Some(char::REPLACEMENT_CHARACTER)
    }

    fn hex(&mut self) -> Option<u32> {
        let (digits, rest) = self.rest.split_at_checked(4)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        self.rest = rest;
        u32::from_str_radix(digits, 16).ok()
    }
}

/// JSON's grammar of numbers.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|text| digits(text.strip_prefix(['+', '-']).unwrap_or(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        match exec_form(text) {
            ExecForm::Words(words) => Some(words),
            _ => None,
        }
    }

    #[test]
    fn forms() {
        assert_eq!(words(r#"["a", "b\tA" ]  "#).unwrap(), ["a", "b\tA"]);
        assert_eq!(words("[]").unwrap(), Vec::<String>::new());
        assert_eq!(words("[\"\\ud83d\\ude00\\ud800x\"]").unwrap(), ["😀\u{fffd}x"]);
        for text in ["[1]", r#"["a", null]"#, r#"["a",{"b":[1,{}, []]},-1.5e3]"#, "[[[]]]", "[true,\"x\"]"] {
            assert_eq!(exec_form(text), ExecForm::NotStrings, "{text}");
        }
        for text in [
            "",
            "a",
            "['a']",
            "[\"a\",]",
            "[\"a\"] x",
            "[\"a\"",
            "[01]",
            "[{]}",
            "[1e999]",
            "[\"\\x\"]",
            "[{\"a\"}]",
        ] {
            assert_eq!(exec_form(text), ExecForm::Shell, "{text}");
        }
    }
}
