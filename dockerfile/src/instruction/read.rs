//! From the words of a line to a typed instruction.

use super::flags::{Flags, Refusal, Takes};
use super::mount::{self, MountSpec};
use super::{Arg, Command, From, Health, InlineFile, KEYWORDS, Kind, Pair, Run, Transfer};
use crate::error::ErrorKind;
use crate::heredoc::{self, Heredoc};
use crate::json::{ExecForm, exec_form};
use crate::parse::words;
use crate::plan::{Network, Security};
use crate::quote::{parse_duration, quote};
use crate::suggest;
use crate::syntax::Comments;

/// A line that is to become an instruction.
pub(crate) struct Line<'a> {
    pub(crate) command: &'a words::Command<'a>,
    /// The whole logical line.
    pub(crate) text: &'a str,
    pub(crate) heredocs: &'a [Heredoc],
    pub(crate) comments: &'a Comments,
    pub(crate) escape: char,
}

/// Reads one instruction.
pub(crate) fn read(line: &Line<'_>) -> Result<Kind, Refusal> {
    let rest = line.command.rest;
    let Some(keyword) = super::keyword(line.command.keyword) else {
        return Err(unknown(line.command.keyword));
    };
    let none = || Flags::read(&line.command.flags, &[]).map(drop);
    match keyword {
        "FROM" => from(line).map(Kind::From),
        "ARG" => arg(line).map(Kind::Arg),
        "ENV" | "LABEL" => {
            let pairs = pairs(rest, keyword, line.escape)?;
            none()?;
            Ok(if keyword == "ENV" { Kind::Env(pairs) } else { Kind::Label(pairs) })
        }
        "RUN" => run(line).map(|run| Kind::Run(Box::new(run))),
        "CMD" => {
            none()?;
            command(rest).map(Kind::Cmd)
        }
        "ENTRYPOINT" => {
            none()?;
            command(rest).map(Kind::Entrypoint)
        }
        "COPY" | "ADD" => {
            let transfer = transfer(line, keyword)?;
            Ok(if keyword == "COPY" { Kind::Copy(Box::new(transfer)) } else { Kind::Add(Box::new(transfer)) })
        }
        "WORKDIR" => single(rest, keyword, none).map(Kind::Workdir),
        "USER" => single(rest, keyword, none).map(Kind::User),
        "MAINTAINER" => single(rest, keyword, none).map(Kind::Maintainer),
        // The reference does not look at the flags of STOPSIGNAL and ARG.
        "STOPSIGNAL" => single(rest, keyword, || Ok(())).map(Kind::Stopsignal),
        "VOLUME" => {
            let words = list(rest)?;
            if words.is_empty() {
                return Err(arguments("VOLUME requires at least one argument"));
            }
            none()?;
            let words: Vec<_> = words.iter().map(|word| word.trim().to_owned()).collect();
            if words.iter().any(String::is_empty) {
                return Err(arguments("VOLUME specified can not be an empty string"));
            }
            Ok(Kind::Volume(words))
        }
        "EXPOSE" => {
            let mut ports = words::plain(rest);
            if ports.is_empty() {
                return Err(arguments("EXPOSE requires at least one argument"));
            }
            none()?;
            ports.sort();
            Ok(Kind::Expose(ports))
        }
        "HEALTHCHECK" => health(line).map(Kind::Healthcheck),
        "ONBUILD" => onbuild(line).map(Kind::Onbuild),
        "SHELL" => {
            none()?;
            match command(rest)? {
                Command::Exec(words) if !words.is_empty() => Ok(Kind::Shell(words)),
                Command::Shell(text) if !text.is_empty() => Err((
                    ErrorKind::Arguments("SHELL requires the arguments to be in JSON form".to_owned()),
                    Some("write SHELL [\"/bin/bash\", \"-c\"]".to_owned()),
                )),
                _ => Err(arguments("SHELL requires at least one argument")),
            }
        }
        _ => Err(unknown(line.command.keyword)),
    }
}

fn unknown(keyword: &str) -> Refusal {
    let hint = suggest::nearest_ignoring_case(keyword, KEYWORDS).map(|hint| format!("did you mean {hint}?"));
    (ErrorKind::UnknownInstruction(keyword.to_owned()), hint)
}

fn arguments(text: impl Into<String>) -> Refusal {
    (ErrorKind::Arguments(text.into()), None)
}

fn single(rest: &str, keyword: &str, flags: impl Fn() -> Result<(), Refusal>) -> Result<String, Refusal> {
    if rest.is_empty() {
        return Err(arguments(format!("{keyword} requires exactly one argument")));
    }
    flags()?;
    Ok(rest.to_owned())
}

const NOT_STRINGS: &str = "when using JSON array syntax, arrays must be comprised of strings only";

fn command(rest: &str) -> Result<Command, Refusal> {
    match exec_form(rest) {
        ExecForm::Words(words) => Ok(Command::Exec(words)),
        ExecForm::NotStrings => Err(arguments(NOT_STRINGS)),
        ExecForm::Shell => Ok(Command::Shell(rest.to_owned())),
    }
}

fn list(rest: &str) -> Result<Vec<String>, Refusal> {
    match exec_form(rest) {
        ExecForm::Words(words) => Ok(words),
        ExecForm::NotStrings => Err(arguments(NOT_STRINGS)),
        ExecForm::Shell => Ok(words::plain(rest)),
    }
}

fn pairs(rest: &str, keyword: &str, escape: char) -> Result<Vec<Pair>, Refusal> {
    let words = words::quoted(rest, escape);
    let Some(first) = words.first() else {
        return Err(arguments(format!("{keyword} requires at least one argument")));
    };
    let mut pairs = Vec::with_capacity(words.len());
    if first.contains('=') {
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                let text = format!(
                    "Syntax error - can't find = in {}. Must be of the form: name=value",
                    quote(word)
                );
                let hint = format!("quote the value if it holds blanks: {keyword} name=\"a b\"");
                return Err((ErrorKind::Arguments(text), Some(hint)));
            };
            pairs.push(Pair { name: name.to_owned(), value: value.to_owned(), legacy: false });
        }
    } else {
        let Some((name, value)) = words::first_and_rest(rest) else {
            return Err(arguments(format!("{keyword} must have two arguments")));
        };
        pairs.push(Pair { name: name.to_owned(), value: value.to_owned(), legacy: true });
    }
    if pairs.iter().any(|pair| pair.name.is_empty()) {
        return Err(arguments(format!("{keyword} names can not be blank")));
    }
    Ok(pairs)
}

/// The comment above an instruction that begins with the name it defines.
fn description(comments: &Comments, name: &str) -> Option<String> {
    comments.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned)
}

fn from(line: &Line<'_>) -> Result<From, Refusal> {
    let words = words::plain(line.command.rest);
    let (base, name) = match words.as_slice() {
        [base] => (base, None),
        [base, with, name] if with.eq_ignore_ascii_case("as") => (base, Some(name)),
        _ => return Err(arguments("FROM requires either one or three arguments")),
    };
    let name = match name {
        None => None,
        Some(written) => {
            let lower = written.to_lowercase();
            let fits = lower.starts_with(|ch: char| ch.is_ascii_lowercase())
                && lower.chars().all(|ch| matches!(ch, 'a'..='z' | '0'..='9' | '-' | '_' | '.'));
            if !fits {
                return Err(arguments(format!(
                    "invalid name for build stage: {}, name can't start with a number or contain symbols",
                    quote(written)
                )));
            }
            Some(lower)
        }
    };
    let flags = Flags::read(&line.command.flags, &[("platform", Takes::Text)])?;
    Ok(From {
        base: base.clone(),
        description: name.as_deref().and_then(|name| description(line.comments, name)),
        name,
        platform: flags.text("platform").filter(|text| !text.is_empty()).map(str::to_owned),
    })
}

fn arg(line: &Line<'_>) -> Result<Vec<Arg>, Refusal> {
    let words = words::quoted(line.command.rest, line.escape);
    if words.is_empty() {
        return Err(arguments("ARG requires at least one argument"));
    }
    let mut args = Vec::with_capacity(words.len());
    for word in words {
        let (name, default) = match word.split_once('=') {
            Some(("", _)) => return Err(arguments("ARG names can not be blank")),
            Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
            None => (word.to_owned(), None),
        };
        args.push(Arg { description: description(line.comments, &name), name, default });
    }
    Ok(args)
}

fn run(line: &Line<'_>) -> Result<Run, Refusal> {
    let known = [
        ("mount", Takes::List),
        ("network", Takes::Text),
        ("security", Takes::Text),
        ("device", Takes::List),
    ];
    let flags = Flags::read(&line.command.flags, &known)?;
    let command = command(line.command.rest)?;
    let mounts = flags.list("mount");
    let refuse = |(text, hint)| (ErrorKind::Mount(text), hint);
    for mount in &mounts {
        MountSpec::from_of(mount).map_err(refuse)?;
    }
    let network = match flags.text("network") {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => {
            let hint = suggest::nearest(other, ["default", "none", "host"])
                .map(|hint| format!("did you mean {hint}?"));
            return Err((ErrorKind::Flag(format!("invalid network mode {}", quote(other))), hint));
        }
    };
    let security = match flags.text("security") {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => {
            let hint =
                suggest::nearest(other, ["sandbox", "insecure"]).map(|hint| format!("did you mean {hint}?"));
            return Err((ErrorKind::Flag(format!("security {} is not valid", quote(other))), hint));
        }
    };
    let mut devices = Vec::new();
    for device in flags.list("device") {
        devices.push(mount::device(&device).map_err(refuse)?);
    }
    Ok(Run { command, mounts, network, security, devices })
}

fn transfer(line: &Line<'_>, keyword: &str) -> Result<Transfer, Refusal> {
    let mut words = list(line.command.rest)?;
    let Some(dest) = words.pop().filter(|_| !words.is_empty()) else {
        return Err(arguments(format!(
            "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
        )));
    };
    let copy = [
        ("chown", Takes::Text),
        ("from", Takes::Text),
        ("chmod", Takes::Text),
        ("link", Takes::Bool),
        ("exclude", Takes::List),
        ("parents", Takes::Bool),
    ];
    let add = [
        ("chown", Takes::Text),
        ("chmod", Takes::Text),
        ("link", Takes::Bool),
        ("keep-git-dir", Takes::Bool),
        ("checksum", Takes::Text),
        ("unpack", Takes::Bool),
        ("exclude", Takes::List),
    ];
    let is_copy = keyword == "COPY";
    let flags = Flags::read(&line.command.flags, if is_copy { copy.as_slice() } else { add.as_slice() })?;
    if heredoc::head(&dest).is_ok_and(|head| head.is_some()) {
        return Err(arguments(format!("{keyword} cannot accept a heredoc as a destination")));
    }
    let mut transfer = Transfer {
        dest,
        chown: flags.text("chown").unwrap_or_default().to_owned(),
        chmod: flags.text("chmod").unwrap_or_default().to_owned(),
        link: flags.bool("link").unwrap_or(false),
        exclude: flags.list("exclude"),
        ..Transfer::default()
    };
    if is_copy {
        transfer.from = flags.text("from").filter(|text| !text.is_empty()).map(str::to_owned);
        transfer.parents = flags.bool("parents").unwrap_or(false);
    } else {
        transfer.keep_git_dir = flags.bool("keep-git-dir");
        transfer.checksum = flags.text("checksum").unwrap_or_default().to_owned();
        transfer.unpack = flags.bool("unpack");
    }
    for source in words {
        match if source.contains("<<") { heredoc::head(&source).ok().flatten() } else { None } {
            None => transfer.sources.push(source),
            Some(head) => {
                let body = line.heredocs.iter().rev().find(|doc| doc.name == head.name);
                let content = body.map_or("", |doc| doc.content.as_str());
                let data = if head.chomp { heredoc::chomp(content) } else { content.to_owned() };
                transfer.inline.push(InlineFile { name: head.name, data, expand: head.expand });
            }
        }
    }
    Ok(transfer)
}

fn health(line: &Line<'_>) -> Result<Health, Refusal> {
    let rest = line.command.rest;
    let (kind, rest) = match rest.split_once(|ch: char| ch.is_ascii_whitespace() || ch == '\u{b}') {
        Some((kind, rest)) => (kind, rest.trim_start()),
        None => (rest, ""),
    };
    if kind.is_empty() {
        return Err(arguments("HEALTHCHECK requires at least one argument"));
    }
    let command = command(rest)?;
    let upper = kind.to_uppercase();
    if upper == "NONE" {
        if !rest.is_empty() && command != Command::Exec(Vec::new()) {
            return Err(arguments("HEALTHCHECK NONE takes no arguments"));
        }
        return Ok(Health { test: vec![upper], ..Health::default() });
    }
    let known =
        ["interval", "timeout", "start-period", "start-interval", "retries"].map(|name| (name, Takes::Text));
    let flags = Flags::read(&line.command.flags, &known)?;
    if upper != "CMD" {
        let text = format!("Unknown type {} in HEALTHCHECK (try CMD)", quote(&upper));
        return Err((
            ErrorKind::Arguments(text),
            Some(format!("write HEALTHCHECK CMD {}", line.command.rest)),
        ));
    }
    let mut test = Vec::new();
    match command {
        Command::Exec(words) if !words.is_empty() => {
            test.push("CMD".to_owned());
            test.extend(words);
        }
        Command::Shell(text) if !text.is_empty() => test.extend(["CMD-SHELL".to_owned(), text]),
        _ => return Err(arguments("Missing command after HEALTHCHECK CMD")),
    }
    let duration = |name: &str| match flags.text(name) {
        None | Some("") => Ok(0),
        Some(text) => match parse_duration(text) {
            None => Err(arguments(format!("time: invalid duration {}", quote(text)))),
            Some(nanos) if nanos != 0 && nanos < 1_000_000 => {
                Err(arguments(format!("Interval {} cannot be less than 1ms", quote(name))))
            }
            Some(nanos) => Ok(nanos),
        },
    };
    let retries = match flags.text("retries") {
        None | Some("") => 0,
        Some(text) => match text.parse::<i32>() {
            Err(_) => return Err(arguments(format!("--retries is not a number: {}", quote(text)))),
            Ok(count) if count < 0 => {
                return Err(arguments(format!("--retries cannot be negative ({count})")));
            }
            Ok(count) => i64::from(count),
        },
    };
    Ok(Health {
        test,
        interval: duration("interval")?,
        timeout: duration("timeout")?,
        start_period: duration("start-period")?,
        start_interval: duration("start-interval")?,
        retries,
    })
}

fn onbuild(line: &Line<'_>) -> Result<String, Refusal> {
    if line.command.rest.is_empty() {
        return Err(arguments("ONBUILD requires at least one argument"));
    }
    let inner = words::command(line.command.rest, line.escape);
    check_shape(&inner, line.escape)?;
    Flags::read(&line.command.flags, &[])?;
    match inner.keyword.trim().to_uppercase().as_str() {
        "ONBUILD" => return Err(arguments("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        trigger @ ("MAINTAINER" | "FROM") => {
            return Err(arguments(format!("{trigger} isn't allowed as an ONBUILD trigger")));
        }
        _ => {}
    }
    let text = line.text.trim_start();
    let mut trigger = text.get("ONBUILD".len()..).unwrap_or("").trim_start().to_owned();
    for doc in line.heredocs {
        trigger.push('\n');
        trigger.push_str(&doc.content);
        trigger.push_str(&doc.name);
    }
    Ok(trigger)
}

/// What the reference refuses in a trigger when it is written; the rest, when it runs.
fn check_shape(inner: &words::Command<'_>, escape: char) -> Result<(), Refusal> {
    match super::keyword(inner.keyword) {
        Some("ENV" | "LABEL") if !inner.rest.is_empty() => {
            match pairs(inner.rest, super::keyword(inner.keyword).unwrap_or(""), escape) {
                Err((ErrorKind::Arguments(text), _)) if text.ends_with("can not be blank") => Ok(()),
                other => other.map(drop),
            }
        }
        Some("RUN" | "CMD" | "ENTRYPOINT" | "SHELL" | "COPY" | "ADD" | "VOLUME")
            if exec_form(inner.rest) == ExecForm::NotStrings =>
        {
            Err(arguments(NOT_STRINGS))
        }
        _ => Ok(()),
    }
}

/// Whether heredocs of a line belong to it: RUN, COPY, ADD and ONBUILD of those, unless in exec form.
pub(crate) fn takes_heredocs(command: &words::Command<'_>, escape: char) -> bool {
    let takes = |command: &words::Command<'_>| {
        matches!(super::keyword(command.keyword), Some("RUN" | "COPY" | "ADD"))
            && !matches!(exec_form(command.rest), ExecForm::Words(_))
    };
    match super::keyword(command.keyword) {
        Some("ONBUILD") => takes(&words::command(command.rest, escape)),
        _ => takes(command),
    }
}
