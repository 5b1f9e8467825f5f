//! TLS: authorities, names, client certificates.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use registry_client::credential::Secret;
use registry_client::server::{Registry, RunningRegistry, ServerTls};
use registry_client::{Client, ClientIdentity, Error, Http2, TlsRoots, TlsSettings, TransportFailure};

use crate::{Image, quick, reference};

pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn issue(&self, name: &str) -> (String, Secret) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), Secret::new(key.serialize_pem()))
    }

    pub(crate) fn server(&self, name: &str) -> ServerTls {
        let (certificate, key) = self.issue(name);
        ServerTls::from_pem(certificate, key)
    }
}

fn client(tls: TlsSettings) -> Client {
    Client::builder().tls(tls.roots(TlsRoots::None)).retry(quick()).build().unwrap()
}

async fn serve(tls: ServerTls) -> RunningRegistry {
    Registry::in_memory().tls(tls).listen("127.0.0.1:0").await.unwrap()
}

fn is_tls(error: &Error) -> bool {
    matches!(error, Error::Transport { failure: TransportFailure::Tls, .. })
}

#[tokio::test]
async fn a_registry_is_believed_if_its_authority_is() {
    let authority = Authority::new();
    let registry = serve(authority.server("127.0.0.1")).await;
    let (name, image) = (reference(&registry, "x:1"), Image::new(2, 100_000));
    let good = client(TlsSettings::default().authority_pem(authority.pem.clone()));
    image.push(&good, &name).await;
    image.check(&good, &name).await;

    let error = client(TlsSettings::default()).manifest(&name).await.unwrap_err();
    assert!(is_tls(&error) && !error.is_retryable(), "{error:?}");
    let other = client(TlsSettings::default().authority_pem(Authority::new().pem));
    assert!(is_tls(&other.manifest(&name).await.unwrap_err()));
    image.check(&client(TlsSettings::default().skip_verify(true)), &name).await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_taken() {
    let authority = Authority::new();
    let registry = serve(authority.server("elsewhere.example")).await;
    let client = client(TlsSettings::default().authority_pem(authority.pem));
    assert!(is_tls(&client.manifest(&reference(&registry, "x:1")).await.unwrap_err()));
    assert!(registry.journal().is_empty());
}

#[tokio::test]
async fn client_certificates_from_a_certs_directory() {
    let authority = Authority::new();
    let registry = serve(authority.server("127.0.0.1").client_authority(authority.pem.clone())).await;
    let (name, image) = (reference(&registry, "x:1"), Image::new(1, 1000));
    let without = client(TlsSettings::default().authority_pem(authority.pem.clone()));
    without.manifest(&name).await.unwrap_err();
    assert!(registry.journal().is_empty());

    let (certificate, key) = authority.issue("client.example");
    let with = TlsSettings::default()
        .authority_pem(authority.pem.clone())
        .identity(ClientIdentity::from_pem(certificate.clone(), key.clone()));
    image.push(&client(with), &name).await;

    let directory = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
    write("ca.crt", &authority.pem);
    write("client.cert", &certificate);
    write("client.key", key.expose());
    let settings = TlsSettings::default().certs_dir(directory.path()).unwrap().roots(TlsRoots::None);
    let host = registry.addr().to_string();
    let per_host = Client::builder().host_tls(host, settings).retry(quick()).build().unwrap();
    image.check(&per_host, &name).await;

    std::fs::remove_file(directory.path().join("client.cert")).unwrap();
    assert!(TlsSettings::default().certs_dir(directory.path()).is_err(), "a key without its certificate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_for_none_for_small_requests_or_for_all() {
    let authority = Authority::new();
    let registry = serve(authority.server("127.0.0.1")).await;
    let (name, image) = (reference(&registry, "x:1"), Image::new(2, 3_000_000));
    for (http2, small, blobs) in
        [(Http2::Never, false, false), (Http2::SmallRequests, true, false), (Http2::Always, true, true)]
    {
        let tls = TlsSettings::default().authority_pem(authority.pem.clone()).roots(TlsRoots::None);
        let client = Client::builder().tls(tls).retry(quick()).http2(http2).build().unwrap();
        registry.journal().clear();
        client.delete_manifest(&name).await.unwrap();
        for descriptor in image.descriptors() {
            client.delete_blob(&name, &descriptor.digest).await.unwrap();
        }
        image.push(&client, &name).await;
        image.check(&client, &name).await;
        for entry in registry.journal().entries() {
            // HTTP/2 says in another place which host is meant.
            let two = !entry.headers.contains_key("host");
            let bulk = entry.path.contains("/blobs/") && matches!(entry.method.as_str(), "GET" | "PUT");
            assert_eq!(two, if bulk { blobs } else { small }, "{http2:?}: {entry:?}");
        }
    }
}
