//! Targets and outlines.

use dockerfile::{Dockerfile, Options, Source, Target};
use serde_json::{Value, json};

use crate::compiled::{options, with};

const TEXT: &str = "# V the version
ARG V=1.2
ARG BASE=alpine:$V
ARG UNUSED=x
# build compiles it
FROM --platform=$BUILDPLATFORM $BASE AS build
# MODE how
ARG MODE=fast
ARG V
RUN --mount=type=secret,id=token,required --mount=type=cache,target=/root/.cache make
FROM scratch AS other
ARG OTHER
RUN --mount=type=ssh x
FROM busybox AS final
RUN --mount=type=secret,id=late --mount=type=ssh,id=key,required y
COPY --from=build /a /b
";

fn at(line: u32) -> Value {
    json!({"ranges": [{"start": {"line": line}, "end": {"line": line}}]})
}

fn outline(mut options: Options) -> Value {
    options.outline = true;
    let plan = with(TEXT, options, &[]).unwrap();
    serde_json::from_str(&plan.outline.unwrap().to_json(&Source::new(TEXT.as_bytes()))).unwrap()
}

#[test]
fn an_outline_is_what_the_target_needs() {
    let mut found = outline(options());
    assert!(found["sources"][0].as_str().unwrap().starts_with("IyBWIHRoZSB2ZXJzaW9u"));
    found.as_object_mut().unwrap().remove("sources");
    assert_eq!(
        found,
        json!({
            "name": "final",
            "args": [
                {"name": "V", "description": "the version", "value": "1.2", "location": at(2)},
                {"name": "BASE", "value": "alpine:1.2", "location": at(3)},
                {"name": "MODE", "description": "how", "value": "fast", "location": at(8)},
            ],
            "secrets": [
                {"name": "token", "required": true, "location": at(10)},
                {"name": "late", "location": at(15)},
            ],
            "ssh": [{"name": "key", "required": true, "location": at(15)}],
            "cache": [{"ID": "//root/.cache", "location": at(10)}],
        })
    );
}

#[test]
fn an_outline_has_the_values_of_the_request() {
    let mut options = options();
    options.target = Some("build".to_owned());
    options.build_args.insert("V".to_owned(), "3".to_owned());
    let found = outline(options);
    assert_eq!((&found["name"], &found["description"]), (&json!("build"), &json!("compiles it")));
    // What is given counts where the stage declares it.
    assert_eq!(found["args"][2], json!({"name": "V", "value": "3", "location": at(9)}));
    assert_eq!(found["args"][0]["value"], "alpine:3");
    assert_eq!(found["args"].as_array().unwrap().len(), 3);
    assert!(found["ssh"].is_null());
}

#[test]
fn the_outline_of_a_file_needs_no_image() {
    let file: Dockerfile = TEXT.parse().unwrap();
    let outline = file.outline();
    let names: Vec<_> = outline.args.iter().map(|arg| arg.name.as_str()).collect();
    assert_eq!(names, ["V", "BASE", "UNUSED", "MODE", "OTHER"]);
    assert_eq!(outline.args[1].value.as_deref(), Some("alpine:$V"));
    assert_eq!((outline.secrets.len(), outline.ssh.len(), outline.caches.len()), (2, 2, 1));
}

#[test]
fn targets_are_listed() {
    let file: Dockerfile = TEXT.parse().unwrap();
    let list: Value = serde_json::from_str(&Target::list_to_json(&file.targets(), file.source())).unwrap();
    assert_eq!(
        list["targets"],
        json!([
            {"name": "build", "description": "compiles it", "base": "$BASE", "platform": "$BUILDPLATFORM", "location": at(6)},
            {"name": "other", "base": "scratch", "location": at(11)},
            {"name": "final", "default": true, "base": "busybox", "location": at(14)},
        ])
    );
    assert!(list["sources"][0].is_string());
}
