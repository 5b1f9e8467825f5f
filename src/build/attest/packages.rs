//! Which packages an image has, from the databases of its package managers, without running anything of it.
//!
//! ```text
//!  var/lib/dpkg/status                Debian and what comes of it: one paragraph a package
//!  var/lib/dpkg/status.d/*            the same, a file a package: images without dpkg
//!  lib/apk/db/installed, usr/lib/…    Alpine: lines of one letter
//! ```
//!
//! An image is not ours: everything is bounded, and what cannot be read as such a database is an error that says where.

use std::io::Read;

use image_core::hex;
use layer_store::{Entry, Kind, Store, View};

use crate::engine::{Engine, Image};
use crate::error::{Error, Result};

/// Bytes of all databases of an image.
const LIMIT: u64 = 64 << 20;
/// Packages of an image, and files of a database.
const MOST: usize = 100_000;
/// Bytes of a file about the distribution.
const RELEASE_LIMIT: u64 = 64 << 10;

/// Whose package it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum PackageKind {
    /// Of dpkg.
    Deb,
    /// Of apk.
    Apk,
}

/// A package that an image has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Package {
    /// Whose.
    pub kind: PackageKind,
    /// Its name.
    pub name: String,
    /// Its version, as the manager writes it.
    pub version: String,
    /// The processor that it is for; empty when it does not say.
    pub architecture: String,
    /// The source that it was made from, where that has another name.
    pub source: Option<String>,
    /// Who keeps it.
    pub maintainer: Option<String>,
    /// Its licence, as it says it.
    pub license: Option<String>,
}

/// Which distribution an image is, by `os-release`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) id: Option<String>,
    pub(super) version: Option<String>,
}

impl Engine {
    /// The packages of `image` by the databases of dpkg and apk, in order; none when it has neither. Nothing of the image
    /// is run.
    ///
    /// # Errors
    /// [`Error::PackageDatabase`] when one is damaged or larger than 64 MiB; [`Error::Store`].
    pub fn packages(&self, image: &Image) -> Result<Vec<Package>> {
        packages(self.store(), &self.view(image)?)
    }
}

pub(super) fn packages(store: &Store, view: &View) -> Result<Vec<Package>> {
    let mut found = Vec::new();
    let mut left = LIMIT;
    let mut take = |path: &[u8], parse: Parser| -> Result<()> {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let damaged = |line, reason| Error::PackageDatabase { path: shown(), line, reason };
        let Some(text) = read(store, view, path, left)? else { return Ok(()) };
        if text.len() as u64 > left {
            return Err(damaged(0, format!("all databases together are larger than {LIMIT} bytes")));
        }
        left -= text.len() as u64;
        parse(&text, &mut found).map_err(|(line, reason)| damaged(line, reason))?;
        if found.len() > MOST {
            return Err(damaged(0, format!("the image has more than {MOST} packages")));
        }
        Ok(())
    };
    take(b"var/lib/dpkg/status", dpkg)?;
    let parts = view.below(b"var/lib/dpkg/status.d");
    if parts.len() > MOST {
        let reason = format!("the database has more than {MOST} files");
        return Err(Error::PackageDatabase { path: "var/lib/dpkg/status.d".to_owned(), line: 0, reason });
    }
    for path in parts.keys() {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        // Beside each file its sums, which are no package.
        if !name.ends_with(b".md5sums") && view.file(path).is_some_and(|(entry, _)| is_file(entry)) {
            take(path, dpkg)?;
        }
    }
    take(b"lib/apk/db/installed", apk)?;
    let moved = view.resolve(b"usr/lib/apk/db/installed");
    if moved != view.resolve(b"lib/apk/db/installed") {
        take(b"usr/lib/apk/db/installed", apk)?;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The distribution of the image; nothing when it does not say.
pub(super) fn release(store: &Store, view: &View) -> Result<Release> {
    let mut release = Release::default();
    for path in [&b"etc/os-release"[..], b"usr/lib/os-release"] {
        let Some(text) = read(store, view, path, RELEASE_LIMIT)? else { continue };
        for line in String::from_utf8_lossy(&text).lines() {
            let value = |text: &str| {
                let plain = text.trim().trim_matches(['"', '\'']);
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
                Some(plain.to_owned()).filter(|text| !text.is_empty() && text.bytes().all(is_plain))
            };
            match line.split_once('=') {
                Some(("ID", text)) => release.id = value(text),
                Some(("VERSION_ID", text)) => release.version = value(text),
                _ => {}
            }
        }
        break;
    }
    Ok(release)
}

fn is_file(entry: &Entry) -> bool {
    matches!(entry.kind, Kind::File { .. })
}

/// The file at `path`, its links followed, up to a byte more than `limit`; none when there is no file.
fn read(store: &Store, view: &View, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>> {
    let Some(real) = view.resolve(path) else { return Ok(None) };
    if !view.file(&real).is_some_and(|(entry, _)| is_file(entry)) {
        return Ok(None);
    }
    let Some((entry, layer)) = view.find(&real) else { return Ok(None) };
    let at = match &entry.kind {
        Kind::Hardlink { target } => target.as_slice(),
        _ => real.as_slice(),
    };
    let mut bytes = Vec::new();
    let file = layer.open_file(store.authority(), at)?;
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Io { path: String::from_utf8_lossy(path).into_owned().into(), source })?;
    Ok(Some(bytes))
}

/// Where, by lines from 1, and why a text is no database.
type Wrong = (usize, String);
/// Adds what a database has.
type Parser = fn(&[u8], &mut Vec<Package>) -> Result<(), Wrong>;

/// Text for people; what is no UTF-8 is shown as such.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// A name or version: what stands in addresses of packages and may not be just anything.
fn word(bytes: &[u8], what: &str, line: usize) -> Result<String, Wrong> {
    let word = text(bytes);
    if word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_graphic()) {
        let shown = hex(bytes.get(..bytes.len().min(16)).unwrap_or_default());
        return Err((line, format!("the {what} of a package is no word: {shown} in hexadecimal")));
    }
    Ok(word)
}

/// Paragraphs of `Field: value` with lines that go on behind a blank.
fn dpkg(bytes: &[u8], found: &mut Vec<Package>) -> Result<(), Wrong> {
    let mut fields = Paragraph::default();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate().map(|(at, line)| (at + 1, line)) {
        match line.first() {
            None => std::mem::take(&mut fields).finish(found)?,
            Some(b' ' | b'\t') if fields.first > 0 => {}
            Some(_) => {
                let Some(at) = line.iter().position(|byte| *byte == b':') else {
                    return Err((number, "a line that is no field".to_owned()));
                };
                let (name, value) =
                    (line.get(..at).unwrap_or_default(), line.get(at + 1..).unwrap_or_default());
                if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
                    return Err((number, "a line that is no field".to_owned()));
                }
                if fields.first == 0 {
                    fields.first = number;
                }
                let slot = match name.to_ascii_lowercase().as_slice() {
                    b"package" => &mut fields.name,
                    b"version" => &mut fields.version,
                    b"architecture" => &mut fields.architecture,
                    b"source" => &mut fields.source,
                    b"maintainer" => &mut fields.maintainer,
                    b"status" => &mut fields.status,
                    _ => continue,
                };
                *slot = Some((number, value));
            }
        }
    }
    fields.finish(found)
}

#[derive(Default)]
struct Paragraph<'a> {
    first: usize,
    name: Option<(usize, &'a [u8])>,
    version: Option<(usize, &'a [u8])>,
    architecture: Option<(usize, &'a [u8])>,
    source: Option<(usize, &'a [u8])>,
    maintainer: Option<(usize, &'a [u8])>,
    status: Option<(usize, &'a [u8])>,
}

impl Paragraph<'_> {
    fn finish(self, found: &mut Vec<Package>) -> Result<(), Wrong> {
        if self.first == 0 {
            return Ok(());
        }
        let (at, name) = self.name.ok_or((self.first, "a package without a name".to_owned()))?;
        let name = word(name, "name", at)?;
        // What was removed keeps its paragraph; a file of its own means that it is there.
        let status = self.status.map(|(_, value)| text(value));
        if status.is_some_and(|status| status.split_whitespace().nth(2) != Some("installed")) {
            return Ok(());
        }
        let (at, version) = self.version.ok_or((self.first, format!("{name} has no version")))?;
        let optional = |field: Option<(usize, &[u8])>| field.map(|(_, value)| text(value));
        // The version of the source, where it is another one, stands behind its name.
        let source = optional(self.source).and_then(|source| source.split(' ').next().map(str::to_owned));
        found.push(Package {
            kind: PackageKind::Deb,
            version: word(version, "version", at)?,
            architecture: optional(self.architecture).unwrap_or_default(),
            source: source.filter(|source| *source != name),
            maintainer: optional(self.maintainer),
            license: None,
            name,
        });
        Ok(())
    }
}

/// Paragraphs of lines `X:value`.
fn apk(bytes: &[u8], found: &mut Vec<Package>) -> Result<(), Wrong> {
    let (mut first, mut fields) = (0, [None; 6]);
    let finish = |first: usize, fields: [Option<(usize, &[u8])>; 6], found: &mut Vec<Package>| {
        if first == 0 {
            return Ok(());
        }
        let [name, version, architecture, source, maintainer, license] = fields;
        let (at, name) = name.ok_or((first, "a package without a name".to_owned()))?;
        let name = word(name, "name", at)?;
        let (at, version) = version.ok_or((first, format!("{name} has no version")))?;
        let optional = |field: Option<(usize, &[u8])>| field.map(|(_, value)| text(value));
        found.push(Package {
            kind: PackageKind::Apk,
            version: word(version, "version", at)?,
            architecture: optional(architecture).unwrap_or_default(),
            source: optional(source).filter(|source| *source != name),
            maintainer: optional(maintainer),
            license: optional(license),
            name,
        });
        Ok(())
    };
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate().map(|(at, line)| (at + 1, line)) {
        let (letter, value) = match line {
            [] => {
                finish(std::mem::take(&mut first), std::mem::take(&mut fields), found)?;
                continue;
            }
            [letter, b':', value @ ..] if letter.is_ascii_alphabetic() => (*letter, value),
            _ => return Err((number, "a line that is no field".to_owned())),
        };
        if first == 0 {
            first = number;
        }
        let place = b"PVAomL".iter().position(|known| *known == letter);
        if let Some(slot) = place.and_then(|place| fields.get_mut(place)) {
            *slot = Some((number, value));
        }
    }
    finish(first, fields, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(parse: Parser, text: &str) -> Result<Vec<(String, String)>, Wrong> {
        let mut found = Vec::new();
        parse(text.as_bytes(), &mut found)?;
        Ok(found.into_iter().map(|package| (package.name, package.version)).collect())
    }

    #[test]
    fn paragraphs_of_dpkg() {
        let text = "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nDescription: x\n long: text\n .\n\n\
                    Package: gone\nStatus: deinstall ok config-files\n\npackage: b\nVersion: 1\n";
        let expected = [("a", "1:2-3"), ("b", "1")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(parsed(dpkg, text).unwrap(), expected);
        for (text, line) in [
            ("Package: a\nVersion: 1\ngarbage\n", 3),
            ("Version: 1\n\nPackage: a\n", 1),
            ("\nPackage: a\nArchitecture: all\n", 2),
            (" goes on\n", 1),
            ("Package: a\nVersion: \n", 2),
            ("Package: a b\nVersion: 1\n", 1),
        ] {
            assert_eq!(parsed(dpkg, text).unwrap_err().0, line, "{text}");
        }
    }

    #[test]
    fn paragraphs_of_apk() {
        let text = "C:Q1\nP:musl\nV:1.2.4-r2\nA:x86_64\nF:lib\nR:ld.so\na:0:0:755\n\nP:b\nV:1\n\n\n";
        let expected = [("musl", "1.2.4-r2"), ("b", "1")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(parsed(apk, text).unwrap(), expected);
        for (text, line) in [("P:a\nVersion: 1\n", 2), ("P:a\n", 1), ("V:1\n", 1), ("P:a\nV:1\n\0\0\0", 3)] {
            assert_eq!(parsed(apk, text).unwrap_err().0, line, "{text}");
        }
    }
}
