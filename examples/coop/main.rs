//! A docker-like command line: `cargo run --release --example coop -- build -t name .`
//!
//! It parses words, calls the library, prints. Exit codes are docker's: 125 when a container could not be made, 126 and
//! 127 when its command could not be run, else the container's own; 1 for everything else.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to a terminal")]

mod args;
mod build;
mod images;
mod progress;
mod registry;
mod run;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use cooperage::registry::credential::CredentialEnvironment;
use cooperage::registry::hosts::RegistriesConf;
use cooperage::registry::{Client, ClientBuilder};
use cooperage::{Engine, EngineOptions};

use args::{Coop, Image, System, Verb};

/// The heaps that glibc gives to threads ask the kernel for every few pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The environment is read here and nowhere else.
fn environment() -> CredentialEnvironment {
    let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let mut environment = CredentialEnvironment::new();
    environment.home = path("HOME");
    environment.docker_config = path("DOCKER_CONFIG");
    environment
}

/// A client with what this host says of registries: certificates where docker looks for them, and mirrors and blocked
/// names of the registries.conf that the variable names, as for podman and skopeo.
pub(crate) fn client() -> Outcome<ClientBuilder> {
    let mut builder = Client::builder().loopback_plain_http(true).certs_d("/etc/docker/certs.d")?;
    if let Some(path) = std::env::var_os("CONTAINERS_REGISTRIES_CONF").filter(|path| !path.is_empty()) {
        builder = builder.hosts(RegistriesConf::read(PathBuf::from(path))?.rules()?);
    }
    Ok(builder)
}

async fn engine(root: Option<PathBuf>) -> Outcome<Engine> {
    let environment = environment();
    let root = root.or_else(|| std::env::var_os("COOP_ROOT").map(PathBuf::from));
    let home = || environment.home.as_ref().map(|home| home.join(".local/share/cooperage"));
    let root = root.or_else(home).ok_or("no place for the store: set HOME, COOP_ROOT or --root")?;
    let client = client()?.credentials(Arc::new(environment.docker()?)).build()?;
    Ok(Engine::open(EngineOptions::rooted_at(root).client(client)).await?)
}

#[tokio::main]
async fn main() -> ExitCode {
    let coop = Coop::parse();
    let is_run = matches!(coop.verb, Verb::Run(_));
    match verb(coop).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{}{}", if is_run { "coop: " } else { "" }, message(&*error));
            if let Some(hint) = error.downcast_ref::<cooperage::Error>().and_then(cooperage::Error::hint) {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(if is_run { run::exit_code(&*error) } else { 1 })
        }
    }
}

/// The error and its causes on one line, each once.
pub(crate) fn message(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

async fn verb(coop: Coop) -> Outcome<u8> {
    if let Verb::Login(login) = &coop.verb {
        return registry::login(login).await.map(|()| 0);
    }
    if let Verb::Logout { server } = &coop.verb {
        return registry::logout(server.as_deref()).await.map(|()| 0);
    }
    let engine = engine(coop.root).await?;
    match coop.verb {
        Verb::Build(args) => build::build(&engine, *args).await?,
        Verb::Explain { id, list } => build::explain(&engine, &id, list)?,
        Verb::Run(args) => return run::run(&engine, args).await,
        Verb::Pull { name } => registry::pull(&engine, &name).await?,
        Verb::Push { name } => registry::push(&engine, &name).await?,
        Verb::Tag { source, target } => images::tag(&engine, &source, &target)?,
        Verb::Images(args) | Verb::Image(Image::Ls(args)) => images::list(&engine, &args)?,
        Verb::History(args) | Verb::Image(Image::History(args)) => images::history(&engine, &args)?,
        Verb::Inspect { names } | Verb::Image(Image::Inspect { names }) => {
            return images::inspect(&engine, &names);
        }
        Verb::Rmi(args) | Verb::Image(Image::Rm(args)) => images::remove(&engine, &args).await?,
        Verb::Image(Image::Prune(args)) => images::prune(&engine, &args).await?,
        Verb::System(System::Df) => println!("{}", cooperage::docker::df_table(&engine)?),
        Verb::System(System::Dedup(args)) => images::dedup(&engine, &args).await?,
        Verb::System(System::Prune(args)) => images::system_prune(&engine, &args).await?,
        Verb::Ps { all } => println!("{}", cooperage::docker::containers_table(&engine, engine.now(), all)?),
        Verb::Rm { names } => run::remove(&engine, &names)?,
        Verb::Logs { name } => run::logs(&engine, &name)?,
        Verb::Save { output, names } => images::save(&engine, output, &names)?,
        Verb::Load { input } => images::load(&engine, input)?,
        Verb::Login(_) | Verb::Logout { .. } => {}
    }
    Ok(0)
}
