//! How fast the shared set of real files is parsed, linted and compiled from memory on one core.
//!
//! With `COOPERAGE_BUILDKIT_PEER` set to a program that does the same with BuildKit's compiler (see
//! `benches/buildkit/`), the two run in turn and the ratio of their medians is printed. Times are those that the
//! processor spent, so that other work on the machine does not count.
//!
//! `speed once parse|plan|json ROUNDS` does only that, for a program that counts instructions: two runs with different
//! rounds give the instructions of one, and those over the bytes the instructions a byte.
#![expect(clippy::print_stdout, reason = "a bench says what it measured")]

use std::path::{Path, PathBuf};
use std::process::Command;

use dockerfile::{Compiler, Dockerfile, Images, Options, Outcome, Plan, record};
use image_core::{ImageConfig, Platform};

/// BuildKit's compiler brings its allocator along; a program that compiles many files would do the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often the two run in turn, and how many rounds each makes of it.
const TURNS: usize = 7;
const ROUNDS: usize = 3;

/// What every image says, here and there.
const BASE: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:777b2c648970480f50f5b4d0af8f9a8ea798eea43dbcf40ce4a8c7118736bdcf"]},"history":[{"created":"2020-12-17T00:19:41Z","created_by":"/bin/sh -c #(nop) ADD file:ec475c2abb2d46435 in / "}]}"#;

/// Times of the whole set, in milliseconds, one a round.
#[derive(Default)]
struct Times {
    /// Parsed and linted.
    parse: Vec<f64>,
    /// Parsed, linted and compiled.
    plan: Vec<f64>,
    /// The same, with the record as JSON.
    json: Vec<f64>,
}

fn main() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/dockerfiles"));
    let names = names(&root);
    let files: Vec<_> =
        names.iter().filter_map(|name| std::fs::read(root.join("files").join(name)).ok()).collect();
    if files.is_empty() {
        println!("skipped: the shared set of Dockerfiles is not there");
        return;
    }
    let Ok(config) = serde_json::from_str::<ImageConfig>(BASE) else { return };
    let config = std::sync::Arc::new(config);
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [once, what, rounds] = arguments.as_slice()
        && once == "once"
    {
        for _ in 0..rounds.parse().unwrap_or(1) {
            only(what, &files, &config);
        }
        println!("bytes: {}", files.iter().map(Vec::len).sum::<usize>());
        return;
    }
    let peer = std::env::var_os("COOPERAGE_BUILDKIT_PEER");
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for _ in 0..TURNS {
        for _ in 0..ROUNDS {
            round(&files, &config, &mut ours);
        }
        if let Some(peer) = &peer {
            peer_rounds(Path::new(peer), &root, &names, &mut theirs);
        }
    }
    let bytes: usize = files.iter().map(Vec::len).sum();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (count, megabytes) = (files.len() as f64, bytes as f64 / 1e6);
    let (parse, plan, json) = (median(&mut ours.parse), median(&mut ours.plan), median(&mut ours.json));
    println!("files: {count}, {megabytes:.2} MB");
    println!("parse and lint: {parse:.2} ms");
    println!("parse, lint and compile: {plan:.2} ms");
    println!("with the record as JSON: {json:.2} ms");
    println!("speed: {:.0} files/s, {:.1} MB/s", count / plan * 1e3, megabytes / plan * 1e3);
    if theirs.plan.is_empty() {
        println!("ratio: not measured: COOPERAGE_BUILDKIT_PEER names no program");
        return;
    }
    let (their_plan, their_json) = (median(&mut theirs.plan), median(&mut theirs.json));
    println!("BuildKit, parse, lint and compile: {their_plan:.1} ms");
    println!("BuildKit, with the record as JSON: {their_json:.1} ms");
    println!("ratio: {:.1} compiled, {:.1} with the record as JSON", their_plan / plan, their_json / json);
}

/// Milliseconds that this thread has had of a processor.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0) / 1e6
}

fn only(what: &str, files: &[Vec<u8>], config: &std::sync::Arc<ImageConfig>) {
    for file in files {
        let done = match what {
            "parse" => Dockerfile::parse(file).map_or(0, |file| file.instructions().len()),
            "plan" => compiled(file, config, |_, plan| plan.steps.len()),
            _ => compiled(file, config, |file, plan| record::json(file, plan, None).len()),
        };
        std::hint::black_box(done);
    }
}

fn round(files: &[Vec<u8>], config: &std::sync::Arc<ImageConfig>, times: &mut Times) {
    let time = |work: &dyn Fn(&[u8]) -> usize| {
        let start = processor();
        let done: usize = files.iter().map(|file| work(file)).sum();
        assert!(done > 0, "nothing was compiled");
        processor() - start
    };
    times.parse.push(time(&|text| Dockerfile::parse(text).map_or(0, |file| file.instructions().len())));
    times.plan.push(time(&|text| compiled(text, config, |_, plan| plan.steps.len())));
    times.json.push(time(&|text| compiled(text, config, |file, plan| record::json(file, plan, None).len())));
}

fn compiled(
    text: &[u8],
    config: &std::sync::Arc<ImageConfig>,
    then: impl Fn(&Dockerfile, &Plan) -> usize,
) -> usize {
    let Ok(file) = Dockerfile::parse(text) else { return 0 };
    let compiler = Compiler::new(&file, Options::new(Platform::new("linux", "amd64")));
    let mut images = Images::new();
    loop {
        match compiler.compile(&images) {
            Ok(Outcome::Plan(plan)) => return then(&file, &plan),
            Ok(Outcome::NeedImages(requests)) => {
                for request in requests {
                    images.insert(request, std::sync::Arc::clone(config), None);
                }
            }
            _ => return 0,
        }
    }
}

/// Has the peer do the same: it prints one line a round, milliseconds without and with JSON.
fn peer_rounds(peer: &Path, root: &Path, names: &[String], times: &mut Times) {
    let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dockerfile-names");
    if std::fs::write(&list, names.join("\n")).is_err() {
        return;
    }
    let mut command = Command::new(peer);
    command.arg("bench").arg(root.join("files")).arg(&list).arg(ROUNDS.to_string()).env("GOMAXPROCS", "1");
    let output = command.output();
    drop(std::fs::remove_file(&list));
    match output {
        Ok(output) => {
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                let mut figures = line.split(' ').map_while(|word| word.parse::<f64>().ok());
                times.plan.extend(figures.next());
                times.json.extend(figures.next());
            }
        }
        Err(error) => println!("the peer did not run: {error}"),
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

fn names(root: &Path) -> Vec<String> {
    let records = std::fs::read_to_string(root.join("expected.jsonl")).unwrap_or_default();
    let names = records.lines().filter_map(|line| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(record.get("file")?.as_str()?.to_owned())
    });
    names.collect()
}
