//! A base image from what the host has: a shell and a few tools, with the libraries that they say they need.

use std::collections::BTreeMap;
use std::error::Error;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cooperage::image::{Document, History, ImageConfig, MediaType, Reference, Timestamp};
use cooperage::store::{Composer, Entry, ImageRecord, Kind, Layer, View};
use cooperage::{Engine, Image};

use crate::elf;

const TOOLS: [&str; 8] = ["sh", "cat", "id", "ls", "mkdir", "rm", "sleep", "touch"];
/// The image's date, whatever the host's files say: 2026-01-01.
const CREATED: Timestamp = Timestamp::from_seconds(1_767_225_600);

fn tool(name: &str) -> Result<PathBuf, String> {
    let places = ["/bin", "/usr/bin"].map(|place| Path::new(place).join(name));
    places
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| format!("the host has no {name} in /bin or /usr/bin"))
}

fn entry(mode: u32) -> Entry {
    Entry::new(Kind::Fifo, mode, 0, 0, (CREATED.seconds(), 0))
}

fn add(layer: &mut Composer, files: &BTreeMap<PathBuf, PathBuf>) -> Result<(), Box<dyn Error>> {
    for (path, real) in files {
        let path = path.as_os_str().as_bytes();
        layer.file(path.strip_prefix(b"/").unwrap_or(path), &mut std::fs::File::open(real)?, entry(0o755))?;
    }
    Ok(())
}

/// Makes the image `name` in the engine's store: two layers, a config, a history.
pub(crate) fn make(engine: &Engine, name: &Reference) -> Result<Image, Box<dyn Error>> {
    let shell = elf::closure(&[tool("sh")?])?;
    let mut tools = elf::closure(&TOOLS.into_iter().map(tool).collect::<Result<Vec<_>, _>>()?)?;
    tools.retain(|path, _| !shell.contains_key(path));
    let work = engine.store().begin()?;
    let mut layers: Vec<Layer> = Vec::new();
    let mut layer = work.compose(View::default())?;
    layer.set_default_mtime(CREATED);
    add(&mut layer, &shell)?;
    layer.directory(b"tmp", entry(0o1777))?;
    layer.file(
        b"etc/passwd",
        &mut "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/app:/bin/sh\n".as_bytes(),
        entry(0o644),
    )?;
    layer.file(b"etc/group", &mut "root:x:0:\napp:x:1000:\n".as_bytes(), entry(0o644))?;
    layer.file(b"etc/stale", &mut "to be removed\n".as_bytes(), entry(0o644))?;
    layers.push(layer.finish(Some(CREATED))?);
    let mut layer = work.compose(View::of(&layers))?;
    layer.set_default_mtime(CREATED);
    add(&mut layer, &tools)?;
    layers.push(layer.finish(Some(CREATED))?);

    let mut config = ImageConfig::empty(engine.platform());
    config.created = Some(CREATED);
    config.config.env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    config.config.cmd = Some(vec!["/bin/sh".to_owned()]);
    config.rootfs.diff_ids = layers.iter().map(Layer::diff_id).collect();
    for what in ["the host's shell", "a few tools"] {
        let mut history = History::default();
        history.created = Some(CREATED);
        history.created_by = format!("quickstart: {what}");
        config.history.push(history);
    }
    let document = Document::from_value(config)?;
    let config = work.put_blob(MediaType::OciConfig, document.bytes())?;
    work.commit()?;
    engine.store().put_image(&ImageRecord::new(config.clone(), &layers))?;
    let image = engine.image(&config.digest.to_string())?;
    engine.tag(&image, name)?;
    Ok(image)
}
