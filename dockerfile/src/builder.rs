//! Dockerfiles that are made by programs.

use crate::error::{Diagnostic, Diagnostics, ErrorKind};
use crate::instruction::{Arg, Command, From, Health, InlineFile, Kind, Pair, Run, Transfer};
use crate::plan::{Device, Network, Security};
use crate::print::print;
use crate::source::{Lines, Span};
use crate::syntax::Dockerfile;

/// Makes a [`Dockerfile`] without a text: instruction by instruction, in the types that the parser makes too.
///
/// The result has a text all the same, which says what was asked for: [`Builder::finish`] writes it, reads it again
/// and compares. Values are [`Word`]s: blanks and quotes in a plain string are data, `$NAME` is a variable.
///
/// ```
/// use dockerfile::{Builder, Word, instruction::{From, Run, Transfer}};
///
/// let file = Builder::new()
///     .arg("VERSION", Some("3.20".into()))
///     .from(From::image("alpine:$VERSION").named("build"))
///     .env("FLAGS", "-O2 -g")
///     .run(Run::shell("make").mount("type=cache,target=/root/.cache"))
///     .from(From::image("scratch"))
///     .copy(Transfer::new(["/out/app"], "/app").from("build").chmod("0755"))
///     .label("price", Word::literal("$5"))
///     .entrypoint(["/app"])
///     .finish()?;
/// assert!(file.to_string().ends_with("LABEL price=\"\\$5\"\nENTRYPOINT [\"/app\"]\n"));
/// assert_eq!(file.stages().count(), 2);
/// # Ok::<(), dockerfile::Diagnostics>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing before `finish`"]
pub struct Builder {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    kind: Kind,
    /// The body of RUN's heredoc.
    script: Option<String>,
}

/// The name of the heredoc of [`Run::script`]; longer when the script has such a line.
const SCRIPT: &str = "EOF";

/// The value of an ENV, LABEL or ARG, as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word(String);

impl Word {
    /// Exactly this text: `$` is a dollar.
    pub fn literal(text: &str) -> Self {
        Self(format!("\"{}\"", escaped(text).replace('$', "\\$")))
    }

    /// A word as it would be written in a file: quotes, escapes and variables mean what they mean there.
    pub fn written(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

impl std::convert::From<&str> for Word {
    /// This text with its variables expanded.
    fn from(text: &str) -> Self {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"$_{}-.,/:@%+=".contains(&byte);
        if !text.is_empty() && text.bytes().all(plain) {
            Self(text.to_owned())
        } else {
            Self(format!("\"{}\"", escaped(text)))
        }
    }
}

impl std::convert::From<String> for Word {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl Builder {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds any instruction.
    pub fn instruction(mut self, kind: Kind) -> Self {
        self.entries.push(Entry { kind, script: None });
        self
    }

    /// Begins a stage.
    pub fn from(self, from: From) -> Self {
        self.instruction(Kind::From(from))
    }

    /// `ARG name[=default]`.
    pub fn arg(self, name: &str, default: Option<Word>) -> Self {
        let default = default.map(|word| word.0);
        self.instruction(Kind::Arg(vec![Arg { name: name.to_owned(), default, description: None }]))
    }

    /// `ENV name=value`.
    pub fn env(self, name: &str, value: impl Into<Word>) -> Self {
        self.instruction(Kind::Env(vec![pair(name, value.into())]))
    }

    /// `LABEL name=value`.
    pub fn label(self, name: &str, value: impl Into<Word>) -> Self {
        self.instruction(Kind::Label(vec![pair(name, value.into())]))
    }

    /// `RUN`; a [`Run`] or the text of a shell command.
    pub fn run(self, run: impl Into<Run>) -> Self {
        self.instruction(Kind::Run(Box::new(run.into())))
    }

    /// `RUN` of a script of many lines, which the stage's shell reads, or its own interpreter when it begins with `#!`.
    pub fn script(mut self, run: Run, script: &str) -> Self {
        let mut body = script.to_owned();
        if !body.ends_with('\n') {
            body.push('\n');
        }
        let mut name = SCRIPT.to_owned();
        while body.lines().any(|line| line == name) {
            name.push('_');
        }
        let run = Run { command: Command::Shell(format!("<<{name}")), ..run };
        self.entries.push(Entry { kind: Kind::Run(Box::new(run)), script: Some(body) });
        self
    }

    /// `COPY`.
    pub fn copy(self, transfer: Transfer) -> Self {
        self.instruction(Kind::Copy(Box::new(transfer)))
    }

    /// `ADD`.
    #[expect(clippy::should_implement_trait, reason = "the instruction's name")]
    pub fn add(self, transfer: Transfer) -> Self {
        self.instruction(Kind::Add(Box::new(transfer)))
    }

    /// `WORKDIR path`.
    pub fn workdir(self, path: &str) -> Self {
        self.instruction(Kind::Workdir(path.to_owned()))
    }

    /// `USER user[:group]`.
    pub fn user(self, user: &str) -> Self {
        self.instruction(Kind::User(user.to_owned()))
    }

    /// `EXPOSE port[/protocol]`.
    pub fn expose(self, port: &str) -> Self {
        self.instruction(Kind::Expose(vec![port.to_owned()]))
    }

    /// `VOLUME path`.
    pub fn volume(self, path: &str) -> Self {
        self.instruction(Kind::Volume(vec![path.to_owned()]))
    }

    /// `CMD`: an array of words in exec form, or a text for the shell.
    pub fn cmd(self, command: impl Into<Command>) -> Self {
        self.instruction(Kind::Cmd(command.into()))
    }

    /// `ENTRYPOINT`: as [`Builder::cmd`].
    pub fn entrypoint(self, command: impl Into<Command>) -> Self {
        self.instruction(Kind::Entrypoint(command.into()))
    }

    /// `SHELL`.
    pub fn shell<W: Into<String>>(self, words: impl IntoIterator<Item = W>) -> Self {
        self.instruction(Kind::Shell(words.into_iter().map(Into::into).collect()))
    }

    /// `HEALTHCHECK`.
    pub fn healthcheck(self, health: Health) -> Self {
        self.instruction(Kind::Healthcheck(health))
    }

    /// `STOPSIGNAL signal`.
    pub fn stop_signal(self, signal: &str) -> Self {
        self.instruction(Kind::Stopsignal(signal.to_owned()))
    }

    /// `ONBUILD instruction`.
    pub fn onbuild(self, kind: &Kind) -> Self {
        let text = print(kind, &[]);
        self.instruction(Kind::Onbuild(text.trim_end_matches('\n').to_owned()))
    }

    /// The file.
    ///
    /// # Errors
    ///
    /// When a value cannot be said in a Dockerfile (a line feed in a shell command, say: [`Builder::script`] takes
    /// those), with the line that it would have been; and all that parsing finds wrong.
    pub fn finish(&self) -> Result<Dockerfile, Diagnostics> {
        let mut text = String::new();
        for entry in &self.entries {
            let kind = &entry.kind;
            match (kind, &entry.script) {
                (Kind::Run(run), Some(body)) => {
                    let Command::Shell(head) = &run.command else { continue };
                    text.push_str(&print(kind, &[(head.trim_start_matches('<'), body)]));
                }
                _ => text.push_str(&print(kind, &[])),
            }
        }
        let file = Dockerfile::parse(text.as_bytes())?;
        let mut read = file.instructions().iter();
        for entry in &self.entries {
            let got = read.next();
            if got.is_none_or(|got| !same(&got.kind, &entry.kind)) {
                let (span, lines) =
                    got.map_or((Span::default(), Lines::default()), |got| (got.span, got.lines));
                let kind = ErrorKind::Unprintable(entry.kind.keyword());
                return Err(Diagnostic::new(kind, span, lines).into());
            }
        }
        if let Some(more) = read.next() {
            let kind = ErrorKind::Unprintable(more.kind.keyword());
            return Err(Diagnostic::new(kind, more.span, more.lines).into());
        }
        Ok(file)
    }
}

/// Whether what was read is what was asked for. Ports are a set.
fn same(read: &Kind, asked: &Kind) -> bool {
    match (read, asked) {
        (Kind::Expose(read), Kind::Expose(asked)) => {
            let mut asked = asked.clone();
            asked.sort();
            *read == asked
        }
        _ => read == asked,
    }
}

fn pair(name: &str, value: Word) -> Pair {
    Pair { name: name.to_owned(), value: value.0, legacy: false }
}

impl From {
    /// `FROM image`: an image, an earlier stage or a named context.
    pub fn image(base: impl Into<String>) -> Self {
        Self { base: base.into(), name: None, platform: None, description: None }
    }

    /// `AS name`, in lower case.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_lowercase());
        self
    }

    /// `--platform`.
    #[must_use]
    pub fn platform(mut self, platform: &str) -> Self {
        self.platform = Some(platform.to_owned());
        self
    }

    /// What the stage is for; a comment above it. Only a stage with a name has one.
    #[must_use]
    pub fn described(mut self, text: &str) -> Self {
        self.description = Some(text.to_owned());
        self
    }
}

impl Run {
    /// Text for the stage's shell, in one line.
    pub fn shell(text: impl Into<String>) -> Self {
        Self::new(Command::Shell(text.into()))
    }

    /// A program and its arguments, without a shell.
    pub fn exec<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        Self::new(Command::Exec(words.into_iter().map(Into::into).collect()))
    }

    fn new(command: Command) -> Self {
        let (network, security) = (Network::Default, Security::Sandbox);
        Self { command, mounts: Vec::new(), network, security, devices: Vec::new() }
    }

    /// `--mount`: `type=cache,target=/root/.cache`.
    #[must_use]
    pub fn mount(mut self, options: &str) -> Self {
        self.mounts.push(options.to_owned());
        self
    }

    /// `--network`.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// `--security`.
    #[must_use]
    pub fn security(mut self, security: Security) -> Self {
        self.security = security;
        self
    }

    /// `--device`: a CDI name.
    #[must_use]
    pub fn device(mut self, name: &str, required: bool) -> Self {
        self.devices.push(Device { name: name.to_owned(), required });
        self
    }
}

impl Default for Run {
    /// No command: what [`Builder::script`] takes.
    fn default() -> Self {
        Self::shell("")
    }
}

impl std::convert::From<&str> for Run {
    fn from(text: &str) -> Self {
        Self::shell(text)
    }
}

impl Transfer {
    /// From `sources` to `dest`.
    pub fn new<W: Into<String>>(sources: impl IntoIterator<Item = W>, dest: impl Into<String>) -> Self {
        Self { sources: sources.into_iter().map(Into::into).collect(), ..Self::to(dest) }
    }

    /// Nothing yet, to `dest`; for files that [`Transfer::inline`] adds.
    pub fn to(dest: impl Into<String>) -> Self {
        Self { dest: dest.into(), ..Self::default() }
    }

    /// A file of this content, mode 0644; its name is that of the file when `dest` is a directory.
    #[must_use]
    pub fn inline(mut self, name: &str, content: &str) -> Self {
        let mut data = content.to_owned();
        if !data.ends_with('\n') {
            data.push('\n');
        }
        self.inline.push(InlineFile { name: name.to_owned(), data, expand: false });
        self
    }

    /// `--from`: a stage, an image or a named context.
    #[must_use]
    pub fn from(mut self, from: &str) -> Self {
        self.from = Some(from.to_owned());
        self
    }

    /// `--chown`: `user[:group]`.
    #[must_use]
    pub fn chown(mut self, owner: &str) -> Self {
        owner.clone_into(&mut self.chown);
        self
    }

    /// `--chmod`: octal, or as chmod(1) takes it.
    #[must_use]
    pub fn chmod(mut self, mode: &str) -> Self {
        mode.clone_into(&mut self.chmod);
        self
    }

    /// `--link`.
    #[must_use]
    pub fn link(mut self) -> Self {
        self.link = true;
        self
    }

    /// `COPY --parents`.
    #[must_use]
    pub fn parents(mut self) -> Self {
        self.parents = true;
        self
    }

    /// `--exclude`.
    #[must_use]
    pub fn exclude(mut self, pattern: &str) -> Self {
        self.exclude.push(pattern.to_owned());
        self
    }

    /// `ADD --checksum`.
    #[must_use]
    pub fn checksum(mut self, digest: &str) -> Self {
        digest.clone_into(&mut self.checksum);
        self
    }
}

impl Health {
    /// `NONE`: no check, not even the base image's.
    pub fn none() -> Self {
        Self { test: vec!["NONE".to_owned()], ..Self::default() }
    }

    /// A check by this command.
    pub fn check(command: impl Into<Command>) -> Self {
        let test = match command.into() {
            Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text],
        };
        Self { test, ..Self::default() }
    }
}

impl std::convert::From<&str> for Command {
    /// Shell form.
    fn from(text: &str) -> Self {
        Self::Shell(text.to_owned())
    }
}

impl<const N: usize> std::convert::From<[&str; N]> for Command {
    /// Exec form.
    fn from(words: [&str; N]) -> Self {
        Self::Exec(words.map(str::to_owned).to_vec())
    }
}
