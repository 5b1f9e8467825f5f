//! Where the trees are mounted, and where in them this process is.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::CgroupSetup;

/// A mounted tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) point: PathBuf,
    /// Which part of the tree is mounted.
    pub(crate) root: PathBuf,
    /// Controllers of version 1, and `name=NAME` for a named tree; those available in version 2.
    pub(crate) controllers: Vec<String>,
    /// Where this process is, as `/proc/self/cgroup` has it.
    pub(crate) own: PathBuf,
    pub(crate) unified: bool,
}

/// All mounted trees, version 2 last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mounts {
    pub(crate) trees: Vec<Mount>,
}

/// Options of a mounted tree of version 1 that are no controllers.
const NO_CONTROLLERS: [&str; 8] =
    ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "nofavordynmods"];

impl Mounts {
    /// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`, once each.
    pub(crate) fn of_this_process() -> Self {
        let read = |path| fs::read(path).unwrap_or_default();
        let mut found = Self::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        for tree in found.trees.iter_mut().filter(|tree| tree.unified) {
            let available = super::read(&tree.point, "cgroup.controllers");
            tree.controllers = available.split_ascii_whitespace().map(str::to_owned).collect();
        }
        found
    }

    fn parse(mountinfo: &[u8], own: &[u8]) -> Self {
        let own = String::from_utf8_lossy(own);
        let mut trees: Vec<Mount> = Vec::new();
        for line in mountinfo.split(|byte| *byte == b'\n') {
            let Some(mount) = mount(line, &own) else { continue };
            // What is mounted twice counts once, the first time.
            let known = trees.iter().any(|other| {
                other.unified == mount.unified && (mount.unified || other.controllers == mount.controllers)
            });
            if !known {
                trees.push(mount);
            }
        }
        trees.sort_by_key(|tree| tree.unified);
        Self { trees }
    }

    /// What the trees amount to.
    pub(crate) fn setup(&self) -> CgroupSetup {
        let has = |unified| self.trees.iter().any(|tree| tree.unified == unified);
        match (has(false), has(true)) {
            (true, true) => CgroupSetup::Hybrid,
            (true, false) => CgroupSetup::V1,
            (false, true) => CgroupSetup::V2,
            (false, false) => CgroupSetup::None,
        }
    }
}

fn mount(line: &[u8], own: &str) -> Option<Mount> {
    let at = line.windows(3).position(|window| window == b" - ")?;
    let (left, right) = (line.get(..at)?, line.get(at + 3..)?);
    let mut rest = right.split(|byte| *byte == b' ');
    let unified = match rest.next()? {
        b"cgroup" => false,
        b"cgroup2" => true,
        _ => return None,
    };
    let options = String::from_utf8_lossy(rest.nth(1)?).into_owned();
    let mut fields = left.split(|byte| *byte == b' ').skip(3);
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    let controllers: Vec<String> = options
        .split(',')
        .filter(|option| {
            !unified && !NO_CONTROLLERS.contains(option) && !option.starts_with("release_agent=")
        })
        .map(str::to_owned)
        .collect();
    let own = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let same = match unified {
            true => hierarchy == "0" && names.is_empty(),
            false => names.split(',').any(|name| controllers.iter().any(|other| other == name)),
        };
        same.then(|| PathBuf::from(path))
    });
    Some(Mount { point, root, controllers, own: own.unwrap_or_else(|| "/".into()), unified })
}

/// Octal escapes of blanks, tabs, newlines and backslashes.
pub(crate) fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while let Some(byte) = field.get(at) {
        let octal = field.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) if *byte == b'\\' => {
                bytes.push(escaped);
                at += 4;
            }
            _ => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

impl Mount {
    /// The directory of this process's own group.
    pub(crate) fn own_directory(&self) -> PathBuf {
        let beneath = self.own.strip_prefix(&self.root).unwrap_or(Path::new(""));
        self.point.join(beneath.strip_prefix("/").unwrap_or(beneath))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"30 23 0:26 / /sys/fs/cgroup/cpu\\040acct rw - cgroup cgroup rw,cpuacct,cpu\n\
        31 23 0:27 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
        32 23 0:28 /a /sys/fs/cgroup/systemd rw - cgroup none rw,xattr,name=systemd\n\
        33 23 0:26 / /second/cpu rw - cgroup cgroup rw,cpuacct,cpu\n\
        1 2 0:3 / / rw - ext4 /dev/vda rw\n";
    const OWN: &[u8] = b"5:name=systemd:/a/b\n4:cpu,cpuacct:/x:y\n0::/u\n";

    #[test]
    fn trees_are_told_by_their_options() {
        let mounts = Mounts::parse(MOUNTS, OWN);
        assert_eq!(mounts.trees.len(), 3);
        let [cpu, systemd, unified] = &mounts.trees[..] else { panic!() };
        assert_eq!(cpu.point, Path::new("/sys/fs/cgroup/cpu acct"));
        assert_eq!(
            (&cpu.controllers[..], cpu.own.as_path()),
            (&["cpuacct".into(), "cpu".into()][..], Path::new("/x:y"))
        );
        assert_eq!(systemd.own_directory(), Path::new("/sys/fs/cgroup/systemd/b"));
        assert!(unified.unified && unified.own == Path::new("/u"));
        assert_eq!(mounts.setup(), CgroupSetup::Hybrid);
        assert_eq!(Mounts::parse(b"", b"").setup(), CgroupSetup::None);
    }
}
