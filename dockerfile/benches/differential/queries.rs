//! What the two say to `lint`, `outline` and `targets`.

use std::collections::BTreeSet;

use dockerfile::lint::{self, Checked};
use dockerfile::{Compiler, Dockerfile, ErrorKind, Images, Outcome, Source, Target};
use serde_json::{Value, json};

use crate::compare;

/// The questions.
pub(crate) const QUERIES: [&str; 3] = ["lint", "outline", "targets"];

/// Our answer.
pub(crate) fn answer(query: &str, request: &Value) -> Value {
    let text = request["dockerfile"].as_str().unwrap_or("");
    let source = Source::new(text.as_bytes());
    let (mut options, base) = (compare::options(request), compare::base(request));
    let mut images = Images::new();
    let text = match query {
        "lint" => loop {
            match lint::check(text.as_bytes(), &options, &images) {
                Checked::NeedImages(requests) => {
                    requests.into_iter().for_each(|one| images.insert(one, base.clone(), None));
                }
                Checked::Report(report) => break report.to_json("Dockerfile", &source),
                _ => unreachable!(),
            }
        },
        "outline" => {
            options.outline = true;
            let Ok(file) = Dockerfile::parse(text.as_bytes()) else { return json!({"error": "parser"}) };
            let compiler = Compiler::new(&file, options);
            loop {
                match compiler.compile(&images) {
                    Ok(Outcome::NeedImages(requests)) => {
                        requests.into_iter().for_each(|one| images.insert(one, base.clone(), None));
                    }
                    Ok(Outcome::Plan(plan)) => break plan.outline.unwrap_or_default().to_json(&source),
                    Err(error) => return json!({"error": error.to_string()}),
                    _ => unreachable!(),
                }
            }
        }
        _ => match Dockerfile::parse(text.as_bytes()) {
            Ok(file) => Target::list_to_json(&file.targets(), &source),
            // The table of differences has it: there the list is empty.
            Err(errors) if errors.iter().all(|one| one.kind == ErrorKind::NoStages) => {
                let mut empty: Value =
                    serde_json::from_str(&Target::list_to_json(&[], &source)).unwrap_or_default();
                empty["targets"] = Value::Null;
                return empty;
            }
            Err(error) => return json!({"error": error.to_string()}),
        },
    };
    serde_json::from_str(&text).unwrap_or_default()
}

/// Where the answers differ; nothing where they agree.
pub(crate) fn differences(query: &str, request: &Value, theirs: &Value, ours: &Value) -> Vec<String> {
    let text = request["dockerfile"].as_str().unwrap_or("");
    let mut out = Vec::new();
    let mut check = |what: &str, theirs: &Value, ours: &Value, same: bool| {
        if !same {
            out.push(format!("{query} {what}\n     BuildKit {theirs}\n     here     {ours}"));
        }
    };
    if !theirs["error"].is_null() || !ours["error"].is_null() {
        check(
            "error",
            &theirs["error"],
            &ours["error"],
            theirs["error"].is_null() == ours["error"].is_null(),
        );
        return out;
    }
    check("sources", &theirs["sources"], &ours["sources"], theirs["sources"] == ours["sources"]);
    match query {
        "lint" => {
            let (their, our) = (findings(&theirs["warnings"]), findings(&ours["warnings"]));
            let (failed, fails) = (!theirs["buildError"].is_null(), !ours["buildError"].is_null());
            // Behind an error BuildKit looks no further.
            let same = if failed { their.is_subset(&our) } else { their == our };
            check("warnings", &theirs["warnings"], &ours["warnings"], same);
            check("buildError", &theirs["buildError"], &ours["buildError"], failed == fails);
        }
        "outline" => {
            for key in ["name", "description"] {
                check(key, &theirs[key], &ours[key], theirs[key] == ours[key]);
            }
            for key in ["args", "secrets", "ssh"] {
                // Of several stages that say something about one name, BuildKit takes the first that a map gives it.
                let (their, our) = (set(&theirs[key]), set(&ours[key]));
                let names: BTreeSet<&str> =
                    their.symmetric_difference(&our).map(|one| one.0.as_str()).collect();
                let said = |name: &str| text.lines().filter(|line| line.contains(name)).count();
                let same = named(&their) == named(&our) && names.iter().all(|name| said(name) > 1);
                check(key, &theirs[key], &ours[key], same);
            }
        }
        _ => check("targets", &theirs["targets"], &ours["targets"], theirs["targets"] == ours["targets"]),
    }
    out
}

/// Entries with their names.
fn set(list: &Value) -> BTreeSet<(String, String)> {
    let name = |entry: &Value| entry["name"].as_str().unwrap_or("").to_owned();
    list.as_array().into_iter().flatten().map(|entry| (name(entry), entry.to_string())).collect()
}

fn named(set: &BTreeSet<(String, String)>) -> BTreeSet<&str> {
    set.iter().map(|(name, _)| name.as_str()).collect()
}

/// Findings without suggestions: BuildKit takes the first that a map gives it.
fn findings(list: &Value) -> BTreeSet<String> {
    let plain = |finding: &Value| {
        let mut finding = finding.clone();
        if let Some((text, _)) = finding["detail"].as_str().and_then(|text| text.split_once(" (did you mean"))
        {
            finding["detail"] = Value::from(text);
        }
        finding.to_string()
    };
    list.as_array().into_iter().flatten().map(plain).collect()
}
