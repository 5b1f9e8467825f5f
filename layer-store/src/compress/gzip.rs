//! Gzip by several threads, with bytes that do not depend on how many.
//!
//! ```text
//!  header · block · block · … · last block · crc32 · length
//!           └ 256 KiB of input, raw deflate, primed with the 32 KiB before it, ended at a byte boundary
//! ```
//!
//! All blocks together are one deflate stream in one member: any reader takes it. Sources: RFC 1951, RFC 1952.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use zlib_rs::{Deflate, DeflateFlush, Status};

/// The name of the encoder, as it is recorded beside what it made.
pub const GZIP_ENCODER: &str = "gzip/zlib-rs-0.6.8/level-6/blocks-256k";

const LEVEL: i32 = 6;
/// The largest window: 32 KiB.
const WINDOW_BITS: u8 = 15;
const WINDOW: usize = 32 << 10;
const BLOCK: usize = 256 << 10;
/// ID, deflate, no flags, no time, no extra flags, unknown system: nothing of the host gets in.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
const THREADS: usize = 8;

struct Job {
    number: u64,
    window: Vec<u8>,
    data: Vec<u8>,
    last: bool,
}

type Done = (u64, io::Result<Vec<u8>>);

/// Writes a gzip stream. [`Self::finish`] must be called.
pub struct GzipWriter<W> {
    inner: W,
    block: Vec<u8>,
    window: Vec<u8>,
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    /// Blocks that were given away, blocks that were written, and blocks that came before their turn.
    given: u64,
    written: u64,
    early: BTreeMap<u64, Vec<u8>>,
    in_flight: u64,
    checksum: u32,
    length: u32,
}

impl<W> std::fmt::Debug for GzipWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipWriter").field("length", &self.length).finish_non_exhaustive()
    }
}

impl<W: Write> GzipWriter<W> {
    /// Starts a stream, with as many threads as there are processors (8 at most).
    ///
    /// # Errors
    /// When `inner` does not take the header.
    pub fn new(inner: W) -> io::Result<Self> {
        Self::with_threads(inner, std::thread::available_parallelism().map_or(1, usize::from).min(THREADS))
    }

    /// As [`Self::new`], with this many threads: the bytes are the same.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_threads(mut inner: W, threads: usize) -> io::Result<Self> {
        inner.write_all(&GZIP_HEADER)?;
        let threads = threads.max(1);
        let (jobs, queue) = sync_channel::<Job>(threads);
        let (results, done) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let (queue, results) = (queue.clone(), results.clone());
            std::thread::Builder::new().name("gzip".to_owned()).spawn(move || work(&queue, &results))?;
        }
        Ok(Self {
            inner,
            block: Vec::with_capacity(BLOCK),
            window: Vec::new(),
            jobs: Some(jobs),
            done,
            given: 0,
            written: 0,
            early: BTreeMap::new(),
            in_flight: threads as u64 * 2 + 1,
            checksum: 0,
            length: 0,
        })
    }

    fn send(&mut self, last: bool) -> io::Result<()> {
        let gone = || io::Error::other("the threads that compress have ended");
        while self.given - self.written >= self.in_flight {
            self.receive()?;
        }
        let data = std::mem::replace(&mut self.block, Vec::with_capacity(if last { 0 } else { BLOCK }));
        let tail = data.get(data.len().saturating_sub(WINDOW)..).unwrap_or_default().to_vec();
        let window = std::mem::replace(&mut self.window, tail);
        let job = Job { number: self.given, window, data, last };
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        self.given += 1;
        Ok(())
    }

    /// Waits for one block and writes what is next.
    fn receive(&mut self) -> io::Result<()> {
        let gone = |_| io::Error::other("the threads that compress have ended");
        let (number, block) = self.done.recv().map_err(gone)?;
        self.early.insert(number, block?);
        while let Some(block) = self.early.remove(&self.written) {
            self.inner.write_all(&block)?;
            self.written += 1;
        }
        Ok(())
    }

    /// Ends the stream and gives the inner writer back.
    ///
    /// # Errors
    /// When `inner` does not take the rest.
    pub fn finish(mut self) -> io::Result<W> {
        self.send(true)?;
        self.jobs = None;
        while self.written < self.given {
            self.receive()?;
        }
        self.inner.write_all(&self.checksum.to_le_bytes())?;
        self.inner.write_all(&self.length.to_le_bytes())?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let part = data.get(..data.len().min(BLOCK - self.block.len())).unwrap_or_default();
        self.checksum = zlib_rs::crc32::crc32(self.checksum, part);
        // The length is modulo 2^32 by definition (RFC 1952, ISIZE).
        self.length = self.length.wrapping_add(u32::try_from(part.len()).unwrap_or(0));
        self.block.extend_from_slice(part);
        if self.block.len() == BLOCK {
            self.send(false)?;
        }
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn work(queue: &Mutex<Receiver<Job>>, results: &Sender<Done>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if results.send((job.number, deflate(&job))).is_err() {
            return;
        }
    }
}

fn deflate(job: &Job) -> io::Result<Vec<u8>> {
    let mut deflate = Deflate::new(LEVEL, false, WINDOW_BITS);
    if !job.window.is_empty() {
        deflate
            .set_dictionary(&job.window)
            .map_err(|error| io::Error::other(format!("deflate: {}", error.as_str())))?;
    }
    let flush = if job.last { DeflateFlush::Finish } else { DeflateFlush::SyncFlush };
    let mut out = Vec::with_capacity(job.data.len() / 2 + 128);
    let mut buffer = vec![0; 64 << 10];
    let mut data = job.data.as_slice();
    loop {
        let (read, written) = (deflate.total_in(), deflate.total_out());
        let status = deflate
            .compress(data, &mut buffer, flush)
            .map_err(|error| io::Error::other(format!("deflate: {}", error.as_str())))?;
        let moved = |now: u64, then: u64| usize::try_from(now - then).unwrap_or(usize::MAX);
        data = data.get(moved(deflate.total_in(), read)..).unwrap_or_default();
        let made = moved(deflate.total_out(), written);
        out.extend_from_slice(buffer.get(..made).unwrap_or_default());
        let ended =
            if job.last { status == Status::StreamEnd } else { data.is_empty() && made < buffer.len() };
        if ended {
            return Ok(out);
        }
    }
}
