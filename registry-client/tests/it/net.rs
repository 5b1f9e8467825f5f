//! The net under the whole test run: whatever is logged by anybody, at any level, is read here, and a secret in it ends
//! the run at once.
//!
//! All tests use the same password, [`CANARY`](crate::CANARY), so that one look is enough. Clients are made by
//! functions that spread the net first.

use std::fmt::Write as _;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::{CANARY, USER};

static LINES: AtomicU64 = AtomicU64::new(0);

struct Net;

/// The text of all fields.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

/// The forms in which the secret could appear.
fn forms() -> [String; 3] {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{CANARY}"));
    let bytes = format!("{:?}", CANARY.as_bytes());
    [CANARY.to_owned(), encoded, bytes.trim_matches(['[', ']']).to_owned()]
}

pub(crate) fn has_secret(text: &str) -> bool {
    forms().iter().any(|form| text.contains(form.as_str()))
}

fn look(target: &str, text: &str) {
    LINES.fetch_add(1, Ordering::Relaxed);
    if has_secret(text) {
        println!("a secret in a log of {target}:{text}");
        std::process::abort();
    }
}

impl Subscriber for Net {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut text = Text::default();
        span.record(&mut text);
        look(span.metadata().target(), &text.0);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut text = Text::default();
        values.record(&mut text);
        look("a span", &text.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        look(event.metadata().target(), &text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl log::Log for Net {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        look(record.target(), &format!(" {}", record.args()));
    }

    fn flush(&self) {}
}

/// Reads all logs from now on.
pub(crate) fn spread() {
    static SPREAD: Once = Once::new();
    SPREAD.call_once(|| {
        tracing::subscriber::set_global_default(Net).unwrap();
        // TLS and name resolution log by `log`.
        log::set_logger(&Net).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

/// Everything that an error says, and what it holds.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, " {cause} {cause:?}");
        next = cause.source();
    }
    text
}

/// The process that logs the secret; without its variable, nothing.
#[expect(clippy::disallowed_methods, reason = "a test process is told by its environment what to do")]
#[test]
fn child() {
    let Ok(how) = std::env::var("COOPERAGE_TEST_NET") else { return };
    spread();
    match how.as_str() {
        "tracing" => tracing::trace!(password = CANARY, "login"),
        "encoded" => tracing::debug!("authorization: Basic {}", forms()[1]),
        "log" => log::trace!("login with {CANARY}"),
        _ => tracing::trace!("nothing"),
    }
}

#[test]
fn the_net_holds() {
    for (how, caught) in [("tracing", true), ("encoded", true), ("log", true), ("nothing", false)] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "net::child"])
            .env("COOPERAGE_TEST_NET", how)
            .output()
            .unwrap();
        assert_eq!(output.status.success(), !caught, "{how}");
    }
}

/// A conversation with all that has secrets in it; the lines that were read are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_debug_and_errors_have_no_secret() {
    use registry_client::credential::{Credentials, DockerConfig, FixedCredentials, PodmanAuth, Secret};
    use registry_client::server::Registry;
    use registry_client::{Client, ClientIdentity, TlsSettings};
    spread();
    let before = LINES.load(Ordering::Relaxed);
    let mut shown = Vec::new();
    for registry in
        [Registry::in_memory().basic_auth(USER, CANARY), Registry::in_memory().bearer_auth(USER, CANARY)]
    {
        shown.push(format!("{registry:?}"));
        let registry = registry.listen("127.0.0.1:0").await.unwrap();
        let client = crate::with_login(&registry);
        let image = crate::Image::new(2, 1000);
        image.push(&client, &crate::reference(&registry, "x:1")).await;
        image.check(&client, &crate::reference(&registry, "x:1")).await;
        let error = client.manifest(&crate::reference(&registry, "y:1")).await.unwrap_err();
        let wrong = Credentials::basic("someone", format!("wrong {CANARY}"));
        let refused = client.verify_credentials(&registry.addr().to_string(), &wrong).await.unwrap_err();
        shown.extend([format!("{client:?} {registry:?}"), told(&error), told(&refused)]);
        shown.push(format!("{:?}", registry.journal().entries()));
    }
    let credentials = [
        Credentials::basic("u", CANARY),
        Credentials::IdentityToken(CANARY.into()),
        Credentials::BearerToken(CANARY.into()),
    ];
    for credentials in credentials {
        shown.push(format!("{credentials:?} {:?}", FixedCredentials::new().with("a", credentials.clone())));
    }
    let text = format!(r#"{{"auths":{{"a":{{"username":"u","password":"{CANARY}"}}}}}}"#);
    shown.push(format!("{:?}", DockerConfig::from_json(&text).unwrap()));
    shown.push(told(&DockerConfig::from_json(&format!("{text}{CANARY}")).unwrap_err()));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("auth.json");
    std::fs::write(&path, &text).unwrap();
    shown.push(format!("{:?}", PodmanAuth::read(&path).unwrap()));
    let identity = ClientIdentity::from_pem("", Secret::new(CANARY));
    let tls = TlsSettings::default().identity(identity);
    let builder = Client::builder().tls(tls.clone()).proxy_with_login(
        "http://127.0.0.1:1",
        "",
        USER,
        Secret::new(CANARY),
    );
    shown.push(format!("{tls:?} {builder:?}"));
    let behind = builder.build().unwrap();
    shown.push(format!("{behind:?}"));
    let name = image_core::Reference::parse("registry.example/x:1").unwrap();
    shown.push(told(&behind.manifest(&name).await.unwrap_err()));
    for text in &shown {
        assert!(!has_secret(text), "{text}");
    }
    let lines = LINES.load(Ordering::Relaxed) - before;
    println!("canary: {lines} lines of logs and {} texts read, none with the secret", shown.len());
    assert!(lines > 100, "the net hangs where something is logged");
}
