//! The vectors of the reference implementation: `shared/vectors/references.jsonl`.

use image_core::Reference;
use serde_json::Value;

#[test]
fn every_vector_reads_as_in_distribution() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors/references.jsonl");
    let Ok(text) = std::fs::read_to_string(path) else {
        assert_ne!(std::env::var_os("COOPERAGE_REQUIRE_PEERS"), Some("1".into()), "no reference vectors");
        println!("skipped: no reference vectors beside the project");
        return;
    };
    let (mut wrong, mut count) = (Vec::new(), 0);
    for line in text.lines() {
        let vector: Value = serde_json::from_str(line).unwrap();
        let input = vector["input"].as_str().unwrap();
        count += 1;
        let shown = match Reference::parse(input) {
            Err(_) => serde_json::json!({"input": input, "error": true}),
            Ok(name) => {
                let mut shown = serde_json::json!({"input": input, "canonical": name.canonical(), "familiar": name.familiar(), "path": name.path(), "with_default_tag": name.with_default_tag().canonical()});
                if !name.domain().is_empty() {
                    shown["domain"] = name.domain().into();
                }
                if let Some(tag) = name.tag() {
                    shown["tag"] = tag.into();
                }
                if let Some(digest) = name.digest() {
                    shown["digest"] = digest.to_string().into();
                }
                shown
            }
        };
        if shown != vector {
            wrong.push(format!("{shown}\n  not {vector}"));
        }
    }
    println!("references: {} of {count}", count - wrong.len());
    assert!(
        count > 0 && wrong.is_empty(),
        "{} wrong, first:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(8)].join("\n")
    );
}
