//! Records of real files and of small cases, as BuildKit's compiler makes them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::compare::{KEYS, ours, same};
use crate::data;

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
