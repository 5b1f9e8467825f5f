//! Verbs on containers.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};

use cooperage::runtime::Network;
use cooperage::{Engine, Event, EventSink, Stream};

use crate::Outcome;
use crate::args::Run;

/// docker's code for a container that could not be run.
const ENGINE_ERROR: u8 = 125;

/// 126 and 127 when the command is to blame, else 125.
pub(crate) fn exit_code(error: &(dyn Error + 'static)) -> u8 {
    match error.downcast_ref::<cooperage::Error>() {
        Some(cooperage::Error::Runtime(error)) => {
            error.exit_code().and_then(|code| u8::try_from(code).ok()).unwrap_or(ENGINE_ERROR)
        }
        _ => ENGINE_ERROR,
    }
}

pub(crate) async fn run(engine: &Engine, args: Run) -> Outcome<u8> {
    let image = match engine.image(&args.image) {
        Ok(image) => image,
        Err(error) if error.is_not_found() => {
            let name: cooperage::image::Reference = args.image.parse()?;
            eprintln!("Unable to find image '{}' locally", name.with_default_tag().familiar());
            let silent: EventSink = std::sync::Arc::new(|_| ());
            engine.pull(&name, &silent).await?.image
        }
        Err(error) => return Err(error.into()),
    };
    let mut container = engine
        .container(&image)
        .name(args.name)
        .image_name(args.image)
        .remove(args.rm)
        .inherit_stdin(args.interactive);
    for variable in &args.env {
        match variable.split_once('=') {
            Some((name, value)) => container = container.env(name, value),
            None => {
                if let Some(value) = std::env::var_os(variable) {
                    container = container.env(variable, &value.to_string_lossy());
                }
            }
        }
    }
    if let Some(directory) = args.workdir {
        container = container.workdir(directory);
    }
    if let Some(user) = args.user {
        container = container.user(user);
    }
    if let Some(entrypoint) = args.entrypoint {
        container = container.entrypoint(Some(entrypoint).filter(|word| !word.is_empty()));
    }
    if !args.args.is_empty() {
        container = container.args(args.args);
    }
    container = container.network(match args.network.as_str() {
        "host" => Network::Host,
        "none" => Network::None,
        other => return Err(format!("not supported yet: network {other}; there are host and none").into()),
    });
    let ended = container
        .on_event(|event| {
            if let Event::Output { stream, bytes, .. } = event {
                // Whoever reads us may be gone; the container goes on.
                let written = match stream {
                    Stream::Stdout => {
                        io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush())
                    }
                    Stream::Stderr => io::stderr().lock().write_all(bytes),
                };
                drop(written);
            }
        })
        .run()
        .await?;
    Ok(u8::try_from(ended.code).unwrap_or(u8::MAX))
}

pub(crate) fn remove(engine: &Engine, names: &[String]) -> Outcome {
    for name in names {
        let container = engine.store().resolve_container(name).map_err(|error| {
            if error.is_not_found() { format!("Error: No such container: {name}") } else { error.to_string() }
        })?;
        engine.store().remove_container(&container.id)?;
        println!("{name}");
    }
    Ok(())
}

pub(crate) fn logs(engine: &Engine, name: &str) -> Outcome {
    let container = engine.store().resolve_container(name).map_err(|error| {
        if error.is_not_found() { format!("Error: No such container: {name}") } else { error.to_string() }
    })?;
    for line in BufReader::new(engine.store().container_log(&container.id)?).lines() {
        let line: serde_json::Value = serde_json::from_str(&line?)?;
        let text = line.get("log").and_then(serde_json::Value::as_str).unwrap_or_default();
        match line.get("stream").and_then(serde_json::Value::as_str) {
            Some("stderr") => eprint!("{text}"),
            _ => print!("{text}"),
        }
    }
    Ok(())
}
