//! What opening a store, reading a name and df cost in system calls, counted by strace.

use std::path::Path;
use std::process::Command;

use image_core::{ImageConfig, Platform, Reference};
use layer_store::{Entry, Kind, Layer, Store, View};

use crate::peers;

/// So many images of so many small layers of their own.
fn fill(root: &Path, images: usize, layers: usize) {
    let store = Store::open(root).unwrap();
    for image in 0..images {
        let work = store.begin().unwrap();
        let mut stack: Vec<Layer> = Vec::new();
        for layer in 0..layers {
            let mut composed = work.compose(View::default()).unwrap();
            let entry = Entry::new(Kind::Fifo, 0o644, 0, 0, (0, 0));
            composed.file(b"f", &mut format!("{image} {layer}").as_bytes(), entry).unwrap();
            stack.push(composed.finish(None).unwrap());
        }
        let mut config = ImageConfig::empty(&Platform::new("linux", "amd64"));
        config.author = Some(image.to_string());
        let record = work.image_of(config, &stack).unwrap();
        work.commit().unwrap();
        store.put_image(&record).unwrap();
        store.tag(&Reference::parse(&format!("fill/{image}:v1")).unwrap(), &record.id(), None).unwrap();
    }
}

/// Run by the tests below under strace.
#[test]
fn victim() {
    let Some(root) = std::env::var_os("COOPERAGE_CALLS_ROOT") else { return };
    let store = Store::open(Path::new(&root)).unwrap();
    if std::env::var_os("COOPERAGE_CALLS_DF").is_some() {
        assert!(store.usage().unwrap().total() > 0);
    } else {
        assert!(store.find_tag(&Reference::parse("fill/7:v1").unwrap()).unwrap().is_some());
    }
}

/// The calls on files that `victim` makes in the store at `root`.
fn calls(root: &Path, df: bool) -> Vec<String> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-e", "trace=%file,%desc,%fstat,flock,getdents64", "-o"]).arg(log.path());
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "calls::victim", "--test-threads=1"]);
    command.env("COOPERAGE_CALLS_ROOT", root);
    if df {
        command.env("COOPERAGE_CALLS_DF", "1");
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = std::fs::read_to_string(log.path()).unwrap();
    // With -y every descriptor shows its path: what is not in the store is the harness's own.
    let store = root.to_str().unwrap();
    text.lines().filter(|line| line.contains(store)).map(str::to_owned).collect()
}

#[test]
fn opening_and_reading_a_name_cost_the_same_however_many_images_there_are() {
    let Some(()) = peers::need(&["strace"]) else { return };
    let place = tempfile::tempdir().unwrap();
    let counts = [10, 250].map(|images| {
        let root = place.path().join(images.to_string());
        fill(&root, images, 1);
        calls(&root, false).len()
    });
    assert_eq!(counts[0], counts[1]);
    assert!(counts[0] > 10, "nothing was counted");
    eprintln!("open a store and read a name: {} calls on files at 10 and at 250 images", counts[0]);
}

#[test]
fn df_reads_the_head_of_each_layer_once() {
    let Some(()) = peers::need(&["strace"]) else { return };
    let place = tempfile::tempdir().unwrap();
    let counts = [(5, 4), (10, 4), (10, 8)].map(|(images, layers)| {
        let root = place.path().join(format!("{images}-{layers}"));
        fill(&root, images, layers);
        let calls = calls(&root, true);
        let heads = calls.iter().filter(|line| line.contains("openat") && line.contains("/index\"")).count();
        assert_eq!(heads, images * layers, "an index is read once a layer");
        calls.len()
    });
    // Twice the layers at the same number of images: each costs a constant number of calls.
    let (few, more) = (counts[1] - counts[0], counts[2] - counts[1]);
    assert!(more <= 40 * 8 && few <= 5 * 60, "{counts:?}");
    eprintln!("df: {:.1} calls on files a layer", more as f64 / 40.0);
}
