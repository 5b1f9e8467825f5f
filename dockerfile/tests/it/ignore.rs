//! Ignore files against moby/patternmatcher's results.

use dockerfile::{DirState, Ignore};

use crate::data;

#[derive(serde::Deserialize)]
struct Vector {
    ignorefile: String,
    #[serde(default)]
    patterns: Option<Vec<String>>,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    ignored: Vec<bool>,
    #[serde(default)]
    error: bool,
}

#[test]
fn ignore_files_are_mobys() {
    let Some(text) = data::read("vectors/dockerignore.jsonl") else { return };
    let (mut right, mut all, mut wrong) = (0, 0, Vec::new());
    for line in text.lines() {
        let vector: Vector = serde_json::from_str(line).unwrap();
        all += 1;
        let fits = match Ignore::parse(&vector.ignorefile) {
            Err(_) => vector.error,
            Ok(ignore) => {
                let got: Result<Vec<bool>, _> =
                    vector.paths.iter().map(|path| ignore.try_matches(path)).collect();
                let patterns = ignore.patterns() == vector.patterns.as_deref().unwrap_or_default();
                match got {
                    // The record of a refusal does not say for which path: one that a pattern names will do.
                    _ if vector.error => {
                        ignore.patterns().iter().any(|path| ignore.try_matches(path).is_err())
                    }
                    Ok(got) => patterns && got == vector.ignored && walks_alike(&ignore, &vector.paths),
                    Err(_) => false,
                }
            }
        };
        if fits {
            right += 1;
        } else {
            wrong.push(line);
        }
    }
    println!("dockerignore: {right} of {all}");
    assert!(wrong.is_empty(), "{} differ, first:\n{}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
}

/// A walker that prunes ends at the same answers as asking for each path.
fn walks_alike(ignore: &Ignore, paths: &[String]) -> bool {
    paths.iter().all(|path| {
        let mut state = DirState::default();
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let verdict = ignore.enter(&state, &path[..end]);
            assert_eq!(ignore.try_enter(&state, &path[..end]).as_ref(), Ok(&verdict));
            if end == path.len() {
                return verdict.ignored == ignore.matches(path);
            }
            if verdict.prune {
                return ignore.matches(path);
            }
            state = verdict.state;
        }
        true
    })
}
