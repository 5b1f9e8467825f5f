//! Tokens: asking a token server for one, and keeping it as long as it lives.
//!
//! Sources: distribution, "Token Authentication Specification" and "Token Authentication: OAuth2".

use std::time::{Duration, Instant};

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method};
use serde::Deserialize;
use url::form_urlencoded;

use super::basic_header;
use super::realm::Realm;
use super::scope::ScopeSet;
use crate::credential::{Credentials, Secret};
use crate::error::{Error, Result};
use crate::transport::{Authorization, Body, Request, Response, Transport};

/// Longest answer of a token server, in bytes.
const MAX_TOKEN_ANSWER: u64 = 1 << 20;
/// How long a token lives when its server does not say, and the least that is believed.
const MIN_LIFETIME: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds: the request may take that long to arrive.
const EARLY: Duration = Duration::from_secs(30);
/// Tokens kept per registry.
const MAX_TOKENS: usize = 256;
/// What this client calls itself in OAuth2.
const CLIENT_ID: &str = "cooperage";

/// A token with the end of its life.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    secret: Secret,
    good_until: Instant,
}

impl Token {
    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }
}

/// Tokens of one registry.
#[derive(Debug, Default)]
pub(crate) struct TokenCache {
    entries: Vec<(Realm, ScopeSet, Token)>,
}

impl TokenCache {
    /// A living token that covers `scopes`.
    pub(super) fn find(&mut self, realm: &Realm, scopes: &ScopeSet) -> Option<Secret> {
        let now = Instant::now();
        self.entries.retain(|(_, _, token)| token.good_until > now);
        let found = self.entries.iter().find(|(of, set, _)| of == realm && set.covers(scopes));
        found.map(|(_, _, token)| token.secret.clone())
    }

    pub(super) fn keep(&mut self, realm: &Realm, scopes: &ScopeSet, token: Token) {
        if self.entries.len() >= MAX_TOKENS {
            self.entries.remove(0);
        }
        self.entries.push((realm.clone(), scopes.clone(), token));
    }

    /// Drops the token that a registry has just refused.
    pub(super) fn forget(&mut self, used: Option<&Authorization>) {
        let Some(used) = used else { return };
        self.entries.retain(|(_, _, token)| !used.is(&format!("Bearer {}", token.secret.expose())));
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// Asks for a token that covers `scopes`.
pub(super) async fn fetch(
    transport: &Transport,
    realm: &Realm,
    scopes: &ScopeSet,
    credentials: Option<&Credentials>,
) -> Result<Token> {
    let response = match credentials {
        Some(Credentials::IdentityToken(token)) => {
            transport
                .send(form(
                    realm,
                    scopes,
                    &[("grant_type", "refresh_token"), ("refresh_token", token.expose())],
                ))
                .await?
        }
        Some(Credentials::Basic { username, password }) => {
            let response = transport.send(query(realm, scopes, Some((username, password)))).await?;
            if matches!(response.status(), 404 | 405) {
                // Some servers speak OAuth2 only.
                let grant =
                    [("grant_type", "password"), ("username", username), ("password", password.expose())];
                transport.send(form(realm, scopes, &grant)).await?
            } else {
                response
            }
        }
        _ => transport.send(query(realm, scopes, None)).await?,
    };
    read(response, scopes, credentials.is_some()).await
}

/// The GET of the older specification.
fn query(realm: &Realm, scopes: &ScopeSet, basic: Option<(&String, &Secret)>) -> Request {
    let mut url = realm.url.clone();
    {
        let mut pairs = url.query_pairs_mut();
        if let Some(service) = &realm.service {
            pairs.append_pair("service", service);
        }
        for scope in scopes.texts() {
            pairs.append_pair("scope", &scope);
        }
        if let Some((username, _)) = basic {
            pairs.append_pair("account", username);
        }
    }
    let mut request = request(Method::GET, url, realm);
    request.authorization = basic
        .and_then(|(username, password)| basic_header(username, password))
        .map(|value| Authorization::new(realm.origin.clone(), value));
    request
}

/// The POST of OAuth2.
fn form(realm: &Realm, scopes: &ScopeSet, grant: &[(&str, &str)]) -> Request {
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    pairs.extend_pairs(grant).append_pair("client_id", CLIENT_ID);
    if let Some(service) = &realm.service {
        pairs.append_pair("service", service);
    }
    pairs.append_pair("scope", &scopes.to_string());
    let mut request = request(Method::POST, realm.url.clone(), realm)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    request.body = Body::Bytes(pairs.finish().into());
    request
}

fn request(method: Method, url: url::Url, realm: &Realm) -> Request {
    let mut request = Request::new(method, url).header(ACCEPT, HeaderValue::from_static("application/json"));
    request.reach = realm.reach;
    request.home = Some(std::sync::Arc::clone(&realm.home));
    // A token server that sends clients elsewhere would send their credentials along.
    request.follow = false;
    request
}

async fn read(response: Response, scopes: &ScopeSet, authenticated: bool) -> Result<Token> {
    let line = response.line().clone();
    if !response.is_success() {
        let answer = Box::new(response.into_answer().await);
        return Err(Error::TokenRefused { request: line, scope: scopes.to_string(), authenticated, answer });
    }
    let protocol = |what: &str| Error::Protocol { request: line.clone(), what: what.to_owned() };
    let body = response.bytes(MAX_TOKEN_ANSWER).await?;
    // The parser's message could quote the token.
    let answer: TokenAnswer = serde_json::from_slice(&body)
        .map_err(|_| protocol("the token server's answer is not the JSON of the spec"))?;
    let secret =
        answer.token.filter(|text| !text.is_empty()).or(answer.access_token.filter(|text| !text.is_empty()));
    let secret = secret.ok_or_else(|| protocol("the token server's answer has no token"))?;
    let told = answer.expires_in.filter(|seconds| seconds.is_finite() && *seconds > 0.0);
    let lifetime =
        told.map_or(MIN_LIFETIME, |seconds| Duration::from_secs_f64(seconds.min(1e6))).max(MIN_LIFETIME);
    let good_until = Instant::now() + lifetime - EARLY.min(lifetime / 4);
    Ok(Token { secret: Secret::new(secret), good_until })
}
