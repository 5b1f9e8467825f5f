//! One OCI image layout per repository: `NAME/_layout/{oci-layout,index.json,blobs/}`. No component of a name starts
//! with an underscore, so a layout is never mistaken for a repository.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use image_core::Digest;
use image_core::layout::{INDEX, MARKER, MARKER_TEXT, REF_NAME};
use serde_json::{Value, json};

use super::{Content, Repository};
use crate::server::answer::member;
use crate::server::handle::describe;
use crate::server::route::is_name;

/// Depth of repository names that are looked for.
const MAX_DEPTH: usize = 64;

fn layout(root: &Path, name: &str) -> PathBuf {
    root.join(name).join("_layout")
}

pub(super) fn blob_path(root: &Path, name: &str, digest: &Digest) -> PathBuf {
    layout(root, name).join(image_core::layout::blob_path(digest))
}

/// Says that the directory is a layout.
fn mark(layout: &Path) -> io::Result<()> {
    let marker = layout.join(MARKER);
    if marker.exists() { Ok(()) } else { fs::write(marker, MARKER_TEXT) }
}

/// Makes the directory that a blob goes to.
pub(super) fn prepare(root: &Path, name: &str, digest: &Digest) -> io::Result<()> {
    let layout = layout(root, name);
    fs::create_dir_all(layout.join("blobs").join(digest.algorithm().name()))?;
    mark(&layout)
}

pub(super) fn write_blob(root: &Path, name: &str, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
    prepare(root, name, digest)?;
    replace(&blob_path(root, name, digest), bytes)
}

/// Writes `index.json`: one entry per tag, and one for each manifest without a tag.
pub(super) fn save(root: &Path, name: &str, repository: &Repository) -> io::Result<()> {
    let mut entries = Vec::new();
    for (digest, manifest) in &repository.manifests {
        let plain = json!({ "mediaType": manifest.media_type, "digest": digest.to_string(), "size": manifest.bytes.len() });
        let tags: Vec<&String> =
            repository.tags.iter().filter(|(_, of)| *of == digest).map(|(tag, _)| tag).collect();
        if tags.is_empty() {
            entries.push(plain.clone());
        }
        for tag in tags {
            let mut entry = plain.clone();
            member(&mut entry, "annotations", json!({ REF_NAME: tag }));
            entries.push(entry);
        }
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    let layout = layout(root, name);
    fs::create_dir_all(&layout)?;
    mark(&layout)?;
    replace(&layout.join(INDEX), index.to_string().as_bytes())
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&temporary, path)
}

/// All repositories below `root`.
pub(super) fn load(root: &Path) -> io::Result<BTreeMap<String, Repository>> {
    let mut found = BTreeMap::new();
    walk(root, "", 0, &mut found)?;
    Ok(found)
}

fn walk(root: &Path, name: &str, depth: usize, found: &mut BTreeMap<String, Repository>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    let directory = root.join(name);
    if !name.is_empty() && layout(root, name).join(MARKER).exists() {
        found.insert(name.to_owned(), read(root, name)?);
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(component) = entry.file_name().into_string() else { continue };
        if entry.file_type()?.is_dir() && is_name(&component) {
            let below = if name.is_empty() { component } else { format!("{name}/{component}") };
            walk(root, &below, depth + 1, found)?;
        }
    }
    Ok(())
}

fn read(root: &Path, name: &str) -> io::Result<Repository> {
    let mut repository = Repository::default();
    let layout = layout(root, name);
    let blobs = layout.join("blobs");
    if blobs.exists() {
        for algorithm in fs::read_dir(&blobs)? {
            let algorithm = algorithm?;
            let Ok(kind) = algorithm.file_name().into_string() else { continue };
            for blob in fs::read_dir(algorithm.path())? {
                let blob = blob?;
                let Ok(hex) = blob.file_name().into_string() else { continue };
                let Ok(digest) = format!("{kind}:{hex}").parse::<Digest>() else { continue };
                let content = Content::File { path: blob.path(), size: blob.metadata()?.len() };
                repository.blobs.insert(digest, content);
            }
        }
    }
    let index = match fs::read(layout.join(INDEX)) {
        Ok(text) => serde_json::from_slice::<Value>(&text).map_err(io::Error::from)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(repository),
        Err(error) => return Err(error),
    };
    for entry in index.get("manifests").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let Some(digest) = text("digest").and_then(|text| text.parse::<Digest>().ok()) else { continue };
        let bytes = fs::read(blob_path(root, name, &digest))?;
        if let Ok(manifest) = describe(text("mediaType"), bytes.into()) {
            repository.blobs.remove(&digest);
            repository.manifests.insert(digest, manifest);
            let tag = entry.get("annotations").and_then(|all| all.get(REF_NAME)).and_then(Value::as_str);
            if let Some(tag) = tag {
                repository.tags.insert(tag.to_owned(), digest);
            }
        }
    }
    Ok(repository)
}
