//! COPY, ADD and WORKDIR: changes of a tree.

use serde::Serialize;

use super::Input;

/// Changes that make one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Files {
    /// What to do, in order.
    pub actions: Vec<FileAction>,
    /// `--link`: the layer does not depend on what is below.
    pub link: bool,
    /// Whether the caller asked not to use the cache for this step.
    pub ignore_cache: bool,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "lowercase")]
#[non_exhaustive]
pub enum FileAction {
    /// Make a directory and its parents.
    Mkdir(Mkdir),
    /// Copy files.
    Copy(Box<Copy>),
}

/// A directory to make (WORKDIR). One that exists stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Mkdir {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The owner: the stage's USER.
    pub owner: Option<Owner>,
}

/// Files to copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Copy {
    /// Where from.
    pub from: CopySource,
    /// Absolute, cleaned path in the source. May hold wildcards of Go's `filepath.Match` when `wildcard` is set.
    pub source: String,
    /// Absolute path in the root; a slash or `/.` at the end says that it is a directory.
    pub dest: String,
    /// `--chown`; without it everything from a context belongs to 0:0, and files of a stage keep their owners.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub mode: Option<Mode>,
    /// `--parents`: only these paths below `source`, with their directories.
    pub include: Vec<String>,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// Paths that must exist (`--parents` without wildcards).
    pub required: Vec<String>,
    /// Whether archives are unpacked.
    pub unpack: bool,
    /// Whether `source` may hold wildcards; one without a match is no error.
    pub wildcard: bool,
    /// Whether symbolic links in `source` are followed and directories give their content only.
    pub follow_links: bool,
    /// Whether `--parents` was given.
    pub parents: bool,
}

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CopySource {
    /// A tree: context, stage, image, fetched file or checkout.
    Tree(Input),
    /// A file from the Dockerfile, mode 0644 (a heredoc).
    Inline {
        /// The file's name.
        name: String,
        /// The file's content.
        data: String,
    },
}

/// `user[:group]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Owner {
    /// The user.
    pub user: Principal,
    /// The group; none when not given (then the user's primary group, or the id of the user).
    pub group: Option<Principal>,
}

/// A user or group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By its name in the root's `/etc/passwd` or `/etc/group`.
    Name(String),
}

/// `--chmod`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// All bits, at most 07777.
    Octal(u32),
    /// Symbolic text of chmod(1).
    Symbolic(String),
}

impl FileAction {
    /// The tree that it reads, if it reads one.
    pub const fn from(&self) -> Option<Input> {
        match self {
            Self::Copy(copy) => match copy.from {
                CopySource::Tree(input) => Some(input),
                CopySource::Inline { .. } => None,
            },
            Self::Mkdir(_) => None,
        }
    }
}

impl Owner {
    /// Reads `user[:group]`. `root` is 0, and so is a part that is empty.
    pub fn parse(text: &str) -> Self {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Self { user: Principal::parse(user), group: group.map(Principal::parse) }
    }
}

impl Principal {
    fn parse(text: &str) -> Self {
        match text {
            "root" | "" => Self::Id(0),
            text => match text.parse::<i32>() {
                Ok(id) => Self::Id(id.cast_unsigned()),
                Err(_) => Self::Name(text.to_owned()),
            },
        }
    }
}

impl std::fmt::Display for Principal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Octal(bits) => write!(f, "{bits:04o}"),
            Self::Symbolic(text) => f.write_str(text),
        }
    }
}
