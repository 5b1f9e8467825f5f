//! One pattern. The reference turns patterns into regular expressions character by character, even inside brackets;
//! what that gives is part of the language, so the same expression is built here and matched without backtracking.

/// A pattern of an ignore file.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) text: String,
    pub(super) exception: bool,
    how: How,
}

#[derive(Clone, Debug)]
enum How {
    Exact,
    Prefix(String),
    Suffix(String),
    Expression(Vec<Token>),
}

#[derive(Clone, Debug)]
enum Token {
    /// One of a set, once or any number of times.
    One(Set, bool),
    /// Nothing, or anything that ends in a slash.
    Directories,
}

#[derive(Clone, Debug, Default)]
struct Set {
    ranges: Vec<(char, char)>,
    negated: bool,
    /// Everything but a line feed.
    dot: bool,
}

impl Set {
    fn has(&self, ch: char) -> bool {
        if self.dot {
            return ch != '\n';
        }
        self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&ch)) != self.negated
    }
}

impl Pattern {
    pub(super) fn parse(text: &str, exception: bool) -> Option<Self> {
        if !is_valid(text) {
            return None;
        }
        let how = compile(text)?;
        Some(Self { text: text.to_owned(), exception, how })
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match &self.how {
            How::Exact => path == self.text,
            How::Prefix(prefix) => path.starts_with(prefix),
            How::Suffix(suffix) => path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path),
            How::Expression(tokens) => run(tokens, path),
        }
    }

    pub(super) fn matches_or_parent(&self, path: &str) -> bool {
        if self.matches(path) {
            return true;
        }
        path.match_indices('/').any(|(at, _)| path.get(..at).is_some_and(|parent| self.matches(parent)))
    }

    /// Whether something below a directory could match: their fixed beginnings agree.
    pub(super) fn may_match_below(&self, dir: &str) -> bool {
        let fixed = self.text.find(['*', '?', '[', '\\']).unwrap_or(self.text.len());
        let fixed = self.text.get(..fixed).unwrap_or("");
        let inside = format!("{dir}/");
        fixed.starts_with(&inside) || inside.starts_with(fixed)
    }
}

/// The syntax of Go's `filepath.Match`.
fn is_valid(text: &str) -> bool {
    let mut chars = text.chars().peekable();
    while let Some(ch) = chars.next() {
        match ch {
            '\\' if chars.next().is_none() => return false,
            '[' => {
                if chars.peek() == Some(&'^') {
                    chars.next();
                }
                let mut ranges = 0;
                loop {
                    if ranges > 0 && chars.peek() == Some(&']') {
                        chars.next();
                        break;
                    }
                    let mut one = || match chars.next() {
                        None | Some('-' | ']') => false,
                        Some('\\') => chars.next().is_some(),
                        Some(_) => true,
                    };
                    if !one() {
                        return false;
                    }
                    if chars.peek() == Some(&'-') {
                        chars.next();
                        let ok = match chars.next() {
                            None | Some('-' | ']') => false,
                            Some('\\') => chars.next().is_some(),
                            Some(_) => true,
                        };
                        if !ok {
                            return false;
                        }
                    }
                    if chars.peek().is_none() {
                        return false;
                    }
                    ranges += 1;
                }
            }
            _ => {}
        }
    }
    true
}

fn compile(text: &str) -> Option<How> {
    #[derive(PartialEq)]
    enum Kind {
        Exact,
        Prefix,
        Suffix,
        Expression,
    }
    let mut kind = Kind::Exact;
    let mut expression = String::new();
    let scanned = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chars = scanned.chars().peekable();
    let mut first = true;
    while let Some(ch) = chars.next() {
        match ch {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                if chars.peek() == Some(&'/') {
                    chars.next();
                }
                if chars.peek().is_none() {
                    if kind == Kind::Exact {
                        kind = Kind::Prefix;
                    } else {
                        expression.push_str(".*");
                        kind = Kind::Expression;
                    }
                } else {
                    expression.push_str("(.*/)?");
                    kind = Kind::Expression;
                }
                if first {
                    kind = Kind::Suffix;
                }
            }
            '*' => {
                expression.push_str("[^/]*");
                kind = Kind::Expression;
            }
            '?' => {
                expression.push_str("[^/]");
                kind = Kind::Expression;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                expression.push('\\');
                expression.push(ch);
            }
            '\\' => {
                expression.push('\\');
                if let Some(next) = chars.next() {
                    expression.push(next);
                    kind = Kind::Expression;
                }
            }
            '[' | ']' => {
                expression.push(ch);
                kind = Kind::Expression;
            }
            _ => expression.push(ch),
        }
        first = false;
    }
    Some(match kind {
        Kind::Exact => How::Exact,
        Kind::Prefix => How::Prefix(text.get(..text.len() - 2)?.to_owned()),
        Kind::Suffix => How::Suffix(text.get(2..)?.to_owned()),
        Kind::Expression => How::Expression(tokens(&expression)?),
    })
}

/// Parses the expressions that [`compile`] makes.
fn tokens(expression: &str) -> Option<Vec<Token>> {
    let mut out = Vec::new();
    let mut rest = expression;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix("(.*/)?") {
            out.push(Token::Directories);
            rest = tail;
            continue;
        }
        let mut chars = rest.chars();
        let set = match chars.next()? {
            '[' => class(&mut chars)?,
            '\\' => Set { ranges: escape(chars.next()?)?, ..Set::default() },
            '.' => Set { dot: true, ..Set::default() },
            '^' => return None,
            ch => Set { ranges: vec![(ch, ch)], ..Set::default() },
        };
        rest = chars.as_str();
        let star = rest.strip_prefix('*');
        out.push(Token::One(set, star.is_some()));
        rest = star.unwrap_or(rest);
    }
    Some(out)
}

fn class(chars: &mut std::str::Chars<'_>) -> Option<Set> {
    let mut set = Set::default();
    if let Some(tail) = chars.as_str().strip_prefix('^') {
        set.negated = true;
        *chars = tail.chars();
    }
    let mut first = true;
    loop {
        let ch = chars.next()?;
        if ch == ']' && !first {
            return Some(set);
        }
        first = false;
        let from = if ch == '\\' { escape(chars.next()?)? } else { vec![(ch, ch)] };
        let [(low, only)] = from.as_slice() else {
            set.ranges.extend(from);
            continue;
        };
        let (low, only) = (*low, *only);
        let tail = chars.as_str();
        if low == only && tail.starts_with('-') && !tail.starts_with("-]") {
            chars.next();
            let ch = chars.next()?;
            let to = if ch == '\\' { escape(chars.next()?)? } else { vec![(ch, ch)] };
            let high = to.first()?.0;
            if to.len() != 1 || high < low {
                return None;
            }
            set.ranges.push((low, high));
        } else {
            set.ranges.push((low, only));
        }
    }
}

fn escape(ch: char) -> Option<Vec<(char, char)>> {
    let one = |ch: char| Some(vec![(ch, ch)]);
    match ch {
        'd' => Some(vec![('0', '9')]),
        'w' => Some(vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
        's' => Some(vec![('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')]),
        'a' => one('\u{7}'),
        'f' => one('\u{c}'),
        't' => one('\t'),
        'n' => one('\n'),
        'r' => one('\r'),
        'v' => one('\u{b}'),
        ch if ch.is_ascii_alphanumeric() || !ch.is_ascii() => None,
        ch => one(ch),
    }
}

/// Follows all ways through the tokens at once.
fn run(tokens: &[Token], path: &str) -> bool {
    // Twice as many states as tokens: odd ones are inside `Directories`.
    let mut now = vec![false; tokens.len() * 2 + 1];
    open(tokens, &mut now, 0);
    for ch in path.chars() {
        let mut next = vec![false; now.len()];
        for (state, active) in now.iter().enumerate() {
            if !*active {
                continue;
            }
            let (index, inside) = (state / 2, state % 2 == 1);
            match tokens.get(index) {
                None => {}
                Some(Token::One(set, star)) => {
                    if set.has(ch) {
                        open(tokens, &mut next, if *star { index } else { index + 1 });
                    }
                }
                Some(Token::Directories) if inside && ch != '\n' => {
                    if let Some(slot) = next.get_mut(state) {
                        *slot = true;
                    }
                    if ch == '/' {
                        open(tokens, &mut next, index + 1);
                    }
                }
                Some(Token::Directories) => {}
            }
        }
        now = next;
    }
    now.last() == Some(&true)
}

/// Marks a state and those that it reaches without a character.
fn open(tokens: &[Token], states: &mut [bool], mut index: usize) {
    loop {
        if let Some(slot) = states.get_mut(index * 2) {
            *slot = true;
        }
        match tokens.get(index) {
            Some(Token::Directories) => {
                if let Some(slot) = states.get_mut(index * 2 + 1) {
                    *slot = true;
                }
            }
            Some(Token::One(_, true)) => {}
            _ => return,
        }
        index += 1;
    }
}
