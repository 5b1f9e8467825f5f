//! One piece of work on a store per process, for whoever measures time, memory or system calls from outside.
//!
//! ```text
//!  measure unpack ROOT BLOB DIFFID      a layer from a file, durable
//!  measure unpack-dedup ROOT BLOB DIFFID
//!                                       the same, and its files share with those that are there
//!  measure peak ROOT BLOB DIFFID        the same, and the most memory that was in use, in KiB
//!  measure image ROOT BLOB DIFFID …     several layers of one image at the same time
//!  measure commit ROOT TREE             the tree becomes a layer, as what a container wrote does (TREE is moved)
//!  measure encode ROOT KEY gzip|zstd    the blob of a layer
//!  measure fill ROOT IMAGES LAYERS      images of small layers of their own
//!  measure tag ROOT NAME                opens a store and reads a name
//!  measure df ROOT                      what the store costs
//!  measure dedup ROOT MIN               equal files of at least so many bytes share
//!  measure check ROOT                   is it sound
//! ```
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the terminal"
)]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use image_core::{DiffId, Document, ImageConfig, MediaType, Platform, Reference};
use layer_store::{DedupOptions, Encoder, Entry, ImageRecord, Kind, Store, StoreOptions, View};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let texts: Vec<&str> = args.iter().map(String::as_str).collect();
    let start = Instant::now();
    match texts.as_slice() {
        [verb @ ("unpack" | "unpack-dedup"), root, blob, diff_id] => {
            let mut options = StoreOptions::default();
            options.dedup = (*verb == "unpack-dedup").then(DedupOptions::default);
            let store = Store::open_with(Path::new(root), options)?;
            let work = store.begin()?;
            let file = std::fs::File::open(blob)?;
            let unpacked = work.unpack_file(file, &diff_id.parse()?, &View::default())?;
            let unpacking = start.elapsed();
            work.commit()?;
            let entries = unpacked.layer.index().entries.len();
            println!("unpack {entries} entries in {:?}, durable after {:?}", unpacking, start.elapsed());
        }
        ["peak", root, blob, diff_id] => {
            let store = Store::open(Path::new(root))?;
            let work = store.begin()?;
            work.unpack_file(std::fs::File::open(blob)?, &diff_id.parse()?, &View::default())?;
            work.commit()?;
            let status = std::fs::read_to_string("/proc/self/status")?;
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
            println!("peak in KiB {}", peak.trim().trim_end_matches(" kB"));
        }
        ["image", root, pairs @ ..] => {
            let store = Store::open(Path::new(root))?;
            let work = store.begin()?;
            let mut layers = Vec::new();
            for pair in pairs.chunks(2) {
                let [blob, diff_id] = pair else { return Err("a blob and a diff ID for each layer".into()) };
                let mut ingest =
                    work.ingest_unknown(MediaType::Other("application/octet-stream".to_owned()))?;
                std::io::copy(&mut std::fs::File::open(blob)?, &mut ingest)?;
                layers.push((ingest.finish()?, diff_id.parse::<DiffId>()?));
            }
            work.unpack_all(&layers, &|_| ())?;
            work.commit()?;
            println!("{} layers in {:?}", layers.len(), start.elapsed());
        }
        ["commit", root, tree] => {
            let store = Store::open(Path::new(root))?;
            let work = store.begin()?;
            let layer = work.adopt(Path::new(tree), None)?;
            let read = start.elapsed();
            work.commit()?;
            println!("{} in {read:?}, durable after {:?}", layer.key(), start.elapsed());
        }
        ["encode", root, key, encoder] => {
            let store = Store::open(Path::new(root))?;
            let work = store.begin()?;
            let layer = store.layer(&serde_json::from_value((*key).into())?)?;
            let encoder = if *encoder == "zstd" { Encoder::Zstd } else { Encoder::Gzip };
            let blob = work.encoded_as(&layer, encoder)?;
            println!("{} {} bytes in {:?}", blob.digest, blob.size, start.elapsed());
        }
        ["fill", root, images, layers] => fill(Path::new(root), images.parse()?, layers.parse()?)?,
        ["tag", root, name] => {
            let tag = Store::open(Path::new(root))?.find_tag(&Reference::parse(name)?)?;
            println!("{} in {:?}", tag.ok_or("no such name")?.image, start.elapsed());
        }
        ["df", root] => {
            let store = Store::open(Path::new(root))?;
            let start = Instant::now();
            let usage = store.usage()?;
            println!("{} bytes in {} images, in {:?}", usage.total(), usage.images.len(), start.elapsed());
        }
        ["dedup", root, min] => {
            let store = Store::open(Path::new(root))?;
            let done = store.deduplicate(&DedupOptions::default().min_size(min.parse()?))?;
            println!("{done:?} in {:?}", start.elapsed());
        }
        ["check", root] => {
            let checked = Store::open(Path::new(root))?.check()?;
            for finding in &checked.findings {
                println!("{finding}");
            }
            println!(
                "{} findings in {} entries, in {:?}",
                checked.findings.len(),
                checked.entries,
                start.elapsed()
            );
        }
        _ => return Err("see the head of the source for the verbs".into()),
    }
    Ok(())
}

fn fill(root: &Path, images: usize, layers: usize) -> Result<(), Box<dyn Error>> {
    let store = Store::open(root)?;
    for image in 0..images {
        let work = store.begin()?;
        let mut stack = Vec::new();
        for layer in 0..layers {
            let mut composed = work.compose(View::default())?;
            let text = format!("{image} {layer}");
            let entry = Entry::new(Kind::Fifo, 0o644, 0, 0, (0, 0));
            composed.file(format!("f{layer}").as_bytes(), &mut text.as_bytes(), entry)?;
            stack.push(composed.finish(None)?);
        }
        let mut config = ImageConfig::empty(&Platform::new("linux", "amd64"));
        config.rootfs.diff_ids = stack.iter().map(layer_store::Layer::diff_id).collect();
        let config = work.put_blob(MediaType::OciConfig, Document::from_value(config)?.bytes())?;
        work.commit()?;
        let record = ImageRecord::new(config, &stack);
        store.put_image(&record)?;
        store.tag(&Reference::parse(&format!("fill/{image}:v1"))?, &record.id(), None)?;
    }
    Ok(())
}
