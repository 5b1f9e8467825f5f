//! Session: an upload that the registry has opened, which is cancelled when nobody finishes it.

use http::Method;
use http::header::{HeaderName, LOCATION, RANGE};
use image_core::Reference;
use url::Url;

use crate::auth::{Action, ScopeSet, reach_for};
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::engine::{Call, unexpected};
use crate::error::{Error, Result};
use crate::transport::{Reach, Response, check_target};

const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// A registry that wants larger pieces than this does not get pieces.
const MAX_MIN_CHUNK: u64 = 1 << 30;
/// How long the cancellation of an abandoned session may take.
const CANCEL_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// An open upload.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    repository: Reference,
    endpoint: Endpoint,
    url: Url,
    reach: Reach,
    min_chunk: u64,
    open: bool,
}

impl Session {
    /// From the answer that opened it.
    pub(super) fn from_response(
        client: &Client,
        repository: &Reference,
        endpoint: Endpoint,
        response: &Response,
    ) -> Result<Self> {
        let (url, reach) = location(&endpoint, response)?;
        let stated = response.header(CHUNK_MIN_LENGTH).and_then(|text| text.trim().parse::<u64>().ok());
        Ok(Self {
            client: client.clone(),
            repository: repository.clone(),
            endpoint,
            url,
            reach,
            min_chunk: stated.unwrap_or(0).min(MAX_MIN_CHUNK),
            open: true,
        })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    /// Least size of a piece that is not the last, in bytes.
    pub(super) fn min_chunk(&self) -> u64 {
        self.min_chunk
    }

    /// The address that the next request goes to: each answer may name another.
    pub(super) fn moved(&mut self, response: &Response) -> Result<()> {
        if response.header(LOCATION).is_some() {
            (self.url, self.reach) = location(&self.endpoint, response)?;
        }
        Ok(())
    }

    /// Nothing is left to cancel.
    pub(super) fn close(&mut self) {
        self.open = false;
    }

    /// How many bytes the registry has, or `None` when it does not know the session any more.
    pub(super) async fn received(&mut self) -> Result<Option<u64>> {
        let path = self.repository.path().to_owned();
        let scopes = ScopeSet::repository(&path, &[Action::Pull, Action::Push]);
        let mut call = Call::new(Method::GET, self.url.clone(), &self.endpoint).scopes(&path, scopes);
        call.reach = self.reach;
        let response = self.client.engine().call(call).await?;
        match response.status() {
            204 | 200 | 202 => {
                let received = received(&response);
                self.moved(&response)?;
                Ok(Some(received))
            }
            404 => {
                self.close();
                Ok(None)
            }
            _ => Err(unexpected(response).await),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (client, endpoint) = (self.client.clone(), self.endpoint.clone());
        let path = self.repository.path().to_owned();
        let (url, reach) = (self.url.clone(), self.reach);
        drop(runtime.spawn(async move {
            let scopes = ScopeSet::repository(&path, &[Action::Pull, Action::Push]);
            let mut call = Call::new(Method::DELETE, url, &endpoint).scopes(&path, scopes);
            call.reach = reach;
            call.retry = false;
            // Best effort: a registry that is not reached forgets the session by itself.
            drop(tokio::time::timeout(CANCEL_TIME, client.engine().call(call)).await);
        }));
    }
}

/// `Range: 0-99` means that 100 bytes are there. Registries write `0-0` for none as well as for one; none is meant
/// by all that are known, and sending the first byte twice is what a registry refuses rather than stores.
pub(super) fn received(response: &Response) -> u64 {
    let Some(text) = response.header(RANGE) else { return 0 };
    let text = text.trim().strip_prefix("bytes=").unwrap_or(text.trim());
    match text.split_once('-').and_then(|(_, end)| end.trim().parse::<u64>().ok()) {
        Some(end) if end > 0 => end.saturating_add(1),
        _ => 0,
    }
}

fn location(endpoint: &Endpoint, response: &Response) -> Result<(Url, Reach)> {
    let protocol = |what: &str| Error::Protocol { request: response.line().clone(), what: what.to_owned() };
    let text = response.header(LOCATION).ok_or_else(|| protocol("an upload without Location"))?;
    let url = response.url().join(text).map_err(|_| protocol("Location is not a URL"))?;
    check_target(response.line(), response.url(), &url)?;
    let reach = reach_for(endpoint, &url, response.reach_of_derived());
    Ok((url, reach))
}
