//! What can be asked of a file without building it: its targets, and what a build of them may be given.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::instruction::{Kind, MountSpec, MountType};
use crate::source::Lines;
use crate::syntax::Dockerfile;

/// A stage that can be built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Target {
    /// Its name; none when it can only be built as the last.
    pub name: Option<String>,
    /// The comment above it.
    pub description: Option<String>,
    /// What it is built from, as written.
    pub base: String,
    /// Its platform, as written.
    pub platform: Option<String>,
    /// Whether it is built when no target is named.
    pub default: bool,
    /// Where its FROM stands.
    pub lines: Lines,
}

/// What a build may be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Outline {
    /// Build arguments that the file declares, in the order of their first declaration.
    pub args: Vec<OutlineArg>,
    /// Secrets by id.
    pub secrets: Vec<OutlineSecret>,
    /// Ids of ssh agents.
    pub ssh: Vec<OutlineSecret>,
}

/// A build argument of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// Its default, as written.
    pub default: Option<String>,
    /// The comment above it.
    pub description: Option<String>,
    /// Where it is declared first.
    pub lines: Lines,
}

/// A secret or agent of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutlineSecret {
    /// Its id.
    pub id: String,
    /// Whether a RUN fails without it.
    pub required: bool,
    /// Where it is used first.
    pub lines: Lines,
}

impl Dockerfile {
    /// The stages that can be built.
    pub fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = self
            .stages()
            .map(|stage| Target {
                name: stage.from.name.clone(),
                description: stage.from.description.clone(),
                base: stage.from.base.clone(),
                platform: stage.from.platform.clone(),
                default: false,
                lines: stage.instruction.lines,
            })
            .collect();
        if let Some(last) = targets.last_mut() {
            last.default = true;
        }
        targets
    }

    /// Arguments, secrets and agents of the whole file, before any variable is expanded.
    pub fn outline(&self) -> Outline {
        let mut outline = Outline::default();
        let mut seen = std::collections::BTreeSet::new();
        let (mut secrets, mut ssh) = (BTreeMap::new(), BTreeMap::new());
        for instruction in self.instructions() {
            let lines = instruction.lines;
            match &instruction.kind {
                Kind::Arg(args) => {
                    for arg in args.iter().filter(|arg| seen.insert(&arg.name)) {
                        outline.args.push(OutlineArg {
                            name: arg.name.clone(),
                            default: arg.default.clone(),
                            description: arg.description.clone(),
                            lines,
                        });
                    }
                }
                Kind::Run(run) => {
                    for mount in &run.mounts {
                        let same = |word: &str| Ok::<_, (String, Option<String>)>(word.to_owned());
                        let Ok(spec) = MountSpec::read(mount, same) else { continue };
                        let (map, id) = match spec.kind {
                            MountType::Secret => (&mut secrets, [&spec.source, &spec.id, &spec.target]),
                            MountType::Ssh => (&mut ssh, [&spec.id, &spec.source, &spec.target]),
                            _ => continue,
                        };
                        let id = id
                            .into_iter()
                            .find(|id| !id.is_empty())
                            .map_or("default", String::as_str)
                            .to_owned();
                        let required = spec.required;
                        map.entry(id.clone()).or_insert(OutlineSecret { id, required, lines });
                    }
                }
                _ => {}
            }
        }
        outline.secrets = secrets.into_values().collect();
        outline.ssh = ssh.into_values().collect();
        outline
    }
}
