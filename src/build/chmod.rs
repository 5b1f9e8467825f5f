//! Symbolic modes of `--chmod`, as chmod(1) of POSIX reads them, with an empty umask.

/// Which permission bits `clauses` (`u=rwX,go=rX`) make of `mode`.
///
/// The text was checked when the Dockerfile was compiled; what it does not know changes nothing.
pub(super) fn apply(clauses: &str, mode: u32, is_directory: bool) -> u32 {
    clauses.split(',').fold(mode, |mode, clause| clause_on(clause, mode, is_directory))
}

fn clause_on(clause: &str, mut mode: u32, is_directory: bool) -> u32 {
    let who_len = clause.find(['+', '-', '=']).unwrap_or(clause.len());
    let (who, actions) = clause.split_at(who_len);
    let who = if who.is_empty() { "a" } else { who };
    let mut at = 0;
    while let Some(operator) = actions.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = actions.get(at + 1..).unwrap_or_default();
        let length = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let permissions = rest.get(..length).unwrap_or_default();
        let (mask, bits) = bits(who, permissions, mode, is_directory);
        mode = match operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => (mode & !mask) | bits,
        };
        at += 1 + length;
    }
    mode
}

/// Everything that the classes of `who` own, and what `permissions` mean for them.
fn bits(who: &str, permissions: &str, mode: u32, is_directory: bool) -> (u32, u32) {
    let (mut mask, mut bits) = (0, 0);
    let shifts = who.chars().flat_map(|class| match class {
        'u' => vec![6],
        'g' => vec![3],
        'o' => vec![0],
        _ => vec![6, 3, 0],
    });
    for shift in shifts {
        let special = match shift {
            6 => 0o4000,
            3 => 0o2000,
            _ => 0o1000,
        };
        // `=` on a directory leaves set-id bits alone, as GNU chmod does.
        mask |= 0o7 << shift | if is_directory && special != 0o1000 { 0 } else { special };
        for permission in permissions.chars() {
            bits |= match permission {
                'r' => 0o4 << shift,
                'w' => 0o2 << shift,
                'x' => 0o1 << shift,
                'X' if is_directory || mode & 0o111 != 0 => 0o1 << shift,
                's' if special != 0o1000 => special,
                't' if special == 0o1000 => special,
                'u' => (mode >> 6 & 0o7) << shift,
                'g' => (mode >> 3 & 0o7) << shift,
                'o' => (mode & 0o7) << shift,
                _ => 0,
            };
        }
    }
    (mask, bits)
}

#[cfg(test)]
mod tests {
    use super::apply;

    #[test]
    fn as_chmod_does() {
        for (clauses, mode, is_directory, expected) in [
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("g=u", 0o640, false, 0o660),
            ("u+s", 0o755, false, 0o4755),
            ("g+s,o+t", 0o755, true, 0o3755),
            ("a=r", 0o4755, false, 0o444),
            ("u-x+w", 0o500, false, 0o600),
            ("go=", 0o777, false, 0o700),
            ("o+t", 0o777, true, 0o1777),
        ] {
            assert_eq!(apply(clauses, mode, is_directory), expected, "{clauses} of {mode:o}");
        }
    }
}
