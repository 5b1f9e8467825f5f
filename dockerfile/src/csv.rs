//! One line of comma-separated values, as `--mount` and `--device` are written.

/// Splits a line into its fields; quotes may hold commas, doubled quotes stand for one.
///
/// # Errors
///
/// With the reason, when quotes are not where they belong or the line is empty.
pub(crate) fn fields(line: &str) -> Result<Vec<String>, &'static str> {
    let line = line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err("EOF");
    }
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, tail) = match rest.split_once(',') {
                Some((field, tail)) => (field, Some(tail)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err("bare \" in non-quoted field");
            }
            fields.push(field.to_owned());
            match tail {
                Some(tail) => rest = tail,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut inner = quoted;
        loop {
            let Some((text, tail)) = inner.split_once('"') else {
                return Err("extraneous or missing \" in quoted-field");
            };
            field.push_str(text);
            if let Some(tail) = tail.strip_prefix('"') {
                field.push('"');
                inner = tail;
            } else if let Some(tail) = tail.strip_prefix(',') {
                fields.push(field);
                rest = tail;
                break;
            } else if tail.is_empty() {
                fields.push(field);
                return Ok(fields);
            } else {
                return Err("extraneous or missing \" in quoted-field");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(fields("a=1,b").unwrap(), ["a=1", "b"]);
        assert_eq!(fields("\"a,b\"\"c\",d,").unwrap(), ["a,b\"c", "d", ""]);
        for bad in ["", "a\"b", "\"a", "\"a\"b"] {
            assert!(fields(bad).is_err(), "{bad}");
        }
    }
}
