//! The power goes at every step: what is left after the file system was mounted again is whole.
//!
//! A loop-mounted ext4 that flushes nothing by itself is shut down without its log (`FS_IOC_SHUTDOWN`) right before the
//! n-th change of a scenario, for every n. The same with all barriers left out must find violations, or the harness
//! would show nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image_core::{DiffId, Digest, Document, ImageConfig, MediaType, Platform, Reference, Timestamp};
use layer_store::{
    CacheRecord, Component, Disk, Encoder, Entry, Error, ImageRecord, Kind, NewContainer, Preimage, Store,
    StoreOptions, View,
};

use crate::loops::{Format, Loop, alone, power_cut, shut_down};
use crate::peers;
use crate::tarball::{archive, dir, file, symlink};

/// What a scenario got an answer for before the power went.
#[derive(Debug, Default)]
struct Done {
    committed: bool,
    image: bool,
    tag: bool,
    container: bool,
    removing: bool,
    removed: bool,
    /// Nothing failed: there were fewer steps.
    all: bool,
}

fn base() -> Vec<u8> {
    archive(&[dir("etc"), file("etc/base", "base"), file("shared", &"b".repeat(9_000))])
}

fn next() -> Vec<u8> {
    let mut members = vec![dir("usr"), symlink("lib", "usr")];
    for n in 0..12 {
        members.push(file(&format!("usr/f{n}"), &format!("{n}").repeat(2_000)));
    }
    members.push(file("usr/large", &"x".repeat(300_000)));
    archive(&members)
}

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn config(
    store: &layer_store::Transaction,
    layers: &[layer_store::Layer],
) -> Result<image_core::Descriptor, Error> {
    let mut config = ImageConfig::empty(&Platform::new("linux", "amd64"));
    config.rootfs.diff_ids = layers.iter().map(layer_store::Layer::diff_id).collect();
    store.put_blob(MediaType::OciConfig, Document::from_value(config).unwrap().bytes())
}

fn put(store: &Store, tar: &[u8], tag: &str, done: &mut Done) -> Result<ImageRecord, Error> {
    let work = store.begin()?;
    let mut ingest = work.ingest_unknown(Encoder::Plain.media_type())?;
    std::io::Write::write_all(&mut ingest, tar).map_err(|source| Error::Io {
        action: "write",
        path: PathBuf::new(),
        source,
    })?;
    let blob = ingest.finish()?;
    let layer = work.unpack(&blob, &DiffId::new(Digest::sha256(tar)), &View::default())?.layer;
    let mut composed = work.compose(View::of(std::slice::from_ref(&layer)))?;
    let entry = Entry::new(Kind::Fifo, 0o644, 0, 0, (1, 0));
    composed.file(b"made", &mut tag.as_bytes(), entry)?;
    let made = composed.finish(None)?;
    let preimage = Preimage(vec![Component::new("step", tag)]);
    work.record_step("slot", &CacheRecord::new(preimage, made.key().clone(), "COPY".to_owned(), None))?;
    let stack = [layer, made];
    let config = config(&work, &stack)?;
    work.commit()?;
    done.committed = true;
    let mut record = ImageRecord::new(config, &stack);
    record.blobs = vec![blob];
    store.put_image(&record)?;
    done.image = true;
    store.tag(&name(tag), &record.id(), None)?;
    done.tag = true;
    Ok(record)
}

/// Ingest, unpack, compose, commit, tag, a container, removal, gc.
fn scenario(store: &Store, done: &mut Done) -> Result<(), Error> {
    let record = put(store, &next(), "next:v1", done)?;
    let new = NewContainer::new("next:v1", vec!["x".to_owned()], Timestamp::from_seconds(1));
    drop(store.create_container(&record, new)?);
    done.container = true;
    done.removing = true;
    let old = store.find_tag(&name("base:v1"))?.unwrap();
    store.remove_image(&old.image)?;
    done.removed = true;
    store.gc()?;
    done.all = true;
    Ok(())
}

/// What went wrong, with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Everything that is not as it must be after the power came back.
fn violations(root: &Path, done: &Done) -> Vec<String> {
    let mut found = Vec::new();
    let store = match Store::open(root) {
        Ok(store) => store,
        Err(error) => return vec![format!("the store does not open: {}", told(&error))],
    };
    let sound = |when: &str, found: &mut Vec<String>| match store.check() {
        Ok(checked) => found.extend(checked.findings.iter().map(|finding| format!("{when}: {finding}"))),
        Err(error) => found.push(format!("{when}: {}", told(&error))),
    };
    sound("at once", &mut found);
    let tag = |text: &str| store.find_tag(&name(text)).ok().flatten();
    let next = tag("next:v1");
    if done.tag && next.is_none() {
        found.push("a name that was given is gone".to_owned());
    }
    if let Some(tag) = next.filter(|_| done.image)
        && store.image(&tag.image).and_then(|record| store.image_layers(&record)).is_err()
    {
        found.push("an image that was put is not whole".to_owned());
    }
    if done.image && store.images().is_ok_and(|images| images.iter().all(|image| image.blobs.is_empty())) {
        found.push("an image that was put is gone".to_owned());
    }
    let base = tag("base:v1");
    if base.is_none() && !done.removing {
        found.push("a name that nobody touched is gone".to_owned());
    }
    if base.is_some() && done.removed {
        found.push("a name that was removed is back".to_owned());
    }
    if let Some(tag) = base
        && store.image(&tag.image).and_then(|record| store.image_layers(&record)).is_err()
    {
        found.push("an image that nobody touched is not whole".to_owned());
    }
    if done.container && store.containers().is_ok_and(|all| all.is_empty()) {
        found.push("a container that was made is gone".to_owned());
    }
    if let Err(error) = store.gc() {
        found.push(format!("gc: {}", told(&error)));
    }
    sound("after gc", &mut found);
    let mut again = Done::default();
    if let Err(error) = put(&store, &self::next(), "again:v1", &mut again) {
        found.push(format!("the same again: {}", told(&error)));
    }
    sound("after the same again", &mut found);
    found
}

/// Runs the scenario with the power cut before change `step`. `None`: there were fewer changes.
fn cut_at(place: &Path, step: u64, careless: bool) -> Option<(Vec<String>, Done)> {
    let mut disk = Loop::new(place, Format::Ext4)?;
    let root = disk.mount.join("store");
    {
        let store = Store::open(&root).unwrap();
        put(&store, &base(), "base:v1", &mut Done::default()).unwrap();
        store.clear_cache().unwrap();
        rustix::fs::syncfs(std::fs::File::open(&disk.mount).unwrap()).unwrap();
    }
    let mut done = Done::default();
    {
        let mount = std::fs::File::open(&disk.mount).unwrap();
        let fault = power_cut(mount, step);
        let mut options = StoreOptions::default();
        let disk = Disk::with_fault(fault);
        options.disk = Arc::new(if careless { disk.careless() } else { disk });
        let result = Store::open_with(&root, options).and_then(|store| scenario(&store, &mut done));
        if result.is_ok() {
            // The last cut: right after everything.
            shut_down(&std::fs::File::open(root.parent().unwrap()).unwrap());
        }
    }
    disk.unmount();
    assert!(disk.mount(), "the file system does not come back");
    let found = violations(&root, &done);
    disk.unmount();
    Some((found, done))
}

fn sweep(careless: bool, stride: u64) -> Option<(u64, u64, Vec<String>)> {
    let place = tempfile::tempdir().unwrap();
    let (mut step, mut cuts, mut all) = (0, 0, Vec::new());
    loop {
        let Some((found, done)) = cut_at(place.path(), step, careless) else {
            assert_eq!(cuts, 0, "the loop device is gone before change {step}");
            return None;
        };
        cuts += 1;
        all.extend(found.into_iter().map(|text| format!("cut before change {step}: {text}")));
        if done.all {
            return Some((cuts, step, all));
        }
        step += stride;
    }
}

#[test]
fn the_power_goes_at_every_step() {
    if !peers::is_root() {
        peers::skip("mounting a loop device needs root");
        return;
    }
    if peers::need(&["mkfs.ext4", "mount", "umount"]).is_some() {
        alone(every_step);
    }
}

fn every_step() {
    let stride = std::env::var("COOPERAGE_POWER_STRIDE").ok().and_then(|text| text.parse().ok()).unwrap_or(9);
    let Some((cuts, steps, found)) = sweep(false, stride) else {
        peers::skip("this machine mounts no loop device");
        return;
    };
    assert!(found.is_empty(), "{} violations: {:#?}", found.len(), &found[..found.len().min(10)]);
    let (careless_cuts, _, careless) = sweep(true, stride).unwrap();
    eprintln!(
        "{cuts} cuts over {steps} changes: 0 violations; without barriers: {} in {careless_cuts} cuts",
        careless.len()
    );
    assert!(!careless.is_empty(), "without barriers nothing was found: the harness shows nothing");
}
