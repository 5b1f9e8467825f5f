//! The one place that speaks HTTP.
//!
//! Nothing of reqwest leaves this module. It sends one request and follows its redirects by rules of our own:
//!
//! - credentials are an [`Authorization`], bound to an origin; a hop to any other origin goes without them, and they
//!   do not come back when a later hop returns;
//! - never from https to http, never more than [`MAX_REDIRECTS`] hops;
//! - a host that a server named (rather than the user) is reached only at addresses of its [`Reach`].

mod address;
mod body;
mod pool;
mod response;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use url::Url;

pub(crate) use address::Reach;
pub(crate) use body::Body;
pub use pool::Http2;
pub(crate) use pool::{Pool, PoolSettings};
pub(crate) use response::Response;
pub(crate) use tls::cert_dirs;
#[cfg(feature = "server")]
pub(crate) use tls::provider as crypto_provider;
pub use tls::{ClientIdentity, TlsRoots, TlsSettings};

use crate::error::{Error, RequestLine, Result, TransportFailure, redacted};
use crate::origin::Origin;

/// Redirects followed for one request.
pub(crate) const MAX_REDIRECTS: usize = 10;

/// A value for the `Authorization` header that only one origin may see.
#[derive(Clone)]
pub(crate) struct Authorization {
    origin: Origin,
    value: HeaderValue,
}

impl Authorization {
    /// Binds `value` to `origin`.
    pub(crate) fn new(origin: Origin, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self { origin, value }
    }

    /// The header value, if `url` is of the origin that this is bound to.
    fn reveal_to(&self, url: &Url) -> Option<&HeaderValue> {
        (Origin::of(url).as_ref() == Some(&self.origin)).then_some(&self.value)
    }

    /// Whether this is exactly that header.
    pub(crate) fn is(&self, header: &str) -> bool {
        self.value.as_bytes() == header.as_bytes()
    }
}

impl std::fmt::Debug for Authorization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorization").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// What only the server that a request is meant for may see, or is known by.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) origin: Origin,
    /// Headers that settings give to this server.
    pub(crate) headers: HeaderMap,
    /// The name of its TLS settings.
    pub(crate) tls: Option<String>,
}

/// One HTTP request, before redirects.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) authorization: Option<Authorization>,
    pub(crate) body: Body,
    /// Which addresses the host may have.
    pub(crate) reach: Reach,
    /// Which addresses a redirect may lead to; `None` derives it from the address of the first answer.
    pub(crate) redirect_reach: Option<Reach>,
    /// Whether redirects are followed; token requests do not.
    pub(crate) follow: bool,
    /// Whether a blob comes with the answer.
    pub(crate) bulk: bool,
    /// The server that it is meant for.
    pub(crate) home: Option<Arc<Home>>,
}

impl Request {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            body: Body::Empty,
            reach: Reach::Anywhere,
            redirect_reach: None,
            follow: true,
            bulk: false,
            home: None,
        }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    pub(crate) fn line(&self) -> RequestLine {
        RequestLine::new(&self.method, &self.url)
    }
}

/// Sends requests; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    pool: Arc<Pool>,
}

impl Transport {
    pub(crate) fn new(settings: PoolSettings) -> Self {
        Self { pool: Arc::new(Pool::new(settings)) }
    }

    /// How long nothing may arrive or leave.
    pub(crate) fn stall_timeout(&self) -> Duration {
        self.pool.settings().stall_timeout
    }

    /// Sends `request` and follows redirects. Any status is an answer, not an error.
    pub(crate) async fn send(&self, request: Request) -> Result<Response> {
        let Request {
            method,
            url,
            headers,
            authorization,
            mut body,
            mut reach,
            redirect_reach,
            follow,
            bulk,
            mut home,
        } = request;
        let first = RequestLine::new(&method, &url);
        let mut url = url;
        let mut authorization = authorization;
        for hop in 0..=MAX_REDIRECTS {
            let line = RequestLine::new(&method, &url);
            let mut hop_headers = headers.clone();
            // Once another origin has been visited, they stay away: the way back was not our choice.
            if authorization.as_ref().is_some_and(|bound| bound.reveal_to(&url).is_none()) {
                authorization = None;
            }
            if let Some(value) = authorization.as_ref().and_then(|bound| bound.reveal_to(&url)) {
                hop_headers.insert(AUTHORIZATION, value.clone());
            }
            if home.as_ref().is_some_and(|home| Origin::of(&url).as_ref() != Some(&home.origin)) {
                home = None;
            }
            hop_headers.extend(home.iter().flat_map(|home| home.headers.clone()));
            let tls = home.as_ref().and_then(|home| home.tls.as_deref());
            let again = body.replay();
            let client = self.pool.client(&url, reach, tls, bulk || matches!(body, Body::Stream { .. }))?;
            let sent = self.exchange(&line, client, method.clone(), &url, hop_headers, body, reach);
            let response = sent.await?;
            let Some(location) = redirect_target(&response).filter(|_| follow) else { return Ok(response) };
            if hop == MAX_REDIRECTS {
                return Err(refused(first, &location, "more redirects than allowed"));
            }
            let target = url.join(&location).map_err(|_| Error::Protocol {
                request: line.clone(),
                what: "redirect to something that is not a URL".to_owned(),
            })?;
            check_target(&line, &url, &target)?;
            if !method.is_safe() && !matches!(response.status(), 307 | 308) {
                return Err(refused(line, target.as_str(), "a redirect that would change the method"));
            }
            body = again
                .ok_or_else(|| refused(line.clone(), target.as_str(), "the body cannot be sent twice"))?;
            if Origin::of(&target) != Origin::of(&url) {
                // The user named the first host, a server names this one.
                reach = redirect_reach.unwrap_or_else(|| response.reach_of_derived());
            }
            tracing::debug!(from = %line, to = %redacted(&target), "redirect");
            url = target;
        }
        Err(refused(first, url.as_str(), "more redirects than allowed"))
    }

    #[expect(clippy::too_many_arguments, reason = "one hop of a request, taken apart")]
    async fn exchange(
        &self,
        line: &RequestLine,
        client: reqwest::Client,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Body,
        reach: Reach,
    ) -> Result<Response> {
        if let Some((address, reason)) = address::literal(url).and_then(|address| {
            let reason = reach.refuses(address.ip())?;
            Some((address, reason))
        }) {
            return Err(Error::AddressRefused { request: line.clone(), address, reason });
        }
        let progress = body.progress();
        let mut builder = client.request(method.clone(), url.clone()).headers(headers);
        builder = body.attach(builder);
        let send = builder.send();
        let answer = body::watch(send, self.stall_timeout(), progress).await;
        match answer {
            Some(Ok(inner)) => {
                let proxied = self.pool.is_proxied(url);
                Ok(Response::new(line.clone(), url.clone(), inner, proxied, self.stall_timeout()))
            }
            Some(Err(source)) => Err(response::transport_error(line.clone(), source)),
            None => Err(Error::Transport {
                request: line.clone(),
                failure: TransportFailure::Timeout,
                source: "nothing was sent or received for longer than the stall timeout".into(),
            }),
        }
    }
}

/// Rules for any address that a server hands out: redirect, `Location`, `Link`.
pub(crate) fn check_target(line: &RequestLine, from: &Url, target: &Url) -> Result<()> {
    let Some(origin) = Origin::of(target) else {
        return Err(refused(line.clone(), target.as_str(), "not http or https"));
    };
    if !target.username().is_empty() || target.password().is_some() {
        return Err(refused(line.clone(), target.as_str(), "user information in the URL"));
    }
    if from.scheme() == "https" && !origin.is_https() {
        return Err(refused(line.clone(), target.as_str(), "from https to http"));
    }
    Ok(())
}

fn refused(request: RequestLine, target: &str, reason: &'static str) -> Error {
    let target = Url::parse(target).map_or_else(|_| "a relative address".to_owned(), |url| redacted(&url));
    Error::TargetRefused { request, target, reason }
}

fn redirect_target(response: &Response) -> Option<String> {
    let status = StatusCode::from_u16(response.status()).ok()?;
    let redirect = matches!(
        status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    redirect.then(|| response.header(&LOCATION).map(str::to_owned)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(origin: &str) -> Authorization {
        Authorization::new(
            Origin::of(&origin.parse().unwrap()).unwrap(),
            HeaderValue::from_static("Basic canary-3f1"),
        )
    }

    #[test]
    fn authorization_is_for_its_origin_only() {
        let bound = bound("https://example.com");
        assert!(bound.reveal_to(&"https://example.com:443/v2/".parse().unwrap()).is_some());
        for other in ["http://example.com:443/", "https://example.com:444/", "https://example.com.evil.org/"]
        {
            assert!(bound.reveal_to(&other.parse().unwrap()).is_none(), "{other}");
        }
    }

    #[test]
    fn authorization_does_not_print() {
        assert!(!format!("{:?}", bound("https://example.com")).contains("canary"));
    }

    #[test]
    fn targets_that_are_never_followed() {
        let from: Url = "https://example.com/v2/".parse().unwrap();
        let line = RequestLine::new(&Method::GET, &from);
        for target in ["http://example.com/", "https://user:pw@example.com/", "file:///etc/passwd"] {
            assert!(check_target(&line, &from, &target.parse().unwrap()).is_err(), "{target}");
        }
        assert!(check_target(&line, &from, &"https://cdn.example.net/x".parse().unwrap()).is_ok());
    }
}
