//! Upload: the bytes of a blob that is not complete yet.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use image_core::{Algorithm, Digest, Digester};

/// Read at once when a digest is computed again, in bytes.
const READ: usize = 256 << 10;

/// An open upload. Requests take turns; the bytes are hashed as they come.
#[derive(Debug)]
pub(in crate::server) struct Upload {
    repository: String,
    /// Held by the request that writes.
    pub(in crate::server) turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sink: Sink,
    size: u64,
    algorithm: Algorithm,
    digester: Digester,
    /// A piece was shorter than the least: it must have been the last.
    ended: bool,
}

#[derive(Debug)]
enum Sink {
    Memory(BytesMut),
    File { path: PathBuf, file: fs::File },
}

impl Upload {
    pub(super) fn new(repository: &str, file: Option<PathBuf>, algorithm: Algorithm) -> io::Result<Self> {
        let sink = match file {
            None => Sink::Memory(BytesMut::new()),
            Some(path) => {
                let file = fs::File::options().read(true).write(true).create_new(true).open(&path)?;
                Sink::File { path, file }
            }
        };
        let state = State { sink, size: 0, algorithm, digester: Digester::new(algorithm), ended: false };
        Ok(Self {
            repository: repository.to_owned(),
            turn: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
        })
    }

    pub(in crate::server) fn repository(&self) -> &str {
        &self.repository
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::server) fn size(&self) -> u64 {
        self.lock().size
    }

    /// Whether a piece was shorter than the least.
    pub(in crate::server) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Takes no more pieces.
    pub(in crate::server) fn end(&self) {
        self.lock().ended = true;
    }

    pub(in crate::server) fn append(&self, chunk: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let at = state.size;
        match &mut state.sink {
            Sink::Memory(bytes) => bytes.extend_from_slice(chunk),
            Sink::File { file, .. } => {
                // A write that failed half-way is written over.
                file.seek(SeekFrom::Start(at))?;
                file.write_all(chunk)?;
            }
        }
        state.digester.update(chunk);
        state.size += chunk.len() as u64;
        Ok(())
    }

    /// The digest of what is there; by another algorithm than announced, everything is read again.
    pub(in crate::server) fn digest(&self, algorithm: Algorithm) -> io::Result<Digest> {
        let mut state = self.lock();
        if algorithm == state.algorithm {
            return Ok(state.digester.clone().finish());
        }
        let mut digester = Digester::new(algorithm);
        let size = state.size;
        match &mut state.sink {
            Sink::Memory(bytes) => digester.update(bytes),
            Sink::File { file, .. } => {
                file.seek(SeekFrom::Start(0))?;
                let mut buffer = vec![0; READ];
                let mut limited = file.take(size);
                loop {
                    let count = limited.read(&mut buffer)?;
                    if count == 0 {
                        break;
                    }
                    digester.update(buffer.get(..count).unwrap_or_default());
                }
            }
        }
        Ok(digester.finish())
    }

    pub(super) fn take_bytes(&self) -> Bytes {
        match &mut self.lock().sink {
            Sink::Memory(bytes) => std::mem::take(bytes).freeze(),
            Sink::File { .. } => Bytes::new(),
        }
    }

    /// Moves the file to where blobs are; gives its size.
    pub(super) fn publish(&self, target: &Path) -> io::Result<u64> {
        let state = self.lock();
        if let Sink::File { path, file } = &state.sink {
            file.set_len(state.size)?;
            file.sync_data()?;
            fs::rename(path, target)?;
        }
        Ok(state.size)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Sink::File { path, .. } = &self.lock().sink {
            // Published ones are not there any more.
            drop(fs::remove_file(path));
        }
    }
}
