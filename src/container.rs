//! Containers: an image, run.

use std::io::Write;
use std::sync::Mutex;

use layer_store::{ContainerStatus, NewContainer};
use runtime::Network;

use crate::engine::{Engine, Image};
use crate::error::{Error, Result};
use crate::event::{Event, EventSink, Stream};
use crate::process::{self, Limits, Request};
use crate::task::blocking;

/// A container to run. Made by [`Engine::container`].
#[derive(Clone)]
#[must_use = "nothing happens until `run`"]
pub struct Container {
    engine: Engine,
    image: Image,
    name: String,
    image_name: Option<String>,
    env: Vec<String>,
    cwd: Option<String>,
    user: Option<String>,
    entrypoint: Option<Vec<String>>,
    args: Option<Vec<String>>,
    network: Network,
    limits: Limits,
    remove: bool,
    stdin: bool,
    events: EventSink,
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container")
            .field("image", &self.image.id())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// Its exit code, or 128 plus the signal.
    pub code: i32,
    /// Its ID; gone already when it was to be removed.
    pub id: String,
}

impl Engine {
    /// A container of `image`.
    pub fn container(&self, image: &Image) -> Container {
        Container {
            engine: self.clone(),
            image: image.clone(),
            name: String::new(),
            image_name: None,
            env: Vec::new(),
            cwd: None,
            user: None,
            entrypoint: None,
            args: None,
            network: Network::Host,
            limits: Limits::default(),
            remove: false,
            stdin: false,
            events: crate::event::nowhere(),
        }
    }
}

impl Container {
    /// Its name; a made-up one without.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The image as the user named it, for `ps`.
    pub fn image_name(mut self, name: impl Into<String>) -> Self {
        self.image_name = Some(name.into());
        self
    }

    /// Sets a variable, over the image's.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Where it starts.
    pub fn workdir(mut self, path: impl Into<String>) -> Self {
        self.cwd = Some(path.into());
        self
    }

    /// `user[:group]`, names or numbers.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// In place of the image's entrypoint; its command does not count then.
    pub fn entrypoint<I: IntoIterator<Item: Into<String>>>(mut self, words: I) -> Self {
        self.entrypoint = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// In place of the image's command.
    pub fn args<I: IntoIterator<Item: Into<String>>>(mut self, words: I) -> Self {
        self.args = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Its network; the host's without.
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// How much it may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Removes it when it has ended.
    pub fn remove(mut self, yes: bool) -> Self {
        self.remove = yes;
        self
    }

    /// Gives it this process's standard input.
    pub fn inherit_stdin(mut self, yes: bool) -> Self {
        self.stdin = yes;
        self
    }

    /// Takes its output, as it comes.
    pub fn on_event(mut self, sink: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        self.events = std::sync::Arc::new(sink);
        self
    }

    fn argv(&self) -> Result<Vec<String>> {
        let config = &self.image.config().config;
        let mut argv = match &self.entrypoint {
            Some(words) => words.clone(),
            None => config.entrypoint.clone().unwrap_or_default(),
        };
        match (&self.args, &self.entrypoint) {
            (Some(words), _) => argv.extend(words.iter().cloned()),
            (None, None) => argv.extend(config.cmd.clone().unwrap_or_default()),
            (None, Some(_)) => {}
        }
        if argv.is_empty() { Err(Error::NoCommand) } else { Ok(argv) }
    }

    fn merged_env(&self) -> Vec<String> {
        let mut env = self.image.config().config.env.clone();
        for entry in &self.env {
            let name = entry.split('=').next();
            env.retain(|old| old.split('=').next() != name);
            env.push(entry.clone());
        }
        env
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// [`Error::Runtime`] when it could not be started; `is_not_found` and `is_not_executable` of it tell docker's
    /// 127 and 126.
    ///
    /// # Cancel safety
    /// Dropping the future kills it; its record stays, as exited.
    pub async fn run(self) -> Result<Ended> {
        let argv = self.argv()?;
        let config = self.image.config().config.clone();
        let view = self.engine.view(&self.image)?;
        let authority = self.engine.store().authority();
        let user = crate::user::resolve(self.user.as_deref().unwrap_or(&config.user), &view, authority)?;
        let image_name = self.image_name.clone().unwrap_or_else(|| self.image.id().short());
        let mut new = NewContainer::new(image_name, argv.clone(), self.engine.now());
        new.name.clone_from(&self.name);
        let (store, record) = (self.engine.store().clone(), self.image.record().clone());
        let mut container = blocking(move || Ok(store.create_container(&record, new)?)).await?;
        let id = container.record().id.clone();
        let log = Mutex::new(container.log()?);
        let started = self.engine.now();
        container.update(|record| {
            record.status = ContainerStatus::Running;
            record.started = Some(started);
        })?;
        let request = Request {
            argv,
            env: self.merged_env(),
            cwd: self.cwd.clone().unwrap_or(config.working_dir),
            user,
            hostname: id.chars().take(12).collect(),
            hosts: Vec::new(),
            network: self.network.clone(),
            limits: self.limits,
            places: Vec::new(),
            shm_size: None,
            rlimits: Vec::new(),
            privileged: false,
        };
        let sink = |stream: Stream, bytes: &[u8]| {
            write_log(&log, stream, bytes, self.engine.now());
            (self.events)(&Event::Output { number: 0, stream, bytes: bytes.to_vec() });
        };
        let result = process::run(&self.engine, &id, container.upper(), request, self.stdin, &sink).await;
        let code = match &result {
            Ok(code) => *code,
            Err(Error::Runtime(error)) => error.exit_code().unwrap_or(128),
            Err(_) => 128,
        };
        let finished = self.engine.now();
        container.update(|record| {
            record.status = ContainerStatus::Exited;
            record.finished = Some(finished);
            record.exit_code = Some(code);
        })?;
        container.release();
        drop(container);
        if self.remove {
            let (store, id) = (self.engine.store().clone(), id.clone());
            blocking(move || Ok(store.remove_container(&id)?)).await?;
        }
        result.map(|code| Ended { code, id })
    }
}

/// One JSON line a chunk, as docker's json-file has one a line.
fn write_log(log: &Mutex<std::fs::File>, stream: Stream, bytes: &[u8], time: image_core::Timestamp) {
    let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
    let line =
        serde_json::json!({"log": String::from_utf8_lossy(bytes), "stream": name, "time": time.to_string()});
    let mut log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // A full disk loses log lines, not the container.
    if let Err(error) = writeln!(log, "{line}") {
        tracing::warn!(%error, "the log of a container is incomplete");
    }
}
