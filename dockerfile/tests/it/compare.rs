//! Our record of a file, and where it differs from another compiler's.

use std::collections::{BTreeMap, BTreeSet};

use dockerfile::{Compiler, Dockerfile, Images, Options, Outcome, record};
use image_core::{ImageConfig, Platform};
use serde_json::{Map, Value, json};

const BASE: &str = r#"{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:777b2c648970480f50f5b4d0af8f9a8ea798eea43dbcf40ce4a8c7118736bdcf"]},"history":[{"created":"2020-12-17T00:19:41Z","created_by":"/bin/sh -c #(nop) ADD file:ec475c2abb2d46435 in / "}]}"#;

pub(crate) const KEYS: [&str; 9] =
    ["error", "stages", "instructions", "config", "history", "sources", "execs", "files", "warnings"];

/// The request that the inputs of a record describe.
pub(crate) fn options(inputs: &Value) -> Options {
    let mut options = Options::new(Platform::new("linux", "amd64"));
    if let Some(platform) = inputs["platform"].as_str() {
        options.platform = Some(Platform::parse(platform).unwrap());
    }
    options.target = inputs["target"].as_str().map(str::to_owned);
    for (name, value) in inputs["build_args"].as_object().into_iter().flatten() {
        options.build_args.insert(name.clone(), value.as_str().unwrap().to_owned());
    }
    options
}

/// What every image says.
pub(crate) fn base(inputs: &Value) -> ImageConfig {
    match &inputs["base_config"] {
        Value::Null => serde_json::from_str(BASE).unwrap(),
        Value::String(text) => serde_json::from_str(text).unwrap(),
        value => serde_json::from_value(value.clone()).unwrap(),
    }
}

/// Our record of a text; `inputs` are the keys of the request.
pub(crate) fn ours(text: &[u8], inputs: &Value) -> Map<String, Value> {
    let mut out = Map::new();
    let file = match Dockerfile::parse(text) {
        Ok(file) => file,
        Err(errors) => {
            out.insert("error".into(), json!(errors.to_string()));
            return out;
        }
    };
    let (options, base) = (options(inputs), base(inputs));
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

/// Whether a key says the same in two records.
pub(crate) fn same(key: &str, want: &Value, got: &Value) -> bool {
    match key {
        "error" => want.is_null() == got.is_null(),
        "warnings" => as_set(want) == as_set(got),
        "sources" | "execs" | "files" => as_bag(want) == as_bag(got),
        _ => sorted(want) == sorted(got),
    }
}
