//! docker's `config.json`: `auths`, `credHelpers`, `credsStore`.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::entry::{Entry, encode};
use super::{CredentialError, CredentialQuery, CredentialSource, Credentials, Helper, file};

/// The key of Docker Hub in docker's files and helpers.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// docker's configuration file, as far as it is about credentials. Everything else in it is kept as it is.
///
/// Order of look-up, as in docker: `credHelpers` of the host, else `credsStore`, else `auths`; a helper that does
/// not know the host means anonymous, not "look further".
///
/// ```no_run
/// use registry_client::credential::{Credentials, DockerConfig};
///
/// # async fn example() -> Result<(), registry_client::credential::CredentialError> {
/// let mut config = DockerConfig::read("/home/me/.docker/config.json")?;
/// config.store("registry.example.com", &Credentials::basic("me", "secret")).await?;
/// assert!(config.erase("registry.example.com").await?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DockerConfig {
    path: PathBuf,
    members: Map<String, Value>,
    helpers: Option<PathBuf>,
}

/// Where [`DockerConfig::store`] has put a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoredIn {
    /// In a helper, by name.
    Helper(String),
    /// In the file itself, where it is merely encoded: docker warns about that.
    File(PathBuf),
}

impl DockerConfig {
    /// Reads the file; one that does not exist is an empty one.
    ///
    /// # Errors
    /// [`CredentialError::Read`], [`CredentialError::Malformed`].
    pub fn read(path: impl Into<PathBuf>) -> Result<Self, CredentialError> {
        let path = path.into();
        let members = file::read(&path)?.unwrap_or_default();
        Ok(Self { path, members, helpers: None })
    }

    /// Takes the text of a `config.json`, such as the value of `DOCKER_AUTH_CONFIG`.
    ///
    /// # Errors
    /// [`CredentialError::Malformed`].
    pub fn from_json(text: &str) -> Result<Self, CredentialError> {
        let path = PathBuf::from("DOCKER_AUTH_CONFIG");
        let members = serde_json::from_str(text).map_err(|error| CredentialError::Malformed {
            path: path.clone(),
            what: format!("not a JSON object (line {}, column {})", error.line(), error.column()),
        })?;
        Ok(Self { path, members, helpers: None })
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

    /// The hosts that have an entry in `auths`, in docker's spelling.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.object("auths").into_iter().flat_map(|auths| auths.keys().map(String::as_str))
    }

    /// The credentials for a host as a reference names it.
    ///
    /// # Errors
    /// When an entry cannot be decoded or a helper fails.
    pub async fn get(&self, host: &str) -> Result<Option<Credentials>, CredentialError> {
        let key = key_of(host);
        if let Some(helper) = self.helper_for(&key)? {
            return helper.1.get(&key).await;
        }
        self.in_file(&key)
    }

    /// Stores credentials for a host: in its helper if one is configured, else in the file.
    ///
    /// # Errors
    /// When the helper fails, or the file cannot be replaced.
    pub async fn store(
        &mut self,
        host: &str,
        credentials: &Credentials,
    ) -> Result<StoredIn, CredentialError> {
        let key = key_of(host);
        self.reread()?;
        let (entry, stored) = if let Some((name, helper)) = self.helper_for(&key)? {
            helper.store(&key, credentials).await?;
            // docker leaves an empty entry, so that `auths` still lists the host.
            (Map::new(), StoredIn::Helper(name))
        } else {
            (entry_of(credentials, &self.path)?, StoredIn::File(self.path.clone()))
        };
        let auths = self.members.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if !auths.is_object() {
            *auths = Value::Object(Map::new());
        }
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key, Value::Object(entry));
        }
        file::replace(&self.path, &self.members)?;
        Ok(stored)
    }

    /// Forgets a host; `false` when there was nothing to forget.
    ///
    /// # Errors
    /// As [`DockerConfig::store`].
    pub async fn erase(&mut self, host: &str) -> Result<bool, CredentialError> {
        let key = key_of(host);
        self.reread()?;
        let mut known = false;
        if let Some((_, helper)) = self.helper_for(&key)? {
            known = helper.get(&key).await?.is_some();
            if known {
                helper.erase(&key).await?;
            }
        }
        let Some(auths) = self.members.get_mut("auths").and_then(Value::as_object_mut) else {
            return Ok(known);
        };
        let spelled: Vec<String> =
            auths.keys().filter(|name| **name == key || host_of_key(name) == key).cloned().collect();
        if spelled.is_empty() {
            return Ok(known);
        }
        for name in &spelled {
            auths.remove(name);
        }
        file::replace(&self.path, &self.members)?;
        Ok(true)
    }

    /// Another process may have written since this was read.
    fn reread(&mut self) -> Result<(), CredentialError> {
        if let Some(members) = file::read(&self.path)? {
            self.members = members;
        }
        Ok(())
    }

    fn object(&self, name: &str) -> Option<&Map<String, Value>> {
        self.members.get(name).and_then(Value::as_object)
    }

    fn helper_for(&self, key: &str) -> Result<Option<(String, Helper)>, CredentialError> {
        let filled = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let own = self.object("credHelpers").and_then(|helpers| helpers.get(key)).and_then(filled);
        let Some(name) = own.or_else(|| self.members.get("credsStore").and_then(filled)) else {
            return Ok(None);
        };
        let helper = Helper::new(&name)?.in_directory(self.helpers.clone());
        Ok(Some((name, helper)))
    }

    fn in_file(&self, key: &str) -> Result<Option<Credentials>, CredentialError> {
        let Some(auths) = self.object("auths") else { return Ok(None) };
        if let Some(entry) = auths.get(key) {
            return parse(&self.path, key, entry);
        }
        // Old files have URLs as keys.
        for (name, entry) in auths {
            if host_of_key(name) == key {
                return parse(&self.path, name, entry);
            }
        }
        Ok(None)
    }
}

impl std::fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerConfig").field("path", &self.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl CredentialSource for DockerConfig {
    async fn credentials(&self, query: CredentialQuery<'_>) -> Result<Option<Credentials>, CredentialError> {
        self.get(query.host).await
    }
}

pub(super) fn parse(path: &Path, key: &str, entry: &Value) -> Result<Option<Credentials>, CredentialError> {
    let entry: Entry = serde_json::from_value(entry.clone()).map_err(|_| CredentialError::Malformed {
        path: path.to_owned(),
        what: format!("the entry of {key} is not an object of texts"),
    })?;
    entry.credentials(key)
}

pub(super) fn entry_of(
    credentials: &Credentials,
    path: &Path,
) -> Result<Map<String, Value>, CredentialError> {
    let mut entry = Map::new();
    match credentials {
        Credentials::Basic { username, password } => {
            entry.insert("auth".to_owned(), Value::String(encode(username, password.expose())));
        }
        Credentials::IdentityToken(token) => {
            entry.insert("auth".to_owned(), Value::String(encode(super::entry::TOKEN_USER, "")));
            entry.insert("identitytoken".to_owned(), Value::String(token.expose().to_owned()));
        }
        Credentials::BearerToken(_) => {
            return Err(CredentialError::NotStorable { what: "a bearer token", path: path.to_owned() });
        }
    }
    Ok(entry)
}

/// docker's key for a host: the host itself, and a URL for Docker Hub.
fn key_of(host: &str) -> String {
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB_KEY.to_owned(),
        other => other.to_owned(),
    }
}

/// The host that a key names: without scheme and path.
fn host_of_key(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or_default()
}
