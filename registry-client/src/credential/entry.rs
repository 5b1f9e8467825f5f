//! One entry of `auths`: what docker and podman write for a host.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

use super::{CredentialError, Credentials, Secret};

/// User name that docker's helpers and files use for an identity token.
pub(super) const TOKEN_USER: &str = "<token>";

#[derive(Deserialize, Default)]
pub(super) struct Entry {
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    identitytoken: Option<String>,
    #[serde(default)]
    registrytoken: Option<String>,
}

impl Entry {
    /// What the entry says. An entry with nothing in it (docker leaves those behind when a helper has the secret) is
    /// no credentials.
    pub(super) fn credentials(&self, host: &str) -> Result<Option<Credentials>, CredentialError> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(Secret::new(token))));
        }
        if let Some(token) = filled(&self.registrytoken) {
            return Ok(Some(Credentials::BearerToken(Secret::new(token))));
        }
        if let Some(auth) = filled(&self.auth) {
            return decode(host, &auth).map(Some);
        }
        match filled(&self.username) {
            None => Ok(None),
            Some(user) if user == TOKEN_USER => {
                Ok(filled(&self.password).map(|token| Credentials::IdentityToken(Secret::new(token))))
            }
            Some(user) => Ok(Some(Credentials::basic(user, self.password.clone().unwrap_or_default()))),
        }
    }
}

/// `base64(user:password)`. Docker pads the decoded text with NULs in old files; those go.
fn decode(host: &str, auth: &str) -> Result<Credentials, CredentialError> {
    let wrong = |what| CredentialError::Entry { host: host.to_owned(), what };
    let auth = auth.trim();
    let bytes = STANDARD
        .decode(auth)
        .or_else(|_| STANDARD_NO_PAD.decode(auth.trim_end_matches('=')))
        .map_err(|_| wrong("not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("not UTF-8"))?;
    let (user, password) = text.split_once(':').ok_or_else(|| wrong("no colon between user and password"))?;
    if user.is_empty() {
        return Err(wrong("no user name"));
    }
    let password = password.trim_matches('\0');
    if user == TOKEN_USER {
        return Ok(Credentials::IdentityToken(Secret::from(password)));
    }
    Ok(Credentials::basic(user, password))
}

/// The `auth` member for a user name and password.
pub(super) fn encode(username: &str, password: &str) -> String {
    STANDARD.encode(format!("{username}:{password}"))
}
