//! The images that a build stands on: in the store, pulled, or read from an OCI layout; each for its platform, at the
//! digest that a lock says, if the policy lets it be used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use dockerfile::ImageRequest;
use image_core::{AnyManifest, Digest, ImageId, Platform, Reference};

use super::Build;
use super::policy::{self, Source};
use crate::engine::Image;
use crate::error::{Error, Result};
use crate::task::blocking;

/// An image that a build stood on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BaseImage {
    /// The name in the Dockerfile, whole.
    pub reference: Reference,
    /// For which platform.
    pub platform: Platform,
    /// What the store has.
    pub id: ImageId,
    /// The digest that the name meant, of the index where there is one; none for an image that was made here.
    pub digest: Option<Digest>,
}

/// What the names of one build's images meant.
#[derive(Debug, Default)]
pub(super) struct Bases(Mutex<BTreeMap<(String, String), BaseImage>>);

fn key(reference: &Reference, platform: &Platform) -> (String, String) {
    (reference.canonical(), platform.to_string())
}

impl Bases {
    fn keep(&self, base: BaseImage) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(key(&base.reference, &base.platform), base);
    }

    pub(super) fn find(&self, reference: &Reference, platform: &Platform) -> Option<BaseImage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key(reference, platform)).cloned()
    }

    pub(super) fn all(&self) -> Vec<BaseImage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The image that a FROM means.
pub(super) async fn image(build: &Build, request: &ImageRequest) -> Result<Image> {
    if let Some(name) = &request.layout {
        let image = layout(build, name, request).await?;
        keep(build, request, &image, request.reference.digest().copied());
        return Ok(image);
    }
    let source = Source::Image { reference: &request.reference, platform: &request.platform };
    let reference =
        policy::image(build.policy.as_deref(), &source)?.unwrap_or_else(|| request.reference.clone());
    let locked = match &build.lock {
        None => None,
        Some(lock) => {
            let found = lock.digest(&reference).or_else(|| reference.digest().copied());
            Some(found.ok_or_else(|| Error::NotLocked { reference: reference.familiar() })?)
        }
    };
    let exact = locked.map_or_else(|| reference.clone(), |digest| reference.at_digest(digest));
    if !build.pull || exact.digest().is_some() {
        let store = build.engine.store();
        if let Some(tag) = store.find_tag(&exact)? {
            let image = build.engine.load(store.image(&tag.image)?)?;
            // A name means one image here, a name elsewhere one for every platform.
            if request.platform.rank(&image.config().platform()).is_some() {
                let digest = match exact.digest() {
                    Some(digest) => Some(*digest),
                    None => known_digest(build, &exact, image.id())?,
                };
                keep(build, request, &image, digest);
                return Ok(image);
            }
        }
    }
    let pulled = build.engine.pull_for(&exact, &request.platform, &build.events).await?;
    keep(build, request, &pulled.image, Some(pulled.digest));
    Ok(pulled.image)
}

fn keep(build: &Build, request: &ImageRequest, image: &Image, digest: Option<Digest>) {
    let (reference, platform) = (request.reference.clone(), request.platform.clone());
    build.bases.keep(BaseImage { reference, platform, id: image.id(), digest });
}

/// The digest that `name` had when it was pulled or pushed.
fn known_digest(build: &Build, name: &Reference, id: ImageId) -> Result<Option<Digest>> {
    let digests = build.engine.store().tags()?.into_iter().filter_map(|tag| {
        let same = tag.image == id && tag.name.domain() == name.domain() && tag.name.path() == name.path();
        tag.name.digest().copied().filter(|_| same)
    });
    Ok(digests.min())
}

/// The directory of the layout that a build calls `name`.
fn place<'a>(build: &'a Build, name: &str) -> Option<&'a Path> {
    build.contexts.iter().find_map(|(known, context)| match context {
        super::NamedContext::Layout(path, _) if known == name => Some(path.as_path()),
        _ => None,
    })
}

async fn layout(build: &Build, name: &str, request: &ImageRequest) -> Result<Image> {
    let store = build.engine.store().clone();
    if let Some(tag) = store.find_tag(&request.reference)? {
        let image = build.engine.load(store.image(&tag.image)?)?;
        if request.platform.rank(&image.config().platform()).is_some() {
            return Ok(image);
        }
    }
    let missing = || Error::unsupported(format!("the OCI layout {name}, which is no named context"));
    let path = place(build, name).ok_or_else(missing)?.to_owned();
    let now = build.engine.now();
    let loaded = {
        let (store, path) = (store.clone(), path.clone());
        blocking(move || load(&store, &path, now)).await?
    };
    let (mut best, mut rank) = (None, u32::MAX);
    for id in loaded {
        let image = build.engine.load(store.image(&id)?)?;
        if let Some(found) = request.platform.rank(&image.config().platform())
            && (best.is_none() || found < rank)
        {
            (best, rank) = (Some(image), found);
        }
    }
    let image = best.ok_or_else(|| Error::NoPlatform {
        reference: path.display().to_string(),
        platform: request.platform.to_string(),
    })?;
    store.tag(&request.reference, &image.id(), Some(now))?;
    Ok(image)
}

/// All images of a layout in a directory, read as the archive that it would be.
fn load(store: &layer_store::Store, path: &Path, now: image_core::Timestamp) -> Result<Vec<ImageId>> {
    let (mut reader, writer) = std::io::pipe().map_err(io(path))?;
    std::thread::scope(|scope| {
        let packed = scope.spawn(move || {
            let mut archive = tar::Builder::new(writer);
            archive.append_dir_all(".", path)?;
            archive.into_inner().map(drop)
        });
        let loaded = layer_store::load_allowing(store, &mut reader, Some(now), &|_| false);
        drop(reader);
        let packed = packed.join().map_err(|_| Error::Worker)?;
        match (loaded, packed) {
            (Ok(loaded), _) => Ok(loaded.into_iter().map(|loaded| loaded.image).collect()),
            // The reader's end makes the writer's pipe break: that says nothing.
            (Err(error), Ok(())) => Err(error.into()),
            (Err(error), Err(broken)) if broken.kind() == std::io::ErrorKind::BrokenPipe => Err(error.into()),
            (Err(_), Err(source)) => Err(io(path)(source)),
        }
    })
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

/// The digest of the image `tag` in the layout at `path`; of its only one without.
pub(super) fn layout_digest(path: &Path, tag: Option<&str>) -> Result<Digest> {
    let file = path.join("index.json");
    let document = AnyManifest::parse(super::read(&file, image_core::MANIFEST_LIMIT)?, None)
        .map_err(|source| Error::Document { what: file.display().to_string(), source })?;
    let AnyManifest::Index(index) = document else {
        return Err(io(&file)(std::io::Error::other("it is no index")));
    };
    let is_named = |annotations: &BTreeMap<String, String>| {
        let name = annotations.get("org.opencontainers.image.ref.name");
        tag.is_some() && name.map(String::as_str) == tag
    };
    let manifests = &index.value().manifests;
    let found = match (manifests.as_slice(), tag) {
        ([one], None) => Some(one),
        _ => manifests.iter().find(|entry| is_named(&entry.annotations)),
    };
    let what = tag.map_or("a single image".to_owned(), |tag| format!("the image {tag}"));
    let missing = || {
        Error::Store(layer_store::Error::NotFound {
            kind: "image of the OCI layout",
            name: format!("{}: {what}", path.display()),
        })
    };
    found.map(|entry| entry.digest).ok_or_else(missing)
}

/// The layout of a name of buildx: `oci-layout://directory[:tag][@digest]`.
pub(super) fn parse_layout(text: &str) -> Option<(PathBuf, LayoutImage)> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_layouts() {
        let digest = Digest::sha256(b"");
        let at = format!("oci-layout:///a/b:v1@{digest}");
        assert_eq!(parse_layout(&at), Some(("/a/b".into(), LayoutImage::Digest(digest))));
        assert_eq!(parse_layout("oci-layout://a:v1"), Some(("a".into(), LayoutImage::Tag("v1".to_owned()))));
        assert_eq!(parse_layout("oci-layout://a:1/b"), Some(("a:1/b".into(), LayoutImage::Only)));
        assert_eq!(parse_layout("docker-image://a"), None);
        assert_eq!(parse_layout("oci-layout://a@sha256:12"), None);
    }
}
