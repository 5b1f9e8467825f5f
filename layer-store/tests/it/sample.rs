//! A store with something of everything in it: what damage is done to.

use std::io::Write;
use std::path::PathBuf;

use image_core::{DiffId, Digest, Document, ImageConfig, Manifest, MediaType, Platform, Reference};
use layer_store::{
    CacheRecord, Component, Encoder, Entry, ImageRecord, Kind, Layer, NewContainer, Preimage, Store, View,
};

use crate::tarball::{archive, dir, file, hardlink, symlink};

/// A store with one image that was pulled (its blobs are kept, its second layer borrows) and one that was built.
pub(crate) struct Sample {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) pulled: ImageRecord,
    pub(crate) built: ImageRecord,
}

fn put_image(store: &Store, name: &str, layers: &[Layer], blobs: Vec<image_core::Descriptor>) -> ImageRecord {
    let work = store.begin().unwrap();
    let mut config = ImageConfig::empty(&Platform::new("linux", "amd64"));
    config.rootfs.diff_ids = layers.iter().map(Layer::diff_id).collect();
    let document = Document::from_value(config).unwrap();
    let config = work.put_blob(MediaType::OciConfig, document.bytes()).unwrap();
    let manifest = Document::from_value(Manifest::oci(config.clone(), blobs.clone())).unwrap();
    let manifest = work.put_blob(MediaType::OciManifest, manifest.bytes()).unwrap();
    work.commit().unwrap();
    let mut record = ImageRecord::new(config, layers);
    record.manifest = Some(manifest);
    record.blobs = blobs;
    store.put_image(&record).unwrap();
    store.tag(&Reference::parse(name).unwrap(), &record.id(), None).unwrap();
    record
}

pub(crate) fn sample() -> Sample {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(&place.path().join("store")).unwrap();
    let first = archive(&[
        dir("etc").mode(0o755),
        file("etc/passwd", "root:x:0:0\n"),
        file("bin", "tool").mode(0o4755).xattr("user.note", b"kept"),
        symlink("link", "etc/passwd"),
        hardlink("other", "etc/passwd"),
        dir("tmp").mode(0o1777),
        file("tmp/common", "the same in both"),
    ]);
    let second = archive(&[file("etc/motd", "hello"), file("etc/.wh.passwd", "")]);
    let work = store.begin().unwrap();
    let mut blobs = Vec::new();
    for tar in [&first, &second] {
        let mut gzip = layer_store::GzipWriter::new(Vec::new()).unwrap();
        gzip.write_all(tar).unwrap();
        let bytes = gzip.finish().unwrap();
        blobs.push(work.put_blob(Encoder::Gzip.media_type(), &bytes).unwrap());
    }
    let pairs: Vec<_> =
        blobs.iter().cloned().zip([&first, &second].map(|tar| DiffId::new(Digest::sha256(tar)))).collect();
    let layers: Vec<Layer> =
        work.unpack_all(&pairs, &|_| ()).unwrap().into_iter().map(|unpacked| unpacked.layer).collect();
    work.commit().unwrap();
    assert!(layers[1].key().to_string().contains('+'), "the second layer borrows etc");
    let pulled = put_image(&store, "pulled:v1", &layers, blobs);

    let work = store.begin().unwrap();
    let mut composed = work.compose(View::default()).unwrap();
    let entry = |mode| Entry::new(Kind::Fifo, mode, 0, 0, (1_000_000, 0));
    composed.file(b"app", &mut "our own program".as_bytes(), entry(0o755)).unwrap();
    composed.file(b"common", &mut "the same in both".as_bytes(), entry(0o644)).unwrap();
    composed.hardlink(b"twin", b"app").unwrap();
    composed.symlink(b"to", b"app", entry(0o777)).unwrap();
    let layer = composed.finish(None).unwrap();
    let blob = work.encoded(&layer).unwrap();
    let preimage = Preimage(vec![Component::new("step", "COPY app")]);
    work.record_step("slot", &CacheRecord::new(preimage, layer.key().clone(), "COPY".to_owned(), None))
        .unwrap();
    work.commit().unwrap();
    let built = put_image(&store, "built:v1", std::slice::from_ref(&layer), vec![blob]);
    let now = image_core::Timestamp::from_seconds(1_000_000_000);
    let mut made =
        store.create_container(&built, NewContainer::new("built:v1", vec!["/app".to_owned()], now)).unwrap();
    made.release();
    Sample { dir: place, store, pulled, built }
}

impl Sample {
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("store").join(path)
    }

    pub(crate) fn layer(&self, record: &ImageRecord, at: usize) -> PathBuf {
        self.at("layers").join(record.layers[at].key.to_string())
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.at("blobs").join(digest.to_string().replace(':', "-"))
    }

    pub(crate) fn record(&self, place: &str, record: &ImageRecord) -> PathBuf {
        self.at(place).join(record.config.digest.to_string().replace(':', "-"))
    }

    pub(crate) fn only(&self, place: &str) -> PathBuf {
        let mut names: Vec<_> =
            std::fs::read_dir(self.at(place)).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.swap_remove(0)
    }
}
