//! Prints what a Dockerfile compiles to.
//!
//! ```text
//! plan [--record | --json | --dot] [--build-arg K=V]… [--target T] [--platform P] [--base-config FILE] FILE…
//! ```
//!
//! `--record` prints one JSON object a file and line, in which BuildKit's compiler can be compared. No registry is
//! asked: every image resolves to the config in `--base-config`, or to a plain one.

#![expect(clippy::print_stderr, reason = "a command line talks to a terminal")]

use std::io::Write as _;
use std::process::ExitCode;

use cooperage::dockerfile::{
    Compiler, Diagnostics, Dockerfile, Images, Options, Outcome, Plan, Source, record,
};
use cooperage::image::{ImageConfig, Platform};

/// What every image says when no config is given.
const PLAIN: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:777b2c648970480f50f5b4d0af8f9a8ea798eea43dbcf40ce4a8c7118736bdcf"]},"history":[{"created":"2020-12-17T00:19:41Z","created_by":"/bin/sh -c #(nop) ADD file:ec475c2abb2d46435 in / "}]}"#;

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Steps,
    Record,
    Json,
    Dot,
}

struct Request {
    form: Form,
    options: Options,
    base: ImageConfig,
    files: Vec<String>,
}

fn main() -> ExitCode {
    let request = match read_arguments() {
        Ok(request) => request,
        Err(text) => {
            eprintln!("plan: {text}");
            return ExitCode::from(2);
        }
    };
    let mut failed = false;
    let mut out = std::io::stdout().lock();
    for file in &request.files {
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("plan: cannot read {file}: {error}");
                failed = true;
                continue;
            }
        };
        let line = show(&request, file, &text);
        failed |= line.is_none();
        if let Some(line) = line
            && writeln!(out, "{line}").is_err()
        {
            return ExitCode::FAILURE;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The text for one file; nothing when it is refused and the form has no place for that.
fn show(request: &Request, name: &str, text: &[u8]) -> Option<String> {
    let compiled = Dockerfile::parse(text).and_then(|file| compile(request, &file).map(|plan| (file, plan)));
    let (file, plan) = match compiled {
        Ok(compiled) => compiled,
        Err(errors) if request.form == Form::Record => {
            return Some(serde_json::json!({"file": name, "error": errors.to_string()}).to_string());
        }
        Err(errors) => {
            eprintln!("{}", errors.render(name, &Source::new(text), false));
            return None;
        }
    };
    Some(match request.form {
        Form::Record => record::json(&file, &plan, Some(name)),
        Form::Json => serde_json::to_string_pretty(&plan).unwrap_or_default(),
        Form::Dot => plan.to_dot(),
        Form::Steps => {
            let mut text = String::new();
            for step in &plan.steps {
                text.push_str(&format!("#{:<3} {} {:?}\n", step.index, step.name, step.inputs()));
            }
            for warning in &plan.warnings {
                text.push_str(&format!("{}: {} (line {})\n", warning.rule, warning.message, warning.lines));
            }
            text
        }
    })
}

fn compile(request: &Request, file: &Dockerfile) -> Result<Box<Plan>, Diagnostics> {
    let compiler = Compiler::new(file, request.options.clone());
    let mut images = Images::new();
    loop {
        match compiler.compile(&images)? {
            Outcome::Plan(plan) => return Ok(plan),
            Outcome::NeedImages(requests) => {
                for wanted in requests {
                    images.insert(wanted, request.base.clone(), None);
                }
            }
            _ => continue,
        }
    }
}

fn read_arguments() -> Result<Request, String> {
    let linux = Platform::new("linux", "amd64");
    let mut request = Request {
        form: Form::Steps,
        options: Options::new(linux),
        base: serde_json::from_str(PLAIN).map_err(|error| error.to_string())?,
        files: Vec::new(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let (flag, inline) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
            _ => (word.clone(), None),
        };
        let mut value = || inline.clone().or_else(|| words.next()).ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--record" => request.form = Form::Record,
            "--json" => request.form = Form::Json,
            "--dot" => request.form = Form::Dot,
            "--target" => request.options.target = Some(value()?),
            "--platform" => {
                request.options.platform =
                    Some(Platform::parse(&value()?).map_err(|error| error.to_string())?);
            }
            "--build-arg" => {
                let given = value()?;
                let (name, value) = given.split_once('=').unwrap_or((&given, ""));
                request.options.build_args.insert(name.to_owned(), value.to_owned());
            }
            "--base-config" => {
                let path = value()?;
                let text = std::fs::read(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
                request.base = serde_json::from_slice(&text).map_err(|error| format!("{path}: {error}"))?;
            }
            _ if flag.starts_with("--") => return Err(format!("unknown flag {flag}")),
            _ => request.files.push(word),
        }
    }
    if request.files.is_empty() {
        return Err("no file given".to_owned());
    }
    Ok(request)
}
