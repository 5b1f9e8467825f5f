//! Authentication: from a 401 to a header, once per host and set of scopes.
//!
//! ```text
//!   request ──▶ 401 + WWW-Authenticate ──┬─ Basic  ──▶ credentials of the host
//!                                        └─ Bearer ──▶ token server ──▶ token for these scopes (kept)
//! ```
//!
//! The first 401 of a host teaches which it is; from then on the header is there before the registry asks.

mod challenge;
mod realm;
mod scope;
mod token;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

pub(crate) use challenge::Challenge;
pub(crate) use scope::{Action, ScopeSet};

use crate::credential::{CredentialQuery, CredentialSource, Credentials, Secret};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::transport::{Authorization, Reach, Response, Transport};
use realm::Realm;
use token::TokenCache;

/// Rounds of 401 and new authorization for one request: one to learn the scheme, one for a wider scope.
pub(crate) const MAX_ROUNDS: usize = 2;

/// Knows how each registry wants to be talked to.
#[derive(Debug)]
pub(crate) struct Authenticator {
    source: Arc<dyn CredentialSource>,
    registries: Mutex<BTreeMap<String, Arc<Registry>>>,
}

/// What has been learnt of one registry.
#[derive(Debug, Default)]
struct Registry {
    scheme: Mutex<Scheme>,
    tokens: Mutex<TokenCache>,
    /// One token request at a time: the others find the token in the cache.
    fetching: tokio::sync::Mutex<()>,
    credentials: tokio::sync::Mutex<BTreeMap<Option<String>, Option<Credentials>>>,
}

#[derive(Clone, Debug, Default)]
enum Scheme {
    #[default]
    Unknown,
    Basic,
    Bearer(Realm),
}

/// What a header was made from, to judge the next 401.
#[derive(Clone, Debug, Default)]
pub(crate) struct Used {
    pub(crate) authorization: Option<Authorization>,
    /// Whether credentials of the user are behind it.
    authenticated: bool,
    scheme: Option<&'static str>,
}

impl Authenticator {
    pub(crate) fn new(source: Arc<dyn CredentialSource>) -> Self {
        Self { source, registries: Mutex::new(BTreeMap::new()) }
    }

    /// The header to start with: none until the registry has asked once.
    pub(crate) async fn before(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        repository: Option<&str>,
        scopes: &ScopeSet,
    ) -> Result<Used> {
        let registry = self.registry(endpoint);
        let scheme = registry.scheme.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match scheme {
            Scheme::Unknown => Ok(Used::default()),
            Scheme::Basic => match self.credentials(&registry, endpoint, repository).await? {
                Some(Credentials::Basic { username, password }) => {
                    Ok(Used::basic(endpoint, &username, &password))
                }
                _ => Ok(Used::default()),
            },
            Scheme::Bearer(realm) => {
                self.bearer(transport, &registry, endpoint, repository, &realm, scopes).await
            }
        }
    }

    /// The header after a 401, or the error that the 401 is. `used` is what the refused request carried.
    pub(crate) async fn after(
        &self,
        transport: &Transport,
        endpoint: &Endpoint,
        repository: Option<&str>,
        scopes: &mut ScopeSet,
        used: &Used,
        refused: Response,
    ) -> Result<Used> {
        let challenges = challenge::parse(refused.headers());
        let line = refused.line().clone();
        // Where the challenge came from decides, not where the request started: a redirect target's 401 is no
        // reason to give anybody anything.
        if crate::origin::Origin::of(refused.url()).as_ref() != Some(endpoint.origin()) {
            return Err(refused.into_error().await);
        }
        let registry = self.registry(endpoint);
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service, scope } => Some((realm, service, scope)),
            _ => None,
        });
        if let Some((realm, service, scope)) = bearer {
            let reach = refused.reach_of_derived();
            let realm = Realm::new(&line, endpoint, realm, service.as_deref(), reach)?;
            if let Some(scope) = scope {
                scopes.add_text(scope);
            }
            registry
                .tokens
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .forget(used.authorization.as_ref());
            *registry.scheme.lock().unwrap_or_else(PoisonError::into_inner) = Scheme::Bearer(realm.clone());
            let fresh = self.bearer(transport, &registry, endpoint, repository, &realm, scopes).await?;
            if fresh.authorization.is_none() {
                return Err(unauthorized(refused, false).await);
            }
            return Ok(fresh);
        }
        if challenges.iter().any(|challenge| matches!(challenge, Challenge::Basic)) {
            *registry.scheme.lock().unwrap_or_else(PoisonError::into_inner) = Scheme::Basic;
            if used.scheme == Some("Basic") {
                return Err(unauthorized(refused, true).await);
            }
            return match self.credentials(&registry, endpoint, repository).await? {
                Some(Credentials::Basic { username, password }) => {
                    Ok(Used::basic(endpoint, &username, &password))
                }
                _ => Err(Error::NoBasicCredentials { request: line }),
            };
        }
        Err(unauthorized(refused, used.authenticated).await)
    }

    async fn bearer(
        &self,
        transport: &Transport,
        registry: &Registry,
        endpoint: &Endpoint,
        repository: Option<&str>,
        realm: &Realm,
        scopes: &ScopeSet,
    ) -> Result<Used> {
        let credentials = self.credentials(registry, endpoint, repository).await?;
        if let Some(Credentials::BearerToken(token)) = &credentials {
            return Ok(Used::bearer(endpoint, token, true));
        }
        let authenticated = credentials.is_some();
        let cached = || registry.tokens.lock().unwrap_or_else(PoisonError::into_inner).find(realm, scopes);
        if let Some(token) = cached() {
            return Ok(Used::bearer(endpoint, &token, authenticated));
        }
        let _turn = registry.fetching.lock().await;
        if let Some(token) = cached() {
            return Ok(Used::bearer(endpoint, &token, authenticated));
        }
        let token = token::fetch(transport, realm, scopes, credentials.as_ref()).await?;
        let secret = token.secret().clone();
        let used = Used::bearer(endpoint, &secret, authenticated);
        registry.tokens.lock().unwrap_or_else(PoisonError::into_inner).keep(realm, scopes, token);
        Ok(used)
    }

    async fn credentials(
        &self,
        registry: &Registry,
        endpoint: &Endpoint,
        repository: Option<&str>,
    ) -> Result<Option<Credentials>> {
        let mut known = registry.credentials.lock().await;
        let key = repository.map(str::to_owned);
        if let Some(found) = known.get(&key) {
            return Ok(found.clone());
        }
        let query = CredentialQuery { host: endpoint.name(), repository };
        let found = self
            .source
            .credentials(query)
            .await
            .map_err(|source| Error::Credentials { host: endpoint.name().to_owned(), source })?;
        known.insert(key, found.clone());
        Ok(found)
    }

    fn registry(&self, endpoint: &Endpoint) -> Arc<Registry> {
        let key = format!("{} {}", endpoint.name(), endpoint.origin());
        let mut registries = self.registries.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(registries.entry(key).or_default())
    }
}

impl Used {
    fn basic(endpoint: &Endpoint, username: &str, password: &Secret) -> Self {
        let authorization = basic_header(username, password)
            .map(|value| Authorization::new(endpoint.origin().clone(), value));
        Self { authorization, authenticated: true, scheme: Some("Basic") }
    }

    fn bearer(endpoint: &Endpoint, token: &Secret, authenticated: bool) -> Self {
        let authorization = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .ok()
            .map(|value| Authorization::new(endpoint.origin().clone(), value));
        Self { authorization, authenticated, scheme: Some("Bearer") }
    }

    /// Whether credentials of the user are behind the header.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.authenticated
    }
}

/// `Basic base64(user:password)`.
fn basic_header(username: &str, password: &Secret) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.expose()))))
        .ok()
}

/// The error for a 401 that no further try will change.
pub(crate) async fn unauthorized(refused: Response, authenticated: bool) -> Error {
    let request = refused.line().clone();
    let answer = Box::new(refused.into_answer().await);
    Error::Unauthorized { request, authenticated, answer }
}

/// Reach for an address that `from` named: its own origin needs no second permission.
pub(crate) fn reach_for(endpoint: &Endpoint, target: &url::Url, derived: Reach) -> Reach {
    if crate::origin::Origin::of(target).as_ref() == Some(endpoint.origin()) {
        Reach::Anywhere
    } else {
        derived
    }
}
