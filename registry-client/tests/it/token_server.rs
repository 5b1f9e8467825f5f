//! A token server for docker-registry: signs JSON web tokens (distribution, "Token Authentication Implementation").

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, SigningKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct TokenServer {
    realm: String,
    certificate: String,
    given: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

struct Signer {
    key: KeyPair,
    chain: String,
    login: String,
}

impl TokenServer {
    /// Gives everything to one user, and nothing to others.
    pub(crate) async fn start(username: &str, password: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["tokens.example".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let login = STANDARD.encode(format!("{username}:{password}"));
        let signer = Arc::new(Signer { key, chain: STANDARD.encode(certificate.der()), login });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let realm = format!("http://{}/token", listener.local_addr().unwrap());
        let given = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&given);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (signer, count) = (Arc::clone(&signer), Arc::clone(&count));
                tokio::spawn(async move { signer.serve(stream, &count).await });
            }
        });
        Self { realm, certificate: certificate.pem(), given, task }
    }

    pub(crate) fn realm(&self) -> String {
        self.realm.clone()
    }

    pub(crate) fn certificate(&self) -> &str {
        &self.certificate
    }

    /// How many tokens it has given.
    pub(crate) fn given(&self) -> u32 {
        self.given.load(Ordering::Relaxed)
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Signer {
    async fn serve(&self, mut stream: TcpStream, given: &AtomicU32) {
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut buffer).await {
                Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
        let request = String::from_utf8(request).unwrap();
        let target = request.split(' ').nth(1).unwrap();
        let url = url::Url::parse(&format!("http://x{target}")).unwrap();
        let scopes = url.query_pairs().filter(|(name, _)| name == "scope");
        let access: Vec<Value> = scopes.filter_map(|(_, scope)| granted(&scope)).collect();
        let header = format!("authorization: basic {}", self.login).to_ascii_lowercase();
        let known = request.lines().any(|line| line.to_ascii_lowercase() == header);
        let (status, body) = if known {
            given.fetch_add(1, Ordering::Relaxed);
            ("200 OK", json!({ "token": self.token(&access), "expires_in": 300 }).to_string())
        } else {
            ("401 Unauthorized", r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#.to_owned())
        };
        let head = "content-type: application/json\r\nconnection: close";
        let answer = format!("HTTP/1.1 {status}\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        drop(stream.write_all(answer.as_bytes()).await);
    }

    fn token(&self, access: &[Value]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [self.chain] });
        let claims = json!({
            "iss": "tests", "sub": "me", "aud": "registry", "access": access,
            "nbf": now - 60, "iat": now, "exp": now + 300, "jti": now.to_string(),
        });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(fixed(&signature)))
    }
}

/// `repository:a/b:pull,push` as the claim says it.
fn granted(scope: &str) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let actions: Vec<&str> = actions.split(',').collect();
    Some(json!({ "type": kind, "name": name, "actions": actions }))
}

/// The two numbers of an ASN.1 signature as 32 bytes each, which is how tokens have them.
fn fixed(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number: Vec<u8> = rest[2..2 + length].iter().copied().skip_while(|byte| *byte == 0).collect();
        numbers.extend(std::iter::repeat_n(0, 32 - number.len()));
        numbers.extend(number);
        rest = &rest[2 + length..];
    }
    numbers
}
