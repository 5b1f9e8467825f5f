//! Downloads: verified while they stream, resumed where they were cut.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderValue, IF_RANGE, RANGE};
use image_core::{BlobSink, Descriptor, Digester, Reference};

use crate::auth::{Action, ScopeSet};
use crate::client::Client;
use crate::endpoint::{Place, Source};
use crate::engine::{Call, unexpected};
use crate::error::{Error, RequestLine, Result};
use crate::event::{Direction, Event};
use crate::hosts::Asked;
use crate::manifest::refuse_encoding;
use crate::transport::Response;

/// Progress that makes the retry policy count from the start again, in bytes.
const PROGRESS: u64 = 256 << 10;
/// Connections for one blob at most, however much progress each makes.
const MAX_RESUMES: u32 = 1000;
/// Bytes between two progress events.
const EVENT_STEP: u64 = 1 << 20;
/// Size of a part when a blob comes over several connections, in bytes.
pub(super) const PART: u64 = 4 << 20;
/// Blobs up to this many bytes come over one connection.
const PARALLEL_FROM: u64 = 16 << 20;

/// The bytes of a blob on their way here.
///
/// The last call of [`BlobStream::next_chunk`] is the one that decides: until it has returned `None`, the bytes have
/// not been verified.
pub struct BlobStream {
    client: Client,
    /// Who is asked now, and who will be when they do not have it.
    source: Source,
    others: VecDeque<Source>,
    descriptor: Descriptor,
    line: RequestLine,
    response: Option<Response>,
    /// The entity tag of the first answer: a resumed one must be of the same content.
    etag: Option<HeaderValue>,
    /// `None` when somebody else computes the digest, or when it has been checked.
    digester: Option<Digester>,
    at: u64,
    /// Where to stop: the size of the blob, or less for a part of it.
    end: u64,
    /// A part proves nothing and tells nothing: who puts the parts together does.
    part: bool,
    /// Whether the registry has answered with a range.
    ranged: bool,
    /// Bytes to pass over, because a server answered a range with everything.
    skip: u64,
    told: u64,
    tries: u32,
    resumes: u32,
    mark: u64,
    finished: bool,
}

impl BlobStream {
    /// What is being downloaded.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    pub(crate) fn line(&self) -> &RequestLine {
        &self.line
    }

    /// Who is asked now.
    pub(super) const fn source(&self) -> &Source {
        &self.source
    }

    /// How many bytes have been given out.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// The next bytes, or `None` once all bytes were there and had the size and digest of the descriptor.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`] and [`Error::SizeMismatch`] when they had not; what any request can end in, after
    /// the retries of the client's policy.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped: the next call goes on from the same byte.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        while !self.finished {
            if self.at == self.end && self.part {
                self.finish()?;
                break;
            }
            if self.response.is_none() {
                self.open().await?;
            }
            let Some(response) = self.response.as_mut() else { continue };
            match response.chunk().await {
                Ok(Some(chunk)) => match self.take(chunk) {
                    Ok(Some(chunk)) => return Ok(Some(chunk)),
                    Ok(None) => {}
                    // More than there is: another server may send what it should be.
                    Err(error) => self.next_source(error)?,
                },
                Ok(None) if self.at == self.end => self.finish()?,
                Ok(None) => {
                    let (expected, actual) = (self.end, self.at);
                    let cut = Error::SizeMismatch { request: self.line.clone(), expected, actual };
                    self.cut(cut).await?;
                }
                // The last byte was there; what happened to the connection after it does not matter.
                Err(_) if self.at == self.end => self.finish()?,
                Err(error) => self.cut(error).await?,
            }
        }
        Ok(None)
    }

    fn take(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>> {
        if self.skip > 0 {
            let passed = self.skip.min(chunk.len() as u64);
            self.skip -= passed;
            chunk = chunk.slice(passed as usize..);
        }
        if self.part {
            // A server that answers a range with everything sends more than is wanted.
            chunk.truncate(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        }
        if chunk.is_empty() {
            return Ok(None);
        }
        let end = self.at + chunk.len() as u64;
        if end > self.descriptor.size {
            self.response = None;
            return Err(Error::SizeMismatch {
                request: self.line.clone(),
                expected: self.descriptor.size,
                actual: end,
            });
        }
        if let Some(digester) = &mut self.digester {
            digester.update(&chunk);
        }
        self.at = end;
        if !self.part && (self.at - self.told >= EVENT_STEP || self.at == self.descriptor.size) {
            self.told = self.at;
            self.client.engine().tell(&Event::Bytes {
                digest: self.descriptor.digest,
                direction: Direction::Download,
                done: self.at,
                total: self.descriptor.size,
            });
        }
        Ok(Some(chunk))
    }

    fn finish(&mut self) -> Result<()> {
        self.response = None;
        if let Some(digester) = self.digester.take() {
            self.verify(digester)?;
        }
        self.finished = true;
        Ok(())
    }

    /// The digester, for who hashes elsewhere; [`BlobStream::verify`] takes it back.
    pub(super) fn take_digester(&mut self) -> Digester {
        self.digester.take().unwrap_or_else(|| Digester::new(self.descriptor.digest.algorithm()))
    }

    pub(super) fn verify(&self, digester: Digester) -> Result<()> {
        let (expected, actual) = (self.descriptor.digest, digester.finish());
        if actual != expected {
            return Err(Error::DigestMismatch {
                request: self.line.clone(),
                expected: Box::new(expected),
                actual: Box::new(actual),
            });
        }
        let (digest, direction) = (expected, Direction::Download);
        self.client.engine().tell(&Event::Done { digest, direction });
        Ok(())
    }

    /// Waits as the policy says, or gives up with `error`.
    async fn cut(&mut self, error: Error) -> Result<()> {
        self.response = None;
        if self.at - self.mark >= PROGRESS {
            self.tries = 0;
            self.mark = self.at;
        }
        self.tries += 1;
        self.resumes += 1;
        let engine = self.client.engine();
        let wait = engine.retry.after_error(&error, self.tries, engine.dice());
        let Some(wait) = wait.filter(|_| self.resumes <= MAX_RESUMES) else { return self.next_source(error) };
        engine.wait(self.line.clone(), self.tries, wait, error.to_string()).await;
        Ok(())
    }

    /// What came was another blob, says `error`: begins anew at the next server, if there is one.
    pub(super) fn begin_anew(&mut self, error: Error) -> Result<()> {
        self.next_source(error)?;
        (self.at, self.told, self.mark, self.skip) = (0, 0, 0, 0);
        self.response = None;
        self.digester = Some(Digester::new(self.descriptor.digest.algorithm()));
        self.finished = false;
        Ok(())
    }

    /// Whether another server could be asked.
    pub(super) fn has_others(&self) -> bool {
        !self.source.last
    }

    /// From here on, the next server is asked; what has come stays, and is verified with the rest.
    fn next_source(&mut self, error: Error) -> Result<()> {
        self.client.pass_over(&self.source, error)?;
        if let Some(next) = self.others.pop_front() {
            self.source = next;
        }
        (self.etag, self.tries) = (None, 0);
        Ok(())
    }

    /// Asks for the bytes from `at` on, of one server after the other.
    async fn open(&mut self) -> Result<()> {
        loop {
            match self.open_source().await {
                Ok(()) => return Ok(()),
                Err(error) => self.next_source(error)?,
            }
        }
    }

    async fn open_source(&mut self) -> Result<()> {
        let digest = self.descriptor.digest.to_string();
        let url = self.source.url(&["blobs", digest.as_str()]);
        let scopes = ScopeSet::repository(&self.source.repository, &[Action::Pull]);
        let mut call =
            Call::new(Method::GET, url, &self.source.endpoint).scopes(&self.source.repository, scopes);
        call.retry = self.source.last;
        call.bulk = true;
        let partial = self.at > 0 || self.end < self.descriptor.size;
        if partial {
            let last = match self.end {
                end if end < self.descriptor.size => end.saturating_sub(1).to_string(),
                _ => String::new(),
            };
            if let Ok(range) = HeaderValue::try_from(format!("bytes={}-{last}", self.at)) {
                call = call.header(RANGE, range);
            }
            if let Some(etag) = &self.etag {
                call = call.header(IF_RANGE, etag.clone());
            }
        }
        let response = self.client.engine().call(call).await?;
        self.line = response.line().clone();
        refuse_encoding(&response)?;
        match response.status() {
            200 => {
                self.skip = self.at;
                let stated = response.header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
                if let Some(actual) = stated.filter(|size| *size != self.descriptor.size) {
                    let (request, expected) = (self.line.clone(), self.descriptor.size);
                    return Err(Error::SizeMismatch { request, expected, actual });
                }
            }
            206 if partial => {
                let start = response.header(CONTENT_RANGE).and_then(range_start);
                if start != Some(self.at) {
                    let what = format!("asked for the bytes from {} on and got others", self.at);
                    return Err(Error::Protocol { request: self.line.clone(), what });
                }
                self.skip = 0;
                self.ranged = true;
            }
            _ => return Err(unexpected(response).await),
        }
        if self.etag.is_none() {
            // A weak tag does not promise the same bytes.
            self.etag =
                response.headers().get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")).cloned();
        }
        if self.at > 0 && !self.part {
            self.client.engine().tell(&Event::Resumed {
                digest: self.descriptor.digest,
                direction: Direction::Download,
                offset: self.at,
            });
        }
        self.response = Some(response);
        Ok(())
    }
}

impl std::fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobStream")
            .field("descriptor", &self.descriptor)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

/// The first position of `bytes 10-19/20`.
fn range_start(text: &str) -> Option<u64> {
    text.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.trim().parse().ok()
}

impl Client {
    /// Starts to download a blob of a repository. The request is made here, so that a blob that is not there is an
    /// error of this call.
    ///
    /// # Errors
    /// [`Error::Status`] with `BLOB_UNKNOWN`, and what any request can end in.
    ///
    /// # Cancel safety
    /// Dropping the future, or the stream, drops the request.
    pub async fn blob(&self, repository: &Reference, descriptor: &Descriptor) -> Result<BlobStream> {
        self.blob_after(repository, descriptor, None).await
    }

    /// As [`Client::blob`], for a blob whose first `have` bytes are here already: `digester` has seen exactly those.
    /// A transfer that a crash ended goes on so.
    ///
    /// # Errors
    /// As [`Client::blob`]; [`Error::SizeMismatch`] when there are more bytes here than the blob has.
    ///
    /// # Cancel safety
    /// As [`Client::blob`].
    pub async fn blob_from(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        have: u64,
        digester: Digester,
    ) -> Result<BlobStream> {
        self.blob_after(repository, descriptor, Some((have, digester))).await
    }

    /// The bytes of `range` of a blob, which are not verified: only the whole blob can be.
    pub(crate) async fn blob_part(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Result<BlobStream> {
        self.blob_part_without(repository, descriptor, range, &BTreeSet::new()).await
    }

    /// As [`Self::blob_part`], from none of the places `passed`, unless nobody else is left to ask.
    pub(super) async fn blob_part_without(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        range: Range<u64>,
        passed: &BTreeSet<Place>,
    ) -> Result<BlobStream> {
        let mut stream = self.unopened(repository, descriptor, range.start, None).await?;
        stream.end = range.end.min(descriptor.size);
        stream.part = true;
        stream.others.retain(|source| source.last || !passed.contains(&source.place()));
        if passed.contains(&stream.source.place())
            && let Some(next) = stream.others.pop_front()
        {
            stream.source = next;
        }
        stream.open().await?;
        Ok(stream)
    }

    async fn blob_after(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        partial: Option<(u64, Digester)>,
    ) -> Result<BlobStream> {
        let (at, digester) = partial.unwrap_or_else(|| (0, Digester::new(descriptor.digest.algorithm())));
        let mut stream = self.unopened(repository, descriptor, at, Some(digester)).await?;
        if at > 0 && at == descriptor.size {
            stream.finish()?;
        } else {
            stream.open().await?;
        }
        Ok(stream)
    }

    pub(super) async fn unopened(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        at: u64,
        digester: Option<Digester>,
    ) -> Result<BlobStream> {
        let mut others = VecDeque::from(self.sources(repository, Asked::Blob).await?);
        let source = others.pop_front();
        let source =
            source.ok_or_else(|| Error::Unsupported { what: "a rule without servers".to_owned() })?;
        let line = RequestLine::new(&Method::GET, &source.endpoint.root_url());
        if at > descriptor.size {
            return Err(Error::SizeMismatch { request: line, expected: descriptor.size, actual: at });
        }
        Ok(BlobStream {
            client: self.clone(),
            source,
            others,
            descriptor: descriptor.clone(),
            line,
            response: None,
            etag: None,
            digester,
            at,
            end: descriptor.size,
            part: false,
            ranged: false,
            skip: 0,
            told: at,
            tries: 0,
            resumes: 0,
            mark: at,
            finished: false,
        })
    }

    /// Downloads a blob into a sink and gives the sink back once size and digest are verified. Hashing and writing
    /// happen on a thread that may block, beside the connection.
    ///
    /// # Errors
    /// As [`Client::blob`] and [`BlobStream::next_chunk`]; [`Error::BlobWrite`] when the sink fails. The sink is
    /// dropped then.
    ///
    /// # Cancel safety
    /// Dropping the future drops the request, and the sink as soon as its current write returns.
    pub async fn blob_into<S: BlobSink + 'static>(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        sink: S,
    ) -> Result<S> {
        let ranges = self.upload().ranges;
        if ranges > 1 && descriptor.size > PARALLEL_FROM {
            let first = self.blob_part(repository, descriptor, 0..PART).await?;
            if first.ranged {
                return self.parts_into(repository, first, sink).await;
            }
            // A server without ranges: its answer is the whole blob already.
            let mut stream = first;
            (stream.part, stream.end) = (false, descriptor.size);
            return self.stream_into(stream, sink).await;
        }
        self.stream_into(self.blob(repository, descriptor).await?, sink).await
    }

    /// As [`Client::blob_into`], for a sink that has the first `have` bytes already; `digester` has seen those.
    ///
    /// # Errors
    /// As [`Client::blob_into`].
    ///
    /// # Cancel safety
    /// As [`Client::blob_into`].
    pub async fn blob_rest_into<S: BlobSink + 'static>(
        &self,
        repository: &Reference,
        descriptor: &Descriptor,
        have: u64,
        digester: Digester,
        sink: S,
    ) -> Result<S> {
        if have == descriptor.size {
            self.blob_from(repository, descriptor, have, digester).await?;
            return Ok(sink);
        }
        self.stream_into(self.blob_from(repository, descriptor, have, digester).await?, sink).await
    }
}
