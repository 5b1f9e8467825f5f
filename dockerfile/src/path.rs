//! Slash-separated paths, and what a target's system makes of them.
//!
//! Windows matters even to a builder that cannot run it: its files are compiled, and refused later.

/// The shortest form of a path, by words alone (Go's `path.Clean`).
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    if path.strip_prefix('/').unwrap_or(path).split('/').all(plain) {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// Joins and cleans; an empty result stays empty (Go's `path.Join`).
pub(crate) fn join(parts: &[&str]) -> String {
    let joined = parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
    if joined.is_empty() { joined } else { clean(&joined) }
}

/// The last element (Go's `path.Base`).
pub(crate) fn base(path: &str) -> &str {
    if path.is_empty() {
        return ".";
    }
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { "/" } else { trimmed.rsplit('/').next().unwrap_or(trimmed) }
}

/// Forward slashes, when the system writes paths otherwise.
pub(crate) fn to_slash(path: &str, os: &str) -> String {
    if os == "windows" { path.replace('\\', "/") } else { path.to_owned() }
}

/// Whether a path is absolute on the system.
pub(crate) fn is_absolute(path: &str, os: &str) -> bool {
    if os == "windows" {
        return without_drive(path, os, false).is_ok_and(|path| to_slash(&path, os).starts_with('/'));
    }
    path.starts_with('/')
}

/// The path without `C:`; other drives and UNC paths are refused. Elsewhere than on Windows the path itself.
pub(crate) fn without_drive(path: &str, os: &str, keep_slash: bool) -> Result<String, String> {
    if os != "windows" {
        return Ok(path.to_owned());
    }
    if path.len() == 2 && path.ends_with(':') {
        return Err(format!("No relative path specified in {}", crate::quote::quote(path)));
    }
    if path.get(..2).is_some_and(|start| to_slash(start, os) == "//") {
        return Err("UNC paths are not supported".to_owned());
    }
    let rest = match path.split_once(':') {
        None => path,
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => rest,
        Some(_) => return Err("The specified path is not on the system drive (C:)".to_owned()),
    };
    let slashed = to_slash(rest, os);
    let mut cleaned = clean(&slashed);
    if keep_slash && cleaned.len() > 1 && slashed.ends_with('/') {
        cleaned.push('/');
    }
    Ok(cleaned)
}

/// `path` as an absolute path below `parent`, with the target's rules. Absolute paths of Linux stay as they are written.
pub(crate) fn normalize(parent: &str, path: &str, os: &str, keep_slash: bool) -> Result<String, String> {
    if os != "windows" && !keep_slash && path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let os = if os.is_empty() { "linux" } else { os };
    let original = to_slash(path, os);
    let parent = to_slash(if parent.is_empty() { "/" } else { parent }, os);
    let mut parent = without_drive(&parent, os, keep_slash)?;
    if !is_absolute(&parent, os) {
        parent = join(&["/", &parent]);
    }
    let path = if original.is_empty() { parent.clone() } else { original.clone() };
    let mut path = without_drive(&path, os, keep_slash)?;
    if !is_absolute(&path, os) {
        path = join(&[&parent, &path]);
    }
    if keep_slash {
        keep_end(&original, &mut path);
    }
    Ok(to_slash(&path, os))
}

/// The destination of COPY and ADD below the working directory. On Windows the slash behind a name of one letter
/// is lost, as it is in BuildKit.
pub(crate) fn dest(parent: &str, path: &str, os: &str) -> Result<String, String> {
    let path = without_drive(path, os, true)?;
    if is_absolute(&path, os) {
        return normalize("/", &path, os, true);
    }
    normalize(parent, if path.is_empty() || path == "." { "./" } else { &path }, os, true)
}

/// `path` cleaned, with the slash or `/.` at its end that says that it is a directory.
pub(crate) fn clean_dest(path: &str) -> String {
    let mut cleaned = clean(path);
    if !cleaned.starts_with('/') {
        cleaned = join(&["/", &cleaned]);
    }
    keep_end(path, &mut cleaned);
    cleaned
}

fn keep_end(original: &str, path: &mut String) {
    if original.ends_with('/') && !path.ends_with('/') {
        path.push('/');
    } else if original.ends_with("/.") {
        if path != "/" {
            path.push('/');
        }
        path.push('.');
    }
}

/// Whether a path holds wildcards of Go's `filepath.Match`.
pub(crate) fn has_wildcards(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        for (path, want) in [
            ("", "."),
            ("/", "/"),
            ("a//b/./c/..", "a/b"),
            ("/../a", "/a"),
            ("../a", "../a"),
            ("a/..", "."),
            ("./", "."),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
        assert_eq!((base("/a/b/"), base("/"), base("")), ("b", "/", "."));
    }

    #[test]
    fn normalizing() {
        assert_eq!(normalize("/w", "a", "linux", false).unwrap(), "/w/a");
        assert_eq!(normalize("/w", "./", "linux", true).unwrap(), "/w/");
        assert_eq!(normalize("/w", "a/.", "linux", true).unwrap(), "/w/a/.");
        assert_eq!(normalize("", "C:\\a\\b", "windows", false).unwrap(), "/a/b");
        assert!(normalize("", "D:\\a", "windows", false).is_err());
        assert_eq!(clean_dest("/a//b/"), "/a/b/");
        assert_eq!(dest("/w", "x/", "linux").unwrap(), "/w/x/");
        assert_eq!(dest("/w", "x/", "windows").unwrap(), "/w/x");
        assert_eq!(dest("/w", "xy/", "windows").unwrap(), "/w/xy/");
    }
}
