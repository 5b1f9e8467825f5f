//! Credential helpers: `docker-credential-NAME` with `get`, `store` and `erase`, JSON on standard input and output.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::entry::TOKEN_USER;
use super::{CredentialError, Credentials, Secret};

/// Longest answer of a helper, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// What of a failing helper's output is shown.
const MAX_SHOWN: usize = 200;
/// How long a helper may take, unless told otherwise: some ask the user for a PIN.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What helpers print when they do not know a host.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// What they print for an entry that is there but empty.
const MISSING: [&str; 2] = ["no credentials server URL", "no credentials username"];

/// A program that keeps credentials.
#[derive(Clone, Debug)]
pub struct Helper {
    name: String,
    directory: Option<PathBuf>,
    timeout: Duration,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

#[derive(Serialize)]
struct Store<'a> {
    #[serde(rename = "ServerURL")]
    server: &'a str,
    #[serde(rename = "Username")]
    username: &'a str,
    #[serde(rename = "Secret")]
    secret: &'a str,
}

impl Helper {
    /// The helper `docker-credential-NAME`, found by the system as any program is.
    ///
    /// # Errors
    /// [`CredentialError::HelperName`] unless the name is made of letters, digits, `.`, `_` and `-`.
    pub fn new(name: &str) -> Result<Self, CredentialError> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || !name.chars().all(legal) || name.chars().all(|c| c == '.') {
            return Err(CredentialError::HelperName { name: name.chars().take(64).collect() });
        }
        Ok(Self { name: name.to_owned(), directory: None, timeout: TIMEOUT })
    }

    /// Takes the program from this directory instead.
    #[must_use]
    pub fn in_directory(mut self, directory: Option<PathBuf>) -> Self {
        self.directory = directory;
        self
    }

    /// How long one call may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The credentials for `server`, or `None` when the helper does not know it.
    ///
    /// # Errors
    /// When the helper cannot be run, fails, takes too long or answers with something else.
    pub async fn get(&self, server: &str) -> Result<Option<Credentials>, CredentialError> {
        let Some(output) = self.run("get", server.as_bytes()).await? else { return Ok(None) };
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|_| CredentialError::HelperAnswer { program: self.program(), action: "get" })?;
        if answer.username.is_empty() && answer.secret.is_empty() {
            return Ok(None);
        }
        let secret = Secret::new(answer.secret);
        Ok(Some(if answer.username == TOKEN_USER {
            Credentials::IdentityToken(secret)
        } else {
            Credentials::basic(answer.username, secret)
        }))
    }

    /// Stores credentials for `server`.
    ///
    /// # Errors
    /// As [`Helper::get`]; and for a bearer token, which helpers have no place for.
    pub async fn store(&self, server: &str, credentials: &Credentials) -> Result<(), CredentialError> {
        let (username, secret) = match credentials {
            Credentials::Basic { username, password } => (username.as_str(), password),
            Credentials::IdentityToken(token) => (TOKEN_USER, token),
            Credentials::BearerToken(_) => {
                return Err(CredentialError::NotStorable {
                    what: "a bearer token",
                    path: self.program().into(),
                });
            }
        };
        let input = serde_json::to_vec(&Store { server, username, secret: secret.expose() })
            .map_err(|_| CredentialError::HelperAnswer { program: self.program(), action: "store" })?;
        self.run("store", &input).await.map(|_| ())
    }

    /// Forgets `server`. One that it does not know is no error.
    ///
    /// # Errors
    /// As [`Helper::get`].
    pub async fn erase(&self, server: &str) -> Result<(), CredentialError> {
        self.run("erase", server.as_bytes()).await.map(|_| ())
    }

    fn program(&self) -> String {
        format!("docker-credential-{}", self.name)
    }

    /// Standard output, or `None` for "not found".
    async fn run(&self, action: &'static str, input: &[u8]) -> Result<Option<Vec<u8>>, CredentialError> {
        match tokio::time::timeout(self.timeout, self.exchange(action, input)).await {
            Ok(result) => result,
            // Dropping the exchange has killed the process.
            Err(_) => Err(CredentialError::HelperTimeout {
                program: self.program(),
                action,
                seconds: self.timeout.as_secs(),
            }),
        }
    }

    async fn exchange(&self, action: &'static str, input: &[u8]) -> Result<Option<Vec<u8>>, CredentialError> {
        let program = self.program();
        let failed = |source| CredentialError::HelperSpawn { program: program.clone(), source };
        let path = self.directory.as_ref().map_or_else(|| PathBuf::from(&program), |dir| dir.join(&program));
        let mut child = Command::new(path)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut stdin = child.stdin.take();
        let mut output = Vec::new();
        let write = async {
            if let Some(stdin) = stdin.as_mut() {
                // A helper may end without reading; its exit status says the rest.
                drop(stdin.write_all(input).await);
            }
            drop(stdin);
        };
        let stdout = child.stdout.take();
        let read = async {
            match stdout {
                Some(stdout) => stdout.take(MAX_ANSWER).read_to_end(&mut output).await.map(|_| ()),
                None => Ok(()),
            }
        };
        let ((), read) = tokio::join!(write, read);
        read.map_err(failed)?;
        let status = child.wait().await.map_err(failed)?;
        if status.success() {
            return Ok(Some(output));
        }
        // The protocol has helpers print their errors on standard output.
        let text = String::from_utf8_lossy(&output);
        let text = text.trim();
        if text == NOT_FOUND || MISSING.contains(&text) {
            return Ok(None);
        }
        let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_SHOWN).collect();
        Err(CredentialError::HelperFailed { program, action, output: shown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_paths_are_refused() {
        for bad in ["", "..", ".", "../x", "a/b", "a b", "a;b", "a\0", "$(x)"] {
            assert!(Helper::new(bad).is_err(), "{bad:?}");
        }
        for good in ["pass", "ecr-login", "osxkeychain", "gcloud", "acr-env", "desktop.exe"] {
            assert!(Helper::new(good).is_ok(), "{good}");
        }
    }
}
