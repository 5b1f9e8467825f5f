//! OCI layouts that are directories, and indexes in indexes.

use std::path::Path;
use std::process::Command;

use image_core::{
    Algorithm, Descriptor, Digest, Document, ImageConfig, Index, Manifest, MediaType, Platform, Reference,
};
use layer_store::{Encoder, Error, Store, load_layout};

use crate::peers;
use crate::tarball::{archive, dir, file};

/// Writes `bytes` as a blob of the layout at `root`.
fn blob(root: &Path, algorithm: Algorithm, media_type: MediaType, bytes: &[u8]) -> Descriptor {
    let digest = Digest::of(algorithm, bytes);
    let place = root.join("blobs").join(algorithm.name());
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join(digest.hex()), bytes).unwrap();
    Descriptor::new(media_type, digest, bytes.len() as u64)
}

fn image(root: &Path, algorithm: Algorithm, platform: &Platform, text: &str) -> Descriptor {
    let tar = archive(&[dir("d"), file("d/text", text)]);
    let layer = blob(root, algorithm, Encoder::Plain.media_type(), &tar);
    let mut config = ImageConfig::empty(platform);
    config.rootfs.diff_ids = vec![image_core::DiffId::new(Digest::sha256(&tar))];
    let config = Document::from_value(config).unwrap();
    let config = blob(root, algorithm, MediaType::OciConfig, config.bytes());
    let manifest = Document::from_value(Manifest::oci(config, vec![layer])).unwrap();
    blob(root, algorithm, MediaType::OciManifest, manifest.bytes()).with_platform(platform.clone())
}

fn index(root: &Path, manifests: Vec<Descriptor>) {
    let index = Document::from_value(Index::oci(manifests)).unwrap();
    std::fs::write(root.join("index.json"), index.bytes()).unwrap();
    std::fs::write(root.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
}

fn named(entry: Descriptor, name: &str) -> Descriptor {
    entry.with_annotation("org.opencontainers.image.ref.name", name)
}

#[test]
fn a_layout_is_loaded_with_its_manifest_by_either_algorithm() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("layout");
        let manifest = image(&root, algorithm, &Platform::host(), "one");
        index(&root, vec![named(manifest.clone(), "org/one:v1")]);
        let store = Store::open(&place.path().join("store")).unwrap();
        let loaded = load_layout(&store, &root, None, &|_| true).unwrap();
        assert_eq!(loaded[0].names, [Reference::parse("org/one:v1").unwrap()]);
        let record = store.image(&loaded[0].image).unwrap();
        assert_eq!(record.manifest.as_ref().unwrap().digest, manifest.digest, "pushed as it came");
        store.gc().unwrap();
        assert!(store.check().unwrap().is_sound(), "{:?}", store.check().unwrap().findings);
        assert!(store.read_blob(&manifest.digest).is_ok());
    }
}

#[test]
fn of_an_index_in_the_index_the_hosts_image_is_taken() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("layout");
    let host = image(&root, Algorithm::Sha256, &Platform::host(), "host");
    let other = image(&root, Algorithm::Sha256, &Platform::new("plan9", "mips"), "other");
    let unknown =
        Descriptor::of(MediaType::OciManifest, b"{}").with_platform(Platform::new("unknown", "unknown"));
    let inner = Document::from_value(Index::oci(vec![unknown, other, host.clone()])).unwrap();
    let inner = blob(&root, Algorithm::Sha256, MediaType::OciIndex, inner.bytes());
    index(&root, vec![named(inner, "org/many:v1")]);
    let store = Store::open(&place.path().join("store")).unwrap();
    let loaded = load_layout(&store, &root, None, &|_| false).unwrap();
    assert!(loaded[0].names.is_empty(), "a name was given that nobody allowed");
    assert_eq!(store.image(&loaded[0].image).unwrap().manifest.unwrap().digest, host.digest);
    // Where the host's is left out (docker saves one platform), what is there is taken.
    std::fs::remove_file(root.join("blobs/sha256").join(host.digest.hex())).unwrap();
    let loaded = load_layout(&store, &root, None, &|_| true).unwrap();
    let record = store.image(&loaded[0].image).unwrap();
    assert_eq!(store.config(&record).unwrap().value().os, "plan9");
}

#[test]
fn what_is_not_what_its_name_says_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("layout");
    let manifest = image(&root, Algorithm::Sha256, &Platform::host(), "one");
    index(&root, vec![manifest.clone()]);
    let store = Store::open(&place.path().join("store")).unwrap();
    for entry in std::fs::read_dir(root.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[0] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(load_layout(&store, &root, None, &|_| true).is_err(), "{}", path.display());
        std::fs::write(&path, &good).unwrap();
    }
    // A blob that is a link out of the layout is not followed.
    let path = root.join("blobs/sha256").join(manifest.digest.hex());
    let outside = place.path().join("outside");
    std::fs::rename(&path, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &path).unwrap();
    assert!(matches!(load_layout(&store, &root, None, &|_| true), Err(Error::Io { .. })));
    assert!(store.images().unwrap().is_empty());
    assert!(matches!(load_layout(&store, place.path(), None, &|_| true), Err(Error::NotFound { .. })));
}

/// A layout may be unpacked from anywhere: what blocks whoever opens it, or never ends, is refused.
#[test]
fn what_is_no_file_is_not_waited_for() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("layout");
    let manifest = image(&root, Algorithm::Sha256, &Platform::host(), "one");
    index(&root, vec![manifest]);
    let store = Store::open(&place.path().join("store")).unwrap();
    let fifo = |path: &Path| {
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
    };
    let blob = root.join("blobs/sha256/fifo");
    fifo(&blob).unwrap();
    let refused = |path: &Path| {
        let error = load_layout(&store, &root, None, &|_| true).unwrap_err();
        assert!(matches!(&error, Error::Io { path: at, .. } if at == path), "{error}");
    };
    refused(&blob);
    std::fs::remove_file(&blob).unwrap();
    std::fs::remove_file(root.join("index.json")).unwrap();
    fifo(&root.join("index.json")).unwrap();
    refused(&root.join("index.json"));
}

#[test]
fn layouts_and_archives_of_skopeo_and_umoci_are_loaded() {
    let Some(()) = peers::need(&["skopeo", "umoci"]) else { return };
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).output().unwrap();
        assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    std::fs::write(at("layer.tar"), archive(&[dir("d"), file("d/text", "text")])).unwrap();
    let image = format!("{}:v1", at("umoci"));
    run("umoci", &["init", "--layout", &at("umoci")]);
    run("umoci", &["new", "--image", &image]);
    run("umoci", &["raw", "add-layer", "--image", &image, &at("layer.tar")]);
    run("skopeo", &["copy", "-q", &format!("oci:{image}"), &format!("oci:{}:v1", at("skopeo"))]);
    let store = Store::open(&place.path().join("store")).unwrap();
    let mut images = ["umoci", "skopeo"].map(|name| {
        let loaded = load_layout(&store, &place.path().join(name), None, &|_| true).unwrap();
        assert_eq!(loaded.len(), 1);
        loaded[0].image
    });
    images.sort();
    assert_eq!(images[0], images[1], "the same image by both");
    for form in ["oci-archive", "docker-archive"] {
        run("skopeo", &["copy", "-q", &format!("oci:{image}"), &format!("{form}:{}:x:v1", at(form))]);
        let mut file = std::fs::File::open(at(form)).unwrap();
        let loaded = layer_store::load(&store, &mut file, None).unwrap();
        let loaded = store.image(&loaded[0].image).unwrap();
        assert_eq!(loaded.layers, store.image(&images[0]).unwrap().layers, "{form}");
    }
    assert!(store.check().unwrap().is_sound());
}
