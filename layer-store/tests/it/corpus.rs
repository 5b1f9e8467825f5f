//! Odd archives, made by changing sound ones: whatever GNU tar, Python's tarfile and we read differently is refused.

use std::collections::BTreeMap;
use std::process::Command;

use layer_store::{Budget, Entry};

use crate::peers;
use crate::readers::{gnu, ours, python};
use crate::tarball::{Member, archive, dir, file, hardlink, pax, record, seal, symlink};

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
