//! One JSON object that says what a file compiles to, in words that other compilers can be compared by.
//!
//! ```text
//! {"config":{…},"execs":[…],"files":[…],"history":[…],"instructions":[…],"sources":[…],"stages":[…],"warnings":[…]}
//! ```
//!
//! Keys that are absent are empty, and all stand in the order of their names. `sources`, `execs` and `files` are
//! sorted by their text; each stands for a vertex of the build graph, so equal operations on equal inputs appear
//! once, and equal ones on different inputs as often as they are done.

mod operations;
mod write;

use image_core::ContainerConfig;

use crate::Dockerfile;
use crate::plan::Plan;
use operations::{Entry, Found};
use write::Writer;

/// The record of a file and its plan as one line of JSON; `name` becomes the key `file` when it is given.
pub fn json(file: &Dockerfile, plan: &Plan, name: Option<&str>) -> String {
    // Real files come to some twice their own text.
    let mut out = Writer::with_capacity(3 * file.source().text().len() + 1024);
    out.open('{');
    if let Some(stage) = plan.target_stage() {
        out.config(&stage.config);
    }
    let found = Found::read(plan, file.source().text().len());
    out.set("execs", &found, &found.execs);
    if let Some(name) = name {
        out.key("file");
        out.text(name);
    }
    out.set("files", &found, &found.files);
    out.history(plan);
    out.instructions(file);
    out.set("sources", &found, &found.sources);
    out.stages(file);
    out.warnings(plan);
    out.close('}');
    out.0
}

impl Writer {
    fn config(&mut self, config: &ContainerConfig) {
        let empty = |words: &Option<Vec<String>>| words.as_ref().is_some_and(Vec::is_empty);
        let odd = empty(&config.cmd)
            || empty(&config.entrypoint)
            || config.healthcheck.as_ref().is_some_and(|check| *check == image_core::Healthcheck::default())
            || !config.unknown.is_empty();
        let text = if odd {
            let mut config = serde_json::to_value(config).unwrap_or_default();
            if let Some(members) = config.as_object_mut() {
                members.retain(|_, value| !is_empty(value));
            }
            config.to_string()
        } else {
            serde_json::to_string(config).unwrap_or_default()
        };
        if text.len() > 2 {
            self.key("config");
            self.0.push_str(&text);
        }
    }

    fn history(&mut self, plan: &Plan) {
        let before = self.0.len();
        self.key("history");
        self.open('[');
        let start = self.0.len();
        if let Some(stage) = plan.target_stage() {
            for old in stage.base_image.iter().flat_map(|image| &image.history) {
                self.entry(&old.created_by, old.empty_layer, &old.author);
            }
            for new in plan.history(plan.target) {
                self.entry(&new.created_by, new.empty_layer(), "");
            }
        }
        if self.0.len() == start { self.0.truncate(before) } else { self.close(']') }
    }

    fn entry(&mut self, created_by: &str, empty_layer: bool, author: &str) {
        self.open('{');
        self.member("author", author);
        self.member("created_by", created_by);
        self.yes("empty_layer", empty_layer);
        self.close('}');
    }

    fn instructions(&mut self, file: &Dockerfile) {
        let before = self.0.len();
        self.key("instructions");
        self.open('[');
        let start = self.0.len();
        for stage in file.stages() {
            for one in stage.body {
                self.open('{');
                self.number("line", one.lines.first.into());
                self.key("name");
                self.text(one.kind.keyword());
                self.number("stage", stage.number as u64);
                self.close('}');
            }
        }
        if self.0.len() == start { self.0.truncate(before) } else { self.close(']') }
    }

    fn stages(&mut self, file: &Dockerfile) {
        self.key("stages");
        self.open('[');
        for stage in file.stages() {
            self.open('{');
            self.key("base");
            self.text(&stage.from.base);
            self.key("name");
            self.text(stage.from.name.as_deref().unwrap_or(""));
            self.member("platform", stage.from.platform.as_deref().unwrap_or(""));
            self.close('}');
        }
        self.close(']');
    }

    fn warnings(&mut self, plan: &Plan) {
        if plan.warnings.is_empty() {
            return;
        }
        self.key("warnings");
        self.open('[');
        for warning in &plan.warnings {
            self.open('{');
            self.number("line", warning.lines.first.into());
            self.key("msg");
            self.text(&warning.message);
            self.key("rule");
            self.text(warning.rule);
            self.close('}');
        }
        self.close(']');
    }

    fn set(&mut self, key: &str, found: &Found, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        self.key(key);
        self.open('[');
        for entry in entries {
            self.comma();
            self.0.push_str(found.slice(entry));
        }
        self.close(']');
    }
}

fn is_empty(value: &serde_json::Value) -> bool {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}
