//! Downloads one blob into a file, verified, and says how long it took and how much memory: for comparisons.
//!
//! ```text
//! fetch REFERENCE DIGEST SIZE FILE [--ca PEM] [--ranges N] [--http2 never|small|always] [--times N]
//! ```

#![expect(clippy::print_stdout, reason = "a program that measures tells what it measured")]

use std::io::Write as _;
use std::time::Instant;

use image_core::{BlobSink, Descriptor, MediaType, Reference};
use registry_client::{Client, Http2, TlsRoots, TlsSettings};

struct File(std::fs::File);

impl BlobSink for File {
    fn write(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        self.0.write_all(chunk)
    }
}

type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "usage: fetch REFERENCE DIGEST SIZE FILE [--ca PEM] [--ranges N] [--http2 never|small|always] [--times N]";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or(USAGE);
    let (name, digest, size, path) = (next()?, next()?, next()?, next()?);
    let mut builder = Client::builder().loopback_plain_http(true);
    let mut times = 1;
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        builder = match option.as_str() {
            "--ca" => {
                let tls = TlsSettings::default().roots(TlsRoots::None).authority_pem(std::fs::read(value)?);
                builder.loopback_plain_http(false).tls(tls)
            }
            "--ranges" => builder.parallel_ranges(value.parse()?),
            "--http2" => builder.http2(match value.as_str() {
                "never" => Http2::Never,
                "small" => Http2::SmallRequests,
                _ => Http2::Always,
            }),
            "--times" => {
                times = value.parse()?;
                builder
            }
            _ => return Err(USAGE.into()),
        };
    }
    let client = builder.build()?;
    let descriptor = Descriptor::new(MediaType::OciEmpty, digest.parse()?, size.parse()?);
    let name = Reference::parse(&name)?;
    for _ in 0..times {
        let start = Instant::now();
        let sink = File(std::fs::File::create(&path)?);
        let sink = client.blob_into(&name, &descriptor, sink).await?;
        drop(sink);
        println!("seconds {:.3}", start.elapsed().as_secs_f64());
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    println!("peak {}", peak.trim());
    Ok(())
}
