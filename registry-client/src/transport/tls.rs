//! TLS: authorities, client certificates, and the switch that turns checking off.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::credential::Secret;
use crate::error::{Error, Result};
use crate::settings;

/// Where Linux distributions and macOS keep the authorities, as one PEM file.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Which authorities are believed before extra ones are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsRoots {
    /// Those of the system's bundle file; none if the machine has no such file.
    #[default]
    System,
    /// None: only those that [`TlsSettings::authority_pem`] adds.
    None,
}

/// A client certificate with its key, for registries that ask for one.
#[derive(Clone)]
pub struct ClientIdentity {
    certificate: Vec<u8>,
    key: Secret,
}

impl ClientIdentity {
    /// From a certificate chain and a private key, both in PEM.
    pub fn from_pem(certificate: impl Into<Vec<u8>>, key: Secret) -> Self {
        Self { certificate: certificate.into(), key }
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").finish_non_exhaustive()
    }
}

/// How a host proves who it is, and how we do.
///
/// ```
/// use registry_client::TlsSettings;
///
/// let settings = TlsSettings::default().authority_pem("-----BEGIN CERTIFICATE-----\n…");
/// # let _ = settings;
/// ```
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    roots: TlsRoots,
    authorities: Vec<Vec<u8>>,
    identity: Option<ClientIdentity>,
    skip_verify: bool,
}

impl TlsSettings {
    /// Believes `roots` instead of the system's authorities.
    #[must_use]
    pub fn roots(mut self, roots: TlsRoots) -> Self {
        self.roots = roots;
        self
    }

    /// Believes the certificates of this PEM text too.
    #[must_use]
    pub fn authority_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities.push(pem.into());
        self
    }

    /// Presents this certificate when the server asks for one.
    #[must_use]
    pub fn identity(mut self, identity: ClientIdentity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Takes any certificate. Everything sent can then be read and changed on the way, credentials included.
    #[must_use]
    pub fn skip_verify(mut self, skip: bool) -> Self {
        self.skip_verify = skip;
        self
    }

    /// Reads a directory of docker's and podman's `certs.d/HOST`: `*.crt` are authorities, `X.cert` with `X.key`
    /// is a client certificate. A directory that does not exist changes nothing.
    ///
    /// # Errors
    /// [`Error::Configuration`] when a file cannot be read, or a `.cert` has no `.key` or the reverse.
    pub fn certs_dir(mut self, directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let failed = |what: String, source: std::io::Error| Error::Configuration {
            what,
            source: Some(Box::new(source)),
        };
        // The order of the names decides which of several client certificates is used.
        let paths = settings::list(directory)
            .map_err(|error| failed(format!("cannot list {}", directory.display()), error))?;
        let read = |path: &Path| {
            settings::read(path).map_err(|error| failed(format!("cannot read {}", path.display()), error))
        };
        for path in &paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.push(read(path)?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    let key_text = String::from_utf8(read(&key)?).map_err(|_| Error::Configuration {
                        what: format!("{} is not PEM text", key.display()),
                        source: None,
                    })?;
                    self.identity = Some(ClientIdentity::from_pem(read(path)?, Secret::new(key_text)));
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    return Err(Error::Configuration {
                        what: format!("{} has no certificate beside it (.cert)", path.display()),
                        source: None,
                    });
                }
                _ => {}
            }
        }
        Ok(self)
    }

    pub(crate) fn client_config(&self) -> Result<ClientConfig> {
        let builder = builder()?;
        let builder = if self.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider())))
        } else {
            builder.with_root_certificates(self.root_store()?)
        };
        match &self.identity {
            None => Ok(builder.with_no_client_auth()),
            Some(identity) => {
                let unusable = |what: &str, source: crate::error::Cause| Error::Configuration {
                    what: format!("the client {what} cannot be used"),
                    source: Some(source),
                };
                let chain = CertificateDer::pem_slice_iter(&identity.certificate)
                    .collect::<std::result::Result<Vec<_>, _>>()
                    .map_err(|error| unusable("certificate", Box::new(error)))?;
                let key = PrivateKeyDer::from_pem_slice(identity.key.expose().as_bytes())
                    .map_err(|error| unusable("key", Box::new(error)))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| unusable("certificate", Box::new(error)))
            }
        }
    }

    fn root_store(&self) -> Result<RootCertStore> {
        let mut store = RootCertStore::empty();
        if self.roots == TlsRoots::System {
            // Some bundles carry certificates that no validator takes; the rest is still good.
            if let Some(bundle) = SYSTEM_BUNDLES.iter().find_map(|path| std::fs::read(path).ok()) {
                store.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).flatten());
            }
        }
        for pem in &self.authorities {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let added = certificate.map_err(|error| Box::new(error) as crate::error::Cause);
                let added = added.and_then(|certificate| store.add(certificate).map_err(Into::into));
                added.map_err(|source| Error::Configuration {
                    what: "a certificate authority cannot be used".to_owned(),
                    source: Some(source),
                })?;
            }
        }
        Ok(store)
    }
}

/// The directories of a `certs.d`, by host.
pub(crate) fn cert_dirs(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = settings::list(root).map_err(|error| Error::Configuration {
        what: format!("cannot list {}", root.display()),
        source: Some(Box::new(error)),
    })?;
    let named = |path: PathBuf| Some((path.file_name()?.to_str()?.to_owned(), path));
    Ok(entries.into_iter().filter(|path| path.is_dir()).filter_map(named).collect())
}

/// For plain http: the HTTP client wants a configuration, no connection will use it.
pub(crate) fn empty_config() -> Result<ClientConfig> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The crypto provider is named here, so that none needs to be installed in the process.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(|error| {
        Error::Configuration { what: "cannot set up TLS".to_owned(), source: Some(Box::new(error)) }
    })
}

/// What `skip_verify` asks for.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
