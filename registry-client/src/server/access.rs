//! Access: who may do what, and the challenge for those who have not said who they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, StatusCode};

use super::answer::{Answer, Code, append, error};
use super::route::Route;
use super::token::TokenServer;
use crate::credential::Secret;

/// The rule of a registry.
#[derive(Debug)]
pub(super) enum Access {
    Open,
    Basic(Users),
    Bearer(TokenServer),
}

/// User names with their passwords.
#[derive(Clone, Debug, Default)]
pub(super) struct Users(BTreeMap<String, Secret>);

impl Users {
    pub(super) fn add(&mut self, username: String, password: Secret) {
        self.0.insert(username, password);
    }

    /// The user of a `Basic` header, if the password is right.
    pub(super) fn of(&self, headers: &HeaderMap) -> Option<String> {
        let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, encoded) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
        let (username, password) = text.split_once(':')?;
        self.check(username, password).then(|| username.to_owned())
    }

    pub(super) fn check(&self, username: &str, password: &str) -> bool {
        self.0.get(username).is_some_and(|known| same(known.expose(), password))
    }
}

/// Compares in a time that does not tell where the difference is.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

impl Access {
    pub(super) fn with_basic_user(self, username: String, password: Secret) -> Self {
        let mut users = match self {
            Self::Basic(users) => users,
            _ => Users::default(),
        };
        users.add(username, password);
        Self::Basic(users)
    }

    pub(super) fn with_bearer_user(self, username: String, password: Secret) -> Self {
        let mut server = self.into_server();
        server.users.add(username, password);
        Self::Bearer(server)
    }

    pub(super) fn with_anonymous_pull(self, yes: bool) -> Self {
        let mut server = self.into_server();
        server.anonymous_pull = yes;
        Self::Bearer(server)
    }

    pub(super) fn with_realm(self, url: String) -> Self {
        let mut server = self.into_server();
        server.realm = url;
        Self::Bearer(server)
    }

    pub(super) fn with_lifetime(self, lifetime: Duration) -> Self {
        let mut server = self.into_server();
        server.lifetime = lifetime;
        Self::Bearer(server)
    }

    fn into_server(self) -> TokenServer {
        match self {
            Self::Bearer(server) => server,
            _ => TokenServer::default(),
        }
    }

    /// Once the address is known, the token server is at it.
    pub(super) fn at(mut self, address: SocketAddr, secure: bool) -> Self {
        if let Self::Bearer(server) = &mut self
            && server.realm.is_empty()
        {
            server.realm = format!("{}://{address}/token", if secure { "https" } else { "http" });
        }
        self
    }

    /// `Err` is the answer for a request that may not be.
    #[expect(clippy::result_large_err, reason = "the error is the answer that is sent")]
    pub(super) fn check(
        &self,
        method: &Method,
        route: &Route,
        from: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<(), Answer> {
        match self {
            Self::Open => Ok(()),
            Self::Basic(users) => {
                if users.of(headers).is_some() {
                    return Ok(());
                }
                let mut answer = error(StatusCode::UNAUTHORIZED, Code::Unauthorized);
                append(&mut answer, WWW_AUTHENTICATE, "Basic realm=\"cooperage\"");
                Err(answer)
            }
            Self::Bearer(server) => server.check(method, route, from, headers),
        }
    }

    /// Whether the bearer of this request may read another repository, which it wants to mount from.
    pub(super) fn may_pull(&self, name: &str, headers: &HeaderMap) -> bool {
        match self {
            Self::Open | Self::Basic(_) => true,
            Self::Bearer(server) => server.may_find(headers, name),
        }
    }
}
