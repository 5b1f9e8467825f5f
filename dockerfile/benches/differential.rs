//! Our compiler against BuildKit's on files that nobody wrote: real ones, cut, mixed and bent.
//!
//! `COOPERAGE_BUILDKIT_PEER` names the program of `benches/buildkit/`; `COOPERAGE_DIFFERENTIAL_FILES` is how many files
//! are made (5,000) and `COOPERAGE_DIFFERENTIAL_SEED` from which number. Every file whose records differ is made as small as it
//! can be and still differ, and printed. BuildKit goes through maps, so one file may have several records: it is asked
//! up to five times, and one that is ours is enough.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    reason = "a bench says what it found, and fails by panicking"
)]

#[path = "../tests/it/compare.rs"]
mod compare;
#[path = "differential/mutate.rs"]
mod mutate;
#[path = "differential/queries.rs"]
mod queries;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Map, Value};

use mutate::{Mutator, Random};

/// Most differences that are printed.
const MAX_SHOWN: usize = 12;

/// BuildKit's compiler in a process of its own.
struct Peer<'a> {
    program: &'a OsStr,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// How often it died and was started anew.
    deaths: u32,
}

impl<'a> Peer<'a> {
    fn start(program: &'a OsStr) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the peer starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it has an output"));
        Self { program, child, input, output, deaths: 0 }
    }

    /// Its answer. Where it has none, because it died of the question, it says so as it says that it panicked.
    fn record(&mut self, request: &Value) -> Value {
        let mut line = String::new();
        let asked = self.input.as_mut().map(|input| writeln!(input, "{request}"));
        if matches!(asked, Some(Ok(()))) && self.output.read_line(&mut line).is_ok_and(|len| len > 0) {
            return serde_json::from_str(&line).expect("it answers in JSON");
        }
        let deaths = self.deaths + 1;
        let mut anew = Self::start(self.program);
        anew.deaths = deaths;
        *self = anew;
        serde_json::json!({"error": "panic: the peer died"})
    }
}

impl Drop for Peer<'_> {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.wait());
    }
}

fn main() {
    let Some(program) = std::env::var_os("COOPERAGE_BUILDKIT_PEER") else {
        println!("skipped: COOPERAGE_BUILDKIT_PEER names no program");
        return;
    };
    let shared = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/dockerfiles"));
    let mutator = Mutator::new(shared);
    if mutator.is_empty() {
        println!("skipped: the shared set of Dockerfiles is not there");
        return;
    }
    let (count, seed) =
        (number("COOPERAGE_DIFFERENTIAL_FILES", 5_000), number("COOPERAGE_DIFFERENTIAL_SEED", 1));
    let mut peer = Peer::start(&program);
    let (mut refused, mut shown, mut different, mut unequal, mut undecided) = (0_u64, 0, 0_u64, 0_u64, 0_u64);
    for index in 0..count {
        let mut random = Random::new(seed.wrapping_mul(1_000_003) + index);
        let mut request = mutator.request(&mut random);
        let mut theirs = peer.record(&request);
        let mut first = true;
        // What is refused says little: such a file gets a second chance.
        while std::mem::take(&mut first)
            && !theirs["error"].is_null()
            && differing(&request, &theirs).is_empty()
        {
            request = mutator.request(&mut random);
            theirs = peer.record(&request);
        }
        refused += u64::from(!theirs["error"].is_null());
        let keys = differing(&request, &theirs);
        if !keys.is_empty() && (0..4).any(|_| differing(&request, &peer.record(&request)).is_empty()) {
            undecided += 1;
            continue;
        }
        if keys.is_empty() {
            // One question a file: each is a compilation.
            let query = queries::QUERIES[usize::try_from(index % 3).unwrap_or(0)];
            let found = asked(&mut peer, query, &request);
            if let Some(first) = found.first() {
                unequal += 1;
                if shown < MAX_SHOWN {
                    shown += 1;
                    let part = first.lines().next().unwrap_or("").to_owned();
                    let small = shrink(&mut peer, &request, &|peer, request| {
                        asked(peer, query, request).iter().any(|one| one.starts_with(&part))
                    });
                    println!("-- {index}: {small}\n   {}", asked(&mut peer, query, &small).join("\n   "));
                }
            }
            continue;
        }
        different += 1;
        if shown < MAX_SHOWN {
            shown += 1;
            let small = shrink(&mut peer, &request, &|peer, request| {
                let theirs = peer.record(request);
                differing(request, &theirs).contains(&keys[0])
            });
            report(&mut peer, index, &small);
        }
    }
    println!(
        "differential: {different} of {count} files differ ({refused} of them BuildKit refuses; seed {seed}), {unequal} answers to lint, outline and targets; BuildKit died {} times and had two answers {undecided} times",
        peer.deaths
    );
    if different + unequal > 0 {
        panic!("the two compilers differ");
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var_os(name)
        .and_then(|text| text.to_str().and_then(|text| text.parse().ok()))
        .unwrap_or(default)
}

/// The keys in which the two records differ.
fn differing(request: &Value, theirs: &Value) -> Vec<String> {
    // A compiler that panics says nothing about the file.
    if theirs["error"].as_str().is_some_and(|error| error.starts_with("panic: ")) {
        return Vec::new();
    }
    let text = request["dockerfile"].as_str().unwrap_or("");
    let ours = Value::Object(compare::ours(text.as_bytes(), request));
    if !theirs["error"].is_null() && !ours["error"].is_null() {
        return Vec::new();
    }
    let keys = compare::KEYS.into_iter();
    keys.filter(|key| !compare::same(key, &plain(key, &theirs[*key]), &plain(key, &ours[*key])))
        .map(str::to_owned)
        .collect()
}

/// Without suggestions: BuildKit takes the first that a map gives it.
fn plain(key: &str, value: &Value) -> Value {
    let mut value = value.clone();
    if key == "warnings" {
        for warning in value.as_array_mut().into_iter().flatten() {
            if let Some(text) = warning["msg"].as_str().and_then(|text| text.split_once(" (did you mean")) {
                warning["msg"] = Value::from(text.0);
            }
        }
    }
    value
}

/// Where the answers to a question differ.
fn asked(peer: &mut Peer<'_>, query: &str, request: &Value) -> Vec<String> {
    let mut question = request.clone();
    question["query"] = Value::from(query);
    let theirs = peer.record(&question);
    if theirs["error"].as_str().is_some_and(|error| error.starts_with("panic: ")) {
        return Vec::new();
    }
    queries::differences(query, request, &theirs, &queries::answer(query, request))
}

/// Takes lines and inputs away as long as the two differ.
fn shrink(peer: &mut Peer<'_>, request: &Value, same: &dyn Fn(&mut Peer<'_>, &Value) -> bool) -> Value {
    let mut best = request.clone();
    let mut differs = |request: &Value| same(peer, request);
    for input in ["build_args", "target", "platform", "base_config"] {
        let mut less = best.clone();
        if less.as_object_mut().is_some_and(|map| map.remove(input).is_some()) && differs(&less) {
            best = less;
        }
    }
    let mut size = 16;
    while size > 0 {
        let mut at = 0;
        loop {
            let text = best["dockerfile"].as_str().unwrap_or("").to_owned();
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            if at >= lines.len() {
                break;
            }
            let rest = lines.iter().take(at).chain(lines.iter().skip(at + size));
            let mut less = best.clone();
            less["dockerfile"] = Value::from(rest.copied().collect::<String>());
            if differs(&less) {
                best = less;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    best
}

fn report(peer: &mut Peer<'_>, index: u64, request: &Value) {
    let theirs = peer.record(request);
    let text = request["dockerfile"].as_str().unwrap_or("");
    let ours: Map<String, Value> = compare::ours(text.as_bytes(), request);
    println!("-- {index}: {request}");
    for key in differing(request, &theirs) {
        println!(
            "   {key}\n     BuildKit {}\n     here     {}",
            theirs[&key],
            ours.get(&key).unwrap_or(&Value::Null)
        );
        if key == "error" {
            break;
        }
    }
}
