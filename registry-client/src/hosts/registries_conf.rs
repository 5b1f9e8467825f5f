//! `registries.conf`, version 2, with its drop-in directory: what podman, skopeo and buildah read.
//!
//! Source: containers-registries.conf(5) and containers-registries.conf.d(5).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use image_core::Reference;
use serde::Deserialize;

use super::short_name::{has_registry, split};
use super::{HostRule, HostRules, HostsError, Mirror, MirrorUse, ShortName};
use crate::settings;

/// One or more `registries.conf` files: which registries have mirrors, which are blocked, what short names mean.
///
/// ```no_run
/// use registry_client::Client;
/// use registry_client::hosts::RegistriesConf;
///
/// let conf = RegistriesConf::read("/etc/containers/registries.conf")?
///     .drop_ins("/etc/containers/registries.conf.d")?;
/// let client = Client::builder().hosts(conf.rules()?).build()?;
/// # let _ = client;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RegistriesConf {
    /// By prefix: a later file replaces the entry of an earlier one.
    registries: BTreeMap<String, Registry>,
    search: Vec<String>,
    aliases: BTreeMap<String, String>,
    path: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    registry: Vec<Registry>,
    #[serde(default)]
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
    /// The tables of version 1.
    #[serde(default)]
    registries: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Registry {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    pull_from_mirror: String,
    #[serde(default, rename = "mirror")]
    mirrors: Vec<MirrorTable>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MirrorTable {
    #[serde(default)]
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: String,
}

impl RegistriesConf {
    /// Reads one file; one that does not exist says nothing.
    ///
    /// # Errors
    /// [`HostsError`]: it cannot be read, is not TOML, is of version 1, or contradicts itself.
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, HostsError> {
        Self::default().with_file(path.into())
    }

    /// Takes the text of one file; `path` is for messages.
    ///
    /// # Errors
    /// As [`RegistriesConf::read`].
    pub fn parse(path: impl Into<PathBuf>, text: &str) -> Result<Self, HostsError> {
        Self::default().with_text(path.into(), text)
    }

    /// Adds the `*.conf` files of a directory, in the order of their names: each overrides what was before it,
    /// registry by registry and alias by alias. A directory that does not exist adds nothing.
    ///
    /// # Errors
    /// As [`RegistriesConf::read`].
    pub fn drop_ins(self, directory: impl AsRef<Path>) -> Result<Self, HostsError> {
        let directory = directory.as_ref();
        let mut paths = settings::list(directory)
            .map_err(|source| HostsError::Read { path: directory.to_owned(), source })?;
        paths.retain(|path| path.extension().is_some_and(|name| name == "conf") && !path.is_dir());
        paths.into_iter().try_fold(self, Self::with_file)
    }

    fn with_file(self, path: PathBuf) -> Result<Self, HostsError> {
        match read(&path)? {
            Some(text) => self.with_text(path, &text),
            None => Ok(self),
        }
    }

    fn with_text(mut self, path: PathBuf, text: &str) -> Result<Self, HostsError> {
        let file: File = toml::from_str(text)
            .map_err(|error| HostsError::Malformed { path: path.clone(), what: told(&error, text) })?;
        if file.registries.is_some() {
            let what = "the tables [registries.…] are of version 1, which is not read".to_owned();
            return Err(HostsError::Malformed { path, what });
        }
        let mut fresh = BTreeSet::new();
        for mut registry in file.registry {
            let key = registry.check(&path)?;
            if !fresh.insert(key.clone()) {
                // podman takes the last one; two in one file are a mistake that it also takes.
                self.registries.remove(&key);
            }
            self.registries.insert(key, registry);
        }
        if let Some(search) = file.unqualified_search_registries {
            self.search = search;
        }
        for (name, target) in file.aliases {
            // An empty alias takes back what an earlier file said.
            if target.is_empty() {
                self.aliases.remove(&name);
            } else {
                self.aliases.insert(name, target);
            }
        }
        self.path = path;
        self.check_locations()?;
        Ok(self)
    }

    /// podman refuses files that say two things of one place.
    fn check_locations(&self) -> Result<(), HostsError> {
        let mut known: BTreeMap<&str, (bool, bool)> = BTreeMap::new();
        for registry in self.registries.values().filter(|registry| !registry.location.is_empty()) {
            let says = (registry.insecure, registry.blocked);
            if known.insert(&registry.location, says).is_some_and(|before| before != says) {
                let what = "two entries with this location differ in insecure or blocked";
                return Err(entry(&self.path, &registry.location, what));
            }
        }
        Ok(())
    }

    /// The rules for a client.
    ///
    /// # Errors
    /// [`HostsError::Address`] when a location is none.
    pub fn rules(&self) -> Result<HostRules, HostsError> {
        let mut rules = HostRules::new();
        for (prefix, registry) in &self.registries {
            let mut rule = HostRule::new(prefix).blocked(registry.blocked).insecure(registry.insecure);
            for table in &registry.mirrors {
                let usage = match table.pull_from_mirror.as_str() {
                    "digest-only" => MirrorUse::DigestOnly,
                    "tag-only" => MirrorUse::TagOnly,
                    _ if registry.mirror_by_digest_only => MirrorUse::DigestOnly,
                    _ => MirrorUse::All,
                };
                let mirror = Mirror::at(&table.location)?;
                rule = rule.mirror(mirror.insecure(table.insecure).used_for(usage));
            }
            if !registry.location.is_empty() && registry.location != *prefix {
                rule = rule.location(Mirror::at(&registry.location)?.insecure(registry.insecure));
            }
            rules = rules.with(rule);
        }
        Ok(rules)
    }

    /// `unqualified-search-registries`, in order.
    pub fn search_registries(&self) -> &[String] {
        &self.search
    }

    /// What `name`, which may lack a registry, may mean.
    ///
    /// # Errors
    /// [`image_core::ReferenceError`] when it is no name, or an alias or a search registry makes none of it.
    pub fn resolve(&self, name: &str) -> Result<ShortName, image_core::ReferenceError> {
        if has_registry(name) {
            return Ok(ShortName::Full(Reference::parse(name)?));
        }
        let (repository, rest) = split(name);
        if let Some(target) = self.aliases.get(repository) {
            return Ok(ShortName::Alias(Reference::parse(&format!("{target}{rest}"))?));
        }
        let candidates = self.search.iter().map(|host| Reference::parse(&format!("{host}/{name}")));
        Ok(ShortName::Candidates(candidates.collect::<Result<_, _>>()?))
    }
}

impl Registry {
    /// Checks the entry as podman does, and gives its prefix.
    fn check(&mut self, path: &Path) -> Result<String, HostsError> {
        let named = if self.prefix.is_empty() { self.location.clone() } else { self.prefix.clone() };
        let wrong = |what| entry(path, &named, what);
        self.location = location(&self.location).map_err(wrong)?;
        if self.prefix.is_empty() {
            if self.location.is_empty() {
                return Err(wrong("neither prefix nor location"));
            }
            self.prefix.clone_from(&self.location);
        } else {
            self.prefix = location(&self.prefix).map_err(wrong)?;
            if self.location.is_empty() && !self.prefix.starts_with("*.") {
                return Err(wrong("a prefix without wildcard needs a location"));
            }
        }
        if !self.pull_from_mirror.is_empty() {
            return Err(wrong("pull-from-mirror is for mirrors, not for the registry"));
        }
        for mirror in &mut self.mirrors {
            mirror.location = location(&mirror.location).map_err(wrong)?;
            if mirror.location.is_empty() {
                return Err(wrong("a mirror without location"));
            }
            if !matches!(mirror.pull_from_mirror.as_str(), "" | "all" | "digest-only" | "tag-only") {
                return Err(wrong("pull-from-mirror is none of all, digest-only and tag-only"));
            }
            if self.mirror_by_digest_only && !mirror.pull_from_mirror.is_empty() {
                return Err(wrong("mirror-by-digest-only and pull-from-mirror exclude each other"));
            }
        }
        Ok(self.prefix.clone())
    }
}

fn location(text: &str) -> Result<String, &'static str> {
    let trimmed = text.trim_end_matches('/');
    if trimmed.starts_with("http://") || trimmed.starts_with("https://") {
        return Err("a location has no scheme");
    }
    if trimmed.is_empty() && !text.is_empty() {
        return Err("a location of slashes alone");
    }
    Ok(trimmed.to_owned())
}

fn entry(path: &Path, entry: &str, what: &'static str) -> HostsError {
    HostsError::Entry { path: path.to_owned(), entry: entry.to_owned(), what }
}

/// What is wrong with a file, and where. Neither the line itself, which the parser would quote, nor a value that is of
/// another type than it should be: headers in the file may be secret.
pub(super) fn told(error: &toml::de::Error, text: &str) -> String {
    let what = match error.message().rsplit_once(", expected ") {
        Some((what, expected))
            if ["invalid type:", "invalid value:"].iter().any(|start| what.starts_with(start)) =>
        {
            format!("expected {expected}")
        }
        _ => error.message().to_owned(),
    };
    let what: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {what}", before.matches('\n').count() + 1),
        None => what,
    }
}

/// The text of a file; `None` when it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<String>, HostsError> {
    let failed = |source| HostsError::Read { path: path.to_owned(), source };
    match settings::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|error| {
            failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error()))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}
