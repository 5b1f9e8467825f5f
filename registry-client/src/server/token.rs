//! Token server: gives opaque tokens for scopes, and knows them again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, StatusCode};
use url::form_urlencoded;

use super::access::Users;
use super::answer::{Answer, Code, append, error, json, member};
use super::route::Route;

/// Tokens remembered; the oldest go first.
const MAX_TOKENS: usize = 10_000;
const SERVICE: &str = "cooperage";

/// Grants by resource (`repository:NAME`).
type Grants = BTreeMap<String, BTreeSet<String>>;

/// Gives and checks tokens.
#[derive(Debug)]
pub(super) struct TokenServer {
    pub(super) users: Users,
    pub(super) anonymous_pull: bool,
    pub(super) realm: String,
    pub(super) lifetime: Duration,
    state: Mutex<State>,
}

/// What a token allows.
#[derive(Clone)]
struct Granted {
    grants: Grants,
    until: Instant,
    /// It was given to a user, not to a stranger.
    known: bool,
}

#[derive(Default)]
struct State {
    tokens: BTreeMap<String, Granted>,
    refresh: BTreeMap<String, String>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}

impl Default for TokenServer {
    fn default() -> Self {
        Self {
            users: Users::default(),
            anonymous_pull: false,
            realm: String::new(),
            lifetime: Duration::from_secs(300),
            state: Mutex::default(),
        }
    }
}

impl TokenServer {
    /// `GET /token` with Basic, or `POST /token` with a form.
    pub(super) fn answer(&self, method: &Method, query: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
        let fields: Vec<(String, String)> = if *method == Method::POST {
            form_urlencoded::parse(body).into_owned().collect()
        } else {
            form_urlencoded::parse(query.as_bytes()).into_owned().collect()
        };
        let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let user = if *method == Method::POST {
            match field("grant_type") {
                Some("refresh_token") => {
                    field("refresh_token").and_then(|token| self.lock().refresh.get(token).cloned())
                }
                Some("password") => {
                    let (username, password) = (field("username").unwrap_or_default(), field("password"));
                    let right = password.is_some_and(|password| self.users.check(username, password));
                    right.then(|| username.to_owned())
                }
                _ => None,
            }
        } else {
            self.users.of(headers)
        };
        // Who shows credentials that are wrong is not served as a stranger.
        let shown = *method == Method::POST || headers.contains_key(AUTHORIZATION);
        if user.is_none() && (shown || !self.anonymous_pull) {
            return error(StatusCode::UNAUTHORIZED, Code::Unauthorized);
        }
        let mut grants = Grants::new();
        for scope in fields.iter().filter(|(key, _)| key == "scope").flat_map(|(_, text)| text.split(' ')) {
            let Some((resource, actions)) = scope.rsplit_once(':') else { continue };
            let allowed = actions.split(',').filter(|action| user.is_some() || *action == "pull");
            grants.entry(resource.to_owned()).or_default().extend(allowed.map(str::to_owned));
        }
        let (Some(token), Some(refresh)) = (random(), random()) else {
            return error(StatusCode::INTERNAL_SERVER_ERROR, Code::Unknown);
        };
        let mut document = serde_json::json!({
            "token": token, "access_token": token, "expires_in": self.lifetime.as_secs(),
        });
        let mut state = self.lock();
        let now = Instant::now();
        state.tokens.retain(|_, granted| granted.until > now);
        if state.tokens.len() >= MAX_TOKENS {
            state.tokens.pop_first();
        }
        state.tokens.insert(token, Granted { grants, until: now + self.lifetime, known: user.is_some() });
        let offline = field("offline_token") == Some("true") || field("access_type") == Some("offline");
        if let (Some(user), true) = (user, offline) {
            member(&mut document, "refresh_token", refresh.clone().into());
            state.refresh.insert(refresh, user);
        }
        drop(state);
        json(StatusCode::OK, &document)
    }

    #[expect(clippy::result_large_err, reason = "the error is the answer that is sent")]
    pub(super) fn check(
        &self,
        method: &Method,
        route: &Route,
        from: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<(), Answer> {
        let (resource, action) = match route {
            Route::Token => return Ok(()),
            Route::Root => (None, ""),
            Route::Catalog => (Some("registry:catalog".to_owned()), "*"),
            other => {
                let action = match *method {
                    Method::GET | Method::HEAD if !matches!(other, Route::Upload { .. }) => "pull",
                    Method::DELETE if !matches!(other, Route::Upload { .. }) => "delete",
                    _ => "push",
                };
                (other.name().map(|name| format!("repository:{name}")), action)
            }
        };
        let grants = self.granted(headers).map(|granted| granted.grants);
        // Who mounts from a repository must be allowed to read it.
        let from = from.map(|from| format!("repository:{from}"));
        let readable = |from: &String| {
            let actions = grants.as_ref().and_then(|grants| grants.get(from));
            actions.is_some_and(|actions| actions.contains("pull"))
        };
        let allowed = match (&grants, &resource) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(grants), Some(resource)) => {
                grants.get(resource).is_some_and(|actions| actions.contains(action) || actions.contains("*"))
            }
        };
        if allowed && from.as_ref().is_none_or(readable) {
            return Ok(());
        }
        let mut challenge = format!("Bearer realm=\"{}\",service=\"{SERVICE}\"", self.realm);
        if let Some(resource) = resource {
            let actions = if action == "push" { "pull,push" } else { action };
            let from = from.map(|from| format!(" {from}:pull")).unwrap_or_default();
            challenge.push_str(&format!(",scope=\"{resource}:{actions}{from}\""));
        }
        if grants.is_some() {
            challenge.push_str(",error=\"insufficient_scope\"");
        }
        let mut answer = error(StatusCode::UNAUTHORIZED, Code::Unauthorized);
        append(&mut answer, WWW_AUTHENTICATE, &challenge);
        Err(answer)
    }

    /// Whether `name` may be read without being named by a scope: a user of this registry may read everything, but
    /// has no way to say so for a repository that the registry is to find.
    pub(super) fn may_find(&self, headers: &HeaderMap, name: &str) -> bool {
        self.granted(headers).is_some_and(|granted| {
            let actions = granted.grants.get(&format!("repository:{name}"));
            granted.known || actions.is_some_and(|actions| actions.contains("pull"))
        })
    }

    fn granted(&self, headers: &HeaderMap) -> Option<Granted> {
        let header = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let state = self.lock();
        state.tokens.get(token.trim()).filter(|granted| granted.until > Instant::now()).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 128 bits that nobody can guess, in hex.
pub(super) fn random() -> Option<String> {
    let mut bytes = [0; 16];
    crate::transport::crypto_provider().secure_random.fill(&mut bytes).ok()?;
    Some(image_core::hex(&bytes))
}
