//! `coop build`.

use std::path::{Path, PathBuf};

use cooperage::{
    Attestation, Build as Building, Built, CacheLocation, Context, Engine, Error, Event, Limits,
    NamedContext, Output, Secret,
};

use crate::Outcome;
use crate::args::Build;
use crate::progress::Renderer;

/// `key=value,…` of an option; a word without `=` has an empty value.
fn fields(text: &str) -> Vec<(&str, &str)> {
    text.split(',').map(|field| field.split_once('=').unwrap_or((field, ""))).collect()
}

fn find<'a>(fields: &[(&str, &'a str)], names: &[&str]) -> Option<&'a str> {
    fields.iter().find(|(name, _)| names.contains(name)).map(|(_, value)| *value)
}

/// `64m`, `1g`, `65536`, in bytes.
fn bytes(text: &str) -> Outcome<u64> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.trim_end_matches('b');
    let (digits, shift) = match lower.strip_suffix(['k', 'm', 'g']) {
        Some(digits) => (
            digits,
            if lower.ends_with('k') {
                10
            } else if lower.ends_with('m') {
                20
            } else {
                30
            },
        ),
        None => (lower, 0),
    };
    let number: u64 = digits.parse().map_err(|_| format!("invalid size: {text:?}"))?;
    number
        .checked_shl(shift)
        .filter(|size| size >> shift == number)
        .ok_or_else(|| format!("invalid size: {text:?}").into())
}

/// `id=NAME[,src=FILE][,env=VARIABLE]`.
fn secret(build: Building, text: &str) -> Outcome<Building> {
    let fields = fields(text);
    let source = find(&fields, &["src", "source"]);
    let variable = find(&fields, &["env"]);
    let id = find(&fields, &["id"]).or(variable).ok_or_else(|| format!("invalid secret {text:?}: no id"))?;
    let value = match (source, variable) {
        (Some(path), _) => std::fs::read(path).map_err(|error| format!("secret {id}: {path}: {error}"))?,
        (None, variable) => {
            let name = variable.unwrap_or(id);
            match std::env::var_os(name) {
                Some(value) => value.into_encoded_bytes(),
                None => std::fs::read(id).map_err(|error| format!("secret {id}: {error}"))?,
            }
        }
    };
    Ok(build.secret(id, Secret::new(value)))
}

fn ssh(build: Building, text: &str) -> Outcome<Building> {
    let (id, socket) = text.split_once('=').unwrap_or((text, ""));
    let socket = match socket {
        "" => std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from).ok_or("SSH_AUTH_SOCK is not set")?,
        path => PathBuf::from(path),
    };
    Ok(build.ssh(id, socket))
}

fn is_git(text: &str) -> bool {
    text.starts_with("git@") || text.contains(".git#") || text.ends_with(".git") || text.starts_with("git://")
}

fn named(build: Building, text: &str) -> Outcome<Building> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("invalid context value: {text}, expected key=value"))?;
    // As buildx: a directory that is there is meant, whatever it is called.
    let context = if Path::new(value).exists() {
        NamedContext::Directory(Context::directory(value))
    } else {
        NamedContext::parse(value)?
    };
    Ok(build.context(name, context))
}

/// `type=local,dest=out`, or a path alone.
fn output(text: &str) -> Outcome<Option<Output>> {
    if !text.contains('=') {
        return Ok(Some(Output::Directory(text.into())));
    }
    let fields = fields(text);
    let dest = || -> Outcome<PathBuf> {
        Ok(find(&fields, &["dest", "destination"])
            .ok_or_else(|| format!("output {text:?} has no dest"))?
            .into())
    };
    Ok(Some(match find(&fields, &["type"]) {
        Some("local") => Output::Directory(dest()?),
        Some("tar") => Output::Tar(dest()?),
        Some("oci") if find(&fields, &["tar"]) == Some("false") => Output::Layout(dest()?),
        Some("oci" | "docker") => Output::Archive(dest()?),
        Some("image") => return Ok(None),
        other => return Err(format!("unknown output type {:?}", other.unwrap_or("")).into()),
    }))
}

fn configure(engine: &Engine, args: &Build) -> Outcome<Building> {
    let context = match args.path.to_str() {
        Some("-") => Context::tar(std::io::stdin()),
        // As docker: what is there is meant, then a repository, then a file.
        Some(text) if !args.path.exists() && is_git(text) => Context::git(text),
        Some(text) if text.starts_with("http://") || text.starts_with("https://") => Context::url(text),
        _ => Context::directory(&args.path),
    };
    let mut build = engine.build(context).no_cache(args.no_cache).pull(args.pull).parallel(args.jobs);
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
    // As docker's tools do: the variable is a build argument of every build.
    if let Some(epoch) = std::env::var_os("SOURCE_DATE_EPOCH")
        && !args.build_arg.iter().any(|argument| argument.starts_with("SOURCE_DATE_EPOCH"))
    {
        build = build.arg("SOURCE_DATE_EPOCH", epoch.to_string_lossy());
    }
    for label in &args.label {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        build = build.label(name, value);
    }
    for annotation in &args.annotation {
        // As buildx: a type in front says of which document; here it is the manifest.
        let text = annotation.strip_prefix("manifest:").unwrap_or(annotation);
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("invalid annotation {annotation:?}: expected key=value"))?;
        build = build.annotation(name, value);
    }
    build = build.squash(args.squash);
    for (_, what) in [(args.provenance, Attestation::Provenance), (args.sbom, Attestation::Sbom)]
        .iter()
        .filter(|(yes, _)| *yes)
    {
        build = build.attest(*what);
    }
    for stage in &args.no_cache_filter {
        build = build.no_cache_stage(stage);
    }
    for text in &args.secret {
        build = secret(build, text)?;
    }
    for text in &args.ssh {
        build = ssh(build, text)?;
    }
    for text in &args.build_context {
        build = named(build, text)?;
    }
    for text in &args.add_host {
        let (name, address) =
            text.split_once([':', '=']).ok_or_else(|| format!("bad format for add-host: {text:?}"))?;
        let address = address
            .trim_matches(['[', ']'])
            .parse()
            .map_err(|_| format!("invalid IP address in add-host: {address:?}"))?;
        build = build.add_host(name, address);
    }
    build = caches(build, args)?;
    let mut limits = Limits::default();
    limits.memory = args.memory.as_deref().map(bytes).transpose()?;
    build = build.limits(limits);
    build = match args.network.as_str() {
        "default" | "host" => build,
        "none" => build.no_network(true),
        other => return Err(format!("network mode {other:?} not supported").into()),
    };
    if let Some(size) = &args.shm_size {
        build = build.shm_size(bytes(size)?);
    }
    if let [platform] = args.platform.as_slice() {
        build = build.platform(platform.parse()?);
    }
    for entitlement in &args.allow {
        build = match entitlement.as_str() {
            "security.insecure" => build.allow_insecure(true),
            // RUN --network=host needs no leave here: there is no daemon whose network it would be.
            "network.host" => build,
            other => return Err(format!("unknown entitlement {other}").into()),
        };
    }
    if let Some(path) = args.lock.as_deref().filter(|path| path.exists()) {
        build = build.lock(cooperage::Lock::parse(&std::fs::read(path)?)?);
    }
    if let Some(file) = &args.file {
        build = if file == Path::new("-") {
            let mut text = Vec::new();
            std::io::Read::read_to_end(&mut std::io::stdin(), &mut text)?;
            build.dockerfile_text(text)
        } else {
            build.dockerfile(file)
        };
    }
    if let Some(target) = &args.target {
        build = build.target(target);
    }
    Ok(build)
}

/// `type=registry,ref=NAME`, `type=local,src=PATH` (or `dest`), `type=inline`, or the name of an image alone.
fn cache(text: &str) -> Outcome<Option<CacheLocation>> {
    let fields = fields(text);
    if !text.contains('=') {
        return Ok(Some(CacheLocation::Registry(text.parse()?)));
    }
    Ok(Some(match find(&fields, &["type"]) {
        Some("inline") => return Ok(None),
        Some("registry") => {
            let name = find(&fields, &["ref"]).ok_or_else(|| format!("cache {text:?} has no ref"))?;
            CacheLocation::Registry(name.parse()?)
        }
        Some("local") => {
            let path = find(&fields, &["src", "dest"]);
            CacheLocation::Directory(path.ok_or_else(|| format!("cache {text:?} has no path"))?.into())
        }
        other => return Err(format!("unknown cache type {:?}", other.unwrap_or("")).into()),
    }))
}

fn caches(mut build: Building, args: &Build) -> Outcome<Building> {
    for text in &args.cache_from {
        if let Some(location) = cache(text)? {
            build = build.cache_from(location);
        }
    }
    for text in &args.cache_to {
        build = match cache(text)? {
            Some(location) => build.cache_to(location),
            None => build.inline_cache(true),
        };
    }
    Ok(build)
}

/// Builds twice and says what differs.
async fn check_reproducible(build: Building, renderer: &Renderer) -> Outcome {
    let checked = build.check_reproducible().await;
    renderer.stop();
    let checked = checked?;
    for step in &checked.differences {
        println!("{}", step.step);
        for path in &step.paths {
            println!("  {path}");
        }
    }
    match checked.differences.len() {
        0 => {
            println!("{}", checked.image.id());
            Ok(())
        }
        count => Err(format!("{count} steps made something else the second time").into()),
    }
}

/// Several platforms: their index has the names.
async fn build_index(engine: &Engine, args: &Build) -> Outcome {
    if args.check_reproducible {
        return Err("--check-reproducible is for one platform at a time".into());
    }
    let outputs: Vec<Output> =
        args.output.iter().filter_map(|text| output(text).transpose()).collect::<Outcome<_>>()?;
    let names: Vec<cooperage::image::Reference> =
        args.tag.iter().map(|tag| tag.parse()).collect::<Result<_, _>>()?;
    let platforms: Vec<_> = args.platform.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let renderer = Renderer::new(args.progress());
    let seen = renderer.clone();
    let build = configure(engine, args)?.on_event(move |event: &Event| seen.event(event));
    let built = build.run_all(&platforms).await;
    renderer.stop();
    let built = built?;
    for output in &outputs {
        engine.export_index(&built, &names, output).await?;
    }
    let events: cooperage::EventSink = std::sync::Arc::new(|_| ());
    for name in names.iter().filter(|_| args.push) {
        engine.push_index(&built, name, &events).await?;
    }
    println!("{}", built.descriptor().digest);
    Ok(())
}

pub(crate) async fn build(engine: &Engine, args: Build) -> Outcome {
    if args.platform.len() > 1 {
        return build_index(engine, &args).await;
    }
    let outputs: Vec<Option<Output>> = args.output.iter().map(|text| output(text)).collect::<Outcome<_>>()?;
    let renderer = Renderer::new(args.progress());
    let seen = renderer.clone();
    let build = configure(engine, &args)?.on_event(move |event: &Event| seen.event(event));
    if args.check_reproducible {
        return check_reproducible(build, &renderer).await;
    }
    let built = build.run().await;
    renderer.stop();
    let built = match built {
        Ok(built) => built,
        Err(Error::StepFailed { step, command, exit_code, log, line, .. }) => {
            eprintln!("------\n > {step}:\n{log}------\nDockerfile:{line}");
            return Err(format!("ERROR: failed to solve: process {command:?} did not complete successfully: exit code: {exit_code}").into());
        }
        Err(Error::Dockerfile(diagnostics)) => {
            return Err(format!("ERROR: failed to solve: {diagnostics}").into());
        }
        Err(error) => return Err(error.into()),
    };
    let began = std::time::Instant::now();
    finish(engine, &args, &built, outputs).await?;
    let names: Vec<String> = args
        .tag
        .iter()
        .map(|tag| Ok(tag.parse::<cooperage::image::Reference>()?.with_default_tag().canonical()))
        .collect::<Outcome<_>>()?;
    renderer.finished(&built.image.id().to_string(), &names, began.elapsed());
    if args.quiet {
        println!("{}", built.image.id());
    }
    Ok(())
}

async fn finish(engine: &Engine, args: &Build, built: &Built, outputs: Vec<Option<Output>>) -> Outcome {
    let names: Vec<cooperage::image::Reference> =
        args.tag.iter().map(|tag| tag.parse()).collect::<Result<_, _>>()?;
    for output in outputs.into_iter().flatten() {
        engine.export(&built.image, &names, &output).await?;
    }
    if args.push {
        let events: cooperage::EventSink = std::sync::Arc::new(|_| ());
        for name in &names {
            engine.push(&built.image, name, &events).await?;
        }
    }
    if let Some(path) = args.lock.as_deref().filter(|path| !path.exists()) {
        std::fs::write(path, built.lock().to_text())?;
    }
    if let Some(path) = &args.iidfile {
        std::fs::write(path, built.image.id().to_string())?;
    }
    Ok(())
}

/// What a past build did, a line a step.
pub(crate) fn explain(engine: &Engine, id: &str, list: bool) -> Outcome {
    if list {
        for record in engine.builds()? {
            let end = record.error.as_ref().map_or("done", |_| "failed");
            println!(
                "{}  {}  {end:<6}  {:.1}s  {}",
                record.id,
                record.started,
                record.millis as f64 / 1e3,
                record.name
            );
        }
        return Ok(());
    }
    let record = engine.explain(id)?;
    println!("build {} of {}, {}", record.id, record.name, record.started);
    for step in &record.steps {
        match (&step.cause, step.cached) {
            (_, true) => println!("CACHED  {}", step.name),
            (Some(cause), _) => println!("DONE    {}\n        because {cause}", step.name),
            (None, _) => println!("DONE    {}", step.name),
        }
    }
    if let Some(error) = &record.error {
        println!("FAILED  {error}");
    }
    Ok(())
}
