//! From typed instructions to lines of a Dockerfile.

use std::fmt;

use crate::instruction::{Arg, Command, From, Health, Kind, Pair, Run, Transfer};
use crate::plan::{Network, Security};
use crate::quote::duration;

/// What a heredoc is called and what it holds.
pub(crate) type Body<'a> = (&'a str, &'a str);

/// Writes an instruction, and the bodies of the heredocs that its line names, in the default escape character.
///
/// What is written is what the value says when it is parsed again, if there is a text that says it at all.
pub(crate) fn print(kind: &Kind, bodies: &[Body<'_>]) -> String {
    let mut out = kind.keyword().to_owned();
    match kind {
        Kind::From(from) => print_from(&mut out, from),
        Kind::Arg(args) => print_args(&mut out, args),
        Kind::Env(pairs) | Kind::Label(pairs) => pairs.iter().for_each(|pair| print_pair(&mut out, pair)),
        Kind::Run(run) => print_run(&mut out, run),
        Kind::Cmd(command) | Kind::Entrypoint(command) => print_command(&mut out, command),
        Kind::Copy(transfer) | Kind::Add(transfer) => {
            print_transfer(&mut out, transfer, matches!(kind, Kind::Copy(_)));
        }
        Kind::Workdir(text)
        | Kind::User(text)
        | Kind::Stopsignal(text)
        | Kind::Maintainer(text)
        | Kind::Onbuild(text) => word(&mut out, text),
        Kind::Volume(words) => print_words(&mut out, words),
        Kind::Expose(words) => words.iter().for_each(|port| word(&mut out, port)),
        Kind::Healthcheck(health) => print_health(&mut out, health),
        Kind::Shell(words) => word(&mut out, &json(words)),
    }
    for (name, body) in bodies {
        out.push('\n');
        out.push_str(body);
        if !body.is_empty() && !body.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(name);
    }
    if let (Kind::Copy(transfer) | Kind::Add(transfer), true) = (kind, bodies.is_empty()) {
        for file in &transfer.inline {
            out.push('\n');
            out.push_str(&file.data);
            out.push_str(&file.name);
        }
    }
    out.push('\n');
    comments(kind) + &out
}

/// The descriptions that stand in comments above.
fn comments(kind: &Kind) -> String {
    let line = |name: &str, text: &Option<String>| {
        text.as_ref().map(|text| format!("# {name} {text}\n")).unwrap_or_default()
    };
    match kind {
        Kind::From(from) => line(from.name.as_deref().unwrap_or(""), &from.description),
        Kind::Arg(args) => args.iter().map(|arg| line(&arg.name, &arg.description)).collect(),
        _ => String::new(),
    }
}

fn word(out: &mut String, text: &str) {
    out.push(' ');
    out.push_str(text);
}

fn flag(out: &mut String, name: &str, value: impl fmt::Display) {
    let value = value.to_string();
    out.push_str(" --");
    out.push_str(name);
    out.push('=');
    if value.contains(|ch: char| ch.is_whitespace() || matches!(ch, '"' | '\'' | '\\')) {
        out.push('"');
        out.push_str(&value.replace('\\', "\\\\").replace('"', "\\\""));
        out.push('"');
    } else {
        out.push_str(&value);
    }
}

fn text_flag(out: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        flag(out, name, value);
    }
}

fn json(words: &[String]) -> String {
    serde_json::to_string(words).unwrap_or_default()
}

fn print_from(out: &mut String, from: &From) {
    if let Some(platform) = &from.platform {
        flag(out, "platform", platform);
    }
    word(out, &from.base);
    if let Some(name) = &from.name {
        word(out, "AS");
        word(out, name);
    }
}

fn print_args(out: &mut String, args: &[Arg]) {
    for arg in args {
        word(out, &arg.name);
        if let Some(default) = &arg.default {
            out.push('=');
            out.push_str(default);
        }
    }
}

fn print_pair(out: &mut String, pair: &Pair) {
    word(out, &pair.name);
    out.push(if pair.legacy { ' ' } else { '=' });
    out.push_str(&pair.value);
}

fn print_command(out: &mut String, command: &Command) {
    match command {
        Command::Exec(words) => word(out, &json(words)),
        Command::Shell(text) if text.is_empty() => {}
        Command::Shell(text) => word(out, text),
    }
}

fn print_run(out: &mut String, run: &Run) {
    for mount in &run.mounts {
        flag(out, "mount", mount);
    }
    match run.network {
        Network::Default => {}
        Network::None => flag(out, "network", "none"),
        Network::Host => flag(out, "network", "host"),
    }
    if run.security == Security::Insecure {
        flag(out, "security", "insecure");
    }
    for device in &run.devices {
        let name = &device.name;
        flag(out, "device", if device.required { format!("{name},required") } else { name.clone() });
    }
    print_command(out, &run.command);
}

fn print_transfer(out: &mut String, transfer: &Transfer, copy: bool) {
    if let Some(from) = &transfer.from {
        flag(out, "from", from);
    }
    text_flag(out, "chown", &transfer.chown);
    text_flag(out, "chmod", &transfer.chmod);
    text_flag(out, "checksum", &transfer.checksum);
    for (name, given) in [("link", transfer.link), ("parents", transfer.parents && copy)] {
        if given {
            out.push_str(" --");
            out.push_str(name);
        }
    }
    for pattern in &transfer.exclude {
        flag(out, "exclude", pattern);
    }
    for (name, given) in [("keep-git-dir", transfer.keep_git_dir), ("unpack", transfer.unpack)] {
        if let Some(given) = given {
            flag(out, name, given);
        }
    }
    let heads = transfer
        .inline
        .iter()
        .map(|file| if file.expand { format!("<<{}", file.name) } else { format!("<<\"{}\"", file.name) });
    let words: Vec<String> =
        transfer.sources.iter().cloned().chain(heads).chain([transfer.dest.clone()]).collect();
    if transfer.inline.is_empty() {
        print_words(out, &words);
    } else {
        // Heredocs are none in a JSON array.
        words.iter().for_each(|text| word(out, text));
    }
}

/// Words as they are, or as a JSON array when one holds a blank or begins like something else.
fn print_words(out: &mut String, words: &[String]) {
    let plain = |word: &String| {
        !word.is_empty()
            && !word.starts_with("--")
            && !word.starts_with('[')
            && !word.contains("<<")
            && !word.ends_with('\\')
            && !word.contains(|ch: char| ch.is_whitespace() || ch.is_control())
    };
    if words.iter().all(plain) {
        words.iter().for_each(|text| word(out, text));
    } else {
        word(out, &json(words));
    }
}

fn print_health(out: &mut String, health: &Health) {
    for (name, nanos) in [
        ("interval", health.interval),
        ("timeout", health.timeout),
        ("start-period", health.start_period),
        ("start-interval", health.start_interval),
    ] {
        if nanos != 0 {
            flag(out, name, duration(nanos));
        }
    }
    if health.retries != 0 {
        flag(out, "retries", health.retries);
    }
    match health.test.split_first() {
        Some((form, rest)) if form == "CMD" => {
            word(out, "CMD");
            word(out, &json(rest));
        }
        Some((form, rest)) if form == "CMD-SHELL" => {
            word(out, "CMD");
            rest.iter().for_each(|text| word(out, text));
        }
        _ => word(out, "NONE"),
    }
}

impl fmt::Display for crate::Dockerfile {
    /// The text of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source().text())
    }
}
