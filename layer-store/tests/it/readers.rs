//! What readers of tar archives find in them: GNU tar, Python's tarfile, and we.

use std::io::Write;
use std::process::{Command, Stdio};

use layer_store::{Budget, Entry, Kind};

/// `path type size link` of every entry, as one reader sees it; `None` when it refuses or complains.
pub(crate) type Listing = Option<Vec<String>>;

pub(crate) fn ours(bytes: &[u8]) -> Listing {
    let entries = layer_store::list(bytes, Budget::default()).ok()?;
    Some(entries.iter().map(|(path, entry)| line(path, entry)).collect())
}

fn line(path: &[u8], entry: &Entry) -> String {
    let (kind, size, link): (char, u64, &[u8]) = match &entry.kind {
        Kind::File { size, .. } => ('-', *size, b""),
        Kind::Directory { .. } => ('d', 0, b""),
        Kind::Symlink { target } => ('l', 0, target),
        Kind::Hardlink { target } => ('h', 0, target),
        Kind::CharDevice(_) => ('c', 0, b""),
        Kind::BlockDevice(_) => ('b', 0, b""),
        Kind::Fifo => ('p', 0, b""),
        _ => ('?', 0, b""),
    };
    let path = String::from_utf8_lossy(path);
    let path = path.trim_end_matches('/');
    let link = String::from_utf8_lossy(link);
    let owner = format!("{}/{}", entry.uid, entry.gid);
    format!("{kind}{:04o} {owner} {size} {} {path:?} {link:?}", entry.mode & 0o7777, entry.mtime.0)
}

/// Lists archives with Python's tarfile: one process for all of them, a JSON line an archive.
const PYTHON: &str = r#"
import sys, tarfile, json, io, os
kinds = {b'0':'-', b'\0':'-', b'7':'-', b'S':'-', b'5':'d', b'1':'h', b'2':'l', b'3':'c', b'4':'b', b'6':'p'}
def text(s): return s.encode('utf-8','surrogateescape').decode('utf-8','replace')
for name in sys.stdin:
    try:
        out = []
        with tarfile.open(name.strip(), 'r:', errorlevel=2) as t:
            for m in t:
                k = '-' if m.isreg() else kinds.get(m.type, '?')
                if m.isdir(): k = 'd'
                size = m.size if k == '-' else 0
                link = text(m.linkname) if k in 'lh' else ''
                import math
                out.append([k, m.mode & 0o7777, m.uid, m.gid, size, math.floor(m.mtime), text(m.name).rstrip('/'), link])
        print(json.dumps(out))
    except Exception as e:
        print(json.dumps(None))
"#;

/// Type, mode, owner, group, size, time, name, link.
type Row = (String, u32, i64, i64, u64, i64, String, String);

/// A Rust debug string of a string with only plain characters is the string in quotes; odd ones go through here.
pub(crate) fn python(paths: &[String]) -> Vec<Listing> {
    let mut child = Command::new("python3")
        .args(["-c", PYTHON])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let names = paths.join("\n");
    let writer = std::thread::spawn(move || stdin.write_all(names.as_bytes()).unwrap());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .map(|text| {
            let rows: Option<Vec<Row>> = serde_json::from_str(text).unwrap();
            Some(
                rows?
                    .into_iter()
                    .map(|(kind, mode, uid, gid, size, mtime, name, link)| {
                        format!("{kind}{mode:04o} {uid}/{gid} {size} {mtime} {name:?} {link:?}")
                    })
                    .collect(),
            )
        })
        .collect()
}

/// Lists one archive with GNU tar. Any complaint counts as a refusal.
pub(crate) fn gnu(path: &str) -> Listing {
    let out = Command::new("tar")
        .args([
            "--numeric-owner",
            "--full-time",
            "--utc",
            "--quoting-style=c",
            "--warning=all",
            "--warning=no-unknown-keyword",
            "-Ptvf",
            path,
        ])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    if !out.status.success() || !out.stderr.is_empty() {
        if std::env::var_os("COOPERAGE_TEST_VERBOSE").is_some() {
            eprintln!("{path}: {}", String::from_utf8_lossy(&out.stderr));
        }
        return None;
    }
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().map(gnu_line).collect()
}

/// `-rw-r--r-- 0/0  5 1970-01-01 00:16:40 "name"` with ` -> "x"` or ` link to "x"` behind.
fn gnu_line(line: &str) -> Option<String> {
    let (head, names) = line.split_at(line.find('"')?);
    let fields: Vec<&str> = head.split_whitespace().collect();
    let [bits, owner, size, date, time] = fields[..] else { return None };
    // GNU tar shows a contiguous file, which nothing on Linux is, by a letter of its own.
    let kind = bits.chars().next().map(|kind| if kind == 'C' { '-' } else { kind })?;
    let letter = |at: usize| bits.as_bytes().get(at).copied().unwrap_or(b'-');
    let mut mode = 0_u32;
    for (n, weight) in [0o400, 0o200, 0o100, 0o40, 0o20, 0o10, 4, 2, 1].into_iter().enumerate() {
        if !matches!(letter(n + 1), b'-' | b'S' | b'T') {
            mode |= weight;
        }
    }
    for (at, weight) in [(3, 0o4000), (6, 0o2000), (9, 0o1000)] {
        if matches!(letter(at), b's' | b'S' | b't' | b'T') {
            mode |= weight;
        }
    }
    let size: u64 = if kind == '-' { size.parse().ok()? } else { 0 };
    let (name, rest) = quoted(names)?;
    let link = match rest.find('"') {
        Some(at) => quoted(&rest[at..])?.0,
        None => String::new(),
    };
    let name = name.trim_end_matches('/');
    Some(format!("{kind}{mode:04o} {owner} {size} {} {name:?} {link:?}", seconds(date, time)?))
}

/// Undoes GNU tar's C quoting.
fn quoted(text: &str) -> Option<(String, &str)> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 1);
    loop {
        match *bytes.get(at)? {
            b'"' => return Some((String::from_utf8_lossy(&out).into_owned(), &text[at + 1..])),
            b'\\' => {
                let next = *bytes.get(at + 1)?;
                at += 1;
                let plain = match next {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'a' => 7,
                    b'b' => 8,
                    b'v' => 11,
                    b'f' => 12,
                    b'0'..=b'7' => {
                        let octal = text.get(at..at + 3)?;
                        at += 2;
                        u8::try_from(u32::from_str_radix(octal, 8).ok()?).ok()?
                    }
                    other => other,
                };
                out.push(plain);
                at += 1;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
}

/// Seconds since 1970 of `2001-02-03` and `04:05:06[.fraction]`, rounded down.
fn seconds(date: &str, time: &str) -> Option<i64> {
    let (date, negative) = match date.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (date, false),
    };
    let parts: Vec<i64> = date.split('-').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [year, month, day] = parts[..] else { return None };
    let year = if negative { -year } else { year };
    let whole = time.split('.').next()?;
    let clock: Vec<i64> = whole.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else { return None };
    // Days from civil, Gregorian.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let whole_seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
    // It shows -1.5 as a half after -1 (and sets -1.5): the whole part is cut towards 0.
    let cut = whole_seconds < 0 && time.contains('.');
    Some(if cut { whole_seconds - 1 } else { whole_seconds })
}
