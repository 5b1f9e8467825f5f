//! The walk of a docker user, against a registry with a password, compared with what docker prints (`walk.txt`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cooperage::registry::server::Registry;

use crate::{base, context, engine};

const WALK: &str = include_str!("walk.txt");
const DOCKERFILE: &str = "FROM 127.0.0.1:PPPPP/org/base:latest
LABEL org.label-schema.schema-version=\"1.0\" maintainer=\"org\"
ENV NGINX_VERSION=1.25.3 PKG_RELEASE=\"1 bookworm\"
ARG BUILD=7
COPY app /srv/app
RUN mkdir -p /data && echo \"$BUILD\" > /data/build && chmod 600 /data/build
WORKDIR /srv/app
USER 0:0
EXPOSE 80 443/tcp 53/udp
VOLUME /data
HEALTHCHECK --interval=30s --timeout=3s --retries=2 CMD wget -q -O- http://localhost/ || exit 1
STOPSIGNAL SIGQUIT
ENTRYPOINT [\"/bin/sh\", \"-c\"]
CMD [\"echo hello from $NGINX_VERSION\"]
";

struct Step<'a> {
    command: &'a str,
    expected: Vec<&'a str>,
    exit: i32,
}

fn steps(text: &str) -> Vec<Step<'_>> {
    let mut steps: Vec<Step<'_>> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command, expected: Vec::new(), exit: 0 });
            open = true;
        } else if let Some(code) = line.strip_prefix("[exit ") {
            steps.last_mut().unwrap().exit = code.trim_end_matches(']').parse().unwrap();
            open = false;
        } else if open {
            steps.last_mut().unwrap().expected.push(line);
        }
    }
    steps
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_size(text: &str) -> bool {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    digits.parse::<f64>().is_ok() && matches!(unit, "B" | "kB" | "MB" | "GB")
}

/// A placeholder and what it may stand for.
type Placeholder = (&'static str, fn(&str) -> bool);

/// The first placeholder of `pattern` and what it may be.
fn field(pattern: &str, found: &str) -> bool {
    let kinds: [Placeholder; 5] = [
        ("<id>", |text| is_hex(text, 12)),
        ("<digest>", |text| text.strip_prefix("sha256:").is_some_and(|hex| is_hex(hex, 64))),
        ("<size>", is_size),
        ("<since>", |text| text.ends_with(" ago")),
        ("<percent>", |text| text.strip_suffix('%').is_some_and(|number| number.parse::<u32>().is_ok())),
    ];
    let first = kinds
        .iter()
        .filter_map(|(name, is)| Some((pattern.find(name)?, *name, is)))
        .min_by_key(|(at, ..)| *at);
    let Some((at, name, is)) = first else { return pattern == found };
    let (before, after) = (&pattern[..at], &pattern[at + name.len()..]);
    let Some(rest) = found.strip_prefix(before) else { return false };
    // The shortest text for the placeholder that lets the rest match.
    (1..=rest.len())
        .filter(|length| rest.is_char_boundary(*length))
        .any(|length| is(&rest[..length]) && field(after, &rest[length..]))
}

fn line(pattern: &str, found: &str) -> bool {
    // Two blanks inside a line part columns; in front of it they are indentation.
    if !pattern.trim_start().contains("  ") {
        return field(pattern, found);
    }
    let split = |text: &str| -> Vec<String> {
        text.split("  ").map(str::trim).filter(|field| !field.is_empty()).map(str::to_owned).collect()
    };
    let (patterns, founds) = (split(pattern), split(found));
    patterns.len() == founds.len()
        && patterns.iter().zip(&founds).all(|(pattern, found)| field(pattern, found))
}

fn matches(expected: &[&str], found: &[&str]) -> bool {
    if expected.len() != found.len() {
        return false;
    }
    let mut at = 0;
    while at < expected.len() {
        if !expected[at].starts_with('~') {
            if !line(expected[at], found[at]) {
                return false;
            }
            at += 1;
            continue;
        }
        let group: Vec<&str> = expected[at..].iter().map_while(|line| line.strip_prefix('~')).collect();
        let mut left: Vec<&str> = found[at..at + group.len()].to_vec();
        for pattern in &group {
            let Some(place) = left.iter().position(|found| line(pattern, found)) else { return false };
            left.remove(place);
        }
        at += group.len();
    }
    true
}

/// Where cargo puts the examples of this build.
pub(crate) fn examples() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.parent().unwrap().parent().unwrap().join("examples")
}

fn walk(host: &str) -> Vec<String> {
    let port = host.rsplit(':').next().unwrap();
    let here = |text: &str| text.replace("PPPPP", port);
    let files = context(&[
        ("context/Dockerfile", &here(DOCKERFILE)),
        ("context/app/index.html", "hi\n"),
        ("home/x", ""),
    ]);
    std::fs::write(files.path().join("context/app/blob.txt"), vec![0; 400_000]).unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", examples().display());
    let mut wrong = Vec::new();
    for step in steps(WALK) {
        let done = Command::new("sh")
            .args(["-c", &format!("({}) 2>&1", here(step.command))])
            .current_dir(files.path())
            .env("PATH", &path)
            .env("HOME", files.path().join("home"))
            .env("COOP_ROOT", files.path().join("root"))
            .env_remove("DOCKER_CONFIG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let expected: Vec<String> = step.expected.iter().map(|line| here(line)).collect();
        let trimmed = |lines: Vec<&str>| -> Vec<String> {
            let mut lines: Vec<String> = lines.into_iter().map(|line| line.trim_end().to_owned()).collect();
            while lines.last().is_some_and(String::is_empty) {
                lines.pop();
            }
            lines
        };
        let (expected, found) =
            (trimmed(expected.iter().map(String::as_str).collect()), trimmed(text.lines().collect()));
        let borrow = |lines: &[String]| lines.to_vec();
        let (expected_lines, found_lines) = (borrow(&expected), borrow(&found));
        let same = matches(
            &expected_lines.iter().map(String::as_str).collect::<Vec<_>>(),
            &found_lines.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        if !same || done.status.code() != Some(step.exit) {
            wrong.push(format!(
                "$ {}\nexpected, exit {}:\n{}\nfound, exit {:?}:\n{}\n",
                step.command,
                step.exit,
                expected.join("\n"),
                done.status.code(),
                found.join("\n")
            ));
        }
    }
    wrong
}

async fn push_base(host: &str) -> bool {
    use cooperage::registry::Client;
    use cooperage::registry::credential::{Credentials, FixedCredentials};
    let store = tempfile::tempdir().unwrap();
    let first = engine(&store).await;
    let Some(image) = base::base(&first).await else { return false };
    let credentials = FixedCredentials::new().with(host, Credentials::basic("org", "secret"));
    let client = Client::builder()
        .credentials(std::sync::Arc::new(credentials))
        .loopback_plain_http(true)
        .build()
        .unwrap();
    let again = cooperage::Engine::open(cooperage::EngineOptions::rooted_at(store.path()).client(client))
        .await
        .unwrap();
    again.push(&image, &format!("{host}/org/base:latest").parse().unwrap(), &crate::quiet()).await.unwrap();
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_user_finds_everything_as_it_was() {
    if !examples().join("coop").exists() {
        base::skipped("the example coop is not built: run `cargo build --examples`");
        return;
    }
    let registry = Registry::in_memory().basic_auth("org", "secret").listen("127.0.0.1:0").await.unwrap();
    let host = registry.addr().to_string();
    if !push_base(&host).await {
        return;
    }
    let wrong = tokio::task::spawn_blocking(move || walk(&host)).await.unwrap();
    registry.shutdown().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_matcher_can_say_no() {
    assert!(line("<id>: Pushed", "0123456789ab: Pushed") && !line("<id>: Pushed", "0123456789a: Pushed"));
    assert!(line("a   <size>   x", "a  1.5MB  x") && !line("a   <size>   x", "a  1.5XB  x"));
    assert!(!line("Status: up", "Status: down"));
    assert!(matches(&["~a", "~b"], &["b", "a"]) && !matches(&["~a", "~b"], &["b", "b"]));
}

/// The same against Debian's `docker-registry`.
#[tokio::test(flavor = "multi_thread")]
async fn a_docker_user_finds_everything_as_it_was_with_docker_registry() {
    let program = Path::new("/usr/bin/docker-registry");
    if !program.exists() || !Path::new("/usr/bin/htpasswd").exists() {
        base::skipped("docker-registry or htpasswd (apache2-utils) is not installed");
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let password = Command::new("htpasswd").args(["-Bbn", "org", "secret"]).output().unwrap();
    std::fs::write(files.path().join("htpasswd"), password.stdout).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {0}/data}}}}\n\
         http: {{addr: 127.0.0.1:{port}}}\nauth: {{htpasswd: {{realm: test, path: {0}/htpasswd}}}}\n",
        files.path().display()
    );
    std::fs::write(files.path().join("config.yml"), config).unwrap();
    let server = Command::new(program)
        .arg("serve")
        .arg(files.path().join("config.yml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _server = crate::copy::Daemon(server);
    for _ in 0..200 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let host = format!("127.0.0.1:{port}");
    if !push_base(&host).await {
        return;
    }
    let wrong = tokio::task::spawn_blocking(move || walk(&host)).await.unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
