//! What instructions say: typed, before any variable is expanded.
//!
//! Source: the instructions of the Dockerfile reference, one type each.

mod flags;
mod mount;
mod read;

pub(crate) use mount::MountSpec;
pub(crate) use mount::{MountType, parse_bool};
pub(crate) use read::{Line, read, takes_heredocs};

use crate::plan::{Device, Network, Security};

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// `FROM`: begins a stage.
    From(From),
    /// `ARG name[=value]…`.
    Arg(Vec<Arg>),
    /// `ENV name=value…`.
    Env(Vec<Pair>),
    /// `LABEL name=value…`.
    Label(Vec<Pair>),
    /// `RUN`.
    Run(Box<Run>),
    /// `CMD`.
    Cmd(Command),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `COPY`.
    Copy(Box<Transfer>),
    /// `ADD`.
    Add(Box<Transfer>),
    /// `WORKDIR path`.
    Workdir(String),
    /// `USER user[:group]`.
    User(String),
    /// `VOLUME path…`.
    Volume(Vec<String>),
    /// `EXPOSE port[/protocol]…`, the words sorted.
    Expose(Vec<String>),
    /// `HEALTHCHECK`.
    Healthcheck(Health),
    /// `ONBUILD instruction`: the instruction's text, with heredocs.
    Onbuild(String),
    /// `SHELL [words]`.
    Shell(Vec<String>),
    /// `STOPSIGNAL signal`.
    Stopsignal(String),
    /// `MAINTAINER name`.
    Maintainer(String),
}

/// `FROM [--platform=p] image [AS name]`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct From {
    /// Image, stage or named context, as written.
    pub base: String,
    /// The stage's name in lower case.
    pub name: Option<String>,
    /// The platform as written.
    pub platform: Option<String>,
    /// The description in the comment above: `# name what it is`.
    pub description: Option<String>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// Its default.
    pub default: Option<String>,
    /// The description in the comment above.
    pub description: Option<String>,
}

/// A name and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pair {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
    /// Whether the form without an equals sign was used.
    pub legacy: bool,
}

/// A command line in exec form or shell form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A JSON array: run as it is.
    Exec(Vec<String>),
    /// Text for the shell.
    Shell(String),
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Run {
    /// The command.
    pub command: Command,
    /// `--mount`, as written.
    pub mounts: Vec<String>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// `--device`.
    pub devices: Vec<Device>,
}

/// `COPY` or `ADD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transfer {
    /// Paths and URLs.
    pub sources: Vec<String>,
    /// Files that heredocs make.
    pub inline: Vec<InlineFile>,
    /// The last word.
    pub dest: String,
    /// `COPY --from`.
    pub from: Option<String>,
    /// `--chown`.
    pub chown: String,
    /// `--chmod`.
    pub chmod: String,
    /// `--link`.
    pub link: bool,
    /// `COPY --parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `ADD --keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `ADD --checksum`.
    pub checksum: String,
    /// `ADD --unpack`.
    pub unpack: Option<bool>,
}

/// A file that a heredoc makes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InlineFile {
    /// Its name.
    pub name: String,
    /// Its content.
    pub data: String,
    /// Whether variables in it are expanded.
    pub expand: bool,
}

/// `HEALTHCHECK`. Durations are in nanoseconds; 0 is the default of whoever runs the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// `NONE`, or `CMD` or `CMD-SHELL` and the command.
    pub test: Vec<String>,
    /// `--interval`.
    pub interval: i64,
    /// `--timeout`.
    pub timeout: i64,
    /// `--start-period`.
    pub start_period: i64,
    /// `--start-interval`.
    pub start_interval: i64,
    /// `--retries`.
    pub retries: i64,
}

/// Every keyword in upper case.
pub(crate) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The keyword in upper case, when there is one.
pub(crate) fn keyword(written: &str) -> Option<&'static str> {
    KEYWORDS.iter().find(|known| known.eq_ignore_ascii_case(written)).copied()
}

impl Kind {
    /// The keyword in upper case.
    pub const fn keyword(&self) -> &'static str {
        match self {
            Self::From(_) => "FROM",
            Self::Arg(_) => "ARG",
            Self::Env(_) => "ENV",
            Self::Label(_) => "LABEL",
            Self::Run(_) => "RUN",
            Self::Cmd(_) => "CMD",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Copy(_) => "COPY",
            Self::Add(_) => "ADD",
            Self::Workdir(_) => "WORKDIR",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Onbuild(_) => "ONBUILD",
            Self::Shell(_) => "SHELL",
            Self::Stopsignal(_) => "STOPSIGNAL",
            Self::Maintainer(_) => "MAINTAINER",
        }
    }
}
