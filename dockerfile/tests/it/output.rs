//! The forms in which a plan leaves the program: JSON and Graphviz.

use serde_json::{Value, json};

use crate::compiled::plan;

const TEXT: &str = "FROM alpine AS build\nRUN --mount=type=cache,target=/c make \"all\"\nFROM scratch\nCOPY --from=build --chown=1 /a /b/\n";

#[test]
fn graphviz() {
    assert_eq!(
        plan(TEXT).to_dot(),
        r#"digraph plan {
  rankdir=BT;
  node [shape=box, fontname=monospace];
  s0 [shape=ellipse, label="[build 1/2] FROM docker.io/library/alpine:latest"];
  s1 [shape=box, label="[build 2/2] RUN --mount=type=cache,target=/c make \"all\""];
  s1 -> s0 [style=solid];
  s2 [shape=note, label="[stage-1 1/1] COPY --from=build --chown=1 /a /b/"];
  s2 -> s1 [style=dashed];
}
"#
    );
}

#[test]
fn json_says_everything() {
    let plan = plan(TEXT);
    let value: Value = serde_json::to_value(&plan).unwrap();
    let platform = json!({"os": "linux", "architecture": "amd64"});
    assert_eq!(value["platform"], platform);
    assert_eq!(value["target"], 1);
    assert_eq!(
        value["steps"][0]["op"],
        json!({"op": "image", "reference": "docker.io/library/alpine:latest", "platform": platform, "digest": null})
    );
    let exec = &value["steps"][1];
    assert_eq!(exec["root"], json!({"step": 0}));
    assert_eq!((&exec["stage"], &exec["ordinal"], &exec["total"]), (&json!(0), &json!(2), &json!(2)));
    assert_eq!(exec["lines"], json!({"first": 2, "last": 2}));
    assert_eq!(exec["op"]["op"], "exec");
    assert_eq!(exec["op"]["args"], json!(["/bin/sh", "-c", "make \"all\""]));
    assert_eq!(exec["op"]["env"][0]["name"], "PATH");
    assert_eq!(exec["op"]["mounts"][0]["kind"]["type"], "cache");
    let files = &value["steps"][2];
    assert_eq!(files["root"], "empty");
    assert_eq!(
        files["op"]["actions"][0],
        json!({
            "action": "copy", "from": {"tree": {"step": 1}}, "source": "/a", "dest": "/b/",
            "owner": {"user": {"id": 1}, "group": null}, "mode": null, "include": [], "exclude": [], "required": [],
            "unpack": false, "wildcard": true, "follow_links": true, "parents": false,
        })
    );
    assert_eq!(value["stages"][1]["base"], "scratch");
    assert_eq!(value["stages"][0]["base"]["image"]["step"], 0);
    assert_eq!(value["stages"][0]["history"][0]["created_by"], "RUN /bin/sh -c make \"all\" # buildkit");
    assert_eq!(value["warnings"], json!([]));
}

/// What is defined by the same words has the same digest, and what differs is named.
#[test]
fn definitions_are_compared_part_by_part() {
    let one = plan("FROM a\nENV A=1\nRUN make\n").steps[1].definition();
    let other = plan("FROM a\nENV A=2\nRUN make\n").steps[1].definition();
    assert_eq!(one.first_difference(&other), Some(("env.A", Some("1"), Some("2"))));
    assert_ne!(one.digest(), other.digest());
    let again = plan("# other lines\nFROM b\n\nENV A=1\nRUN make\n").steps[1].definition();
    assert_eq!(one.digest(), again.digest());
}
