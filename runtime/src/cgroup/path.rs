//! Where a container's groups are.

use std::path::{Component, Path, PathBuf};

use super::mounts::Mount;
use crate::Error;

/// A group's place, the same in every tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// From the mount point of each tree.
    FromRoot(PathBuf),
    /// From the group of this process in each tree.
    FromOwn(PathBuf),
}

impl Place {
    /// Reads `linux.cgroupsPath`: absolute from the roots, else from this process's own groups. The form of systemd,
    /// `slice:prefix:name`, means the directories that systemd would make.
    pub(crate) fn of(path: &Path) -> Result<Self, Error> {
        if let Some(text) = path.to_str()
            && text.matches(':').count() == 2
            && !text.contains('/')
        {
            let mut parts = text.split(':');
            let (slice, prefix, name) =
                (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
            let unit = if name.ends_with(".slice") || prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}-{name}.scope")
            };
            return Ok(Self::FromRoot(slices(slice).join(unit)));
        }
        if path.components().any(|component| component == Component::ParentDir) {
            return Err(Error::spec("linux.cgroupsPath", format!("{} has `..` in it", path.display())));
        }
        Ok(match path.strip_prefix("/") {
            Ok(beneath) => Self::FromRoot(beneath.to_path_buf()),
            Err(_) => Self::FromOwn(path.to_path_buf()),
        })
    }

    /// The directory in a tree.
    pub(crate) fn directory(&self, mount: &Mount) -> PathBuf {
        match self {
            Self::FromRoot(path) => mount.point.join(path),
            Self::FromOwn(path) => mount.own_directory().join(path),
        }
    }
}

/// `a-b.slice` stands in `a.slice`.
fn slices(slice: &str) -> PathBuf {
    let mut path = PathBuf::new();
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    if stem.is_empty() || stem == "-" {
        return path;
    }
    let mut prefix = String::new();
    for part in stem.split('-') {
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_relative_or_systemds() {
        assert_eq!(Place::of(Path::new("/a/b")).unwrap(), Place::FromRoot("a/b".into()));
        assert_eq!(Place::of(Path::new("a/b")).unwrap(), Place::FromOwn("a/b".into()));
        let systemd = Place::of(Path::new("user-1000.slice:libpod:abc")).unwrap();
        assert_eq!(systemd, Place::FromRoot("user.slice/user-1000.slice/libpod-abc.scope".into()));
        assert!(Place::of(Path::new("/a/../b")).is_err());
    }
}
