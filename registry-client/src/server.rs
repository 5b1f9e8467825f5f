//! An OCI registry in this process.
//!
//! It is a registry and not a mock: skopeo, podman, buildah and docker push to it and pull from it, and the
//! conformance suite of the distribution spec is its yardstick. It keeps its content in memory, or in a directory
//! that has one OCI image layout per repository. One process has a directory at a time.
//!
//! ```
//! use registry_client::server::Registry;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), registry_client::server::ServerError> {
//! let registry = Registry::in_memory().basic_auth("me", "secret").listen("127.0.0.1:0").await?;
//! println!("push to {}/org/name:tag", registry.addr());
//! registry.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod access;
mod answer;
mod connection;
mod handle;
mod journal;
mod route;
mod storage;
mod token;

#[cfg(feature = "testing")]
pub mod fault;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use journal::{Journal, JournalEntry};

use crate::credential::Secret;
use access::Access;
use connection::{Connection, Incoming};
use handle::Service;
use storage::Storage;

/// How long connections that are in use may go on after [`RunningRegistry::shutdown`].
const GRACE: Duration = Duration::from_secs(2);

/// Why a registry does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address is taken, or not ours to take.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The directory cannot be used.
    #[error("cannot use {} as the storage of a registry: {what}", path.display())]
    Storage {
        /// The directory or a file in it.
        path: PathBuf,
        /// What was done to it.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Certificate and key do not make a TLS server.
    #[error("cannot serve TLS: {what}")]
    Tls {
        /// What is wrong.
        what: String,
    },
}

/// Settings of a registry, before it listens.
#[derive(Debug)]
#[must_use]
pub struct Registry {
    place: Place,
    access: Access,
    tls: Option<ServerTls>,
    settings: Settings,
    #[cfg(feature = "testing")]
    faults: fault::Faults,
}

#[derive(Debug)]
enum Place {
    Memory,
    Directory(PathBuf),
}

/// What a registry does differently when asked to.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    deletes: bool,
    referrers: bool,
    min_chunk: Option<u64>,
    page: usize,
}

/// Certificate and key of the server, and whom it lets in.
#[derive(Clone, Debug)]
#[must_use]
pub struct ServerTls {
    certificate: Vec<u8>,
    key: Secret,
    client_authority: Option<Vec<u8>>,
}

impl ServerTls {
    /// A certificate chain and its private key, both in PEM.
    pub fn from_pem(certificate: impl Into<Vec<u8>>, key: Secret) -> Self {
        Self { certificate: certificate.into(), key, client_authority: None }
    }

    /// Lets in only clients with a certificate of this authority (PEM).
    pub fn client_authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.client_authority = Some(pem.into());
        self
    }
}

impl Registry {
    /// A registry that forgets everything when it ends.
    pub fn in_memory() -> Self {
        Self::at(Place::Memory)
    }

    /// A registry over a directory, which is made if it does not exist. Repository `a/b` is the OCI image layout
    /// `a/b/_layout`.
    pub fn directory(path: impl AsRef<Path>) -> Self {
        Self::at(Place::Directory(path.as_ref().to_owned()))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            access: Access::Open,
            tls: None,
            settings: Settings { deletes: true, referrers: true, min_chunk: None, page: 10_000 },
            #[cfg(feature = "testing")]
            faults: fault::Faults::default(),
        }
    }

    /// Lets in only this user (and those of further calls), by Basic authentication.
    pub fn basic_auth(mut self, username: impl Into<String>, password: impl Into<Secret>) -> Self {
        self.access = self.access.with_basic_user(username.into(), password.into());
        self
    }

    /// Lets in only this user (and those of further calls), by tokens of a token server at `/token`.
    pub fn bearer_auth(mut self, username: impl Into<String>, password: impl Into<Secret>) -> Self {
        self.access = self.access.with_bearer_user(username.into(), password.into());
        self
    }

    /// With [`Registry::bearer_auth`]: gives tokens for pulling to everybody.
    pub fn anonymous_pull(mut self, yes: bool) -> Self {
        self.access = self.access.with_anonymous_pull(yes);
        self
    }

    /// Names this address as the token server instead of its own, as Docker Hub does. Tokens are still its own.
    pub fn token_realm(mut self, url: impl Into<String>) -> Self {
        self.access = self.access.with_realm(url.into());
        self
    }

    /// How long tokens live. Default 300 s.
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.access = self.access.with_lifetime(lifetime);
        self
    }

    /// Serves https.
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Whether manifests, tags and blobs can be deleted. Default yes.
    pub fn deletes(mut self, yes: bool) -> Self {
        self.settings.deletes = yes;
        self
    }

    /// Whether there is a referrers API. Without, clients keep the referrers tag. Default yes.
    pub fn referrers_api(mut self, yes: bool) -> Self {
        self.settings.referrers = yes;
        self
    }

    /// Announces that pieces of an upload must have this many bytes, but for the last, and refuses what
    /// comes after a smaller one.
    pub fn min_chunk(mut self, bytes: u64) -> Self {
        self.settings.min_chunk = Some(bytes);
        self
    }

    /// Most entries of a page of tags, referrers or repositories. Default 10 000.
    pub fn page_size(mut self, entries: usize) -> Self {
        self.settings.page = entries.max(1);
        self
    }

    /// Makes it misbehave.
    #[cfg(feature = "testing")]
    pub fn fault(self, fault: fault::Fault) -> Self {
        self.faults.add(fault);
        self
    }

    /// Starts to serve; port 0 takes a free one.
    ///
    /// # Errors
    /// [`ServerError`]: the address, the directory or the certificate cannot be used.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing running.
    pub async fn listen(self, address: &str) -> Result<RunningRegistry, ServerError> {
        let listen = |source| ServerError::Listen { address: address.to_owned(), source };
        let storage = match self.place {
            Place::Memory => Storage::in_memory(),
            Place::Directory(path) => Storage::directory(&path)?,
        };
        let acceptor = self.tls.as_ref().map(connection::acceptor).transpose()?;
        let secure = acceptor.is_some();
        let listener = tokio::net::TcpListener::bind(address).await.map_err(listen)?;
        let addr = listener.local_addr().map_err(listen)?;
        let journal = Journal::default();
        let service = Arc::new(Service {
            storage,
            access: self.access.at(addr, secure),
            settings: self.settings,
            journal: journal.clone(),
            #[cfg(feature = "testing")]
            faults: self.faults.clone(),
        });
        let router = Router::new().fallback(handle::serve).with_state(service);
        let service = router.into_make_service_with_connect_info::<Connection>();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = axum::serve(Incoming::new(listener, acceptor), service).with_graceful_shutdown(async {
            // A dropped sender means stop, too.
            drop(stopped.await);
        });
        let task = tokio::spawn(async move {
            drop(server.await);
        });
        Ok(RunningRegistry {
            addr,
            journal,
            secure,
            stop: Some(stop),
            task: Some(task),
            #[cfg(feature = "testing")]
            faults: self.faults,
        })
    }
}

/// A registry that serves. Dropping it stops it.
#[derive(Debug)]
pub struct RunningRegistry {
    addr: SocketAddr,
    journal: Journal,
    secure: bool,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
    #[cfg(feature = "testing")]
    faults: fault::Faults,
}

impl RunningRegistry {
    /// Where it listens; as text it is the host part of a reference.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://ADDR` or `https://ADDR`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.addr)
    }

    /// What it has been asked so far.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Makes it misbehave from now on.
    #[cfg(feature = "testing")]
    pub fn fault(&self, fault: fault::Fault) {
        self.faults.add(fault);
    }

    /// Makes it behave again.
    #[cfg(feature = "testing")]
    pub fn clear_faults(&self) {
        self.faults.clear();
    }

    /// Takes no more connections, lets running requests end for at most two seconds, and stops.
    ///
    /// # Cancel safety
    /// Dropping the future stops it at once.
    pub async fn shutdown(mut self) {
        drop(self.stop.take());
        if let Some(task) = self.task.as_mut()
            && tokio::time::timeout(GRACE, task).await.is_ok()
        {
            self.task = None;
        }
    }
}

impl Drop for RunningRegistry {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
