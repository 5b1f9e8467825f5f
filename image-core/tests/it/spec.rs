//! The image-spec's own examples and the cases of its schemas, where Debian's package of them is installed.

use std::path::Path;

use image_core::{AnyManifest, Descriptor, Document, ImageConfig, MediaType};
use serde_json::Value;

/// Where `golang-github-opencontainers-image-spec-dev` puts them.
const SPEC: &str = "/usr/share/gocode/src/github.com/opencontainers/image-spec";

fn spec() -> Option<&'static Path> {
    let path = Path::new(SPEC);
    if path.join("manifest.md").is_file() {
        return Some(path);
    }
    assert_ne!(std::env::var_os("COOPERAGE_REQUIRE_PEERS"), Some("1".into()), "the image-spec is not there");
    println!("skipped: golang-github-opencontainers-image-spec-dev is not installed");
    None
}

/// What reading `text` as `kind` gives when it is written again by our writer.
fn rewritten(kind: &str, text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes().to_vec();
    let told = |error: &dyn std::error::Error| {
        error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
    };
    match kind {
        "config" => {
            let read = Document::<ImageConfig>::config(bytes).map_err(|error| told(&error))?;
            assert_eq!(read.bytes(), text.as_bytes());
            Ok(Document::from_value(read.value().clone()).unwrap().bytes().to_vec())
        }
        "descriptor" => {
            let read: Descriptor = serde_json::from_str(text).map_err(|error| told(&error))?;
            Ok(Document::from_value(read).unwrap().bytes().to_vec())
        }
        _ => {
            let given = if kind == "index" { MediaType::OciIndex } else { MediaType::OciManifest };
            // Older documents say their own kind, or nothing.
            let read =
                AnyManifest::parse(bytes.clone(), Some(&given)).or_else(|_| AnyManifest::parse(bytes, None));
            let read = read.map_err(|error| told(&error))?;
            assert_eq!(read.bytes(), text.as_bytes());
            match read {
                AnyManifest::Manifest(read) if kind == "manifest" => {
                    Ok(Document::from_value(read.value().clone()).unwrap().bytes().to_vec())
                }
                AnyManifest::Index(read) if kind == "index" => {
                    Ok(Document::from_value(read.value().clone()).unwrap().bytes().to_vec())
                }
                _ => Err("another kind".to_owned()),
            }
        }
    }
}

/// `value` without what means nothing: `null` and empty lists and maps are what Go writes for what is not there.
fn meant(value: Value) -> Value {
    let is_nothing = |value: &Value| {
        value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty)
    };
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().map(|(name, value)| (name, meant(value)));
            Value::Object(kept.filter(|(_, value)| !is_nothing(value)).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(meant).collect()),
        other => other,
    }
}

fn nothing_is_lost(kind: &str, text: &str) {
    let written = rewritten(kind, text).unwrap_or_else(|error| panic!("{kind} {text}: {error}"));
    let (before, after): (Value, Value) =
        (serde_json::from_str(text).unwrap(), serde_json::from_slice(&written).unwrap());
    // `{"80/tcp":{}}` is a set: its empty members mean something, and our writer keeps them.
    assert_eq!(meant(after), meant(before), "{kind}");
}

#[test]
fn every_example_of_the_spec_is_read_and_kept() {
    let Some(spec) = spec() else { return };
    let mut count = 0;
    for file in ["config.md", "descriptor.md", "image-index.md", "image-layout.md", "manifest.md"] {
        let page = std::fs::read_to_string(spec.join(file)).unwrap();
        for block in page.split("```json,").skip(1) {
            let (head, rest) = block.split_once('\n').unwrap();
            let text = rest.split("```").next().unwrap();
            let kind = match head.split("mediatype=").nth(1).unwrap_or_default() {
                "application/vnd.oci.image.config.v1%2Bjson" => "config",
                "application/vnd.oci.descriptor.v1%2Bjson" => "descriptor",
                "application/vnd.oci.image.index.v1%2Bjson" => "index",
                "application/vnd.oci.image.manifest.v1%2Bjson" => "manifest",
                _ => continue,
            };
            nothing_is_lost(kind, text);
            count += 1;
        }
    }
    assert!(count >= 8, "only {count} examples found");
    println!("examples of the image-spec: {count}, every byte kept");
}

/// The documents in a Go test table and whether the schema refuses them.
fn table(source: &str) -> Vec<(String, bool)> {
    let mut cases = Vec::new();
    let mut parts = source.split('`');
    let mut between = parts.next().unwrap_or_default();
    while let (Some(text), Some(after)) = (parts.next(), parts.next()) {
        let fails =
            after.split("{").next().is_some_and(|after| after.contains("fail:") && after.contains("true"));
        if between.trim_end().ends_with(':') {
            cases.push((text.to_owned(), fails));
        }
        between = after;
    }
    cases
}

#[test]
fn the_cases_of_the_schemas_are_judged_as_there() {
    let Some(spec) = spec() else { return };
    let (mut kept, mut unknown, mut refused, mut taken) = (0, 0, 0, Vec::new());
    for (file, kind) in [
        ("config_test.go", "config"),
        ("descriptor_test.go", "descriptor"),
        ("imageindex_test.go", "index"),
        ("manifest_test.go", "manifest"),
    ] {
        let source = std::fs::read_to_string(spec.join("schema").join(file)).unwrap();
        let cases = table(&source);
        assert!(cases.len() > 5, "{file}: {} cases", cases.len());
        for (text, fails) in cases {
            if !fails {
                // The schema takes digests of algorithms that nobody has registered; this crate computes what it takes.
                match rewritten(kind, &text) {
                    Err(error) if error.contains("unknown digest algorithm") => unknown += 1,
                    _ => {
                        nothing_is_lost(kind, &text);
                        kept += 1;
                    }
                }
            } else if rewritten(kind, &text).is_err() {
                refused += 1;
            } else {
                taken.push(format!("{kind} {text}"));
            }
        }
    }
    println!(
        "schema cases: {kept} valid kept, {unknown} of unknown algorithms and {refused} invalid refused, {} taken all the same",
        taken.len()
    );
    for text in &taken {
        println!("taken: {text}");
    }
}
