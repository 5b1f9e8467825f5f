//! What docker prints, as text: tables, sizes, ages, `inspect`.
//!
//! Nothing here prints; a command line does. Column widths, wording and rounding are docker's, so that scripts that
//! read its output read this. Where an image was built on this host, CREATED columns show when; the image itself
//! carries the reproducible time.

use image_core::{ContainerConfig, History, ImageId, Timestamp, history};
use layer_store::{ContainerRecord, ContainerStatus};
use serde::Serialize;

use crate::engine::{Engine, Image};
use crate::error::Result;

mod table;
mod units;

pub use table::Table;
pub use units::{age, human_size, human_size_short};

/// How long CREATED BY may be.
const CREATED_BY: usize = 45;
/// What an unknown layer or name is called.
const MISSING: &str = "<missing>";

/// `text`, cut to `length` characters with an ellipsis.
#[must_use]
pub fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let cut: String = text.chars().take(length.saturating_sub(1)).collect();
    cut + "…"
}

/// One row of `history`, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryRow {
    /// The image ID for the newest entry, `<missing>` for the others.
    pub id: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// By which command.
    pub created_by: String,
    /// Bytes of its layer.
    pub size: u64,
    /// Anything else.
    pub comment: String,
}

/// The rows of `history` for `image`, newest first.
///
/// # Errors
/// [`crate::Error::Store`].
pub fn history_rows(engine: &Engine, image: &Image) -> Result<Vec<HistoryRow>> {
    let config = image.config();
    let layers = engine.store().image_layers(image.record())?;
    let size = |diff_id| {
        layers.iter().find(|layer| layer.diff_id() == diff_id).map_or(0, |layer| layer.index().size())
    };
    let empty = History::default();
    let pairs = history::pair(&config.history, &config.rootfs.diff_ids);
    let own = config.history.len().saturating_sub(image.record().steps);
    let rows = pairs.into_iter().enumerate().rev().enumerate().map(|(row, (position, (entry, layer)))| {
        let entry = entry.unwrap_or(&empty);
        let built = image.record().built.filter(|_| position >= own);
        HistoryRow {
            id: if row == 0 { image.id().to_string() } else { MISSING.to_owned() },
            created: built.or(entry.created),
            created_by: entry.created_by.replace('\t', " "),
            size: layer.map_or(0, size),
            comment: entry.comment.clone(),
        }
    });
    Ok(rows.collect())
}

/// The table of `history`.
///
/// # Errors
/// As [`history_rows`].
pub fn history_table(engine: &Engine, image: &Image, now: Timestamp, full: bool) -> Result<Table> {
    let mut table = Table::new(["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for row in history_rows(engine, image)? {
        let created_by = if full { row.created_by } else { ellipsis(&row.created_by, CREATED_BY) };
        let id = if full { row.id } else { short(&row.id) };
        table.row([id, ago(row.created, now), created_by, human_size_short(row.size), row.comment]);
    }
    Ok(table)
}

/// `sha256:9f86…` as twelve characters.
#[must_use]
pub fn short(id: &str) -> String {
    match id.strip_prefix("sha256:") {
        Some(hex) => hex.chars().take(12).collect(),
        None => id.to_owned(),
    }
}

/// `2 weeks ago`; `N/A` for times that nobody meant.
#[must_use]
pub fn ago(time: Option<Timestamp>, now: Timestamp) -> String {
    match time {
        Some(time) if time.seconds() > 0 => format!("{} ago", age(now.since(time))),
        _ => "N/A".to_owned(),
    }
}

/// What `image inspect` prints for one image, in docker's order.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct Inspect {
    /// The image ID.
    pub id: ImageId,
    /// Names with a tag.
    pub repo_tags: Vec<String>,
    /// Names with a digest.
    pub repo_digests: Vec<String>,
    /// Of the newest history entry.
    pub comment: String,
    /// The image's own time.
    pub created: Option<Timestamp>,
    /// Who made it.
    pub author: String,
    /// How a container of it is run.
    pub config: ContainerConfig,
    /// The processor.
    pub architecture: String,
    /// Its variant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating system.
    pub os: String,
    /// Bytes of its layers.
    pub size: u64,
    /// The layers.
    #[serde(rename = "RootFS")]
    pub root_fs: serde_json::Value,
    /// When it was tagged last.
    pub metadata: serde_json::Value,
    /// Its manifest, once an encoding is fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<serde_json::Value>,
}

/// What `image inspect` prints for `image`.
///
/// # Errors
/// [`crate::Error::Store`].
pub fn inspect(engine: &Engine, image: &Image) -> Result<Inspect> {
    let (config, record) = (image.config(), image.record());
    let tags: Vec<_> = engine.store().tags()?.into_iter().filter(|tag| tag.image == image.id()).collect();
    let names = |digest: bool| -> Vec<String> {
        tags.iter().filter(|tag| tag.name.tag().is_none() == digest).map(|tag| tag.name.familiar()).collect()
    };
    let layers = engine.store().image_layers(record)?;
    let descriptor = record.manifest.as_ref().map(|manifest| {
        serde_json::json!({"mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size})
    });
    Ok(Inspect {
        id: image.id(),
        repo_tags: names(false),
        repo_digests: names(true),
        comment: config.history.last().map(|entry| entry.comment.clone()).unwrap_or_default(),
        created: config.created,
        author: config.author.clone().unwrap_or_default(),
        config: config.config.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        size: layers.iter().map(|layer| layer.index().size()).sum(),
        root_fs: serde_json::json!({"Type": "layers", "Layers": config.rootfs.diff_ids}),
        metadata: serde_json::json!({"LastTagTime": tags.iter().filter_map(|tag| tag.tagged).max()}),
        descriptor,
    })
}

/// `value` as `inspect` prints it: four spaces.
#[must_use]
pub fn pretty(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut writer = serde_json::Serializer::with_formatter(
        &mut bytes,
        serde_json::ser::PrettyFormatter::with_indent(b"    "),
    );
    match value.serialize(&mut writer) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// The table of `images`.
///
/// # Errors
/// [`crate::Error::Store`].
pub fn images_table(
    engine: &Engine,
    now: Timestamp,
    full: bool,
    digests: bool,
    repository: Option<&str>,
) -> Result<Table> {
    let mut header = vec!["REPOSITORY", "TAG"];
    header.extend(digests.then_some("DIGEST"));
    header.extend(["IMAGE ID", "CREATED", "SIZE"]);
    let mut table = Table::new(header);
    for row in image_rows(engine)?.into_iter().filter(|row| is_of(row, repository)) {
        let id = if full { row.image.id().to_string() } else { row.image.id().short() };
        let mut cells = vec![row.repository, row.tag];
        if digests {
            cells.push(row.digest);
        }
        cells.extend([id, ago(row.created, now), human_size_short(row.size)]);
        table.row(cells);
    }
    Ok(table)
}

/// Whether `row` is what `images NAME` asks for: a repository, or a repository with a tag.
#[must_use]
pub fn is_of(row: &ImageRow, name: Option<&str>) -> bool {
    name.is_none_or(|name| name == row.repository || name == format!("{}:{}", row.repository, row.tag))
}

/// One row of `images`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImageRow {
    /// `<none>` for an image without a name.
    pub repository: String,
    /// `<none>` for an image without a tag.
    pub tag: String,
    /// The manifest digest under which the repository has it, or `<none>`.
    pub digest: String,
    /// The image.
    pub image: Image,
    /// When it was built here, else its own `created`.
    pub created: Option<Timestamp>,
    /// Bytes of its layers.
    pub size: u64,
}

/// The rows of `images`, newest first: one a name, and one for every image without.
///
/// # Errors
/// [`crate::Error::Store`].
pub fn image_rows(engine: &Engine) -> Result<Vec<ImageRow>> {
    let store = engine.store();
    let tags = store.tags()?;
    let mut rows = Vec::new();
    for record in store.images()? {
        let id = record.id();
        let size = store.image_layers(&record)?.iter().map(|layer| layer.index().size()).sum();
        let image = engine.load(record)?;
        let created = image.record().built.or(image.config().created);
        let none = || "<none>".to_owned();
        let mut named = false;
        for tag in tags.iter().filter(|tag| tag.image == id && tag.name.tag().is_some()) {
            named = true;
            let repository = tag.name.familiar_repository();
            let same = |other: &&layer_store::Tag| {
                other.image == id
                    && other.name.tag().is_none()
                    && other.name.repository() == tag.name.repository()
            };
            let digest = tags
                .iter()
                .find(same)
                .and_then(|tag| tag.name.digest())
                .map_or_else(none, ToString::to_string);
            let name = tag.name.tag().unwrap_or_default().to_owned();
            rows.push(ImageRow { repository, tag: name, digest, image: image.clone(), created, size });
        }
        // An image of an index that has a name is shown by the one for this host.
        named |= tags.iter().any(|tag| tag.index.as_ref().is_some_and(|index| index.has(&id)));
        if !named {
            let repository = tags
                .iter()
                .find(|tag| tag.image == id)
                .map_or_else(none, |tag| tag.name.familiar_repository());
            let digest = tags
                .iter()
                .find(|tag| tag.image == id)
                .and_then(|tag| tag.name.digest())
                .map_or_else(none, ToString::to_string);
            rows.push(ImageRow { repository, tag: none(), digest, image, created, size });
        }
    }
    rows.sort_by(|a, b| {
        b.created.cmp(&a.created).then_with(|| (&a.repository, &a.tag).cmp(&(&b.repository, &b.tag)))
    });
    Ok(rows)
}

/// The table of `ps`.
///
/// # Errors
/// [`crate::Error::Store`].
pub fn containers_table(engine: &Engine, now: Timestamp, all: bool) -> Result<Table> {
    let mut table = Table::new(["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
    for container in engine.store().containers()? {
        if all || container.status == ContainerStatus::Running {
            let command = format!("\"{}\"", ellipsis(&command_line(&container.command), 20));
            let id = container.id.chars().take(12).collect();
            table.row([
                id,
                container.image_name.clone(),
                command,
                ago(Some(container.created), now),
                status(&container, now),
                String::new(),
                container.name,
            ]);
        }
    }
    Ok(table)
}

/// The words of a command as docker shows them: those with a blank in single quotes.
fn command_line(words: &[String]) -> String {
    let quoted = words.iter().map(|word| {
        let is_plain = !word.is_empty() && !word.contains(char::is_whitespace);
        if is_plain { word.clone() } else { format!("'{word}'") }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// `Up 3 minutes`, `Exited (0) 3 minutes ago`.
#[must_use]
pub fn status(container: &ContainerRecord, now: Timestamp) -> String {
    match container.status {
        ContainerStatus::Running => {
            format!("Up {}", age(now.since(container.started.unwrap_or(container.created))))
        }
        ContainerStatus::Created => "Created".to_owned(),
        _ => format!(
            "Exited ({}) {}",
            container.exit_code.unwrap_or(137),
            ago(container.finished.or(Some(container.created)), now)
        ),
    }
}

/// The table of `system df`.
///
/// # Errors
/// [`crate::Error::Store`].
pub fn df_table(engine: &Engine) -> Result<Table> {
    let usage = engine.usage()?;
    let percent = |part: u64, whole: u64| match whole {
        0 => human_size(part),
        whole => format!("{} ({}%)", human_size(part), part.saturating_mul(100) / whole),
    };
    let mut table = Table::new(["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
    let images = [
        usage.images.len().to_string(),
        usage.active_images().to_string(),
        human_size(usage.images_size),
        percent(usage.images_reclaimable, usage.images_size),
    ];
    let written: u64 = usage.containers.iter().map(|container| container.size).sum();
    let idle: u64 = usage
        .containers
        .iter()
        .filter(|container| container.record.status != ContainerStatus::Running)
        .map(|container| container.size)
        .sum();
    let containers = [
        usage.containers.len().to_string(),
        usage.running().to_string(),
        human_size(written),
        percent(idle, written),
    ];
    let zero = ["0", "0", "0B", "0B"].map(str::to_owned);
    let cache = [
        usage.cache.len().to_string(),
        "0".to_owned(),
        human_size(usage.cache_size),
        human_size(usage.cache_size),
    ];
    for (name, cells) in
        [("Images", images), ("Containers", containers), ("Local Volumes", zero), ("Build Cache", cache)]
    {
        table.row(std::iter::once(name.to_owned()).chain(cells));
    }
    Ok(table)
}
