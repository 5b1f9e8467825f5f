//! OCI layouts in directories, as sources of images.
//!
//! ```text
//!  index.json ─name or only one─▶ manifest or index ─platform─▶ manifest ─▶ config = the image's ID
//! ```
//!
//! Specification: image-spec, image-layout.md. Every blob that is read here has its digest checked.

use std::path::{Path, PathBuf};

use dockerfile::ImageRequest;
use image_core::{AnyManifest, Descriptor, Digest, ImageId, Index, Platform};

use super::Build;
use crate::engine::Image;
use crate::error::{Error, Result};
use crate::task::blocking;

/// An index may name an index.
const DEPTH_LIMIT: usize = 3;

/// Which image of an OCI layout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutImage {
    /// The only one that it has.
    #[default]
    Only,
    /// The one with this `org.opencontainers.image.ref.name`.
    Tag(String),
    /// The manifest or index of this digest.
    Digest(Digest),
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

fn wrong(path: &Path, what: &str) -> Error {
    io(path)(std::io::Error::other(what.to_owned()))
}

/// Where a layout has the blob of this digest.
pub(super) fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join(image_core::layout::blob_path(digest))
}

fn parse(path: &Path, bytes: Vec<u8>) -> Result<AnyManifest> {
    AnyManifest::parse(bytes, None)
        .map_err(|source| Error::Document { what: path.display().to_string(), source })
}

/// The `index.json` of the layout at `path`.
pub(super) fn index(path: &Path) -> Result<Index> {
    let file = path.join(image_core::layout::INDEX);
    match parse(&file, super::read(&file, image_core::MANIFEST_LIMIT)?)? {
        AnyManifest::Index(index) => Ok(index.into_parts().0),
        _ => Err(wrong(&file, "it is no index")),
    }
}

/// The manifest or index with this digest.
pub(super) fn manifest(path: &Path, digest: &Digest) -> Result<AnyManifest> {
    let file = blob_path(path, digest);
    let bytes = super::read(&file, image_core::MANIFEST_LIMIT)?;
    if Digest::of(digest.algorithm(), &bytes) != *digest {
        return Err(wrong(&file, "its content has another digest"));
    }
    parse(&file, bytes)
}

/// The digest of what `image` is in the layout at `path`.
pub(super) fn digest(path: &Path, image: &LayoutImage) -> Result<Digest> {
    let named = |tag: &str, entry: &Descriptor| {
        entry.annotations.get(image_core::layout::REF_NAME).is_some_and(|name| name == tag)
    };
    let manifests = match image {
        LayoutImage::Digest(digest) => return Ok(*digest),
        _ => index(path)?.manifests,
    };
    let (found, what) = match image {
        LayoutImage::Tag(tag) => {
            (manifests.iter().find(|entry| named(tag, entry)), format!("the image {tag}"))
        }
        _ => {
            // What refers to the image is none.
            let mut images = manifests.iter().filter(|entry| entry.artifact_type.is_none());
            let first = images.next().filter(|_| images.next().is_none());
            (first, "a single image".to_owned())
        }
    };
    let missing = || layer_store::Error::NotFound {
        kind: "image of the OCI layout",
        name: format!("{}: {what}", path.display()),
    };
    Ok(found.ok_or_else(missing)?.digest)
}

/// The ID of the image for `platform` that the manifest or index `digest` means; none when there is none for it.
fn image_id(path: &Path, digest: &Digest, platform: &Platform, depth: usize) -> Result<Option<ImageId>> {
    if depth > DEPTH_LIMIT {
        return Err(wrong(&blob_path(path, digest), "indexes in indexes are nested too deeply"));
    }
    match manifest(path, digest)? {
        AnyManifest::Manifest(document) => Ok(Some(ImageId::new(document.value().config.digest))),
        AnyManifest::Index(index) => match index.value().select(platform) {
            Some(chosen) => image_id(path, &chosen.digest, platform, depth + 1),
            None => Ok(None),
        },
        _ => Err(Error::unsupported("this kind of manifest")),
    }
}

/// The image that a build asks for by the name that it gave a layout, read into the store.
pub(super) async fn image(build: &Build, name: &str, request: &ImageRequest) -> Result<Image> {
    let place = build.contexts.iter().find_map(|(known, context)| match context {
        super::NamedContext::Layout(path, _) if known == name => Some(path.clone()),
        _ => None,
    });
    let missing = || Error::unsupported(format!("the OCI layout {name}, which is no named context"));
    let (path, digest) = (place.ok_or_else(missing)?, request.reference.digest().copied());
    let digest = digest.ok_or_else(missing)?;
    let (store, platform, now) = (build.engine.store().clone(), request.platform.clone(), build.engine.now());
    let record = blocking(move || {
        let none =
            || Error::NoPlatform { reference: path.display().to_string(), platform: platform.to_string() };
        let id = image_id(&path, &digest, &platform, 0)?.ok_or_else(none)?;
        match store.image(&id) {
            Ok(record) if store.image_layers(&record).is_ok() => Ok(record),
            _ => {
                // Names in it stay its own.
                layer_store::load_layout_for(&store, &path, &platform, Some(now), &|_| false)?;
                Ok(store.image(&id)?)
            }
        }
    })
    .await?;
    // So that no collection takes it while it is built upon.
    build.engine.store().tag(&request.reference, &record.id(), Some(now))?;
    build.engine.load(record)
}

/// The layout of a name of buildx: `oci-layout://directory[:tag][@digest]`.
pub(super) fn parse_name(text: &str) -> Option<(PathBuf, LayoutImage)> {
    let rest = text.strip_prefix("oci-layout://")?;
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().ok()?)),
        None => (rest, None),
    };
    let (directory, tag) = match rest.rsplit_once(':') {
        Some((directory, tag)) if !tag.contains('/') => (directory, Some(tag.to_owned())),
        _ => (rest, None),
    };
    let image = match (digest, tag) {
        (Some(digest), _) => LayoutImage::Digest(digest),
        (None, Some(tag)) => LayoutImage::Tag(tag),
        (None, None) => LayoutImage::Only,
    };
    Some((directory.into(), image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layouts() {
        let digest = Digest::sha256(b"");
        let at = format!("oci-layout:///a/b:v1@{digest}");
        assert_eq!(parse_name(&at), Some(("/a/b".into(), LayoutImage::Digest(digest))));
        assert_eq!(parse_name("oci-layout://a:v1"), Some(("a".into(), LayoutImage::Tag("v1".to_owned()))));
        assert_eq!(parse_name("oci-layout://a:1/b"), Some(("a:1/b".into(), LayoutImage::Only)));
        assert_eq!(parse_name("docker-image://a"), None);
        assert_eq!(parse_name("oci-layout://a@sha256:12"), None);
    }
}
