//! Client: the handle that users hold, and how it is set up.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Authenticator;
use crate::credential::{CredentialChain, CredentialSource, Secret};
use crate::endpoint::Hosts;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::event::EventSink;
use crate::hosts::{HostRules, Scheme};
use crate::retry::RetryPolicy;
use crate::source::Health;
use crate::transport::{Http2, PoolSettings, TlsSettings, Transport};

/// A client for any number of registries. Cheap to clone; clones share connections, tokens and pauses.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    hosts: Hosts,
    health: Health,
    upload: UploadSettings,
    /// Changes of referrers tags read a list and write it back: one at a time.
    referrers: tokio::sync::Mutex<()>,
}

/// How blobs travel.
#[derive(Clone, Debug)]
pub(crate) struct UploadSettings {
    /// Size of the pieces when an upload goes in pieces, in bytes.
    pub(crate) chunk: u64,
    /// Blobs in flight at once.
    pub(crate) parallel: usize,
    /// Connections for one large blob on its way here.
    pub(crate) ranges: usize,
}

impl Client {
    /// Settings for a client, all at their defaults.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    pub(crate) fn upload(&self) -> &UploadSettings {
        &self.shared.upload
    }

    pub(crate) async fn referrers_turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.shared.referrers.lock().await
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.shared.hosts
    }

    pub(crate) fn health(&self) -> &Health {
        &self.shared.health
    }

    /// The same connections with other credentials, as `login` needs it.
    pub(crate) fn with_source(&self, source: Arc<dyn CredentialSource>) -> Engine {
        let engine = self.engine();
        Engine::new(engine.transport.clone(), Authenticator::new(source), engine.retry.clone(), None, 1)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("hosts", &self.shared.hosts).finish_non_exhaustive()
    }
}

/// Settings of a [`Client`]. Anonymous, TLS with the system's authorities, no proxy, unless told otherwise.
///
/// ```
/// use std::sync::Arc;
/// use registry_client::Client;
/// use registry_client::credential::{Credentials, FixedCredentials};
///
/// let credentials = FixedCredentials::new().with("localhost:5000", Credentials::basic("me", "secret"));
/// let client = Client::builder().credentials(Arc::new(credentials)).loopback_plain_http(true).build()?;
/// # let _ = client;
/// # Ok::<(), registry_client::Error>(())
/// ```
#[must_use]
pub struct ClientBuilder {
    credentials: Arc<dyn CredentialSource>,
    events: Option<Arc<dyn EventSink>>,
    hosts: Hosts,
    retry: RetryPolicy,
    user_agent: String,
    connect_timeout: Duration,
    stall_timeout: Duration,
    tls: TlsSettings,
    host_tls: BTreeMap<String, TlsSettings>,
    proxies: Vec<Proxy>,
    fixed: BTreeMap<String, Vec<IpAddr>>,
    upload: UploadSettings,
    at_once: usize,
    http2: Http2,
}

/// A proxy and what goes through it.
#[derive(Clone, Debug)]
struct Proxy {
    url: String,
    login: Option<(String, Secret)>,
    except: String,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            credentials: Arc::new(CredentialChain::new()),
            events: None,
            hosts: Hosts::default(),
            retry: RetryPolicy::default(),
            user_agent: concat!("cooperage/", env!("CARGO_PKG_VERSION")).to_owned(),
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            tls: TlsSettings::default(),
            host_tls: BTreeMap::new(),
            proxies: Vec::new(),
            fixed: BTreeMap::new(),
            upload: UploadSettings { chunk: 4 << 20, parallel: 5, ranges: 1 },
            at_once: 16,
            http2: Http2::default(),
        }
    }
}

impl ClientBuilder {
    /// Where credentials come from.
    pub fn credentials(mut self, source: Arc<dyn CredentialSource>) -> Self {
        self.credentials = source;
        self
    }

    /// Where progress goes to.
    pub fn events(mut self, sink: Arc<dyn EventSink>) -> Self {
        self.events = Some(sink);
        self
    }

    /// Speaks http, without TLS, to this host, written as in a reference (`registry.example:5000`). Credentials for
    /// it then travel in the clear.
    pub fn plain_http(mut self, host: impl Into<String>) -> Self {
        self.hosts.plain_http.insert(host.into());
        self
    }

    /// Speaks http, without TLS, to `localhost` and loopback addresses.
    pub fn loopback_plain_http(mut self, yes: bool) -> Self {
        self.hosts.loopback_plain_http = yes;
        self
    }

    /// Which servers stand in for which registries. Called again, it adds rules; later ones win.
    pub fn hosts(mut self, rules: HostRules) -> Self {
        self.hosts.rules = self.hosts.rules.and(rules);
        self
    }

    /// Takes authorities and client certificates from a directory like `/etc/docker/certs.d` or
    /// `/etc/containers/certs.d`, which has a directory `HOST[:PORT]` per host with `*.crt`, `*.cert` and `*.key`. Hosts
    /// that have settings already keep them: call it for the directory that counts first, first.
    ///
    /// # Errors
    /// [`Error::Configuration`] when one of the directories cannot be read; one that does not exist changes nothing.
    pub fn certs_d(mut self, directory: impl AsRef<std::path::Path>) -> Result<Self> {
        for (host, path) in crate::transport::cert_dirs(directory.as_ref())? {
            if !self.host_tls.contains_key(&host) {
                let settings = self.tls.clone().certs_dir(path)?;
                self.host_tls.insert(host, settings);
            }
        }
        Ok(self)
    }

    /// What is tried again and how often.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// The `User-Agent` header. Default `cooperage/VERSION`.
    pub fn user_agent(mut self, name: impl Into<String>) -> Self {
        self.user_agent = name.into();
        self
    }

    /// How long making a connection may take. Default 30 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a connection may stand still, in either direction. Default 60 s.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout;
        self
    }

    /// TLS settings for all hosts without their own.
    pub fn tls(mut self, settings: TlsSettings) -> Self {
        self.tls = settings;
        self
    }

    /// TLS settings for one host (`host` or `host:port`).
    pub fn host_tls(mut self, host: impl Into<String>, settings: TlsSettings) -> Self {
        self.host_tls.insert(host.into(), settings);
        self
    }

    /// Sends everything through this proxy (`http://host:port`), except for the hosts of `except`, which is written
    /// as in `NO_PROXY` (`localhost,10.0.0.0/8,.internal`).
    pub fn proxy(mut self, url: impl Into<String>, except: impl Into<String>) -> Self {
        self.proxies.push(Proxy { url: url.into(), login: None, except: except.into() });
        self
    }

    /// As [`ClientBuilder::proxy`], for a proxy that wants a user name and a password.
    pub fn proxy_with_login(
        mut self,
        url: impl Into<String>,
        except: impl Into<String>,
        username: impl Into<String>,
        password: Secret,
    ) -> Self {
        let login = Some((username.into(), password));
        self.proxies.push(Proxy { url: url.into(), login, except: except.into() });
        self
    }

    /// These addresses are those of `host`; the system's name resolution is not asked.
    pub fn resolve(mut self, host: impl Into<String>, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        self.fixed.insert(host.into().to_ascii_lowercase(), addresses.into_iter().collect());
        self
    }

    /// Size of the pieces of an upload that goes in pieces, in bytes. Default 4 MiB, at least 64 KiB.
    pub fn upload_chunk(mut self, bytes: u64) -> Self {
        self.upload.chunk = bytes.max(64 << 10);
        self
    }

    /// How many blobs [`Client::push_image`] has in flight at once. Default 5, at least 1.
    pub fn parallel_uploads(mut self, count: usize) -> Self {
        self.upload.parallel = count.max(1);
        self
    }

    /// Which requests go over HTTP/2. Default none.
    pub fn http2(mut self, http2: Http2) -> Self {
        self.http2 = http2;
        self
    }

    /// How many requests one server gets at once at most. A server that answers 429 gets half as many, and slowly more
    /// again. A request counts until its answer begins; uploads of blobs are counted by
    /// [`ClientBuilder::parallel_uploads`] alone. Default 16, at least 1.
    pub fn requests_at_once(mut self, count: usize) -> Self {
        self.at_once = count.max(1);
        self
    }

    /// How many connections [`Client::blob_into`] uses for one blob of more than 16 MiB, each for parts of 4 MiB; at
    /// most that much per connection is in memory. It helps where a server gives each connection only so much, and
    /// costs a request per part. With 20 MB/s for each connection, 512 MiB took 25 s over one and 5 s over four; with no
    /// such limit, on loopback, 2.3 s over one and 3.0 s over four. Default 1, at most 16.
    pub fn parallel_ranges(mut self, count: usize) -> Self {
        self.upload.ranges = count.clamp(1, 16);
        self
    }

    /// The settings by host, and those of the servers that rules name, by the rule.
    fn all_tls(&self) -> BTreeMap<String, TlsSettings> {
        let mut all = self.host_tls.clone();
        for rule in self.hosts.rules.iter() {
            for server in rule.servers() {
                let insecure = server.scheme == Scheme::Insecure;
                let of_host = || self.host_tls.get(&server.authority).unwrap_or(&self.tls).clone();
                if server.tls.is_some() || insecure {
                    let settings = server.tls.clone().unwrap_or_else(of_host);
                    let settings = if insecure { settings.skip_verify(true) } else { settings };
                    all.insert(rule.tls_key(server), settings);
                }
            }
            if rule.is_insecure() {
                let host = rule.host();
                let settings = self.host_tls.get(host).unwrap_or(&self.tls).clone().skip_verify(true);
                all.insert(rule.insecure_key(), settings);
            }
        }
        all
    }

    /// The client.
    ///
    /// # Errors
    /// [`Error::Configuration`] when a proxy is not a URL. Certificates are read when they are first needed.
    pub fn build(self) -> Result<Client> {
        let mut proxies = Vec::new();
        for proxy in &self.proxies {
            let mut built = reqwest::Proxy::all(&proxy.url).map_err(|_| Error::Configuration {
                what: "the address of a proxy is not a URL".to_owned(),
                source: None,
            })?;
            if let Some((username, password)) = &proxy.login {
                built = built.basic_auth(username, password.expose());
            }
            proxies.push(built.no_proxy(reqwest::NoProxy::from_string(&proxy.except)));
        }
        let host_tls = self.all_tls();
        let transport = Transport::new(PoolSettings {
            user_agent: self.user_agent,
            connect_timeout: self.connect_timeout,
            stall_timeout: self.stall_timeout,
            tls: self.tls,
            host_tls,
            http2: self.http2,
            proxied: !proxies.is_empty(),
            proxies,
            fixed: Arc::new(self.fixed),
        });
        let auth = Authenticator::new(self.credentials);
        let engine = Engine::new(transport, auth, self.retry, self.events, self.at_once);
        Ok(Client {
            shared: Arc::new(Shared {
                engine,
                hosts: self.hosts,
                health: Health::default(),
                upload: self.upload,
                referrers: tokio::sync::Mutex::default(),
            }),
        })
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}
