//! Mount options, as `config.md` and `mount(8)` name them.

use super::mount::{
    MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME,
};

use crate::Error;

/// Attributes to set and to clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) set: u64,
    pub(super) clear: u64,
}

impl Attributes {
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn apply(&mut self, change: Self) {
        self.set = (self.set & !change.clear) | change.set;
        self.clear |= change.clear;
        self.clear &= !(change.set & !MOUNT_ATTR_ATIME);
    }
}

/// What a list of options says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) bind: bool,
    pub(super) recursive: bool,
    /// For this mount alone.
    pub(super) attributes: Attributes,
    /// Whether an option names one of these, if only to say what is so anyway.
    pub(super) named: bool,
    /// For this mount and all below it.
    pub(super) recursive_attributes: Attributes,
    /// Propagation and whether it is recursive, in order.
    pub(super) propagation: Vec<(u64, bool)>,
    /// The rest is the filesystem's: key and value, or a flag.
    pub(super) data: Vec<(String, Option<String>)>,
    /// Begins with a copy of what it covers.
    pub(super) copy_up: bool,
    /// Options that are understood and not done.
    pub(super) unsupported: Vec<String>,
}

impl Options {
    pub(super) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            parsed.add(option);
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        if let Some(change) = attribute(option) {
            self.attributes.apply(change);
            self.named = true;
        } else if let Some(undone) = undoes(option) {
            let chosen = match undone {
                0 => self.attributes.set & (MOUNT_ATTR_NOATIME | MOUNT_ATTR_STRICTATIME) == 0,
                undone => self.attributes.set & undone != 0,
            };
            if chosen {
                self.attributes.set &= !undone;
                if undone != MOUNT_ATTR_NODIRATIME {
                    self.attributes.clear &= !MOUNT_ATTR_ATIME;
                }
            }
            self.named = true;
        } else if let Some(change) = option.strip_prefix('r').and_then(recursive_attribute) {
            self.recursive_attributes.apply(change);
        } else if let Some(propagation) = propagation(option) {
            self.propagation.push(propagation);
        } else {
            match option {
                "bind" => self.bind = true,
                "rbind" => (self.bind, self.recursive) = (true, true),
                "defaults" => {}
                // The host has done it: see `idmap.rs`.
                "idmap" | "ridmap" => {}
                "tmpcopyup" => self.copy_up = true,
                "copy-symlink" | "src-nofollow" | "dest-nofollow" => {
                    self.unsupported.push(option.to_owned());
                }
                _ => self.data.push(match option.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (option.to_owned(), None),
                }),
            }
        }
    }
}

fn attribute(option: &str) -> Option<Attributes> {
    let set = |bits| Some(Attributes { set: bits, clear: 0 });
    let clear = |bits| Some(Attributes { set: 0, clear: bits });
    // The access-time settings are one field of the kernel's: it must be cleared as a whole to be set.
    let atime = |bits| Some(Attributes { set: bits, clear: MOUNT_ATTR_ATIME });
    match option {
        "ro" => set(MOUNT_ATTR_RDONLY),
        "rw" => clear(MOUNT_ATTR_RDONLY),
        "nosuid" => set(MOUNT_ATTR_NOSUID),
        "suid" => clear(MOUNT_ATTR_NOSUID),
        "nodev" => set(MOUNT_ATTR_NODEV),
        "dev" => clear(MOUNT_ATTR_NODEV),
        "noexec" => set(MOUNT_ATTR_NOEXEC),
        "exec" => clear(MOUNT_ATTR_NOEXEC),
        "nosymfollow" => set(MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => clear(MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => set(MOUNT_ATTR_NODIRATIME),
        "noatime" => atime(MOUNT_ATTR_NOATIME),
        "strictatime" => atime(MOUNT_ATTR_STRICTATIME),
        "relatime" => atime(0),
        _ => None,
    }
}

/// What an option about access times takes back of those before it. By itself it changes nothing, as with `mount(2)`,
/// where it is the absence of a flag.
fn undoes(option: &str) -> Option<u64> {
    match option {
        "diratime" => Some(MOUNT_ATTR_NODIRATIME),
        "atime" => Some(MOUNT_ATTR_NOATIME),
        "nostrictatime" => Some(MOUNT_ATTR_STRICTATIME),
        "norelatime" => Some(0),
        _ => None,
    }
}

/// The same word in its recursive form, which is for `mount_setattr(2)`: there each has an effect.
fn recursive_attribute(option: &str) -> Option<Attributes> {
    match option {
        "diratime" => Some(Attributes { set: 0, clear: MOUNT_ATTR_NODIRATIME }),
        "atime" | "norelatime" | "nostrictatime" => Some(Attributes { set: 0, clear: MOUNT_ATTR_ATIME }),
        option => attribute(option),
    }
}

/// The options that are understood; others are the filesystem's own.
pub(crate) fn known() -> Vec<String> {
    let attributes = [
        "ro",
        "rw",
        "nosuid",
        "suid",
        "nodev",
        "dev",
        "noexec",
        "exec",
        "nosymfollow",
        "symfollow",
        "nodiratime",
        "diratime",
        "noatime",
        "strictatime",
        "relatime",
        "atime",
        "norelatime",
        "nostrictatime",
    ];
    let propagations = ["shared", "slave", "private", "unbindable"];
    let mut names: Vec<String> =
        attributes.iter().chain(&propagations).map(|&name| name.to_owned()).collect();
    names.extend(attributes.iter().chain(&propagations).map(|name| format!("r{name}")));
    names.extend(["bind", "rbind", "defaults", "idmap", "ridmap", "tmpcopyup"].map(str::to_owned));
    names.sort();
    names
}

pub(super) fn propagation(option: &str) -> Option<(u64, bool)> {
    let (name, recursive) = match option.strip_prefix('r') {
        Some(name) if name == "shared" || name == "slave" || name == "private" || name == "unbindable" => {
            (name, true)
        }
        _ => (option, false),
    };
    propagation_flag(name).map(|flag| (flag, recursive))
}

/// `linux.rootfsPropagation`. Without a word of its own it is recursive, as in runc.
pub(super) fn rootfs_propagation(name: &str) -> Result<(u64, bool), Error> {
    let (kind, recursive) = propagation(name).ok_or_else(|| {
        Error::spec("linux.rootfsPropagation", format!("{name:?} is no kind of propagation"))
    })?;
    Ok((kind, recursive || kind != libc::MS_UNBINDABLE))
}

/// The `MS_*` flag of a kind of propagation.
pub(super) fn propagation_flag(name: &str) -> Option<u64> {
    Some(match name {
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "private" => libc::MS_PRIVATE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Options {
        Options::parse(&options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        assert_eq!(parse(&["ro", "rw"]).attributes, Attributes { set: 0, clear: MOUNT_ATTR_RDONLY });
        assert_eq!(parse(&["rw", "ro"]).attributes, Attributes { set: MOUNT_ATTR_RDONLY, clear: 0 });
    }

    #[test]
    fn recursive_attributes_are_kept_apart() {
        let options = parse(&["rbind", "rro", "nosuid", "rslave", "size=64m", "relatime"]);
        assert!(options.bind && options.recursive);
        assert_eq!(options.recursive_attributes.set, MOUNT_ATTR_RDONLY);
        assert_eq!(options.attributes, Attributes { set: MOUNT_ATTR_NOSUID, clear: MOUNT_ATTR_ATIME });
        assert_eq!(options.propagation, [(libc::MS_SLAVE, true)]);
        assert_eq!(options.data, [("size".to_owned(), Some("64m".to_owned()))]);
    }

    #[test]
    fn access_times_are_as_the_kernel_has_them() {
        let chosen = |options: &[&str]| {
            let parsed = parse(options);
            assert!(parsed.named);
            parsed.attributes
        };
        let none = Attributes::default();
        assert_eq!(chosen(&["atime", "diratime", "norelatime", "nostrictatime"]), none);
        assert_eq!(chosen(&["noatime", "atime"]), none);
        assert_eq!(chosen(&["strictatime", "nostrictatime"]), none);
        assert_eq!(chosen(&["relatime", "norelatime"]), none);
        let noatime = Attributes { set: MOUNT_ATTR_NOATIME, clear: MOUNT_ATTR_ATIME };
        assert_eq!(chosen(&["noatime", "norelatime", "nostrictatime"]), noatime);
        assert_eq!(chosen(&["nodiratime", "noatime", "diratime"]), noatime);
        assert!(!parse(&["bind", "rnoatime", "size=1"]).named);
        assert_eq!(
            parse(&["ratime", "rdiratime"]).recursive_attributes.clear,
            MOUNT_ATTR_ATIME | MOUNT_ATTR_NODIRATIME
        );
    }

    #[test]
    fn words_that_begin_with_r_are_not_recursive_forms_by_accident() {
        assert_eq!(parse(&["relatime"]).recursive_attributes, Attributes::default());
        assert_eq!(parse(&["rw"]).recursive_attributes, Attributes::default());
    }
}
