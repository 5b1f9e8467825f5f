//! Whole files against what BuildKit's compiler makes of them.

use std::collections::{BTreeMap, BTreeSet};

use dockerfile::{Compiler, Dockerfile, Images, Options, Outcome, record};
use image_core::{ImageConfig, Platform};
use serde_json::{Map, Value, json};

use crate::data;

const BASE: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:777b2c648970480f50f5b4d0af8f9a8ea798eea43dbcf40ce4a8c7118736bdcf"]},"history":[{"created":"2020-12-17T00:19:41Z","created_by":"/bin/sh -c #(nop) ADD file:ec475c2abb2d46435 in / "}]}"#;

const KEYS: [&str; 9] =
    ["error", "stages", "instructions", "config", "history", "sources", "execs", "files", "warnings"];

fn ours(text: &[u8], inputs: &Value) -> Map<String, Value> {
    let mut out = Map::new();
    let file = match Dockerfile::parse(text) {
        Ok(file) => file,
        Err(errors) => {
            out.insert("error".into(), json!(errors.to_string()));
            return out;
        }
    };
    let linux = Platform::parse("linux/amd64").unwrap();
    let mut options = Options::new(linux);
    if let Some(platform) = inputs["platform"].as_str() {
        options.platform = Some(Platform::parse(platform).unwrap());
    }
    options.target = inputs["target"].as_str().map(str::to_owned);
    for (name, value) in inputs["build_args"].as_object().into_iter().flatten() {
        options.build_args.insert(name.clone(), value.as_str().unwrap().to_owned());
    }
    let base: ImageConfig = match &inputs["base_config"] {
        Value::Null => serde_json::from_str(BASE).unwrap(),
        Value::String(text) => serde_json::from_str(text).unwrap(),
        value => serde_json::from_value(value.clone()).unwrap(),
    };
    let compiler = Compiler::new(&file, options);
    let mut images = Images::new();
    loop {
        match compiler.compile(&images) {
            Err(errors) => {
                out.insert("error".into(), json!(errors.to_string()));
                return out;
            }
            Ok(Outcome::Plan(plan)) => {
                return serde_json::from_str(&record::json(&file, &plan, None)).unwrap();
            }
            Ok(Outcome::NeedImages(requests)) => {
                for request in requests {
                    images.insert(request, base.clone(), None);
                }
            }
            Ok(_) => unreachable!(),
        }
    }
}

fn as_set(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().map(|entry| sorted(entry).to_string()).collect()
}

/// Equal operations count as often as they are there.
fn as_bag(value: &Value) -> Vec<String> {
    let mut all: Vec<_> =
        value.as_array().into_iter().flatten().map(|entry| sorted(entry).to_string()).collect();
    all.sort();
    all
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), sorted(value)))
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .collect(),
        Value::Array(list) => list.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

fn same(key: &str, want: &Value, got: &Value) -> bool {
    match key {
        "error" => want.is_null() == got.is_null(),
        "warnings" => as_set(want) == as_set(got),
        "sources" | "execs" | "files" => as_bag(want) == as_bag(got),
        _ => sorted(want) == sorted(got),
    }
}

fn compare(path: &str, text_of: impl Fn(&Value) -> Vec<u8>) {
    let Some(records) = data::read(path) else { return };
    let mut right: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut all, mut whole, mut wrong) = (0, 0, Vec::new());
    for line in records.lines() {
        let want: Value = serde_json::from_str(line).unwrap();
        let got = Value::Object(ours(&text_of(&want), &want));
        let name = want["file"].as_str().or(want["name"].as_str()).unwrap();
        all += 1;
        let mut fits = true;
        for key in KEYS {
            let refused = key != "error" && !want["error"].is_null() && !got["error"].is_null();
            if refused || same(key, &want[key], &got[key]) {
                *right.entry(key).or_default() += 1;
            } else {
                fits = false;
                wrong.push(format!("{name}: {key}\n  want {}\n  got  {}", want[key], got[key]));
            }
        }
        whole += usize::from(fits);
    }
    println!("{path}: {whole} of {all} records");
    for key in KEYS {
        println!("  {key}: {} of {all}", right.get(key).copied().unwrap_or(0));
    }
    assert!(wrong.is_empty(), "{} differ, first:\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
}

#[test]
fn real_files() {
    compare("dockerfiles/expected.jsonl", |record| {
        let file = data::place("dockerfiles/files").join(record["file"].as_str().unwrap());
        std::fs::read(file).unwrap()
    });
}

#[test]
fn cases() {
    compare("dockerfiles/cases.jsonl", |record| record["dockerfile"].as_str().unwrap().as_bytes().to_vec());
}
