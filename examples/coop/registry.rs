//! Verbs that speak to a registry.

use std::io::Read;
use std::sync::Arc;

use cooperage::image::Reference;
use cooperage::registry::credential::{Credentials, DockerConfig, Secret};
use cooperage::{Engine, Error, Event, EventSink};

use crate::Outcome;
use crate::args::Login;

const HUB: &str = "docker.io";
const NO_CREDENTIALS: &str = "no basic auth credentials";
const HELP: &str = "WARNING! Your credentials are stored unencrypted in";

fn progress() -> EventSink {
    Arc::new(|event: &Event| match event {
        Event::Pull { .. } | Event::Push { .. } => println!("{event}"),
        _ => {}
    })
}

/// Docker's words where it has some.
fn explain(error: Error, name: &Reference) -> Box<dyn std::error::Error> {
    let Error::Registry(inner) = &error else { return error.into() };
    if inner.is_unauthorized() && inner.code().is_none_or(|code| code == "UNAUTHORIZED") {
        return NO_CREDENTIALS.into();
    }
    if inner.is_not_found() {
        return format!(
            "Error response from daemon: manifest for {} not found: manifest unknown: manifest unknown",
            name.familiar()
        )
        .into();
    }
    error.into()
}

pub(crate) async fn pull(engine: &Engine, name: &str) -> Outcome {
    let given: Reference = name.parse()?;
    let name = given.with_default_tag();
    if given != name {
        println!("Using default tag: latest");
    }
    let (layers, title) =
        (progress(), format!("{}: Pulling from {}", name.tag().unwrap_or("digest"), name.path()));
    let events: EventSink = Arc::new(move |event: &Event| match event {
        Event::PullStarted { .. } => println!("{title}"),
        other => layers(other),
    });
    let pulled = engine.pull(&name, &events).await.map_err(|error| {
        let text = explain(error, &name).to_string();
        let is_refused = text == NO_CREDENTIALS;
        let what =
            name.tag().map_or_else(|| name.digest().map(ToString::to_string), |tag| Some(tag.to_owned()));
        let (host, path, what) = (name.domain(), name.path(), what.unwrap_or_default());
        match is_refused {
            true => format!(
                "Error response from daemon: Head \"http://{host}/v2/{path}/manifests/{what}\": {text}"
            ),
            false => text,
        }
    })?;
    println!("Digest: {}", pulled.digest);
    let status = if pulled.up_to_date { "Image is up to date for" } else { "Downloaded newer image for" };
    println!("Status: {status} {}\n{}", name.familiar(), name.canonical());
    Ok(())
}

pub(crate) async fn push(engine: &Engine, name: &str) -> Outcome {
    let name = Reference::parse(name)?.with_default_tag();
    println!("The push refers to repository [{}]", name.repository());
    if engine.store().find_tag(&name)?.is_none() {
        return Err(format!("An image does not exist locally with the tag: {}", name.repository()).into());
    }
    let manifest = engine.push_name(&name, &progress()).await.map_err(|error| explain(error, &name))?;
    println!("{}: digest: {} size: {}", name.tag().unwrap_or_default(), manifest.digest, manifest.size);
    Ok(())
}

fn config() -> Outcome<DockerConfig> {
    let path =
        crate::environment().docker_path().ok_or("no place for credentials: set HOME or DOCKER_CONFIG")?;
    Ok(DockerConfig::read(path)?)
}

pub(crate) async fn login(args: &Login) -> Outcome {
    let server = args.server.as_deref().unwrap_or(HUB);
    let username = args.username.as_deref().ok_or("Error: Must provide --username with --password-stdin")?;
    if !args.password_stdin {
        return Err("not supported yet: asking for the password on a terminal; use --password-stdin".into());
    }
    let mut password = String::new();
    std::io::stdin().read_to_string(&mut password)?;
    let credentials = Credentials::basic(username, Secret::new(password.trim_end_matches(['\r', '\n'])));
    let client = crate::client()?.build()?;
    if let Err(error) = client.verify_credentials(server, &credentials).await {
        let status = error
            .status()
            .map_or_else(|| error.to_string(), |status| format!("status: {status} Unauthorized"));
        return Err(format!(
            "Error response from daemon: login attempt to http://{server}/v2/ failed with {status}"
        )
        .into());
    }
    let mut config = config()?;
    config.store(server, &credentials).await?;
    eprintln!("{HELP} {}.\nConfigure a credential helper to remove this warning.\n", config.path().display());
    println!("Login Succeeded");
    Ok(())
}

pub(crate) async fn logout(server: Option<&str>) -> Outcome {
    let server = server.unwrap_or(HUB);
    println!("Removing login credentials for {server}");
    config()?.erase(server).await?;
    Ok(())
}
