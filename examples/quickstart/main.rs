//! The whole SDK in one run: `cargo run --release --example quickstart`.
//!
//! Makes a base image from the host's own shell, serves it from an in-process registry, builds a Dockerfile on it, runs,
//! pushes, drops, pulls and runs the result, builds again with and without a change, and cleans up. It needs no
//! network, no daemon, no installed package and no root.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to a terminal")]

mod base;
mod elf;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use cooperage::docker::{df_table, history_table, human_size, inspect, pretty};
use cooperage::image::Reference;
use cooperage::registry::server::Registry;
use cooperage::runtime::Host;
use cooperage::{Built, Context, Engine, EngineOptions, Event, Image};

/// The build context, carried in the program so that it runs wherever it is put.
const CONTEXT: [(&str, &str); 4] = [
    ("Dockerfile", include_str!("context/Dockerfile")),
    ("greeting.txt", include_str!("context/greeting.txt")),
    ("make.sh", include_str!("context/make.sh")),
    ("app.sh", include_str!("context/app.sh")),
];

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// What took how long, for the summary.
struct Walk {
    parts: Vec<(String, f64)>,
    began: Instant,
}

impl Walk {
    fn part(&mut self, what: &str) {
        self.parts.push((what.to_owned(), self.began.elapsed().as_secs_f64()));
        self.began = Instant::now();
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let host = Host::probe();
    for fact in [&host.user_namespaces, &host.overlay] {
        if let Err(hint) = fact
            && (host.euid != 0 || std::ptr::eq(fact, &host.overlay))
        {
            eprintln!("quickstart: {}\nhint: {}", hint.fact(), hint.remedy());
            return ExitCode::FAILURE;
        }
    }
    match walk().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  caused by: {error}");
                cause = error.source();
            }
            if let Some(hint) = error.downcast_ref::<cooperage::Error>().and_then(cooperage::Error::hint) {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn walk() -> Outcome {
    let mut walk = Walk { parts: Vec::new(), began: Instant::now() };
    let directory = tempfile::tempdir()?;
    let registry = Registry::in_memory().listen("127.0.0.1:0").await?;
    let engine = Engine::open(EngineOptions::rooted_at(directory.path())).await?;
    let nothing: cooperage::EventSink = std::sync::Arc::new(|_| ());

    println!("== 1. a base image from this host, into the registry at {}", registry.addr());
    let base_name: Reference = format!("{}/base:latest", registry.addr()).parse()?;
    let base = base::make(&engine, &base_name)?;
    let pushed = engine.push(&base, &base_name, &nothing).await?;
    println!("{base_name}: {} layers, digest {}", base.record().layers.len(), pushed.digest);
    engine.prune_images(true).await?;
    walk.part("base image made and pushed");

    println!("\n== 2. build");
    let context = directory.path().join("context");
    std::fs::create_dir(&context)?;
    for (name, text) in CONTEXT {
        std::fs::write(context.join(name), text)?;
    }
    let built = build(&engine, &context, &base_name).await?;
    walk.part("first build");

    println!("\n== 3. history, inspect, run, push, drop, pull, run");
    println!("{}\n", history_table(&engine, &built.image, engine.now(), false)?);
    println!("{}\n", pretty(&[inspect(&engine, &built.image)?]));
    run(&engine, &built.image).await?;
    walk.part("first run");
    let name: Reference = format!("{}/org/app:v1", registry.addr()).parse()?;
    engine.tag(&built.image, &name)?;
    let pushed = engine.push(&built.image, &name, &nothing).await?;
    println!("pushed {name}: digest {} size {}", pushed.digest, pushed.size);
    walk.part("push");
    engine.store().remove_image(&built.image.id())?;
    engine.store().clear_cache()?;
    let dropped = engine.gc().await?;
    println!("dropped the image: {} layers, {} blobs", dropped.layers.len(), dropped.blobs.len());
    let pulled = engine.pull(&name, &nothing).await?;
    if pulled.digest != pushed.digest || pulled.image.id() != built.image.id() {
        return Err(format!("pulled {} instead of {}", pulled.digest, pushed.digest).into());
    }
    println!("pulled {name}: the same digest");
    walk.part("pull");
    run(&engine, &pulled.image).await?;
    walk.part("second run");

    println!("\n== 4. build again: unchanged, then with one changed file");
    // The cache went with the image: the first of these fills it again, to the same image.
    let again = build(&engine, &context, &base_name).await?;
    if again.image.id() != built.image.id() {
        return Err("the same inputs gave another image".into());
    }
    let cached = build(&engine, &context, &base_name).await?;
    if let Some(step) = cached.steps.iter().find(|step| !step.cached) {
        return Err(format!("{} was not cached", step.name).into());
    }
    walk.part("rebuild, all cached");
    std::fs::write(context.join("greeting.txt"), "good morning\n")?;
    let changed = build(&engine, &context, &base_name).await?;
    for step in changed.steps.iter().filter(|step| !step.cached) {
        println!(
            "rebuilt {}: {}",
            step.name,
            step.cause.as_ref().map(ToString::to_string).unwrap_or_default()
        );
    }
    walk.part("rebuild, one file changed");

    println!("\n== 5. what it costs, and cleaning up");
    println!("{}\n", df_table(&engine)?);
    engine.store().clear_cache()?;
    engine.prune_containers().await?;
    let pruned = engine.prune_images(true).await?;
    println!("pruned {} images, reclaimed {}\n", pruned.images.len(), human_size(pruned.collected.bytes));
    println!("{}", df_table(&engine)?);
    drop(engine);
    registry.shutdown().await;
    let path = directory.path().to_owned();
    directory.close()?;
    if path.exists() {
        return Err(format!("{} is still there", path.display()).into());
    }
    walk.part("prune and clean up");

    println!("\n== done: nothing is left behind");
    for (what, seconds) in walk.parts {
        println!("{seconds:7.3} s  {what}");
    }
    Ok(())
}

async fn build(engine: &Engine, context: &Path, base: &Reference) -> Outcome<Built> {
    let build = engine.build(Context::directory(context)).arg("BASE", base.canonical()).arg("VERSION", "1.2");
    let built = build.tag("quickstart:latest".parse()?).on_event(|event| println!("{event}")).run().await?;
    println!("built {}", built.image.id());
    Ok(built)
}

/// Runs the image as its own user; where the host gives only one id, as root of the container, and says so.
async fn run(engine: &Engine, image: &Image) -> Outcome {
    let print = |event: &Event| {
        if let Event::Output { bytes, .. } = event {
            print!("{}", String::from_utf8_lossy(bytes));
        }
    };
    let container = || engine.container(image).remove(true).args(["reader"]).on_event(print);
    let ended = match container().run().await {
        Err(error) if error.needs_second_id() => {
            println!(
                "skipped: running as user 1000, since this user has a single id; running as root of the container"
            );
            container().user("0").run().await?
        }
        other => other?,
    };
    println!("exit code {}", ended.code);
    if ended.code == 3 { Ok(()) } else { Err(format!("expected exit code 3, got {}", ended.code).into()) }
}
