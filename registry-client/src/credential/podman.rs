//! podman's `auth.json` (containers-auth.json(5)): keys may be namespaces, longest first.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::docker::{entry_of, parse};
use super::{CredentialError, CredentialQuery, CredentialSource, Credentials, Helper, file};

/// An `auth.json`, or another file read by podman's rules.
///
/// Order of look-up, as in podman: the host's helper in `credHelpers`, else the keys `host/a/b`, `host/a`, `host` of
/// `auths`, else keys that name the host in the old ways.
#[derive(Clone)]
pub struct PodmanAuth {
    path: PathBuf,
    members: Map<String, Value>,
    legacy: bool,
    helpers: Option<PathBuf>,
}

impl PodmanAuth {
    /// Reads the file; one that does not exist is an empty one.
    ///
    /// # Errors
    /// [`CredentialError::Read`], [`CredentialError::Malformed`].
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, CredentialError> {
        let path = path.into();
        let members = file::read(&path)?.unwrap_or_default();
        Ok(Self { path, members, legacy: false, helpers: None })
    }

    /// Reads a `.dockercfg`, the file of docker before 1.7: the hosts stand at the top.
    ///
    /// # Errors
    /// As [`PodmanAuth::read`].
    pub fn read_legacy(path: impl Into<PathBuf>) -> Result<Self, CredentialError> {
        let path = path.into();
        let hosts = file::read(&path)?.unwrap_or_default();
        let mut members = Map::new();
        members.insert("auths".to_owned(), Value::Object(hosts));
        Ok(Self { path, members, legacy: true, helpers: None })
    }

    /// Takes helper programs from this directory only.
    #[must_use]
    pub fn helpers_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.helpers = Some(directory.into());
        self
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The credentials for a repository, or for a host alone.
    ///
    /// # Errors
    /// When an entry cannot be decoded or a helper fails.
    pub async fn get(&self, query: CredentialQuery<'_>) -> Result<Option<Credentials>, CredentialError> {
        let host = query.host;
        let helper = self.object("credHelpers").and_then(|helpers| helpers.get(host)).and_then(Value::as_str);
        if let Some(name) = helper.filter(|name| !name.is_empty()) {
            return Helper::new(name)?.in_directory(self.helpers.clone()).get(host).await;
        }
        let Some(auths) = self.object("auths") else { return Ok(None) };
        for key in self.keys(query) {
            if let Some(entry) = auths.get(&key) {
                return parse(&self.path, &key, entry);
            }
        }
        let wanted = normalise(host);
        for (key, entry) in auths {
            if self.normalised_key(key) == wanted {
                return parse(&self.path, key, entry);
            }
        }
        Ok(None)
    }

    /// Stores credentials under `key`: a host, or a host with a namespace.
    ///
    /// # Errors
    /// When the file cannot be replaced, or the credentials have no place in it.
    pub fn store(&mut self, key: &str, credentials: &Credentials) -> Result<(), CredentialError> {
        let entry = entry_of(credentials, &self.path)?;
        self.change(|auths| {
            auths.insert(key.to_owned(), Value::Object(entry));
            true
        })
        .map(|_| ())
    }

    /// Forgets `key`; `false` when there was nothing to forget.
    ///
    /// # Errors
    /// When the file cannot be replaced.
    pub fn erase(&mut self, key: &str) -> Result<bool, CredentialError> {
        self.change(|auths| auths.remove(key).is_some())
    }

    fn change(
        &mut self,
        change: impl FnOnce(&mut Map<String, Value>) -> bool,
    ) -> Result<bool, CredentialError> {
        if let Some(members) = file::read(&self.path)? {
            self.members = members;
        }
        let auths = self.members.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        let Some(auths) = auths.as_object_mut() else {
            return Err(CredentialError::Malformed {
                path: self.path.clone(),
                what: "auths is not an object".to_owned(),
            });
        };
        let changed = change(auths);
        if changed {
            file::replace(&self.path, &self.members)?;
        }
        Ok(changed)
    }

    fn object(&self, name: &str) -> Option<&Map<String, Value>> {
        self.members.get(name).and_then(Value::as_object)
    }

    /// `host/a/b`, `host/a`, `host`; the old format knows hosts alone.
    fn keys(&self, query: CredentialQuery<'_>) -> Vec<String> {
        let mut keys = Vec::new();
        if let Some(repository) = query.repository.filter(|_| !self.legacy) {
            let mut rest = repository;
            loop {
                keys.push(format!("{}/{rest}", query.host));
                match rest.rsplit_once('/') {
                    Some((parent, _)) => rest = parent,
                    None => break,
                }
            }
        }
        keys.push(query.host.to_owned());
        keys
    }

    fn normalised_key<'k>(&self, key: &'k str) -> &'k str {
        let rest = key.strip_prefix("http://").unwrap_or(key);
        let rest = rest.strip_prefix("https://").unwrap_or(rest);
        let host = if self.legacy || rest.len() != key.len() {
            rest.split('/').next().unwrap_or_default()
        } else {
            rest
        };
        normalise(host)
    }
}

impl std::fmt::Debug for PodmanAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodmanAuth").field("path", &self.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialSource for PodmanAuth {
    async fn credentials(&self, query: CredentialQuery<'_>) -> Result<Option<Credentials>, CredentialError> {
        self.get(query).await
    }
}

/// The names of Docker Hub are one.
fn normalise(host: &str) -> &str {
    match host {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        other => other,
    }
}
