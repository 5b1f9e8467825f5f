//! Connections: plain or TLS, each with a switch that ends it at once.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::{ServerError, ServerTls};

/// A handshake takes at most this long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that are through the handshake and wait for the server.
const BACKLOG: usize = 64;

/// What a handler knows of its connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    #[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "only faults cut connections"))]
    switch: Arc<AtomicBool>,
}

impl Connection {
    /// Ends the connection instead of sending anything more.
    #[cfg(feature = "testing")]
    pub(super) fn cut(&self) {
        self.switch.store(true, Ordering::Relaxed);
    }
}

impl Connected<IncomingStream<'_, Incoming>> for Connection {
    fn connect_info(stream: IncomingStream<'_, Incoming>) -> Self {
        Self { peer: *stream.remote_addr(), switch: Arc::clone(&stream.io().switch) }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection that can be cut.
pub(super) struct Stream {
    inner: Box<dyn Duplex>,
    switch: Arc<AtomicBool>,
}

impl Stream {
    fn new(inner: impl Duplex + 'static) -> Self {
        Self { inner: Box::new(inner), switch: Arc::default() }
    }

    fn check(&self) -> io::Result<()> {
        if self.switch.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Accepts connections; a slow handshake holds nobody else up.
pub(super) struct Incoming {
    ready: mpsc::Receiver<(Stream, SocketAddr)>,
    local: io::Result<SocketAddr>,
    task: tokio::task::JoinHandle<()>,
}

impl Incoming {
    pub(super) fn new(listener: TcpListener, acceptor: Option<TlsAcceptor>) -> Self {
        let local = listener.local_addr();
        let (sender, ready) = mpsc::channel(BACKLOG);
        let task = tokio::spawn(accept(listener, acceptor, sender));
        Self { ready, local, task }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    ready: mpsc::Sender<(Stream, SocketAddr)>,
) {
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: some will come back.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Small answers wait for nothing.
        drop(tcp.set_nodelay(true));
        match &acceptor {
            None => {
                if ready.send((Stream::new(tcp), peer)).await.is_err() {
                    return;
                }
            }
            Some(acceptor) => {
                let (acceptor, ready) = (acceptor.clone(), ready.clone());
                drop(tokio::spawn(handshake(acceptor, tcp, peer, ready)));
            }
        }
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    peer: SocketAddr,
    ready: mpsc::Sender<(Stream, SocketAddr)>,
) {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => drop(ready.send((Stream::new(tls), peer)).await),
        Ok(Err(error)) => tracing::debug!(%error, "handshake"),
        Err(_) => tracing::debug!("handshake timed out"),
    }
}

impl Listener for Incoming {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The accepting task has ended, which it only does with this.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.local {
            Ok(address) => Ok(*address),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }
}

/// The TLS side of the settings.
pub(super) fn acceptor(tls: &ServerTls) -> Result<TlsAcceptor, ServerError> {
    let wrong = |what: String| ServerError::Tls { what };
    let provider = crate::transport::crypto_provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    let builder = match &tls.client_authority {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let added = certificate.map_err(|error| error.to_string());
                let added =
                    added.and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
                added.map_err(|error| wrong(format!("the client authority is unusable: {error}")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| wrong(format!("the client authority is unusable: {error}")))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = CertificateDer::pem_slice_iter(&tls.certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(format!("the certificate is unusable: {error}")))?;
    let key = PrivateKeyDer::from_pem_slice(tls.key.expose().as_bytes())
        .map_err(|error| wrong(format!("the key is unusable: {error}")))?;
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| wrong(format!("certificate and key are unusable: {error}")))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
