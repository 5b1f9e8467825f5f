//! Which libraries a program needs, read from the program itself.
//!
//! 64-bit little-endian ELF: the interpreter (`PT_INTERP`), `DT_NEEDED`, `DT_RUNPATH`. Sources: System V ABI, gABI 4.1,
//! chapter 5; ld.so(8) for the order of search.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERP: u32 = 3;
const NEEDED: u64 = 1;
const STRTAB: u64 = 5;
const RPATH: u64 = 15;
const RUNPATH: u64 = 29;

/// What a program says it needs.
#[derive(Debug, Default)]
struct Needs {
    interpreter: Option<PathBuf>,
    libraries: Vec<String>,
    search: Vec<PathBuf>,
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(width)?)?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn offset(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(number(bytes, at, 8)?).ok()
}

fn text(bytes: &[u8], at: usize) -> Option<String> {
    let rest = bytes.get(at..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(rest.get(..end)?).into_owned())
}

/// `None`: no dynamic ELF program.
fn read(bytes: &[u8], origin: &Path) -> Option<Needs> {
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) =
        (offset(bytes, 32)?, usize::try_from(number(bytes, 54, 2)?).ok()?, number(bytes, 56, 2)?);
    let mut needs = Needs::default();
    let (mut loads, mut dynamic) = (Vec::new(), None);
    for header in 0..usize::try_from(count).ok()? {
        let at = table.checked_add(header.checked_mul(size)?)?;
        let kind = u32::try_from(number(bytes, at, 4)?).ok()?;
        let (file, address, length) =
            (offset(bytes, at + 8)?, number(bytes, at + 16, 8)?, offset(bytes, at + 32)?);
        match kind {
            LOAD => loads.push((address, file, length as u64)),
            DYNAMIC => dynamic = Some((file, length)),
            INTERP => needs.interpreter = Some(text(bytes, file)?.into()),
            _ => {}
        }
    }
    let Some((dynamic, length)) = dynamic else { return Some(needs) };
    let entries: Vec<(u64, u64)> = (0..length / 16)
        .map_while(|entry| {
            Some((number(bytes, dynamic + entry * 16, 8)?, number(bytes, dynamic + entry * 16 + 8, 8)?))
        })
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let strings = entries.iter().find(|(tag, _)| *tag == STRTAB)?.1;
    let load = loads.iter().find(|(address, _, length)| (*address..address + length).contains(&strings))?;
    let strings = usize::try_from(strings - load.0).ok()? + load.1;
    for (tag, value) in entries {
        let text = || text(bytes, strings.checked_add(usize::try_from(value).ok()?)?);
        match tag {
            NEEDED => needs.libraries.push(text()?),
            RPATH | RUNPATH => {
                let paths = text()?.replace("${ORIGIN}", "$ORIGIN");
                let here = origin.parent().unwrap_or(Path::new("/")).display().to_string();
                needs.search.extend(paths.split(':').map(|path| path.replace("$ORIGIN", &here).into()));
            }
            _ => {}
        }
    }
    Some(needs)
}

/// The directories that the dynamic linker looks into, from its configuration.
fn configured() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/ld.so.conf")];
    if let Ok(entries) = std::fs::read_dir("/etc/ld.so.conf.d") {
        let mut more: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        more.sort();
        files.extend(more);
    }
    let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let lines: Vec<String> =
        texts.flat_map(|text| text.lines().map(str::trim).map(str::to_owned).collect::<Vec<_>>()).collect();
    let mut paths: Vec<PathBuf> =
        lines.iter().filter(|line| line.starts_with('/')).map(PathBuf::from).collect();
    paths.extend(["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from));
    paths
}

/// The programs `wanted`, their interpreters and libraries: path in the image to path on the host.
///
/// # Errors
/// When a program or a library of it cannot be found or read.
pub(crate) fn closure(wanted: &[PathBuf]) -> io::Result<BTreeMap<PathBuf, PathBuf>> {
    let configured = configured();
    let mut found = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<PathBuf> = wanted.to_vec();
    while let Some(path) = waiting.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let bytes = std::fs::read(&path)?;
        let real = std::fs::canonicalize(&path)?;
        found.insert(path.clone(), real.clone());
        let Some(needs) = read(&bytes, &real) else { continue };
        waiting.extend(needs.interpreter);
        for library in needs.libraries {
            let places = needs.search.iter().chain(&configured).map(|place| place.join(&library));
            let missing =
                || io::Error::other(format!("{}: needs {library}, which is nowhere", path.display()));
            waiting.push(places.into_iter().find(|place| place.is_file()).ok_or_else(missing)?);
        }
    }
    Ok(found)
}
