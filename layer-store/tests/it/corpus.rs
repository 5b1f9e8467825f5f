//! Odd archives, made by changing sound ones: whatever GNU tar, Python's tarfile and we read differently is refused.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use layer_store::{Budget, Entry, Kind};

use crate::peers;
use crate::tarball::{Member, archive, dir, file, hardlink, pax, record, seal, symlink};

/// `path type size link` of every entry, as one reader sees it; `None` when it refuses or complains.
type Listing = Option<Vec<String>>;

fn ours(bytes: &[u8]) -> Listing {
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
fn python(paths: &[String]) -> Vec<Listing> {
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
fn gnu(path: &str) -> Listing {
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

/// Sound archives of every kind that the changes start from.
fn sound() -> Vec<Vec<u8>> {
    let long = format!("{}/{}", "long".repeat(30), "name".repeat(30));
    let mut gnu_long = Vec::new();
    let text = [long.as_bytes(), b"\0"].concat();
    let mut name = Member { content: text, ..Member::new("././@LongLink", b'L') };
    name.mode = 0;
    for member in [name, file(&long[..99], "content")] {
        let mut header = member.header();
        header[257..265].copy_from_slice(b"ustar  \0");
        seal(&mut header);
        gnu_long.extend_from_slice(&header);
        gnu_long.extend_from_slice(&member.content);
        gnu_long.resize(gnu_long.len().next_multiple_of(512), 0);
    }
    gnu_long.resize(gnu_long.len() + 1_024, 0);
    let sparse = [
        &record("GNU.sparse.major", b"1")[..],
        &record("GNU.sparse.minor", b"0"),
        &record("GNU.sparse.name", b"sparse"),
        &record("GNU.sparse.realsize", b"100000"),
    ]
    .concat();
    let mut body = b"2\n0\n5\n50000\n3\n".to_vec();
    body.resize(512, 0);
    body.extend_from_slice(b"helloend");
    let sparse_file = Member { content: body, ..Member::new("GNUSparseFile.1/sparse", b'0') };
    vec![
        archive(&[
            dir("d"),
            file("d/f", "content"),
            file("d/g", &"x".repeat(700)),
            symlink("l", "d/f"),
            hardlink("h", "d/f"),
        ]),
        archive(&[
            pax(&[record("path", long.as_bytes()), record("mtime", b"1700000000.25")].concat()),
            file("short", "content"),
            file("after", "y"),
        ]),
        archive(&[
            pax(&[record("size", b"7"), record("uid", b"3000000")].concat()),
            file("f", "content"),
            dir("e/"),
        ]),
        archive(&[
            pax(&record("comment", b"hello")),
            file("f", ""),
            Member::new("p", b'6'),
            Member { device: (1, 3), ..Member::new("n", b'3') },
        ]),
        archive(&[file("f", "x").xattr("user.x", b"1\x002"), file("f", "twice")]),
        archive(&[pax(&sparse), sparse_file, file("after", "z")]),
        gnu_long,
    ]
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// Fields of a header: where, how long, and what to write there.
const FIELDS: [(usize, usize, &[u8]); 44] = [
    (124, 12, b"00000000001\0"),
    (124, 12, b"            "),
    (124, 12, b"\0\0\0\0\0\0\0\0\0\0\0\0"),
    (124, 12, b"00000001000\0"),
    (124, 12, b"-0000000001\0"),
    (124, 12, b"0x000000007\0"),
    (124, 12, b"       7\0   "),
    (124, 12, b"7\0          "),
    (124, 12, b"000000000017"),
    (124, 12, b"00000000008\0"),
    (124, 12, b"\x80\0\0\0\0\0\0\0\0\0\0\x07"),
    (124, 12, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    (124, 12, b"\x0000000000007"),
    (100, 8, b"0100644\0"),
    (100, 8, b"\0\0\0\0\0\0\0\0"),
    (100, 8, b"    644\0"),
    (100, 8, b"0o00644\0"),
    (100, 8, b"        "),
    (108, 8, b"\x80\0\0\0\0\0\x01\0"),
    (108, 8, b"\xff\xff\xff\xff\xff\xff\xff\xfe"),
    (108, 8, b"7777777 "),
    (108, 8, b"junk\0\0\0\0"),
    (116, 8, b"       \0"),
    (136, 12, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00"),
    (136, 12, b"77777777777\0"),
    (136, 12, b"\x80\0\0\0\0\0\0\x01\0\0\0\0"),
    (156, 1, b"\0"),
    (156, 1, b"7"),
    (156, 1, b"1"),
    (156, 1, b"2"),
    (156, 1, b"5"),
    (156, 1, b"x"),
    (156, 1, b"g"),
    (156, 1, b"L"),
    (156, 1, b"K"),
    (156, 1, b"S"),
    (156, 1, b"D"),
    (156, 1, b"V"),
    (156, 1, b"M"),
    (257, 8, b"ustar  \0"),
    (257, 8, b"\0\0\0\0\0\0\0\0"),
    (257, 8, b"ustar\x0011"),
    (345, 8, b"prefix/\0"),
    (345, 12, b"00000000144\0"),
];

/// Extended headers that set odd things.
fn odd_records() -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = vec![
        record("path", b""),
        record("path", b"dir/"),
        record("path", b"a\nb"),
        record("path", b"/abs"),
        record("path", b"./p"),
        record("path", b"../up"),
        record("path", b"\xff\xfe"),
        record("linkpath", b"elsewhere"),
        record("linkpath", b""),
        record("size", b"1"),
        record("size", b"512"),
        record("size", b"0"),
        record("size", b"1024"),
        record("size", b"+7"),
        record("size", b"-1"),
        record("size", b"7.0"),
        record("size", b"0x7"),
        record("size", b"99999999999999999999"),
        record("size", b"07"),
        record("size", b" 7"),
        record("size", b"7 "),
        record("uid", b"1_0"),
        record("uid", b"4294967295"),
        record("gid", b"-2"),
        record("mtime", b"1e3"),
        record("mtime", b"nan"),
        record("mtime", b"-1.5"),
        record("mtime", b".5"),
        record("mtime", b"1."),
        record("mtime", b"99999999999999"),
        record("hdrcharset", b"BINARY"),
        record("hdrcharset", b"KOI8"),
        record("GNU.sparse.size", b"100"),
        record("GNU.sparse.realsize", b"100"),
        record("GNU.sparse.name", b"other"),
        record("GNU.sparse.map", b"0,1"),
        [
            record("GNU.sparse.size", b"7"),
            record("GNU.sparse.numblocks", b"1"),
            record("GNU.sparse.map", b"0,7"),
        ]
        .concat(),
        [
            record("GNU.sparse.size", b"9"),
            record("GNU.sparse.numblocks", b"2"),
            record("GNU.sparse.map", b"5,4,0,3"),
        ]
        .concat(),
        [
            record("GNU.sparse.major", b"1"),
            record("GNU.sparse.minor", b"0"),
            record("GNU.sparse.realsize", b"9"),
        ]
        .concat(),
        [record("path", b"one"), record("path", b"two")].concat(),
        [record("size", b"7"), record("size", b"1")].concat(),
        [record("uid", b"1"), record("uid", b"2")].concat(),
        b"5 a=b\n".to_vec(),
        b"06 a=b\n".to_vec(),
        b"7 a=b\n\n".to_vec(),
        b"13 path=evil\0".to_vec(),
        b"9999 path=x\n".to_vec(),
        b"6 a=b\n\0\0\0\0".to_vec(),
        b"\n".to_vec(),
        b"6  a=b".to_vec(),
        b" 6 a=b\n".to_vec(),
        b"6 a=b\njunk".to_vec(),
    ];
    found.push(Vec::new());
    found
}

fn header_at(bytes: &[u8], at: usize) -> [u8; 512] {
    bytes[at..at + 512].try_into().unwrap()
}

/// Where the headers of a sound archive are.
fn headers(bytes: &[u8]) -> Vec<usize> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at + 512 <= bytes.len() && bytes[at..at + 512].iter().any(|byte| *byte != 0) {
        found.push(at);
        let digits: String = bytes[at + 124..at + 135].iter().map(|byte| char::from(*byte)).collect();
        let size = usize::from_str_radix(&digits, 8).unwrap();
        at += 512 + size.next_multiple_of(512);
    }
    found
}

fn odd(random: &mut Random) -> Vec<Vec<u8>> {
    let sound = sound();
    let mut found = sound.clone();
    for bytes in &sound {
        for at in headers(bytes) {
            for (field, length, value) in FIELDS {
                let mut changed = bytes.clone();
                let mut header = header_at(bytes, at);
                header[field..field + length].copy_from_slice(value);
                seal(&mut header);
                changed[at..at + 512].copy_from_slice(&header);
                found.push(changed);
            }
            for kind in [b'x', b'g'] {
                for text in odd_records() {
                    let mut changed = bytes[..at].to_vec();
                    Member { kind, ..pax(&text) }.append(&mut changed);
                    changed.extend_from_slice(&bytes[at..]);
                    found.push(changed);
                }
            }
            for (kind, text) in [
                (b'L', &b"long\0"[..]),
                (b'L', b"long"),
                (b'L', b"long\0tail"),
                (b'L', b""),
                (b'L', b"\0"),
                (b'K', b"link\0"),
                (b'K', b"li\0nk"),
            ] {
                let mut changed = bytes[..at].to_vec();
                Member { content: text.to_vec(), ..Member::new("././@LongLink", kind) }.append(&mut changed);
                changed.extend_from_slice(&bytes[at..]);
                found.push(changed);
            }
            // A hole of zeros, one block or two, a cut, something in front.
            for blocks in [1, 2] {
                let mut changed = bytes[..at].to_vec();
                changed.resize(at + blocks * 512, 0);
                changed.extend_from_slice(&bytes[at..]);
                found.push(changed);
            }
            found.push(bytes[..at].to_vec());
            found.push(bytes[..at + 200].to_vec());
        }
        // Two changes at random places, checksums made right again.
        for _ in 0..120 {
            let mut changed = bytes.clone();
            let all = headers(bytes);
            for _ in 0..=random.below(2) {
                let at = all[random.below(all.len())];
                let mut header = header_at(&changed, at);
                let place = [
                    0, 99, 100, 107, 110, 120, 124, 130, 135, 140, 147, 156, 157, 200, 257, 262, 263, 264,
                    329, 345, 482, 500,
                ][random.below(22)];
                header[place] =
                    [0, b' ', b'0', b'1', b'7', b'8', b'/', b'.', 0x80, 0xff, b'x'][random.below(11)];
                seal(&mut header);
                changed[at..at + 512].copy_from_slice(&header);
            }
            found.push(changed);
        }
    }
    found
}

#[test]
fn what_readers_read_differently_is_refused() {
    let Some(()) = peers::need(&["tar", "python3"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let archives = odd(&mut Random(7));
    let mut taken: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (at, bytes) in archives.iter().enumerate() {
        if let Some(listing) = ours(bytes) {
            std::fs::write(dir.path().join(format!("{at}.tar")), bytes).unwrap();
            taken.insert(at, listing);
        }
    }
    let paths: Vec<String> =
        taken.keys().map(|at| dir.path().join(format!("{at}.tar")).to_str().unwrap().to_owned()).collect();
    let theirs = python(&paths);
    let mut bad = 0;
    for (((at, ours), path), python) in taken.iter().zip(&paths).zip(theirs) {
        let gnu = gnu(path);
        if gnu.as_ref() != Some(ours) || python.as_ref() != Some(ours) {
            bad += 1;
            if let Some(place) = std::env::var_os("COOPERAGE_TEST_KEEP") {
                std::fs::copy(path, std::path::Path::new(&place).join(format!("{at}.tar"))).unwrap();
            }
            if bad < 20 {
                eprintln!("archive {at}:\n ours   {ours:?}\n gnu    {gnu:?}\n python {python:?}");
            }
        }
    }
    eprintln!(
        "{} odd archives, {} taken and read alike, {bad} read differently",
        archives.len(),
        taken.len() - bad
    );
    assert_eq!(bad, 0);
    let sound = sound().len();
    assert!((0..sound).all(|at| taken.contains_key(&at)), "a sound archive was refused");
    // The corpus must have both sorts.
    assert!(archives.len() > 2_000 && taken.len() > 200 && taken.len() < archives.len() / 2 * 2);
}

/// Trees of every kind, written by every tar at hand in every format: none may be refused.
#[test]
fn no_real_layer_is_refused() {
    let Some(()) = peers::need(&["tar", "python3"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("d/e")).unwrap();
    let long = format!("{}-{}", "long".repeat(25), "name".repeat(25));
    std::fs::write(tree.join("d/e").join(&long), "x").unwrap();
    std::fs::write(tree.join("d/f"), "content").unwrap();
    std::fs::write(tree.join("d/ümläut"), "content").unwrap();
    std::fs::hard_link(tree.join("d/f"), tree.join("h")).unwrap();
    std::os::unix::fs::symlink("d/f", tree.join("l")).unwrap();
    std::os::unix::fs::symlink(&long, tree.join("long-link")).unwrap();
    let sparse = std::fs::File::create(tree.join("sparse")).unwrap();
    for n in 0..40_u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", n << 17).unwrap();
    }
    sparse.set_len(6 << 20).unwrap();
    let mut writers: Vec<Vec<String>> = Vec::new();
    let tree_text = tree.to_str().unwrap().to_owned();
    for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
        for sparse in [
            &["--sparse"][..],
            &["--sparse", "--sparse-version=0.0"],
            &["--sparse", "--sparse-version=0.1"],
            &[],
        ] {
            if matches!(format, "v7" | "ustar") && !sparse.is_empty() {
                continue;
            }
            let mut command = vec!["tar".to_owned(), format!("--format={format}")];
            command.extend(sparse.iter().map(|text| (*text).to_owned()));
            if matches!(format, "v7" | "ustar") {
                command.extend(["--exclude=long*".to_owned()]);
            }
            command.extend(["-C".to_owned(), tree_text.clone(), "-c".to_owned(), ".".to_owned()]);
            writers.push(command);
        }
    }
    for format in ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"] {
        let skip = if format == "USTAR_FORMAT" { "'long' in i.name" } else { "False" };
        let script = format!(
            "import tarfile,sys\nt=tarfile.open(fileobj=sys.stdout.buffer,mode='w|',format=tarfile.{format})\n\
             t.add({tree_text:?},arcname='',filter=lambda i: None if {skip} else i)\nt.close()"
        );
        writers.push(vec!["python3".to_owned(), "-c".to_owned(), script]);
    }
    if peers::there("bsdtar") {
        for format in ["gnutar", "pax", "paxr", "ustar"] {
            let mut command = vec!["bsdtar".to_owned(), format!("--format={format}")];
            if format == "ustar" {
                command.push("--exclude=long*".to_owned());
            }
            command.extend([
                "-C".to_owned(),
                tree_text.clone(),
                "-cf".to_owned(),
                "-".to_owned(),
                ".".to_owned(),
            ]);
            writers.push(command);
        }
    }
    let digest = |entries: &[(Vec<u8>, Entry)], name: &str| {
        let name = name.as_bytes();
        entries.iter().find(|(path, _)| path.ends_with(name)).map(|(_, entry)| entry.kind.clone())
    };
    let mut sparse = std::collections::BTreeSet::new();
    for command in &writers {
        let out = Command::new(&command[0]).args(&command[1..]).output().unwrap();
        assert!(out.stdout.len() > 1_024, "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
        match layer_store::list(out.stdout.as_slice(), Budget::default()) {
            Ok(entries) => {
                assert!(entries.len() >= 8, "{command:?}");
                sparse.insert(format!("{:?}", digest(&entries, "sparse").unwrap()));
            }
            Err(error) => panic!("{command:?}: {error}"),
        }
    }
    eprintln!("{} writers, none refused", writers.len());
    assert_eq!(sparse.len(), 1, "a sparse file reads the same in every form: {sparse:?}");
    // Real layers, where the machine has them.
    if let Some(path) = std::env::var_os("COOPERAGE_REAL_LAYERS") {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "tar") {
                let entries =
                    layer_store::list(std::fs::File::open(&path).unwrap(), Budget::default()).unwrap();
                eprintln!("real layer {}: {} entries", path.display(), entries.len());
            }
        }
    }
}
