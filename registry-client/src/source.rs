//! Sources: which servers a request of this client goes to, and which of them are well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use image_core::Reference;

use crate::client::Client;
use crate::endpoint::{Endpoint, Source};
use crate::error::{Error, Result, TransportFailure};
use crate::event::Event;
use crate::hosts::Asked;
use crate::origin::Origin;
use crate::transport::{Home, Request};

/// How long a mirror that could not be reached is not asked.
const SICK: Duration = Duration::from_secs(60);

/// What has been learnt of servers.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Mirrors that could not be reached, until when they are left alone.
    sick: Mutex<BTreeMap<Origin, Instant>>,
    /// Servers that may be spoken to over http, and whether they are.
    plain: Mutex<BTreeMap<Origin, bool>>,
}

impl Client {
    /// The server of the registry that `reference` names.
    pub(crate) async fn endpoint(&self, reference: &Reference) -> Result<Endpoint> {
        self.settled(self.hosts().endpoint(reference.domain(), &reference.canonical())?).await
    }

    /// The server of a registry by its name.
    pub(crate) async fn endpoint_of_host(&self, host: &str) -> Result<Endpoint> {
        self.settled(self.hosts().endpoint(host, host)?).await
    }

    /// The servers to ask for what is pulled, in order. Mirrors that could not be reached a moment ago are left out,
    /// but never the last server.
    pub(crate) async fn sources(&self, reference: &Reference, asked: Asked) -> Result<Vec<Source>> {
        let mut sources = self.hosts().sources(reference, asked)?;
        {
            let mut sick = self.health().sick.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            sick.retain(|_, until| *until > now);
            sources.retain(|source| source.last || !sick.contains_key(source.endpoint.origin()));
        }
        for source in &mut sources {
            source.endpoint = self.settled(source.endpoint.clone()).await?;
        }
        Ok(sources)
    }

    /// Whether blobs of what `reference` names may come from other servers than the registry itself.
    pub fn has_mirrors(&self, reference: &Reference) -> bool {
        self.hosts().sources(reference, Asked::Blob).is_ok_and(|sources| sources.len() > 1)
    }

    /// Notes that `source` did not give what was asked for, unless nobody else is left to ask: then that is the error.
    pub(crate) fn pass_over(&self, source: &Source, error: Error) -> Result<()> {
        if source.last {
            return Err(error);
        }
        let unreachable = matches!(
            &error,
            Error::Transport { failure: TransportFailure::Resolve | TransportFailure::Connect, .. }
        );
        if unreachable {
            let mut sick = self.health().sick.lock().unwrap_or_else(PoisonError::into_inner);
            sick.insert(source.endpoint.origin().clone(), Instant::now() + SICK);
        }
        tracing::debug!(mirror = source.endpoint.name(), %error, "passed over");
        let host = source.endpoint.name().to_owned();
        self.engine().tell(&Event::MirrorPassedOver { host, reason: error.to_string() });
        Ok(())
    }

    /// Finds out whether a server that may be spoken to over http must be.
    async fn settled(&self, endpoint: Endpoint) -> Result<Endpoint> {
        if !endpoint.is_unsettled() {
            return Ok(endpoint);
        }
        let origin = endpoint.origin().clone();
        let known = {
            let plain = self.health().plain.lock().unwrap_or_else(PoisonError::into_inner);
            plain.get(&origin).copied()
        };
        let plain = match known {
            Some(plain) => Some(plain),
            None if self.answers(&endpoint).await => Some(false),
            None if self.answers(&endpoint.clone().over_http()).await => Some(true),
            // Nobody is there: whoever comes later may speak either.
            None => None,
        };
        if let Some(plain) = plain {
            self.health().plain.lock().unwrap_or_else(PoisonError::into_inner).insert(origin, plain);
        }
        Ok(if plain == Some(true) { endpoint.over_http() } else { endpoint })
    }

    /// Whether anything speaks HTTP there. Neither credentials nor the headers that settings give are sent.
    async fn answers(&self, endpoint: &Endpoint) -> bool {
        let mut request = Request::new(Method::GET, endpoint.root_url());
        request.home = Some(Arc::new(Home { headers: HeaderMap::new(), ..Home::clone(endpoint.home()) }));
        request.follow = false;
        self.engine().transport.send(request).await.is_ok()
    }
}
