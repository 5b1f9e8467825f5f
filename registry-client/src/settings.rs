//! Files of settings: credentials, rules about hosts, certificates. They are read whole, and only up to a bound.

use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;
/// Most entries of a directory that is looked through.
const MAX_ENTRIES: usize = 10_000;

/// The bytes of a file; [`ErrorKind::FileTooLarge`] when there are too many.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("longer than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

/// What is in a directory, in the order of the names: that of the directory is nobody's. Nothing when it does not exist.
pub(crate) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        if paths.len() == MAX_ENTRIES {
            let what = format!("more than {MAX_ENTRIES} entries");
            return Err(io::Error::new(ErrorKind::FileTooLarge, what));
        }
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("b");
        std::fs::write(&path, vec![b'x'; 4 << 20]).unwrap();
        assert_eq!(read(&path).unwrap().len(), 4 << 20);
        std::fs::write(&path, vec![b'x'; (4 << 20) + 1]).unwrap();
        assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::FileTooLarge);
        // It has no end.
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().kind(), ErrorKind::FileTooLarge);
        std::fs::write(directory.path().join("a"), "").unwrap();
        assert_eq!(list(directory.path()).unwrap(), [directory.path().join("a"), path]);
        assert!(list(&directory.path().join("absent")).unwrap().is_empty());
        for number in 2..=MAX_ENTRIES {
            std::fs::write(directory.path().join(number.to_string()), "").unwrap();
        }
        assert_eq!(list(directory.path()).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
