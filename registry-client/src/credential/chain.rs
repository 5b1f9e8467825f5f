//! Several sources in order, and the order that docker and podman have.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use super::{CredentialError, CredentialQuery, CredentialSource, Credentials, DockerConfig, PodmanAuth};

/// Credentials given in the program, by host.
#[derive(Clone, Debug, Default)]
pub struct FixedCredentials {
    by_host: BTreeMap<String, Credentials>,
}

impl FixedCredentials {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// These, for a host as a reference names it (`docker.io`, `localhost:5000`).
    #[must_use]
    pub fn with(mut self, host: impl Into<String>, credentials: Credentials) -> Self {
        self.by_host.insert(host.into(), credentials);
        self
    }
}

#[async_trait]
impl CredentialSource for FixedCredentials {
    async fn credentials(&self, query: CredentialQuery<'_>) -> Result<Option<Credentials>, CredentialError> {
        Ok(self.by_host.get(query.host).cloned())
    }
}

/// Asks one source after the other; the first that has an answer wins, the first that fails ends it.
#[derive(Clone, Debug, Default)]
pub struct CredentialChain {
    sources: Vec<Arc<dyn CredentialSource>>,
}

impl CredentialChain {
    /// No source: anonymous.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source after those that are there.
    #[must_use]
    pub fn then(mut self, source: Arc<dyn CredentialSource>) -> Self {
        self.sources.push(source);
        self
    }
}

#[async_trait]
impl CredentialSource for CredentialChain {
    async fn credentials(&self, query: CredentialQuery<'_>) -> Result<Option<Credentials>, CredentialError> {
        for source in &self.sources {
            if let Some(found) = source.credentials(query).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// The values of the environment that decide where credentials are. Nothing here reads the environment: the program
/// that embeds the library does, if it wants to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CredentialEnvironment {
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `DOCKER_CONFIG`: the directory of `config.json`.
    pub docker_config: Option<PathBuf>,
    /// `DOCKER_AUTH_CONFIG`: the text of a `config.json`. Debug prints it not.
    pub docker_auth_config: Option<super::Secret>,
    /// `REGISTRY_AUTH_FILE`.
    pub registry_auth_file: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<PathBuf>,
    /// A directory that helper programs are taken from, instead of where the system finds programs.
    pub helpers: Option<PathBuf>,
}

impl CredentialEnvironment {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The path of docker's `config.json`: in `DOCKER_CONFIG`, else in `~/.docker`.
    pub fn docker_path(&self) -> Option<PathBuf> {
        let directory =
            self.docker_config.clone().or_else(|| self.home.as_ref().map(|home| home.join(".docker")))?;
        Some(directory.join("config.json"))
    }

    /// The file that podman writes on login.
    pub fn podman_path(&self) -> Option<PathBuf> {
        if let Some(path) = &self.registry_auth_file {
            return Some(path.clone());
        }
        self.xdg_runtime_dir.as_ref().map(|dir| dir.join("containers/auth.json"))
    }

    /// What docker looks at: `DOCKER_AUTH_CONFIG`, then `config.json`.
    ///
    /// # Errors
    /// When one of them is there and cannot be read.
    pub fn docker(&self) -> Result<CredentialChain, CredentialError> {
        let mut chain = CredentialChain::new();
        if let Some(text) = &self.docker_auth_config {
            chain = chain.then(Arc::new(DockerConfig::from_json(text.expose())?));
        }
        if let Some(path) = self.docker_path() {
            let mut config = DockerConfig::read(path)?;
            if let Some(helpers) = &self.helpers {
                config = config.helpers_in(helpers);
            }
            chain = chain.then(Arc::new(config));
        }
        Ok(chain)
    }

    /// What podman looks at: `REGISTRY_AUTH_FILE` alone when it is set; else the `auth.json` of the runtime directory
    /// and of the configuration directory, docker's `config.json`, and `~/.dockercfg`.
    ///
    /// # Errors
    /// When one of them is there and cannot be read.
    pub fn podman(&self) -> Result<CredentialChain, CredentialError> {
        let with_helpers = |auth: PodmanAuth| match &self.helpers {
            Some(helpers) => auth.helpers_in(helpers),
            None => auth,
        };
        if let Some(path) = &self.registry_auth_file {
            return Ok(CredentialChain::new().then(Arc::new(with_helpers(PodmanAuth::read(path)?))));
        }
        let config_home =
            self.xdg_config_home.clone().or_else(|| self.home.as_ref().map(|home| home.join(".config")));
        let paths = [
            self.xdg_runtime_dir.as_ref().map(|dir| dir.join("containers/auth.json")),
            config_home.map(|dir| dir.join("containers/auth.json")),
            self.docker_path(),
        ];
        let mut chain = CredentialChain::new();
        for path in paths.into_iter().flatten() {
            chain = chain.then(Arc::new(with_helpers(PodmanAuth::read(path)?)));
        }
        if let Some(home) = &self.home {
            chain = chain.then(Arc::new(with_helpers(PodmanAuth::read_legacy(home.join(".dockercfg"))?)));
        }
        Ok(chain)
    }

    /// docker's sources, then podman's.
    ///
    /// # Errors
    /// When one of them is there and cannot be read.
    pub fn all(&self) -> Result<CredentialChain, CredentialError> {
        Ok(CredentialChain::new().then(Arc::new(self.docker()?)).then(Arc::new(self.podman()?)))
    }
}
