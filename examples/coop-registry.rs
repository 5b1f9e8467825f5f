//! The in-process registry as a server on a port.
//!
//! ```text
//! coop-registry [--listen ADDR] [--storage DIR] [--auth none|basic:USER:PASSWORD|bearer:USER:PASSWORD]
//!               [--tls CERTIFICATE,KEY] [--no-referrers] [--no-delete] [--journal]
//! ```
//!
//! It prints the address on the first line and serves until it is interrupted.

#![expect(clippy::print_stdout, reason = "a server tells where it listens")]

use std::io::Write as _;

use cooperage::registry::credential::Secret;
use cooperage::registry::server::{Registry, ServerTls};

type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "usage: coop-registry [--listen ADDR] [--storage DIR] \
    [--auth none|basic:USER:PASSWORD|bearer:USER:PASSWORD] [--tls CERTIFICATE,KEY] \
    [--no-referrers] [--no-delete] [--journal]";

struct Options {
    listen: String,
    storage: Option<String>,
    auth: String,
    tls: Option<String>,
    referrers: bool,
    deletes: bool,
    journal: bool,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        listen: "127.0.0.1:5000".to_owned(),
        storage: None,
        auth: "none".to_owned(),
        tls: None,
        referrers: true,
        deletes: true,
        journal: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value =
            || inline.clone().or_else(|| arguments.next()).ok_or(format!("{name} wants a value\n{USAGE}"));
        match name.as_str() {
            "--listen" => options.listen = value()?,
            "--storage" => options.storage = Some(value()?),
            "--auth" => options.auth = value()?,
            "--tls" => options.tls = Some(value()?),
            "--no-referrers" => options.referrers = false,
            "--no-delete" => options.deletes = false,
            "--journal" => options.journal = true,
            _ => return Err(format!("unknown argument {name}\n{USAGE}").into()),
        }
    }
    Ok(options)
}

fn registry(options: &Options) -> Result<Registry, Failure> {
    let mut registry = match &options.storage {
        Some(directory) => Registry::directory(directory),
        None => Registry::in_memory(),
    };
    registry = registry.referrers_api(options.referrers).deletes(options.deletes);
    registry = match options.auth.splitn(3, ':').collect::<Vec<_>>().as_slice() {
        ["none"] => registry,
        ["basic", user, password] => registry.basic_auth(*user, *password),
        ["bearer", user, password] => registry.bearer_auth(*user, *password),
        _ => {
            return Err(
                format!("--auth takes none, basic:USER:PASSWORD or bearer:USER:PASSWORD\n{USAGE}").into()
            );
        }
    };
    if let Some(files) = &options.tls {
        let (certificate, key) = files.split_once(',').ok_or("--tls takes CERTIFICATE,KEY")?;
        let key = Secret::new(std::fs::read_to_string(key)?);
        registry = registry.tls(ServerTls::from_pem(std::fs::read(certificate)?, key));
    }
    Ok(registry)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options = options()?;
    let running = registry(&options)?.listen(&options.listen).await?;
    println!("listening on {}", running.url());
    std::io::stdout().flush()?;
    let mut told = 0;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        if options.journal {
            let entries = running.journal().entries();
            for entry in entries.iter().skip(told).take_while(|entry| entry.status != 0) {
                println!(
                    "{} {} {} {} {}",
                    entry.status, entry.method, entry.path, entry.received, entry.sent
                );
                told += 1;
            }
            std::io::stdout().flush()?;
        }
    }
}
