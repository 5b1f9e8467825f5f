//! A store beside a tree that nothing may touch: where attacks are made.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use image_core::{DiffId, Digest};
use layer_store::{Error, Layer, Store, View};

use crate::tarball::{Member, archive};

/// A store beside a tree that nothing may touch.
pub(crate) struct Yard {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) before: BTreeMap<PathBuf, String>,
}

impl Yard {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir_all(outside.join("etc")).unwrap();
        std::fs::write(outside.join("etc/passwd"), "root:x:0:0").unwrap();
        std::fs::write(outside.join("secret"), "safe").unwrap();
        std::os::unix::fs::symlink("secret", outside.join("link")).unwrap();
        std::fs::set_permissions(outside.join("secret"), PermissionsExt::from_mode(0o640)).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let before = snapshot(&outside);
        Self { dir, store, before }
    }

    pub(crate) fn outside(&self) -> String {
        self.dir.path().join("outside").to_str().unwrap().to_owned()
    }

    pub(crate) fn unpack_over(&self, below: &[Layer], members: &[Member]) -> Result<Layer, Error> {
        let bytes = archive(members);
        let work = self.store.begin()?;
        let diff_id = DiffId::new(Digest::sha256(&bytes));
        let layer = work.unpack_stream(bytes.as_slice(), &diff_id, &View::of(below))?.layer;
        work.commit()?;
        Ok(layer)
    }

    pub(crate) fn check(&self, case: &str) {
        assert_eq!(snapshot(&self.dir.path().join("outside")), self.before, "{case} changed what is outside");
        let mut names: Vec<_> =
            std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["outside", "store"], "{case} made something outside");
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path().join("store/layers"))
            .unwrap()
            .flat_map(|layer| std::fs::read_dir(layer.unwrap().path()).unwrap())
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names.dedup();
        assert!(names.iter().all(|name| name == "diff" || name == "index"), "{case}: {names:?}");
    }
}

/// Everything about a tree that an attack might change.
pub(crate) fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let mut text = format!(
            "{:o} {} {} {} {}.{} {}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ino()
        );
        if meta.is_file() {
            text += &std::fs::read_to_string(&path).unwrap();
        } else if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if meta.is_symlink() {
            text += std::fs::read_link(&path).unwrap().to_str().unwrap();
        } else {
            text += &format!(" device {}", meta.rdev());
        }
        found.insert(path, text);
    }
    found
}
