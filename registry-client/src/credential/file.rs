//! Reading and atomically replacing a credentials file.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value};

use super::CredentialError;
use crate::settings;

/// The members of the file; `None` when it does not exist, empty when it is empty.
pub(super) fn read(path: &Path) -> Result<Option<Map<String, Value>>, CredentialError> {
    let failed = |source| CredentialError::Read { path: path.to_owned(), source };
    let malformed = |what: String| CredentialError::Malformed { path: path.to_owned(), what };
    let text = match settings::read(path) {
        Ok(text) => text,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return Ok(None),
            io::ErrorKind::FileTooLarge => return Err(malformed(error.to_string())),
            _ => return Err(failed(error)),
        },
    };
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Some(Map::new()));
    }
    // The parser's message would be fine, but it may quote the text that it stumbles over.
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        malformed(format!("not a JSON object (line {}, column {})", error.line(), error.column()))
    })
}

/// Replaces the file: written beside it with mode 0600, synced, renamed over it. A symbolic link keeps pointing: its
/// target is replaced. An existing file keeps a mode that is stricter than 0600, and its owner when we may give it.
pub(super) fn replace(path: &Path, members: &Map<String, Value>) -> Result<(), CredentialError> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    write(&target, members).map_err(|source| CredentialError::Write { path: target, source })
}

fn write(target: &Path, members: &Map<String, Value>) -> io::Result<()> {
    let directory = match target.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    create_private_dir(directory)?;
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t"));
    serde::Serialize::serialize(members, &mut serializer)?;
    let (temporary, mut file) = create_beside(target, directory)?;
    let written = (|| {
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, target)
    })();
    if written.is_err() {
        // Nothing of a secret stays behind under another name.
        drop(fs::remove_file(&temporary));
    }
    written?;
    // The rename is only durable with its directory; a file system without directory sync has nothing to offer.
    drop(fs::File::open(directory).and_then(|directory| directory.sync_all()));
    Ok(())
}

fn create_private_dir(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// A new file with mode 0600 and a name that no other writer uses.
fn create_beside(target: &Path, directory: &Path) -> io::Result<(PathBuf, fs::File)> {
    let name = target.file_name().and_then(|name| name.to_str()).unwrap_or("config.json");
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    for attempt in 0..1000 {
        let candidate = directory.join(format!(".{name}.{}.{attempt}", std::process::id()));
        match options.open(&candidate) {
            Ok(file) => return Ok((candidate, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "too many temporary files beside the target"))
}
