//! Realm: the token server that a registry names, and the rules for believing it.

use std::sync::Arc;

use url::Url;

use crate::endpoint::Endpoint;
use crate::error::{Error, RequestLine, Result, redacted};
use crate::origin::Origin;
use crate::transport::{Home, Reach};

use super::reach_for;

/// A token server.
#[derive(Clone, Debug)]
pub(crate) struct Realm {
    pub(super) url: Url,
    pub(super) origin: Origin,
    pub(super) service: Option<String>,
    pub(super) reach: Reach,
    /// The registry's: its TLS settings count for a realm at the same origin.
    pub(super) home: Arc<Home>,
}

impl Realm {
    /// Checks the realm of a challenge: http or https, https when the registry is, no user information. Which
    /// addresses it may have follows from where the registry is.
    pub(super) fn new(
        line: &RequestLine,
        endpoint: &Endpoint,
        realm: &str,
        service: Option<&str>,
        derived: Reach,
    ) -> Result<Self> {
        let refused = |reason| {
            let target = Url::parse(realm).map_or_else(|_| "the realm".to_owned(), |url| redacted(&url));
            Error::TargetRefused { request: line.clone(), target, reason }
        };
        let mut url = Url::parse(realm).map_err(|_| refused("the realm is not a URL"))?;
        url.set_fragment(None);
        let origin = Origin::of(&url).ok_or_else(|| refused("the realm is not http or https"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("the realm has user information"));
        }
        if endpoint.origin().is_https() && !origin.is_https() {
            return Err(refused("the registry is https and its realm is not"));
        }
        let reach = reach_for(endpoint, &url, derived);
        let home = Arc::clone(endpoint.home());
        Ok(Self { url, origin, service: service.map(str::to_owned), reach, home })
    }
}

impl PartialEq for Realm {
    /// Where it was learnt from does not make another token server.
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url && self.service == other.service
    }
}
