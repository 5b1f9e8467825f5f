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
    /// An expression that cannot be: an error once it is asked.
    Broken,
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
            How::Broken => false,
        }
    }

    pub(super) const fn is_broken(&self) -> bool {
        matches!(self.how, How::Broken)
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

/// Whether `filepath.Match(text, ".")` finds no error. It looks at a part between stars only when those before match.
fn is_valid(text: &str) -> bool {
    let (mut rest, mut name) = (text, ".");
    while !rest.is_empty() {
        let chunk_start = rest.trim_start_matches('*');
        let star = chunk_start.len() < rest.len();
        let (chunk, tail) = chunk_start.split_at_checked(chunk_end(chunk_start)).unwrap_or((chunk_start, ""));
        rest = tail;
        if star && chunk.is_empty() {
            return true;
        }
        let mut found = None;
        let skips = if star { name.len() } else { 0 };
        for skip in 0..=skips {
            let Some(left) = match_chunk(chunk, name.get(skip..).unwrap_or("")) else { return false };
            if let Some(left) = left
                && (left.is_empty() || !rest.is_empty())
            {
                found = Some(left);
                break;
            }
        }
        match found {
            Some(left) => name = left,
            None => return true,
        }
    }
    true
}

/// Where the next star outside brackets stands.
fn chunk_end(text: &str) -> usize {
    let mut inside = false;
    let mut chars = text.char_indices();
    while let Some((at, ch)) = chars.next() {
        match ch {
            '\\' => {
                chars.next();
            }
            '[' => inside = true,
            ']' => inside = false,
            '*' if !inside => return at,
            _ => {}
        }
    }
    text.len()
}

/// Matches a part without stars: `None` when it is malformed, `Some(None)` when it does not match.
fn match_chunk<'a>(chunk: &str, name: &'a str) -> Option<Option<&'a str>> {
    let mut chars = chunk.chars().peekable();
    let mut rest = name.chars();
    let mut fits = true;
    while let Some(ch) = chars.next() {
        let have = rest.next();
        fits &= have.is_some();
        match ch {
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let (mut ranges, mut inside) = (0, false);
                loop {
                    if ranges > 0 && chars.next_if_eq(&']').is_some() {
                        break;
                    }
                    let low = class_char(&mut chars)?;
                    let high = if chars.next_if_eq(&'-').is_some() { class_char(&mut chars)? } else { low };
                    inside |= have.is_some_and(|have| (low..=high).contains(&have));
                    ranges += 1;
                }
                fits &= inside != negated;
            }
            '?' => fits &= have != Some('/'),
            '\\' => {
                let escaped = chars.next()?;
                fits &= have == Some(escaped);
            }
            ch => fits &= have == Some(ch),
        }
    }
    Some(fits.then_some(rest.as_str()))
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    let ch = match chars.next()? {
        '-' | ']' => return None,
        '\\' => chars.next()?,
        ch => ch,
    };
    chars.peek().map(|_| ch)
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
                match chars.next() {
                    Some(next) => {
                        expression.push(next);
                        kind = Kind::Expression;
                    }
                    // In the reference this escapes the end of the expression.
                    None => expression.push_str("$.*"),
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
        Kind::Expression => tokens(&expression).map_or(How::Broken, How::Expression),
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
            '\\' => match chars.next()? {
                // Assertions and classes by name: nothing that a path's pattern can mean.
                'b' | 'B' | 'A' | 'z' | 'C' | 'Q' | 'E' | 'p' | 'P' => Set::default(),
                ch => Set { ranges: escape(ch)?, ..Set::default() },
            },
            '.' => Set { dot: true, ..Set::default() },
            // The start of the text cannot come again.
            '^' => Set::default(),
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
                Some(Token::One(set, star)) if set.has(ch) => {
                    open(tokens, &mut next, if *star { index } else { index + 1 });
                }
                Some(Token::One(..)) => {}
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
