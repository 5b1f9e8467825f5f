//! `coop build`.

use cooperage::{Context, Engine, Error, Event};

use crate::Outcome;
use crate::args::Build;

pub(crate) async fn build(engine: &Engine, args: Build) -> Outcome {
    let mut build = engine.build(Context::directory(&args.path)).no_cache(args.no_cache);
    for tag in &args.tag {
        build = build.tag(tag.parse()?);
    }
    for argument in &args.build_arg {
        // A name alone takes its value from the environment, as in docker; unset means not given.
        match argument.split_once('=') {
            Some((name, value)) => build = build.arg(name, value),
            None => {
                if let Some(value) = std::env::var_os(argument) {
                    build = build.arg(argument, value.to_string_lossy());
                }
            }
        }
    }
    if let Some(file) = args.file {
        build = build.dockerfile(file);
    }
    if let Some(target) = args.target {
        build = build.target(target);
    }
    let quiet = args.quiet;
    let built = build
        .on_event(move |event: &Event| {
            if !quiet {
                eprintln!("{event}");
            }
        })
        .run()
        .await;
    match built {
        Ok(built) if quiet => println!("{}", built.image.id()),
        Ok(built) => {
            eprintln!("writing image {} done", built.image.id());
            for tag in &args.tag {
                let name: cooperage::image::Reference = tag.parse()?;
                eprintln!("naming to {} done", name.with_default_tag().canonical());
            }
        }
        Err(Error::StepFailed { step, command, exit_code, log, .. }) => {
            eprintln!("------\n > {step}:\n{log}------");
            return Err(format!("ERROR: failed to solve: process {command:?} did not complete successfully: exit code: {exit_code}").into());
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
