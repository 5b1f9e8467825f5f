//! Verbs on images and on the store.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Write};
use std::path::PathBuf;

use cooperage::docker::{self, human_size};
use cooperage::image::{ImageId, Reference};
use cooperage::{Engine, Image, Pruned, store};

use crate::Outcome;
use crate::args::{Dedup, History, Images, Prune, Rmi};

/// The image, or docker's words for there being none.
pub(crate) fn find(engine: &Engine, name: &str) -> Outcome<Image> {
    engine.image(name).map_err(|error| {
        if !error.is_not_found() {
            return error.into();
        }
        let full = Reference::parse(name)
            .map_or_else(|_| name.to_owned(), |name| name.with_default_tag().familiar());
        format!("Error response from daemon: No such image: {full}").into()
    })
}

pub(crate) fn tag(engine: &Engine, source: &str, target: &str) -> Outcome {
    find(engine, source)?;
    engine.tag_name(source, &target.parse()?)?;
    Ok(())
}

pub(crate) fn list(engine: &Engine, args: &Images) -> Outcome {
    if args.quiet {
        for row in docker::image_rows(engine)? {
            if !docker::is_of(&row, args.repository.as_deref()) {
                continue;
            }
            let id = row.image.id();
            println!("{}", if args.no_trunc { id.to_string() } else { id.short() });
        }
        return Ok(());
    }
    println!(
        "{}",
        docker::images_table(engine, engine.now(), args.no_trunc, args.digests, args.repository.as_deref())?
    );
    Ok(())
}

pub(crate) fn history(engine: &Engine, args: &History) -> Outcome {
    let image = find(engine, &args.name)?;
    if args.quiet {
        for row in docker::history_rows(engine, &image)? {
            println!("{}", if args.no_trunc { row.id } else { docker::short(&row.id) });
        }
        return Ok(());
    }
    println!("{}", docker::history_table(engine, &image, engine.now(), args.no_trunc)?);
    Ok(())
}

pub(crate) fn inspect(engine: &Engine, names: &[String]) -> Outcome<u8> {
    let (mut found, mut code) = (Vec::new(), 0);
    for name in names {
        match engine.image(name) {
            Ok(image) => found.push(docker::inspect(engine, &image)?),
            Err(error) if error.is_not_found() => {
                eprintln!("Error: No such image: {name}");
                code = 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    println!("{}", docker::pretty(&found));
    Ok(code)
}

/// Removes names; an image goes with its last one.
pub(crate) async fn remove(engine: &Engine, args: &Rmi) -> Outcome {
    for name in &args.names {
        let image = find(engine, name)?;
        let id = image.id();
        let reference = Reference::parse(name).ok().map(|name| name.with_default_tag());
        let named = match reference {
            Some(reference) => engine.store().find_tag(&reference)?,
            None => None,
        };
        let index = named.as_ref().and_then(|tag| tag.index.clone());
        let named = named.map(|tag| tag.name);
        let tags: Vec<_> = engine.store().tags()?.into_iter().filter(|tag| tag.has(&id)).collect();
        let count = tags.iter().filter(|tag| tag.name.tag().is_some()).count();
        if let Some(name) = named {
            // The digest of a repository goes with its last tag there.
            let last = !tags.iter().any(|tag| {
                tag.name != name && tag.name.tag().is_some() && tag.name.repository() == name.repository()
            });
            engine.store().untag(&name)?;
            println!("Untagged: {}", name.familiar());
            for tag in tags
                .iter()
                .filter(|tag| last && tag.name.tag().is_none() && tag.name.repository() == name.repository())
            {
                engine.store().untag(&tag.name)?;
                println!("Untagged: {}", tag.name.familiar());
            }
            if count > 1 {
                continue;
            }
        } else if count > 1 && !args.force {
            let id = id.short();
            return Err(format!("Error response from daemon: conflict: unable to delete {id} (must be forced) - image is referenced in multiple repositories").into());
        } else {
            for tag in &tags {
                println!("Untagged: {}", tag.name.familiar());
            }
        }
        let users = engine.store().containers()?;
        if let Some(user) = users.iter().find(|container| container.image == id)
            && !args.force
        {
            println!(
                "kept {}: container {} uses it",
                id.short(),
                user.id.chars().take(12).collect::<String>()
            );
            continue;
        }
        engine.store().remove_image(&id)?;
        println!("Deleted: {id}");
        // The other images of an index, unless something else has them.
        for other in index.iter().flat_map(|index| &index.images).map(|entry| entry.image) {
            let named = engine.store().tags()?.iter().any(|tag| tag.name.tag().is_some() && tag.has(&other));
            let used = users.iter().any(|container| container.image == other);
            if other != id && !named && !used {
                engine.store().remove_image(&other)?;
                println!("Deleted: {other}");
            }
        }
    }
    engine.gc().await?;
    Ok(())
}

/// Asks on the terminal; anything but `y` is no.
fn confirmed(force: bool, warning: &str) -> Outcome<bool> {
    if force {
        return Ok(true);
    }
    print!("WARNING! {warning}\nAre you sure you want to continue? [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y"))
}

fn report(images: &[(ImageId, Vec<Reference>)]) {
    if images.is_empty() {
        return;
    }
    println!("Deleted Images:");
    for (id, names) in images {
        for name in names {
            println!("untagged: {}", name.familiar());
        }
        println!("deleted: {id}");
    }
    println!();
}

pub(crate) async fn prune(engine: &Engine, args: &Prune) -> Outcome {
    let warning = match args.all {
        true => "This will remove all images without at least one container associated to them.",
        false => "This will remove all dangling images.",
    };
    let mut pruned = Pruned::default();
    if confirmed(args.force, warning)? {
        pruned = engine.prune_images(args.all).await?;
    }
    report(&pruned.images);
    println!("Total reclaimed space: {}", human_size(pruned.collected.bytes));
    Ok(())
}

pub(crate) async fn system_prune(engine: &Engine, args: &Prune) -> Outcome {
    let images = if args.all {
        "all images without at least one container associated to them"
    } else {
        "all dangling images"
    };
    let cache = if args.all { "all build cache" } else { "all dangling build cache" };
    let warning = format!(
        "This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n  - {images}\n  - {cache}\n"
    );
    if !confirmed(args.force, &warning)? {
        return Ok(());
    }
    let (containers, freed) = engine.prune_containers().await?;
    if !containers.is_empty() {
        println!("Deleted Containers:\n{}\n", containers.join("\n"));
    }
    let cache = engine.store().clear_cache()?;
    let pruned = engine.prune_images(args.all).await?;
    report(&pruned.images);
    if !cache.is_empty() {
        println!("Deleted build cache objects:\n{}\n", cache.join("\n"));
    }
    println!("Total reclaimed space: {}", human_size(freed + pruned.collected.bytes));
    Ok(())
}

pub(crate) async fn dedup(engine: &Engine, args: &Dedup) -> Outcome {
    if args.dry_run {
        let found = engine.store().duplicates_from(args.min_size)?;
        println!("Files: {} in {}", found.files, human_size(found.bytes));
        println!("Equal to another: {} in {}", found.copies, human_size(found.copied));
        println!("Sharing: {}", engine.store().file_sharing()?);
        return Ok(());
    }
    let done = engine.deduplicate(store::DedupOptions::default().min_size(args.min_size)).await?;
    println!("Shared: {} files, {}", done.shared, human_size(done.shared_bytes));
    println!("Shared before: {} files, {}", done.already, human_size(done.already_bytes));
    for (reason, count) in &done.skipped {
        println!("Left alone: {count} files, {reason}");
    }
    for finding in &done.damaged {
        eprintln!("WARNING: {finding}");
    }
    Ok(())
}

pub(crate) fn save(engine: &Engine, output: Option<PathBuf>, names: &[String]) -> Outcome {
    let mut images: Vec<(store::ImageRecord, Vec<Reference>)> = Vec::new();
    for name in names {
        let image = find(engine, name)?;
        let reference = Reference::parse(name).ok().map(|name| name.with_default_tag());
        let known = match reference {
            Some(reference) => engine.store().find_tag(&reference)?.map(|tag| tag.name),
            None => None,
        };
        images.push((image.record().clone(), known.into_iter().collect()));
    }
    match output {
        None => store::save(engine.store(), &images, &mut io::stdout().lock())?,
        Some(path) => {
            let mut file = BufWriter::new(File::create(&path)?);
            store::save(engine.store(), &images, &mut file)?;
            file.flush()?;
        }
    }
    Ok(())
}

pub(crate) fn load(engine: &Engine, input: Option<PathBuf>) -> Outcome {
    let (store, now) = (engine.store(), Some(engine.now()));
    let loaded = match input {
        None => store::load(store, &mut io::stdin(), now)?,
        Some(path) if path.is_dir() => store::load_layout(store, &path, now, &|_| true)?,
        Some(path) => store::load(store, &mut File::open(path)?, now)?,
    };
    for loaded in loaded {
        for name in &loaded.names {
            println!("Loaded image: {}", name.familiar());
        }
        if loaded.names.is_empty() {
            println!("Loaded image ID: {}", loaded.image);
        }
    }
    Ok(())
}
