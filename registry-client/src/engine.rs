//! The one request engine: every request of the crate goes through [`Engine::call`], and there gets its
//! authorization, its retries, its pauses and its events.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue, WARNING};
use url::Url;

use crate::auth::{Authenticator, MAX_ROUNDS, ScopeSet, unauthorized};
use crate::endpoint::Endpoint;
use crate::error::{Error, RequestLine, Result};
use crate::event::{Event, EventSink};
use crate::pace::Paces;
use crate::retry::{RetryPolicy, is_retryable_status};
use crate::transport::{Body, Reach, Request, Response, Transport};

/// Different warnings of one registry that are told.
const MAX_WARNINGS: usize = 100;

/// A request to a registry, that may be sent several times.
pub(crate) struct Call<'c> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) endpoint: &'c Endpoint,
    pub(crate) repository: Option<&'c str>,
    pub(crate) scopes: ScopeSet,
    pub(crate) headers: HeaderMap,
    pub(crate) body: CallBody<'c>,
    pub(crate) reach: Reach,
    /// Whether failures are tried again here; uploads of streams decide themselves.
    pub(crate) retry: bool,
    /// Whether a blob comes with the answer.
    pub(crate) bulk: bool,
}

/// The body of a call.
pub(crate) enum CallBody<'c> {
    Empty,
    Bytes(bytes::Bytes),
    /// Makes the stream anew for each try.
    Stream(&'c (dyn Fn() -> Body + Send + Sync)),
}

impl<'c> Call<'c> {
    pub(crate) fn new(method: Method, url: Url, endpoint: &'c Endpoint) -> Self {
        Self {
            method,
            url,
            endpoint,
            repository: None,
            scopes: ScopeSet::default(),
            headers: HeaderMap::new(),
            body: CallBody::Empty,
            reach: Reach::Anywhere,
            retry: true,
            bulk: false,
        }
    }

    pub(crate) fn scopes(mut self, repository: &'c str, scopes: ScopeSet) -> Self {
        self.repository = Some(repository);
        self.scopes = scopes;
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    pub(crate) fn body(mut self, body: CallBody<'c>) -> Self {
        self.body = body;
        self
    }

    fn request(&self) -> Request {
        let mut request = Request::new(self.method.clone(), self.url.clone());
        request.headers = self.headers.clone();
        request.reach = self.reach;
        request.bulk = self.bulk;
        request.home = Some(Arc::clone(self.endpoint.home()));
        request.body = match &self.body {
            CallBody::Empty => Body::Empty,
            CallBody::Bytes(bytes) => Body::Bytes(bytes.clone()),
            CallBody::Stream(make) => make(),
        };
        request
    }
}

/// Sends calls.
pub(crate) struct Engine {
    pub(crate) transport: Transport,
    auth: Authenticator,
    pub(crate) retry: RetryPolicy,
    events: Option<Arc<dyn EventSink>>,
    /// Until when a registry asked everybody to wait.
    pauses: Mutex<BTreeMap<String, Instant>>,
    warned: Mutex<BTreeSet<(String, String)>>,
    paces: Paces,
    dice: RandomState,
}

impl Engine {
    pub(crate) fn new(
        transport: Transport,
        auth: Authenticator,
        retry: RetryPolicy,
        events: Option<Arc<dyn EventSink>>,
        at_once: usize,
    ) -> Self {
        Self {
            transport,
            auth,
            retry,
            events,
            pauses: Mutex::default(),
            warned: Mutex::default(),
            paces: Paces::new(at_once),
            dice: RandomState::new(),
        }
    }

    pub(crate) fn tell(&self, event: &Event) {
        if let Some(sink) = &self.events {
            sink.event(event);
        }
    }

    /// A number that differs from call to call and client to client.
    pub(crate) fn dice(&self) -> u64 {
        self.dice.hash_one(Instant::now())
    }

    /// Sends a call; any answer but 401 and those worth a retry is returned as it is.
    pub(crate) async fn call(&self, mut call: Call<'_>) -> Result<Response> {
        let mut attempt = 0;
        let mut rounds = 0;
        let mut used =
            self.auth.before(&self.transport, call.endpoint, call.repository, &call.scopes).await?;
        let pace = self.paces.of(call.endpoint.origin());
        loop {
            let mut turn = Some(pace.turn().await);
            self.pause(call.endpoint).await;
            if matches!(call.body, CallBody::Stream(_)) {
                // Its bytes may come from another request, which must not wait for this one.
                turn = None;
            }
            attempt += 1;
            let mut request = call.request();
            let line = request.line();
            request.authorization = used.authorization.clone();
            tracing::trace!(request = %line, attempt, "send");
            let outcome = self.transport.send(request).await;
            if let (Some(turn), Ok(response)) = (&turn, &outcome) {
                if response.status() == 429 { turn.too_many() } else { turn.well() }
            }
            drop(turn);
            let (wait, reason) = match outcome {
                Ok(response) if response.status() == 401 => {
                    if rounds == MAX_ROUNDS {
                        return Err(unauthorized(response, used.is_authenticated()).await);
                    }
                    rounds += 1;
                    attempt -= 1;
                    used = self
                        .auth
                        .after(
                            &self.transport,
                            call.endpoint,
                            call.repository,
                            &mut call.scopes,
                            &used,
                            response,
                        )
                        .await?;
                    continue;
                }
                Ok(response) => {
                    self.listen(call.endpoint, &response);
                    let status = response.status();
                    let wait = (call.retry && is_retryable_status(status))
                        .then(|| self.retry.wait(attempt, response.retry_after(), self.dice()))
                        .flatten();
                    let Some(wait) = wait else { return Ok(response) };
                    if status == 429 || response.retry_after().is_some() {
                        self.announce_pause(call.endpoint, wait);
                    }
                    (wait, format!("status {status}"))
                }
                Err(error) => {
                    let wait =
                        call.retry.then(|| self.retry.after_error(&error, attempt, self.dice())).flatten();
                    let Some(wait) = wait else { return Err(error) };
                    (wait, error.to_string())
                }
            };
            self.wait(line, attempt, wait, reason).await;
        }
    }

    /// Tells of a retry and waits.
    pub(crate) async fn wait(&self, request: RequestLine, attempt: u32, wait: Duration, reason: String) {
        tracing::debug!(request = %request, attempt, ?wait, reason, "retry");
        self.tell(&Event::Retry { request, attempt, wait, reason });
        tokio::time::sleep(wait).await;
    }

    fn announce_pause(&self, endpoint: &Endpoint, wait: Duration) {
        let until = Instant::now() + wait;
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = pauses.entry(endpoint.origin().to_string()).or_insert(until);
        *entry = (*entry).max(until);
    }

    /// What one request was told to wait for, all of them do.
    async fn pause(&self, endpoint: &Endpoint) {
        loop {
            let until = {
                let pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
                pauses.get(&endpoint.origin().to_string()).copied()
            };
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(rest) if !rest.is_zero() => tokio::time::sleep(rest).await,
                _ => return,
            }
        }
    }

    /// Warnings and rate limits in the headers of an answer.
    fn listen(&self, endpoint: &Endpoint, response: &Response) {
        if self.events.is_none() {
            return;
        }
        let host = endpoint.name();
        for value in response.headers().get_all(WARNING).iter().filter_map(|value| value.to_str().ok()) {
            let Some(text) = warning_text(value) else { continue };
            let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
            if warned.len() < MAX_WARNINGS && warned.insert((host.to_owned(), text.clone())) {
                drop(warned);
                self.tell(&Event::Warning { host: host.to_owned(), text });
            }
        }
        // Docker Hub writes `100;w=21600`.
        let number = |name: &str| {
            let text = response.header(name)?;
            text.split(';').next()?.trim().parse::<u64>().ok()
        };
        if let Some(remaining) = number("ratelimit-remaining") {
            let limit = number("ratelimit-limit");
            self.tell(&Event::RateLimit { host: host.to_owned(), remaining, limit });
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("transport", &self.transport).finish_non_exhaustive()
    }
}

/// The text of `299 - "text"`; other warnings are for caches (distribution-spec, "Warnings").
fn warning_text(value: &str) -> Option<String> {
    let rest = value.trim().strip_prefix("299 ")?;
    let (_agent, quoted) = rest.split_once(' ')?;
    let inner = quoted.trim().strip_prefix('"')?.strip_suffix('"')?;
    let text = inner.replace("\\\"", "\"").replace("\\\\", "\\");
    Some(text.chars().filter(|c| !c.is_control()).take(4096).collect())
}

/// The error for an answer that is not among those that the spec has for this request.
pub(crate) async fn unexpected(response: Response) -> Error {
    if response.is_success() {
        let what = format!("status {} is not one that this request can have", response.status());
        return Error::Protocol { request: response.line().clone(), what };
    }
    response.into_error().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings() {
        assert_eq!(warning_text("299 - \"soon \\\"gone\\\"\"").as_deref(), Some("soon \"gone\""));
        assert_eq!(warning_text("110 - \"stale\""), None);
        assert_eq!(warning_text("299"), None);
    }
}
