//! One HTTP client per combination of TLS settings and reach.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use url::Url;

use super::address::{Reach, Resolver};
use super::tls::TlsSettings;
use crate::error::{Error, Result};

/// Load balancers drop idle connections at about 30 s; leaving first avoids writing into a closed one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Idle connections kept per host.
const IDLE_PER_HOST: usize = 16;

/// What all connections have in common.
#[derive(Clone, Debug)]
pub(crate) struct PoolSettings {
    pub(crate) user_agent: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) stall_timeout: Duration,
    /// TLS settings for hosts without their own.
    pub(crate) tls: TlsSettings,
    /// By `host` or `host:port`, or by the name that a [`super::Home`] has for them.
    pub(crate) host_tls: BTreeMap<String, TlsSettings>,
    pub(crate) proxies: Vec<reqwest::Proxy>,
    pub(crate) proxied: bool,
    /// Addresses that stand in for name resolution.
    pub(crate) fixed: Arc<BTreeMap<String, Vec<IpAddr>>>,
}

/// Which of the clients; the name is that of the host entry in `host_tls`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    secure: bool,
    own_tls: Option<String>,
    reach: Reach,
}

/// Keeps clients, and with them their connections, for reuse.
#[derive(Debug)]
pub(crate) struct Pool {
    settings: PoolSettings,
    clients: Mutex<BTreeMap<Key, reqwest::Client>>,
}

impl Pool {
    pub(crate) fn new(settings: PoolSettings) -> Self {
        Self { settings, clients: Mutex::new(BTreeMap::new()) }
    }

    pub(crate) fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    pub(crate) fn is_proxied(&self, _url: &Url) -> bool {
        self.settings.proxied
    }

    /// The client for a request to `url`, with the TLS settings called `tls` if there are such.
    pub(crate) fn client(&self, url: &Url, reach: Reach, tls: Option<&str>) -> Result<reqwest::Client> {
        let named = tls.filter(|name| self.settings.host_tls.contains_key(*name)).map(str::to_owned);
        let own_tls = named.or_else(|| self.own_tls(url));
        let key = Key { secure: url.scheme() == "https", own_tls, reach };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(&key)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn own_tls(&self, url: &Url) -> Option<String> {
        let host = url.host_str()?;
        let with_port = format!("{host}:{}", url.port_or_known_default()?);
        [with_port.as_str(), host]
            .into_iter()
            .find(|name| self.settings.host_tls.contains_key(*name))
            .map(str::to_owned)
    }

    fn build(&self, key: &Key) -> Result<reqwest::Client> {
        let own = key.own_tls.as_ref().and_then(|name| self.settings.host_tls.get(name));
        let tls = own.unwrap_or(&self.settings.tls);
        // Plain http needs no authorities, and a machine without any can still use it.
        let config = if key.secure { tls.client_config()? } else { super::tls::empty_config()? };
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .tcp_nodelay(true)
            .user_agent(self.settings.user_agent.as_str())
            .connect_timeout(self.settings.connect_timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .dns_resolver(Resolver { reach: key.reach, fixed: Arc::clone(&self.settings.fixed) });
        builder = builder.no_proxy();
        for proxy in &self.settings.proxies {
            builder = builder.proxy(proxy.clone());
        }
        builder.build().map_err(|source| Error::Configuration {
            what: "cannot set up an HTTP client".to_owned(),
            source: Some(Box::new(source.without_url())),
        })
    }
}
