//! What can be asked of a file without building it: its targets, and what a build of them may be given.
//!
//! [`Dockerfile::outline`] is of the whole file and needs no image; [`Plan::outline`](crate::Plan::outline) is of one
//! target with the stages that it needs, and has values.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::instruction::{Kind, MountSpec, MountType};
use crate::query::{Location, base64, pretty};
use crate::source::{Lines, Source};
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
    /// The target's name; none of a whole file or of a stage without one.
    pub name: Option<String>,
    /// The comment above the target.
    pub description: Option<String>,
    /// Build arguments, in the order of their declarations.
    pub args: Vec<OutlineArg>,
    /// Secrets that RUN mounts.
    pub secrets: Vec<OutlineSecret>,
    /// Ssh agents that RUN mounts.
    pub ssh: Vec<OutlineSecret>,
    /// Cache mounts.
    pub caches: Vec<OutlineCache>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// Its default as written, in a whole file's outline; what it comes to, in a target's.
    pub value: Option<String>,
    /// The comment above it.
    pub description: Option<String>,
    /// Where it is declared: first, in a whole file's outline; by that which gives its value, in a target's.
    pub lines: Lines,
}

/// A secret or an agent.
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

/// A cache mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutlineCache {
    /// Under which name its content is kept.
    pub id: String,
    /// Where it is used first.
    pub lines: Lines,
}

impl Outline {
    /// The outline in the form of BuildKit's `frontend.outline`, which `docker build --call=outline,format=json` prints.
    ///
    /// BuildKit's form has a place for cache mounts (`cache`) and leaves it empty; here it is filled.
    pub fn to_json(&self, source: &Source) -> String {
        let used = |one: &OutlineSecret| UsedJson {
            name: one.id.clone(),
            required: one.required,
            location: Location::known(one.lines),
        };
        pretty(&OutlineJson {
            name: self.name.as_deref().unwrap_or(""),
            description: self.description.as_deref().unwrap_or(""),
            args: self.args.iter().map(ArgJson::of).collect(),
            secrets: self.secrets.iter().map(used).collect(),
            ssh: self.ssh.iter().map(used).collect(),
            cache: self
                .caches
                .iter()
                .map(|one| CacheJson { id: &one.id, location: Location::known(one.lines) })
                .collect(),
            sources: [base64(source.bytes())],
        })
    }
}

impl Target {
    /// Targets in the form of BuildKit's `frontend.targets`, which `docker build --call=targets,format=json` prints.
    pub fn list_to_json(targets: &[Self], source: &Source) -> String {
        let one = |target: &Self| TargetJson {
            name: target.name.clone().unwrap_or_default(),
            default: target.default,
            description: target.description.clone().unwrap_or_default(),
            base: target.base.clone(),
            platform: target.platform.clone().unwrap_or_default(),
            location: Location::known(target.lines),
        };
        pretty(&TargetsJson { targets: targets.iter().map(one).collect(), sources: [base64(source.bytes())] })
    }
}

/// `outline.Outline`.
#[derive(Serialize)]
struct OutlineJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<ArgJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<UsedJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<UsedJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cache: Vec<CacheJson<'a>>,
    sources: [String; 1],
}

/// `outline.Arg`.
#[derive(Serialize)]
struct ArgJson<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    value: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

impl<'a> ArgJson<'a> {
    fn of(arg: &'a OutlineArg) -> Self {
        Self {
            name: &arg.name,
            description: arg.description.as_deref().unwrap_or(""),
            value: arg.value.as_deref().unwrap_or(""),
            location: Location::known(arg.lines),
        }
    }
}

/// `outline.Secret` and `outline.SSH`.
#[derive(Serialize)]
struct UsedJson {
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

/// `outline.CacheMount`.
#[derive(Serialize)]
struct CacheJson<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
}

/// `targets.List`.
#[derive(Serialize)]
struct TargetsJson {
    targets: Vec<TargetJson>,
    sources: [String; 1],
}

/// `targets.Target`.
#[derive(Serialize)]
struct TargetJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    base: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    platform: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
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
        let (mut secrets, mut ssh, mut caches) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for instruction in self.instructions() {
            let lines = instruction.lines;
            match &instruction.kind {
                Kind::Arg(args) => {
                    for arg in args.iter().filter(|arg| seen.insert(&arg.name)) {
                        outline.args.push(OutlineArg {
                            name: arg.name.clone(),
                            value: arg.default.clone(),
                            description: arg.description.clone(),
                            lines,
                        });
                    }
                }
                Kind::Run(run) => {
                    for mount in &run.mounts {
                        let same = |word: &str| Ok::<_, (String, Option<String>)>(word.to_owned());
                        let Ok(spec) = MountSpec::read(mount, same) else { continue };
                        if spec.kind == MountType::Cache {
                            let id = if spec.id.is_empty() { &spec.target } else { &spec.id };
                            let id = id.clone();
                            caches.entry(id.clone()).or_insert(OutlineCache { id, lines });
                            continue;
                        }
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
        outline.caches = caches.into_values().collect();
        outline
    }
}
