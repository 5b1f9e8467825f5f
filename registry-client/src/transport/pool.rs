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

/// Window of one HTTP/2 stream and of a connection, in bytes: the usual 2 MiB hold a fast connection with a long way up.
const WINDOW: u32 = 16 << 20;

/// Which requests go over HTTP/2, where a server speaks it (ALPN, so with TLS only).
///
/// One connection then carries many requests at once. Blobs are better off without it: all of them would share that
/// one connection, whose frames cost a copy and whose windows can stall it. A layer of 512 MiB over TLS from Debian's
/// docker-registry took 2.97 s over HTTP/2 and 2.37 s over HTTP/1.1 (medians of four turns on a busy machine of two
/// cores), and a quarter more processor time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Http2 {
    /// None: HTTP/1.1 for everything.
    #[default]
    Never,
    /// Those without blobs in them: manifests, questions, lists. Blobs have connections of their own.
    SmallRequests,
    /// All.
    Always,
}

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
    pub(crate) http2: Http2,
    /// Addresses that stand in for name resolution.
    pub(crate) fixed: Arc<BTreeMap<String, Vec<IpAddr>>>,
}

/// Which of the clients; the name is that of the host entry in `host_tls`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    secure: bool,
    own_tls: Option<String>,
    reach: Reach,
    http2: bool,
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

    /// The client for a request to `url`, with the TLS settings called `tls` if there are such. `bulk` says that a blob
    /// is in it.
    pub(crate) fn client(
        &self,
        url: &Url,
        reach: Reach,
        tls: Option<&str>,
        bulk: bool,
    ) -> Result<reqwest::Client> {
        let named = tls.filter(|name| self.settings.host_tls.contains_key(*name)).map(str::to_owned);
        let own_tls = named.or_else(|| self.own_tls(url));
        let secure = url.scheme() == "https";
        let http2 = secure
            && match self.settings.http2 {
                Http2::Never => false,
                Http2::SmallRequests => !bulk,
                Http2::Always => true,
            };
        let key = Key { secure, own_tls, reach, http2 };
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
        let mut config = if key.secure { tls.client_config()? } else { super::tls::empty_config()? };
        if key.http2 {
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .tcp_nodelay(true)
            .user_agent(self.settings.user_agent.as_str())
            .connect_timeout(self.settings.connect_timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .dns_resolver(Resolver { reach: key.reach, fixed: Arc::clone(&self.settings.fixed) });
        builder = if key.http2 {
            builder.http2_initial_stream_window_size(WINDOW).http2_initial_connection_window_size(WINDOW)
        } else {
            builder.http1_only()
        };
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
