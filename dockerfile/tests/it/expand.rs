//! Expansion against BuildKit's results.

use std::collections::BTreeMap;

use dockerfile::Expander;

use crate::data;

#[derive(serde::Deserialize)]
struct Vector {
    word: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    escape: Option<String>,
    #[serde(default)]
    result: String,
    #[serde(default)]
    words: Vec<String>,
    #[serde(default)]
    error: bool,
}

#[test]
fn expansions_are_buildkits() {
    let Some(text) = data::read("vectors/expand.jsonl") else { return };
    let (mut right, mut all, mut wrong) = (0, 0, Vec::new());
    for line in text.lines() {
        let vector: Vector = serde_json::from_str(line).unwrap();
        all += 1;
        let escape = vector.escape.as_deref().and_then(|text| text.chars().next()).unwrap_or('\\');
        let expander = Expander::new(escape);
        let got = expander.word(&vector.word, &vector.env).map(|expansion| expansion.text.into_owned());
        let words = expander.words(&vector.word, &vector.env);
        let same = match (&got, &words) {
            (Ok(text), Ok(words)) => !vector.error && *text == vector.result && *words == vector.words,
            (Err(_), Err(_)) => vector.error,
            _ => false,
        };
        if same { right += 1 } else { wrong.push(format!("{line}\n  got {got:?} {words:?}")) }
    }
    println!("expand: {right} of {all}");
    assert!(wrong.is_empty(), "{} differ, first:\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"));
}
