//! How fast the shared set of real files is parsed, linted and compiled from memory on one core.
#![expect(clippy::print_stdout, reason = "a bench says what it measured")]

use std::path::{Path, PathBuf};
use std::time::Instant;

use dockerfile::{Compiler, Dockerfile, Images, Options, Outcome, record};
use image_core::{ImageConfig, Platform};

fn main() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/dockerfiles"));
    let files = files(&root);
    if files.is_empty() {
        println!("skipped: the shared set of Dockerfiles is not there");
        return;
    }
    let bytes: usize = files.iter().map(Vec::len).sum();
    let config = ImageConfig::empty(&Platform::new("linux", "amd64"));
    let mut parse = Vec::new();
    let mut compile = Vec::new();
    let mut whole = Vec::new();
    for _ in 0..15 {
        let start = Instant::now();
        let parsed: Vec<_> = files.iter().filter_map(|text| Dockerfile::parse(text).ok()).collect();
        parse.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let plans: Vec<_> = parsed.iter().filter_map(|file| Some((file, plan(file, &config)?))).collect();
        compile.push(start.elapsed().as_secs_f64());
        let mut written = 0;
        for (file, plan) in &plans {
            written += serde_json::Value::Object(record::record(file, plan)).to_string().len();
        }
        assert!(written > 0, "nothing was compiled");
        whole.push(start.elapsed().as_secs_f64());
    }
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (count, megabytes) = (files.len() as f64, bytes as f64 / 1e6);
    let total = median(&mut parse) + median(&mut compile);
    println!("files: {count}, {megabytes:.2} MB");
    println!("parse and lint: {:.2} ms", median(&mut parse) * 1e3);
    println!("compile: {:.2} ms", median(&mut compile) * 1e3);
    println!("with the record as JSON: {:.2} ms", (median(&mut parse) + median(&mut whole)) * 1e3);
    println!("speed: {:.0} files/s, {:.1} MB/s", count / total, megabytes / total);
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(0.0)
}

fn plan(file: &Dockerfile, config: &ImageConfig) -> Option<Box<dockerfile::Plan>> {
    let compiler = Compiler::new(file, Options::new(Platform::new("linux", "amd64")));
    let mut images = Images::new();
    loop {
        match compiler.compile(&images).ok()? {
            Outcome::Plan(plan) => return Some(plan),
            Outcome::NeedImages(requests) => {
                for request in requests {
                    images.insert(request, config.clone(), None);
                }
            }
            _ => return None,
        }
    }
}

fn files(root: &Path) -> Vec<Vec<u8>> {
    let records = std::fs::read_to_string(root.join("expected.jsonl")).unwrap_or_default();
    let names = records.lines().filter_map(|line| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(record.get("file")?.as_str()?.to_owned())
    });
    names.filter_map(|name| std::fs::read(root.join("files").join(name)).ok()).collect()
}
