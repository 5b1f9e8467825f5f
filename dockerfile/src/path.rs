//! Slash-separated paths, and what a target's system makes of them.
//!
//! Windows matters even to a builder that cannot run it: its files are compiled, and refused later.

use std::borrow::Cow;

use crate::quote::push_all;

/// The shortest form of a path, by words alone (Go's `path.Clean`).
pub(crate) fn clean(path: &str) -> Cow<'_, str> {
    let rooted = path.starts_with('/');
    if is_clean(path.strip_prefix('/').unwrap_or(path)) {
        return Cow::Borrowed(path);
    }
    // Each part with a slash in front.
    let mut out = String::with_capacity(path.len() + 1);
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if !out.is_empty() && !out.ends_with("/..") => out.truncate(out.rfind('/').unwrap_or(0)),
            ".." if rooted => {}
            part => push_all(&mut out, &["/", part]),
        }
    }
    match (rooted, out.is_empty()) {
        (true, true) => out.push('/'),
        (true, false) => {}
        (false, true) => out.push('.'),
        (false, false) => drop(out.remove(0)),
    }
    Cow::Owned(out)
}

/// Whether no part is empty, `.` or `..`.
fn is_clean(path: &str) -> bool {
    // How many bytes the part at hand has, and whether all of them are dots.
    let (mut len, mut dots) = (0_usize, true);
    let plain = |len: usize, dots: bool| len > 2 || (len > 0 && !dots);
    for byte in path.bytes() {
        if byte == b'/' {
            if !plain(len, dots) {
                return false;
            }
            (len, dots) = (0, true);
        } else {
            len += 1;
            dots &= byte == b'.';
        }
    }
    plain(len, dots)
}

/// Joins and cleans; an empty result stays empty (Go's `path.Join`).
pub(crate) fn join(parts: &[&str]) -> String {
    let mut joined = String::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
    for part in parts.iter().filter(|part| !part.is_empty()) {
        // A slash that is there already would be one too many, and be cleaned away.
        if !joined.is_empty() && !joined.ends_with('/') {
            joined.push('/');
        }
        joined.push_str(part);
    }
    if joined.is_empty() {
        return joined;
    }
    match clean(&joined) {
        Cow::Borrowed(_) => joined,
        Cow::Owned(cleaned) => cleaned,
    }
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
pub(crate) fn to_slash<'a>(path: &'a str, os: &str) -> Cow<'a, str> {
    if os == "windows" { Cow::Owned(path.replace('\\', "/")) } else { Cow::Borrowed(path) }
}

/// Whether a path is absolute on the system.
pub(crate) fn is_absolute(path: &str, os: &str) -> bool {
    if os == "windows" {
        return without_drive(path, os, false).is_ok_and(|path| to_slash(&path, os).starts_with('/'));
    }
    path.starts_with('/')
}

/// The path without `C:`; other drives and UNC paths are refused. Elsewhere than on Windows the path itself.
pub(crate) fn without_drive<'a>(path: &'a str, os: &str, keep_slash: bool) -> Result<Cow<'a, str>, String> {
    if os != "windows" {
        return Ok(Cow::Borrowed(path));
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
    let mut cleaned = clean(&slashed).into_owned();
    if keep_slash && cleaned.len() > 1 && slashed.ends_with('/') {
        cleaned.push('/');
    }
    Ok(Cow::Owned(cleaned))
}

/// `path` as an absolute path below `parent`, with the target's rules. Absolute paths of Linux stay as they are written.
pub(crate) fn normalize<'a>(
    parent: &str,
    path: &'a str,
    os: &str,
    keep_slash: bool,
) -> Result<Cow<'a, str>, String> {
    if os != "windows" && path.starts_with('/') {
        return Ok(Cow::Borrowed(path));
    }
    let os = if os.is_empty() { "linux" } else { os };
    let original = to_slash(path, os);
    let parent = to_slash(if parent.is_empty() { "/" } else { parent }, os);
    let mut parent = without_drive(&parent, os, keep_slash)?;
    if !is_absolute(&parent, os) {
        parent = Cow::Owned(join(&["/", &parent]));
    }
    let path = if original.is_empty() { &parent } else { &original };
    let path = without_drive(path, os, keep_slash)?;
    let mut path = if is_absolute(&path, os) { path.into_owned() } else { join(&[&parent, &path]) };
    if keep_slash {
        keep_end(&original, &mut path);
    }
    Ok(if os == "windows" { Cow::Owned(to_slash(&path, os).into_owned()) } else { Cow::Owned(path) })
}

/// The destination of COPY and ADD below the working directory. On Windows the slash behind a name of one letter
/// is lost, as it is in BuildKit.
pub(crate) fn dest(parent: &str, path: &str, os: &str) -> Result<String, String> {
    let path = without_drive(path, os, true)?;
    let dest = if is_absolute(&path, os) {
        normalize("/", &path, os, true)
    } else {
        normalize(parent, if path.is_empty() || path == "." { "./" } else { &path }, os, true)
    };
    dest.map(Cow::into_owned)
}

/// `path` cleaned, with the slash or `/.` at its end that says that it is a directory.
pub(crate) fn clean_dest(path: &str) -> String {
    let mut cleaned = clean(path).into_owned();
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
