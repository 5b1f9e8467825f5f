//! A plan as a picture for Graphviz.

use super::{Op, Plan};
use crate::quote::quote;

impl Plan {
    /// The steps and what they read, in Graphviz's language; solid arrows are root file systems.
    pub fn to_dot(&self) -> String {
        let mut out =
            String::from("digraph plan {\n  rankdir=BT;\n  node [shape=box, fontname=monospace];\n");
        for step in &self.steps {
            let shape = match step.op {
                Op::Exec(_) => "box",
                Op::Files(_) => "note",
                _ => "ellipse",
            };
            let name: String = step.name.chars().take(80).collect();
            out.push_str(&format!("  s{} [shape={shape}, label={}];\n", step.index, quote(&name)));
            for input in step.inputs() {
                let style = if step.root.step() == Some(input) { "solid" } else { "dashed" };
                out.push_str(&format!("  s{} -> s{input} [style={style}];\n", step.index));
            }
        }
        out.push_str("}\n");
        out
    }
}
