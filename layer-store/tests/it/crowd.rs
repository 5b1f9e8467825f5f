//! Many processes on one store, and some of them die.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image_core::{DiffId, Digest, Document, ImageConfig, MediaType, Platform, Reference, Timestamp};
use layer_store::{
    CacheRecord, Component, Encoder, Entry, Error, GzipWriter, ImageRecord, Kind, NewContainer, Preimage,
    Store, View,
};

use crate::peers;
use crate::tarball::{archive, dir, file};

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// The layers of image `number`; neighbours share some, and the last borrows from the first.
fn tars(number: usize) -> Vec<Vec<u8>> {
    let base = archive(&[dir("etc"), file("etc/base", &format!("base {}", number / 3).repeat(300))]);
    let middle =
        archive(&[dir("usr"), file("usr/prog", &format!("{number}").repeat(20_000)), file("usr/x", "x")]);
    let top = archive(&[file("etc/top", &format!("top {number}"))]);
    vec![base, middle, top]
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut writer = GzipWriter::with_threads(Vec::new(), 1).unwrap();
    writer.write_all(tar).unwrap();
    writer.finish().unwrap()
}

/// What a pull does.
fn pull(store: &Store, number: usize) -> Result<ImageRecord, Error> {
    let work = store.begin()?;
    let mut layers = Vec::new();
    for tar in tars(number) {
        let blob = work.put_blob(Encoder::Gzip.media_type(), &gzip(&tar))?;
        layers.push((blob, DiffId::new(Digest::sha256(&tar))));
    }
    let stack: Vec<_> =
        work.unpack_all(&layers, &|_| ())?.into_iter().map(|unpacked| unpacked.layer).collect();
    let mut config = ImageConfig::empty(&Platform::new("linux", "amd64"));
    config.rootfs.diff_ids = stack.iter().map(layer_store::Layer::diff_id).collect();
    let config = work.put_blob(MediaType::OciConfig, Document::from_value(config).unwrap().bytes())?;
    work.commit()?;
    let mut record = ImageRecord::new(config, &stack);
    record.blobs = layers.into_iter().map(|(blob, _)| blob).collect();
    store.put_image(&record)?;
    store.tag(&Reference::parse(&format!("crowd/{number}:v1")).unwrap(), &record.id(), None)?;
    Ok(record)
}

/// What a build step does.
fn build(store: &Store, number: usize) -> Result<(), Error> {
    let work = store.begin()?;
    let mut layer = work.compose(View::default())?;
    let entry = Entry::new(Kind::Fifo, 0o644, 0, 0, (0, 0));
    layer.file(b"made", &mut format!("{number}").repeat(5_000).as_bytes(), entry)?;
    let layer = layer.finish(None)?;
    let preimage = Preimage(vec![Component::new("step", format!("{number}"))]);
    work.record_step(
        &format!("{number}"),
        &CacheRecord::new(preimage, layer.key().clone(), "RUN".to_owned(), None),
    )?;
    work.commit()
}

/// One process of the crowd: random work until it is killed.
fn member(root: &Path, seed: u64) {
    let mut random = Random(seed);
    loop {
        let store = Store::open(root).unwrap();
        let number = random.below(9);
        let action = random.below(10);
        let result = match action {
            0..4 => pull(&store, number).map(|_| ()),
            4..6 => build(&store, number),
            6 => store.images().and_then(|images| match images.get(number) {
                Some(image) => store.remove_image(&image.id()),
                None => Ok(()),
            }),
            7 => store.images().and_then(|images| {
                let Some(image) = images.get(number) else { return Ok(()) };
                let new = NewContainer::new("x", Vec::new(), Timestamp::from_seconds(1));
                let mut made = store.create_container(image, new)?;
                made.release();
                let id = made.record().id.clone();
                drop(made);
                store.remove_container(&id).map(|_| ())
            }),
            8 => store.clear_cache().map(|_| ()),
            _ => store.gc().map(|_| ()),
        };
        match result {
            Ok(()) => {}
            // Somebody else removed the image or container in between.
            Err(error) if error.is_not_found() => {}
            Err(Error::Io { ref source, .. })
                if matches!(action, 6..=8) && source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                eprintln!("crowd: {error}: {error:?}");
                std::fs::write(root.with_extension(format!("error-{seed}")), format!("{error:?}")).unwrap();
                return;
            }
        }
    }
}

fn recruit(root: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crowd::many_processes_and_sudden_death", "--exact", "--nocapture"])
        .env("COOPERAGE_CROWD_ROOT", root)
        .env("COOPERAGE_CROWD_SEED", seed.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn seconds(variable: &str, default: u64) -> Duration {
    Duration::from_secs(std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default))
}

#[test]
fn many_processes_and_sudden_death() {
    if let Some(root) = std::env::var_os("COOPERAGE_CROWD_ROOT") {
        let seed = std::env::var("COOPERAGE_CROWD_SEED").unwrap().parse().unwrap();
        member(Path::new(&root), seed);
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("store");
    let mut random = Random(1);
    let mut seed = 100;
    let mut crowd: Vec<Child> = Vec::new();
    let (start, mut killed) = (Instant::now(), 0);
    let time = seconds("COOPERAGE_CROWD_SECONDS", 6);
    while start.elapsed() < time {
        while crowd.len() < 16 {
            seed += 1;
            crowd.push(recruit(&root, seed));
        }
        std::thread::sleep(Duration::from_millis(20 + random.below(120) as u64));
        let mut victim = crowd.swap_remove(random.below(16));
        victim.kill().unwrap();
        victim.wait().unwrap();
        killed += 1;
    }
    for mut child in crowd {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let errors: Vec<_> = std::fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("error-"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    assert!(errors.is_empty(), "{} processes failed: {:#?}", errors.len(), errors.first());
    let store = Store::open(&root).unwrap();
    assert_eq!(store.check().unwrap().findings, [], "at once");
    store.gc().unwrap();
    assert_eq!(store.check().unwrap().findings, [], "after gc");
    let images = store.images().unwrap();
    for image in &images {
        assert_eq!(store.image_layers(image).unwrap().len(), 3);
        store.remove_image(&image.id()).unwrap();
    }
    for container in store.containers().unwrap() {
        store.remove_container(&container.id).unwrap();
    }
    store.clear_cache().unwrap();
    store.gc().unwrap();
    for place in
        ["layers", "blobs", "ingest", "trash", "leases", "images", "containers", "encodings", "borrows"]
    {
        let left = std::fs::read_dir(root.join(place)).unwrap().count();
        assert_eq!(left, 0, "{place} leaks");
    }
    eprintln!("16 processes for {} s, {killed} killed: check finds nothing, nothing leaked", time.as_secs());
}

#[test]
fn gc_beside_pulls_unpacks_and_a_mount() {
    let place = tempfile::tempdir().unwrap();
    let store = Store::open(&place.path().join("store")).unwrap();
    let rounds: usize =
        std::env::var("COOPERAGE_GC_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    // A container whose layers are mounted, where that is allowed.
    let image = pull(&store, 100).unwrap();
    let mut container = store
        .create_container(&image, NewContainer::new("x", Vec::new(), Timestamp::from_seconds(1)))
        .unwrap();
    store.remove_image(&image.id()).unwrap();
    let lower: Vec<String> = image
        .layers
        .iter()
        .rev()
        .map(|layer| {
            store.path().join("layers").join(layer.key.to_string()).join("diff").display().to_string()
        })
        .collect();
    let snapshot = store.path().join("containers").join(&container.record().id).join("snapshot");
    let mount = place.path().join("mnt");
    std::fs::create_dir(&mount).unwrap();
    let options = format!(
        "userxattr,lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        snapshot.join("diff").display(),
        snapshot.join("work").display()
    );
    // Keys have a plus sign, which stands for itself.
    let mounted = peers::is_root()
        && Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options, mount.to_str().unwrap()])
            .status()
            .is_ok_and(|status| status.success());
    if !mounted {
        peers::skip("no overlay can be mounted here");
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (collected, removed) = std::thread::scope(|scope| {
        let gc = scope.spawn(|| {
            let (mut rounds, mut removed) = (0_usize, 0_usize);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                removed += store.gc().unwrap().layers.len();
                rounds += 1;
            }
            (rounds, removed)
        });
        let pulls: Vec<_> = (0..4)
            .map(|number| {
                let store = store.clone();
                scope.spawn(move || {
                    for _ in 0..rounds {
                        let image = pull(&store, number).unwrap();
                        let layers = store.image_layers(&image).unwrap();
                        let mut text = String::new();
                        let direct = layer_store::authority::Direct::detect();
                        let mut file = layers[2].open_file(&direct, b"etc/top").unwrap();
                        std::io::Read::read_to_string(&mut file, &mut text).unwrap();
                        assert_eq!(text, format!("top {number}"));
                        store.remove_image(&image.id()).unwrap();
                    }
                })
            })
            .collect();
        let unpacks: Vec<_> = (0..2)
            .map(|number| {
                let store = store.clone();
                scope.spawn(move || {
                    for _ in 0..rounds {
                        let work = store.begin().unwrap();
                        let tar = &tars(50 + number)[1];
                        let diff_id = DiffId::new(Digest::sha256(tar));
                        let layer =
                            work.unpack_stream(tar.as_slice(), &diff_id, &View::default()).unwrap().layer;
                        work.commit().unwrap();
                        // The lease still holds.
                        assert_eq!(store.layer(layer.key()).unwrap().diff_id(), diff_id);
                    }
                })
            })
            .collect();
        // All ended before any is judged: the collector must stop whatever happens.
        let ended: Vec<_> =
            pulls.into_iter().chain(unpacks).map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let collected = gc.join().unwrap();
        assert!(ended.iter().all(Result::is_ok), "a thread failed");
        collected
    });
    if mounted {
        assert_eq!(std::fs::read_to_string(mount.join("etc/top")).unwrap(), "top 100");
        assert_eq!(std::fs::metadata(mount.join("usr/prog")).unwrap().len(), 60_000);
        std::fs::write(mount.join("new"), "x").unwrap();
        assert!(Command::new("umount").arg(&mount).status().unwrap().success());
    }
    container.release();
    assert_eq!(store.check().unwrap().findings, []);
    eprintln!(
        "{rounds} rounds of 4 pulls and 2 unpacks beside {collected} collections of {removed} layers: nothing lost"
    );
}
