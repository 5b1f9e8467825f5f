//! Login: whether a registry takes credentials.

use std::sync::Arc;

use http::Method;

use crate::auth::ScopeSet;
use crate::client::Client;
use crate::credential::{Credentials, FixedCredentials};
use crate::engine::{Call, unexpected};
use crate::error::Result;

impl Client {
    /// Asks `host` whether it takes `credentials`; nothing is stored and this client's own sources are not used.
    /// Store them afterwards, for instance with [`DockerConfig::store`](crate::credential::DockerConfig::store).
    ///
    /// A registry that asks for no credentials takes any, as with docker.
    ///
    /// # Errors
    /// [`Error`](crate::Error) whose `is_unauthorized()` is true when it refuses them.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request.
    pub async fn verify_credentials(&self, host: &str, credentials: &Credentials) -> Result<()> {
        let endpoint = self.endpoint_of_host(host).await?;
        let source = FixedCredentials::new().with(endpoint.name(), credentials.clone());
        let engine = self.with_source(Arc::new(source));
        let mut call = Call::new(Method::GET, endpoint.root_url(), &endpoint);
        call.scopes = ScopeSet::default();
        let response = engine.call(call).await?;
        match response.status() {
            200..=204 => Ok(()),
            _ => Err(unexpected(response).await),
        }
    }
}
